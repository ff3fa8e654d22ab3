"""A report as one HTML file that opens offline: no script, nothing fetched, everything escaped."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from app.drawing import palette
from app.drawing.pictures import visible
from app.report.parts import Contents

_FOLDER = Path(__file__).parent


def html(contents: Contents) -> bytes:
    """Set a report; UTF-8."""
    return _template().render(report=contents, palette=palette).encode("utf-8", "replace")


def _visible(value: object) -> object:
    """Texts without what HTML forbids or nobody sees, whatever they were given as; drawings as they are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
