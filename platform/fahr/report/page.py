"""A page from its template: one file that works offline, in the style that all our pages share (`page.css`).

rendered("search_page.html", label="C-index", sections=[...])
"""

from importlib.resources import files
from typing import Any

import jinja2

_MAKER = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: files("fahr.report").joinpath(name).read_text(encoding="utf-8")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def rendered(template: str, **facts: Any) -> str:
    """`template`: a file of this package. What it names and nobody gave is an error; all that is given is escaped."""
    return _MAKER.get_template(template).render(facts)
