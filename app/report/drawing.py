"""Charts as inline SVG elements that several can stand in one page, each described as a whole."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from app.drawing.pictures import inline_svgs
from app.drawing.prompt_charts import Drawn

_SVG = "http://www.w3.org/2000/svg"
_ID = re.compile(r"url\(#([^)]+)\)")
_PER_MARK = ("role", "aria-roledescription", "aria-hidden", "class")
"""Marks are neither described one by one nor styled by the page."""
ElementTree.register_namespace("", _SVG)


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what it shows, in words."""

    svg: Markup
    alt: str


def figures(drawings: Mapping[str, tuple[Drawn, str]]) -> dict[str, Figure]:
    """Draw charts, each with what it shows. Their names keep their gradients' ids apart."""
    made = inline_svgs([(drawn.chart, drawn.width) for drawn, _ in drawings.values()])
    return {
        name: Figure(_labelled(svg, name, alt), alt)
        for (name, (_, alt)), svg in zip(drawings.items(), made, strict=True)
    }


def _labelled(svg: str, name: str, alt: str) -> Markup:
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if attribute in _PER_MARK:
                del element.attrib[attribute]
            elif attribute == "id":
                element.set("id", f"{name}-{value}")
            else:
                element.set(attribute, _ID.sub(rf"url(#{name}-\1)", value))
    root.set("role", "img")
    root.set("aria-label", alt)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escapes
