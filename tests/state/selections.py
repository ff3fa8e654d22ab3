"""Each page's state, by the page's name, and the parameters that it declares."""

from dataclasses import fields
from typing import Any

from app.state.address import SUFFIX, LongText
from app.state.selections import GallerySelection
from app.ui.pages import PAGES

SELECTIONS: dict[str, Any] = {
    page.name: page.selection for page in PAGES.values() if page.selection not in (None, GallerySelection)
}


def names(page: str) -> list[str]:
    """The parameters that a page reads, nested ones and packed texts included."""
    return _names(SELECTIONS[page])


def _names(state: Any) -> list[str]:
    found: list[str] = []
    for one in fields(state):
        if "nested" in one.metadata:
            found += _names(one.metadata["nested"])
        else:
            name, kind = one.metadata["parameter"]
            found += [name, name + SUFFIX] if isinstance(kind, LongText) else [name]
    return found
