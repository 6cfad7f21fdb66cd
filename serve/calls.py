"""The page at /docs: each call with its fields, from the OpenAPI document. It has no script and loads nothing, so that
a service in a closed network has it, and nobody else learns who reads it.

page(app.openapi())         # HTML
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}"
    "h2{font:600 1.05rem ui-monospace,monospace;margin:2.5rem 0 .3rem}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;border-bottom:1px solid #ddd}"
    "td:first-child{font-family:ui-monospace,monospace}caption{text-align:left;padding-top:.6rem;color:#555}"
    "@media(max-width:40rem){td{display:block;border:0;padding:0}tr{display:block;border-bottom:1px solid #ddd;"
    "padding:.4rem 0}td:empty{display:none}}"
)
_METHODS = ("get", "post", "put", "patch", "delete")


def page(document: Mapping[str, Any]) -> str:
    about = document["info"]
    body = "".join(_calls(document))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(about["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{escape(about.get('description', ''))}</p>"
        f'<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>{body}</html>'
    )


def _calls(document: Mapping[str, Any]) -> Iterator[str]:
    schemas = document.get("components", {}).get("schemas", {})
    for path, methods in document["paths"].items():
        for method in (each for each in _METHODS if each in methods):
            call = methods[method]
            yield f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(call.get('description', ''))}</p>"
            sent = [
                (each["name"], each["schema"], each.get("required", False), each.get("description", ""))
                for each in call.get("parameters", [])
            ]
            yield _table("Parameters", sent)
            for kind, content in call.get("requestBody", {}).get("content", {}).items():
                yield _table(f"Body, {kind}", _fields(content["schema"], schemas))
            for status, answer in sorted(call["responses"].items()):
                for kind, content in answer.get("content", {}).items():
                    if status.startswith("2"):
                        yield _table(f"{status}, {kind}", _fields(content.get("schema", {}), schemas))
            refused = [status for status in sorted(call["responses"]) if not status.startswith("2")]
            yield f"<p>Refused as application/problem+json: {', '.join(refused)}.</p>" if refused else ""


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[tuple[str, Any, bool, str]]:
    schema = _resolved(schema, schemas)
    return [
        (name, field, name in schema.get("required", ()), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _table(title: str, fields: list[tuple[str, Any, bool, str]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_kind(schema))}{'' if needed else ', may be left out'}</td>"
        f"<td>{escape(told)}</td></tr>"
        for name, schema, needed, told in fields
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>" if rows else ""


def _kind(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(each) for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type", "any"))
