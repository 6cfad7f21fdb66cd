"""Typed options from flags, FAHR_* variables and a YAML file; flags win, then variables, then the file.

An options class is a frozen pydantic model. Made in code it reads nothing but its arguments; `read_options` is the
only place that looks at flags, variables and files, so tests and pipelines cannot pick up a stray variable.
"""

import argparse
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, CliSettingsSource, EnvSettingsSource, SettingsConfigDict, SettingsError

from fahr import store
from fahr.errors import Refused, nearest
from fahr.version import code_version

PREFIX = "FAHR_"
# Not options of a job: where detector and model weights lie, read by what loads them; statistics without compiled code;
# the service's bearer tokens.
RESERVED = {"FAHR_WEIGHTS", "FAHR_NO_NUMBA", "FAHR_TOKENS"}

Location = Annotated[
    str, AfterValidator(store.absolute)
]  # relative ones become absolute here: workers change directory

OptionsT = TypeVar("OptionsT", bound="Options")


def option(default: Any = ..., *, help: str, unit: str = "", off: str = "", result: bool = True, **rules: Any) -> Any:
    """A field that `--help` can explain: what it is, its unit, its off-value. `...` as default: required.

    `result=False`: where or how fast, not what comes out; such options stay out of the digest.
    """
    notes: dict[str, Any] = {"unit": unit, "off": off, "result": result}
    return Field(default, description=help, json_schema_extra=notes, **rules)


class Options(BaseModel):
    """Base of every options class: unknown keys are refused, values never change after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    def resolved(self) -> dict[str, Any]:
        """Every value in force, JSON-able."""
        return self.model_dump(mode="json")

    def deciding(self) -> dict[str, Any]:
        """The values that decide what comes out: all but those marked `result=False`."""
        return _deciding(self)

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the deciding values: the `config_digest` of ledgers, checkpoints and scores."""
        text = json.dumps(self.deciding(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def write(self, location: str) -> None:
        """The resolved options as YAML that `--config` takes as it is."""
        head = f"# digest {self.digest()}\n"
        values = {name: value for name, value in self.resolved().items() if name not in ("config", "dry_run")}
        store.write_bytes(location, (head + yaml.safe_dump(values, sort_keys=False)).encode())


class JobOptions(Options):
    """What every job understands."""

    config: Location | None = option(
        None, help="YAML file with any of these options, one a line", off="none", result=False
    )
    dry_run: bool = option(
        False, help="print the resolved options and the resources, then stop", off="false", result=False
    )


def _deciding(model: BaseModel) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    dumped = model.model_dump(mode="json")
    for name, info in type(model).model_fields.items():
        if _note(info, "result", True):
            value = getattr(model, name)
            kept[name] = _deciding(value) if isinstance(value, BaseModel) else dumped[name]
    return kept


def _note(info: FieldInfo, name: str, default: Any) -> Any:
    extra = info.json_schema_extra
    return extra.get(name, default) if isinstance(extra, dict) else default


# --- reading ---------------------------------------------------------------------------------------------------------


def read_options(options: type[OptionsT], arguments: Sequence[str] | None = None, *, program: str = "") -> OptionsT:
    """The options that flags, FAHR_* variables and `--config` give. Everything wrong is told in one `Refused`."""
    flags = _from_flags(options, sys.argv[1:] if arguments is None else list(arguments), program)
    variables = _from_variables(options)
    file, file_name = _from_file(options, flags, variables)
    if unknown := [line for source in (flags, variables) for line in _unknown(options, source)]:
        raise Refused("\n".join(unknown))
    merged: dict[str, Any] = {}
    for source in (file, variables, flags):
        _overlay(merged, _switched_off(options, source))
    try:
        return options.model_validate(merged)
    except ValidationError as error:
        sources = [(flags, _flag), (variables, _variable), (file, lambda path: f"{file_name}: {'.'.join(path)}")]
        raise Refused("\n".join(_tell(problem, sources, options) for problem in error.errors())) from error


def _switched_off(options: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The word `none`, which --help gives as an off-value, as None where an option may be None."""
    done: dict[str, Any] = {}
    for name, value in values.items():
        info = options.model_fields.get(name)
        nested = nested_options(info) if info else None
        if nested and isinstance(value, Mapping):
            done[name] = _switched_off(nested, value)
        else:
            may_be_none = info is not None and type(None) in get_args(info.annotation)
            done[name] = None if may_be_none and str(value).lower() in ("none", "null", "") else value
    return done


def _overlay(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    """Put `top` over `base`, nested options key by key."""
    for name, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(name), dict):
            _overlay(base[name], value)
        else:
            base[name] = dict(value) if isinstance(value, Mapping) else value


def _flag(path: Sequence[str]) -> str:
    return "--" + ".".join(path).replace("_", "-")


def _variable(path: Sequence[str]) -> str:
    return PREFIX + "__".join(path).upper()


def every_option(options: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], FieldInfo]]:
    """Every option with its path, nested ones included."""
    found: list[tuple[tuple[str, ...], FieldInfo]] = []
    for name, info in options.model_fields.items():
        nested = nested_options(info)
        found += every_option(nested, (*path, name)) if nested else [((*path, name), info)]
    return found


def nested_options(info: FieldInfo) -> type[BaseModel] | None:
    """The options class of a field that holds a group of options."""
    if get_origin(info.annotation) in (list, tuple):
        return None  # a list of groups is one option, given as a list
    candidates = [info.annotation, *get_args(info.annotation)]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of ending the process, and names the nearest flag."""

    known: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized"):
            word = unknown[0].split("=")[0] if unknown else repr(message.removeprefix("unrecognized arguments: "))
            raise Refused(f"{word}: no such option.{nearest(word, self.known)} See --help for all of them.")
        raise Refused(f"{message}. See --help.")


def _settings(options: type[BaseModel]) -> type[BaseSettings]:
    """The same fields as a settings class, which is what pydantic-settings' sources read. It is never instantiated."""
    config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)
    fields: dict[str, Any] = dict(options.model_fields)
    annotations = {name: info.annotation for name, info in options.model_fields.items()}
    return type(
        "Settings",
        (BaseSettings,),
        {"model_config": config, "__module__": __name__, "__annotations__": annotations, **fields},
    )


class _Flags(CliSettingsSource[Any]):
    """pydantic-settings' flags, with our line of help: it would add a second default."""

    def _help_format(self, field_name: str, field_info: FieldInfo, *_: Any) -> str:
        return _help(field_info)


def _help(info: FieldInfo) -> str:
    """`what it is (unit; default; off-value)`."""
    unit, off = _note(info, "unit", ""), _note(info, "off", "")
    default = "required" if info.is_required() else f"default {_shown(info.get_default(call_default_factory=True))}"
    notes = [f"unit: {unit}"] * bool(unit) + [default] + [f"off: {off}"] * bool(off)
    return f"{info.description or ''} ({'; '.join(notes)})".replace("%", "%%")


def _shown(value: Any) -> str:
    return (
        "none"
        if value is None or value is PydanticUndefined
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _from_flags(options: type[BaseModel], arguments: list[str], program: str) -> dict[str, Any]:
    doc = options.__doc__ or ""
    parser = _Parser(
        prog=program or None,
        description=doc.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.known = [_flag(path) for path, _ in every_option(options)]
    try:
        source = _Flags(
            _settings(options),
            root_parser=parser,
            cli_parse_args=_spread(options, arguments),
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_exit_on_error=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return _given(source())
    except SettingsError as error:
        raise Refused(f"{error}. See --help.") from error


def _spread(options: type[BaseModel], arguments: list[str]) -> list[str]:
    """`--models a b` as `--models a --models b`: argparse would take `b` for a stray word."""
    lists = {_flag(path) for path, info in every_option(options) if _is_list(info)}
    spread: list[str] = []
    current = ""
    for word in arguments:
        if word.startswith("-"):
            current = word if word in lists else ""
        elif current and spread[-1] != current:
            spread.append(current)
        spread.append(word)
    return spread


def _is_list(info: FieldInfo) -> bool:
    return any(get_origin(each) in (list, tuple) for each in (info.annotation, *get_args(info.annotation)))


class _Variables(EnvSettingsSource):
    """Lists may be written a,b,c: JSON in a shell variable is a riddle of quotes."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
            return [part.strip() for part in value.split(",")]
        return super().decode_complex_value(field_name, field, value)


def _from_variables(options: type[BaseModel]) -> dict[str, Any]:
    known = {_variable(path) for path, _ in every_option(options)}
    known |= {_variable((name,)) for name in options.model_fields}
    unknown = [each for each in os.environ if each.upper().startswith(PREFIX) and each.upper() not in known | RESERVED]
    if unknown:
        lines = [f"{each}: no such option of this job.{nearest(each.upper(), known)} Unset it." for each in unknown]
        raise Refused("\n".join(sorted(lines)))
    try:
        return _given(_Variables(_settings(options))())
    except SettingsError as error:
        raise Refused(f"{error}: a variable holds what is not a list or not JSON. Write a,b,c.") from error


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a key stand twice and takes the last: that hides a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"{', '.join(twice)} stands twice in line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)


def read_yaml(location: str) -> dict[str, Any]:
    """A YAML file that holds names and values; anything else is refused."""
    try:
        found = yaml.load(store.read_bytes(location).decode("utf-8"), Loader=_UniqueKeys)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{location}: not valid YAML: {' '.join(str(error).split())}.") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Refused(f"{location}: holds a {type(found).__name__}, not names and values such as `size: 112`.")
    return found


def _from_file(
    options: type[BaseModel], flags: Mapping[str, Any], variables: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    location = flags.get("config") or variables.get("config")
    if not location:
        return {}, ""
    location = store.absolute(location)
    values = read_yaml(location)
    if "config" in values:
        raise Refused(f"{location}: config: a configuration file cannot name another one. Join the two.")
    if unknown := _unknown(options, values):
        raise Refused("\n".join(f"{location}: {line}" for line in unknown))
    return values, Path(location).name


def _unknown(options: type[BaseModel], values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """A line for each key that is no option."""
    problems: list[str] = []
    for name, value in values.items():
        if name not in options.model_fields:
            key = ".".join((*path, str(name)))
            problems.append(f"{key}: no such option.{nearest(str(name), options.model_fields)}")
        elif isinstance(value, Mapping) and (nested := nested_options(options.model_fields[name])):
            problems += _unknown(nested, value, (*path, name))
    return problems


def _tell(problem: Any, sources: Sequence[Any], options: type[BaseModel]) -> str:
    """One pydantic problem as: where it was set, the value, the rule."""
    path = [str(part) for part in problem["loc"] if not isinstance(part, int)]
    rule = problem["msg"].removeprefix("Value error, ")
    if not path:  # about several options together; the rule names them
        return f"{rule.rstrip('.')}."
    if problem["type"] == "missing":
        return f"{_flag(path)}: required, and given neither as a flag, nor as {_variable(path)}, nor in --config."
    origin = next((shown(path) for values, shown in sources if _holds(values, path)), _flag(path))
    info = next((info for known, info in every_option(options) if list(known) == path), None)
    unit = _note(info, "unit", "") if info else ""
    return f"{origin} = {problem['input']!r}: {rule.rstrip('.')}{f' (unit: {unit})' if unit else ''}."


def _holds(values: Mapping[str, Any], path: Sequence[str]) -> bool:
    here: Any = values
    for part in path:
        if not isinstance(here, Mapping) or part not in here:
            return False
        here = here[part]
    return bool(path)


# --- running ---------------------------------------------------------------------------------------------------------


def run_job(
    options: type[OptionsT], main: Callable[[OptionsT], object], arguments: Sequence[str] | None = None
) -> NoReturn:
    """Read the options, run the job, end the process: 0 done, 1 failed, 2 the input was refused, 130 interrupted."""
    stage = Path(sys.argv[0]).name
    try:
        given = read_options(options, arguments, program=stage)
        if getattr(given, "dry_run", False):
            print(yaml.safe_dump(given.resolved(), sort_keys=False), end="")
        print(f"{stage}: options {given.digest()}, code {code_version()}", file=sys.stderr)
        main(given)
    except Refused as error:
        print(f"{stage}: refused: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{stage}: stopped. Run the same line again to go on.", file=sys.stderr)
        sys.exit(130)
    except Exception:  # noqa: BLE001 - the border of the process: told, and turned into the exit status
        traceback.print_exc()
        print(f"{stage}: failed. Finished work is kept: mend the cause and run the same line again.", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
