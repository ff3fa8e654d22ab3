"""What a component is handed: plain numbers, texts, lists and objects."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any, Literal

import streamlit as st

from app.charts.style import LEGEND
from app.ui.components.frontend import entry
from app.ui.navigation import follow
from db.token_text import shorten


def plain(value: Any) -> Any:
    """The same as JSON would have it: a slotted data class as a dict of its fields, a tuple as a list.

    Does what `dataclasses.asdict` does, without copying every text and number, which took a tenth of a page's time.
    """
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    names = getattr(type(value), "__slots__", None)
    return value if names is None else {name: plain(getattr(value, name)) for name in names}


def plain_list(values: Iterable[Any]) -> list[Any]:
    """The same of several."""
    return [plain(one) for one in values]


def brief(value: Any) -> Any:
    """The same without the fields that are at their defaults: of a table's thousands of chips, most are."""
    kind: Any = type(value)
    if kind is str or kind is float or kind is bool:
        return value
    if kind is tuple:
        return [brief(one) for one in value]
    defaults = _defaults(kind)
    if not defaults:
        return value
    return {name: brief(given) for name, default in defaults if (given := getattr(value, name)) != default}


@cache
def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a slotted data class with their defaults; empty for whatever is none."""
    if "__slots__" not in kind.__dict__:
        return ()
    return tuple((one.name, one.default) for one in dataclasses.fields(kind))


# What a page is made of beyond Streamlit's own: token chips, prediction bars and neuron tables.

Tone = Literal["plain", "promotes", "suppresses", "avoided", "link"]


@dataclass(frozen=True, slots=True)
class Chip:
    """A token in display form, or a link of the same size."""

    text: str
    tone: Tone = "plain"
    """Which end of a neuron it stands at; plain where it stands at none; "link" for what is no token."""
    faint: bool = False
    current: bool = False
    """The one that is chosen."""
    href: str = ""
    hint: str = ""
    removes: bool = False
    """Following the link takes the token away."""
    note: str = ""
    """A small figure after the text."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A prediction: its chip, its length from 0 to 1 and the length in words."""

    chip: Chip
    share: float
    words: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a neuron table; what is not set is not drawn."""

    text: str = ""
    dot: str = ""
    """A kind, shown by its colour before the text."""
    tone: Tone | None = None
    """The end that its chips stand at, marked before them."""
    chips: tuple[Chip, ...] = ()
    share: float = 0.0
    """A bar around zero, from -1 to 1."""


@dataclass(frozen=True, slots=True)
class Column:
    """Heading and role: "name", "token", "source", "bar", "number", "tokens", "list" (one of several lists of tokens),
    "action" (links of their own).
    """

    title: str
    role: str
    hint: str = ""
    href: str = ""
    """The table sorted by this column, or the other way round."""
    sorted: Literal["", "ascending", "descending"] = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row that opens ``href``."""

    href: str
    cells: tuple[Cell, ...]


def chip(display: str, href: str = "", *, tone: Tone = "plain", hint: str = "", note: str = "", **more: bool) -> Chip:
    """A chip for a token's display text, shortened; the hint holds it in full."""
    return Chip(shorten(display, 28), tone, href=href, hint=f"{display}  {hint}".strip(), note=note, **more)


def link(text: str, href: str, current: bool = False) -> Chip:
    """A link that is no token."""
    return Chip(shorten(text, 60), "link", href=href, hint=text, current=current)


def chips(items: Iterable[Chip], *, key: str, here: str, label: str, focus: str = "") -> None:
    """A line of tokens that wraps; where `focus` is new, it is scrolled into view."""
    mount({"view": "chips", "label": label, "focus": focus, "items": plain_list(items)}, key, here)


def bars(items: Sequence[Bar], *, key: str, here: str, label: str) -> None:
    """Predictions, the most probable first."""
    mount({"view": "bars", "label": label, "items": plain_list(items)}, key, here)


def neuron_table(columns: Sequence[Column], rows: Sequence[TableRow], *, key: str, here: str, label: str) -> None:
    """Neurons, a row each; a row opens its neuron."""
    data = {"columns": plain_list(columns), "rows": [brief(row) for row in rows]}
    mount({"view": "table", "label": label, **data}, key, here)


def legend(*names: str) -> None:
    """What the colours of the part above or below mean."""
    entries = (
        f'<span style="white-space:nowrap;margin-right:1.1em"><span aria-hidden="true" style="display:inline-block;'
        f'width:.7em;height:.7em;border-radius:.2em;background:{colour};margin-right:.4em"></span>{escape(words)}</span>'
        for colour, words in map(LEGEND.__getitem__, names)
    )
    st.html(f'<div style="font-size:.8rem;opacity:.8">{"".join(entries)}</div>')


def mount(data: dict[str, Any], key: str, here: str) -> Any:
    """Draw one of the views of app/ui/components/frontend, and follow the link that was clicked in it.

    Returns:
        What the view tells: `opened`, a link that was followed; `typed`, what stands in a field, where one tells that;
        `sent`, what was sent off, once.
    """
    draw = st.components.v2.component("neuron_atlas", js=entry())
    result = draw(data=data, key=key, on_opened_change=_nothing, on_typed_change=_nothing, on_sent_change=_nothing)
    if isinstance(result.opened, str):
        follow(result.opened, here)
    return result


def _nothing() -> None:
    """What a view tells is read where it is drawn; Streamlit wants to be handed something to call all the same."""
