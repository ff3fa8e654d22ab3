"""What a page is made of beyond Streamlit's own: token chips, neuron tables, a trail; and how they get to the browser.

All are views of one script (frontend/), which a browser fetches once. Handed to Streamlit as text it would be sent
anew with every view, forty times on a page.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, Literal

import streamlit as st
from pydantic import TypeAdapter

from app.charts import LEGEND, STRENGTH, TONES
from app.state.address import Selection
from app.ui.navigation import follow, href, warn
from app.words import isolated, literal, signed
from db.token_text import shorten

FOLDER = "drawn"
"""Where the server answers with the script, below its own path."""
_FRONTEND = Path(__file__).with_name("frontend")
_PARTS = ("flow", "fields", "cloud", "atlas")

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
    name: str = ""
    """What is read out in place of the text, where several links have the same text."""


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
    remark: str = ""
    """A few words before the chips."""
    called: str = ""
    """Of a neuron, below its label: what it is called."""
    own: bool = False
    """People called it so."""


@dataclass(frozen=True, slots=True)
class Column:
    """Heading and role: "name", "token", "source", "bar", "bar effect", "number", "tokens", "list" (one of several
    lists of tokens), "action" (links of their own).
    """

    title: str
    role: str
    hint: str = ""
    href: str = ""
    """The table sorted by this column, or the other way round."""
    sorted: Literal["", "ascending", "descending"] = ""
    both: bool = False
    """Its bars have room on either side of zero, whatever its values are."""
    order: StrEnum | None = None
    """What a click on the heading orders the rows by; see `app.ui.neuron_lists.sortable`."""


@dataclass(frozen=True, slots=True)
class TextToken:
    """A token of a text that activates a neuron, in display form; `hint` says what it is and how active."""

    text: str
    hint: str
    share: float = 0.0
    """Of the colours' scale, from -1 to 1."""
    peak: bool = False
    href: str = ""


@dataclass(frozen=True, slots=True)
class TextLine:
    """A text that activates a neuron: its tokens, figures before them, and whether the text goes on at either end."""

    label: str
    value: str
    about: str
    tokens: tuple[TextToken, ...]
    links: tuple[Chip, ...] = ()
    before: bool = False
    after: bool = False


To = Selection | str
"""Where a link leads: a state of a page, or an address."""


def address_of(to: To) -> str:
    """As an address."""
    return to if isinstance(to, str) else href(to)


def chip(display: str, to: To = "", *, tone: Tone = "plain", hint: str = "", note: str = "", **more: Any) -> Chip:
    """A chip for a token's display text, shortened; the hint holds it in full."""
    return Chip(shorten(display, 28), tone, href=address_of(to), hint=f"{display}  {hint}".strip(), note=note, **more)


def link(text: str, to: To, current: bool = False, *, hint: str = "", **more: Any) -> Chip:
    """A link that is no token."""
    return Chip(shorten(text, 60), "link", href=address_of(to), hint=hint or text, current=current, **more)


def button_label(shown: str, of: str) -> str:
    """The label of one of several buttons that look alike: what is seen, and for those who listen also what it is of.
    The style sheet of :mod:`app.main` hides the rest from sight.
    """
    return f"{shown}:gray[ {literal(of)}]"


_MEDIA = {
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "png": "image/png",
    "svg": "image/svg+xml",
    "zip": "application/zip",
}


def download(label: str, make: Callable[[], bytes], file: str, *, key: str, **more: Any) -> None:
    """A button that hands out a file, which is made when it is pressed; its name's ending says what it is."""
    kind, look = _MEDIA.get(file.rpartition(".")[2]), {"icon": ":material/download:"} | more
    st.download_button(label, data=make, file_name=file, mime=kind, on_click="ignore", key=key, **look)


Width = Literal["stretch", "content"]


def chips(items: Iterable[Chip], *, key: str, label: str, focus: str = "", width: Width = "stretch") -> None:
    """A line of tokens that wraps, nothing where there are none; where `focus` is new, it is scrolled into view. In a
    row with other things it has the width of its content.
    """
    if drawn := [as_data(one) for one in items]:
        mount("chips", {"label": label, "focus": focus, "items": drawn}, key, width)


def excerpts(lines: Sequence[TextLine], *, most: float, key: str, label: str) -> None:
    """Texts that activate a neuron, a line each; colours are full at `most` in size."""
    scale = {"title": "activation; framed: the peak", "low": signed(-most), "high": signed(most)}
    mount("excerpts", {"label": label, "lines": [as_data(one) for one in lines], "scale": scale}, key)


def legend(*names: str, **own: str) -> None:
    """What the colours of the part above or below mean; `own` has other words for some of them."""
    entries = (
        f'<span><span aria-hidden="true" style="display:inline-block;'
        f'width:.7em;height:.7em;border-radius:.2em;background:{colour};margin-right:.4em"></span>'
        f"{escape(own.get(name, words))}</span>"
        for name in (*names, *own)
        for colour, words in [LEGEND[name]]
    )
    style = "display:flex;flex-wrap:wrap;gap:0 1.1em;font-size:.8rem;opacity:.8"  # inline, Firefox would not wrap them
    st.html(f'<div style="{style}">{"".join(entries)}</div>')


def as_data(value: Any, leave_out: set[str] | None = None) -> dict[str, Any]:
    """A data class as JSON would have it, without the fields at their defaults: of a table's chips, most are."""
    kind: Any = type(value)
    shown: dict[str, Any] = _adapter(kind).dump_python(value, mode="json", exclude=leave_out, exclude_defaults=True)
    return shown


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def mount(view: str, data: dict[str, Any], key: str, width: Width = "stretch") -> Any:
    """Draw one of the frontend's views, and follow the link that was clicked in it.

    Args:
        view: a name in VIEWS of frontend/atlas.js.
        data: what it draws; plain numbers, texts, lists and objects.
        key: unique on the page.
        width: of its column, or of its content.

    Returns:
        What the view tells: `opened`, a link that was followed; `typed`, what stands in a field, where one tells that;
        `sent`, what was sent off, once.
    """
    draw = st.components.v2.component("neuron_atlas", js=entry())
    result = draw(
        data={"view": view, **_with_hints(data)},
        key=key,
        width=width,
        on_opened_change=_nothing,
        on_typed_change=_nothing,
        on_sent_change=_nothing,
    )
    if isinstance(result.opened, str):
        follow(result.opened)
    return result


def _with_hints(data: Any) -> Any:
    """The same, with the Arabic and Hebrew words in its hints isolated."""
    if isinstance(data, dict):
        return {
            name: isolated(value) if name == "hint" and isinstance(value, str) else _with_hints(value)
            for name, value in data.items()
        }
    return [_with_hints(one) for one in data] if isinstance(data, list) else data


def _nothing() -> None:
    """What a view tells is read where it is drawn; Streamlit wants to be handed something to call all the same."""


@cache
def script() -> bytes:
    """Style sheets and scripts as one script: the part with the entry point comes last."""
    colours = " ".join(f"--{tone}: {colour};" for tone, colour in TONES.items()) + f" --strongest: {STRENGTH:.0%};"
    css, js = (
        "\n".join((_FRONTEND / f"{part}.{ending}").read_text("utf-8") for part in _PARTS) for ending in ("css", "js")
    )
    style = f":host {{ {colours} }}\n{css}"
    return f"const STYLE = {json.dumps(style)};\nconst STRONGEST = {STRENGTH};\n{js}".encode()


@cache
def script_name() -> str:
    """Its file name, which changes with what is in it."""
    return f"atlas.{sha256(script()).hexdigest()[:12]}.js"


@cache
def entry() -> str:
    """What Streamlit is handed: it finds the script where the page's own scripts are from."""
    return f"""const [root] = document.querySelector('script[src*="/static/js/"]').src.split("static/js/");
export default (await import(new URL("{FOLDER}/{script_name()}", root))).default;
"""


MAX_TYPED = 10_000
"""Characters of a token that are taken; what is longer than any token is refused where it is read."""


@dataclass(frozen=True, slots=True)
class Typed:
    """What stands in a field, and what was sent off with Enter or the button just now."""

    text: str
    sent: str | None


@dataclass(frozen=True, slots=True)
class Option:
    """A token to choose: its display text, its id, and a figure beside it."""

    text: str
    id: int
    note: str
    hint: str


def prompt_box(
    value: str,
    *,
    longest: int,
    placeholder: str,
    key: str,
    label: str = "Prompt",
    button: str = "Explain",
    **more: Any,
) -> Typed:
    """A box that grows with its text. Enter or the button sends it, Shift+Enter begins a line.

    Args:
        value: the text that the page explains; until it changes, what is being typed stays.
        longest: characters that may be sent; a longer text stays in the box, and a notice says so.
        placeholder: shown while it is empty.
        key: unique on the page.
        label: what it is for.
        button: what the button says.
        more: `quiet`, where nobody waits for what is typed before it is sent; `rows`, where two are too many; `leads`,
            the address of another page and the parameter that a short text becomes there.
    """
    data = {"label": label, "button": button, "value": value, "longest": longest, "placeholder": placeholder, **more}
    result = mount("promptBox", data, key)
    typed, sent = _typed(result.typed, value), _text(result.sent, None)
    most = max(len(typed or ""), len(sent or ""))
    if most > longest:
        warn([f"The text has {most:,} characters; at most {longest:,} are read. Shorten it."])
        return Typed(value, None)
    return Typed(value if typed is None else typed, sent)


def token_field(
    label: str, *, placeholder: str, options: Callable[[str], Sequence[Option]], origin: str, key: str
) -> str | int | None:
    """A field for one token, with those that begin so to choose from.

    Args:
        label: above the field.
        placeholder: shown while it is empty.
        options: the tokens to choose from, once something was typed.
        origin: what the tokens depend on; something typed for another origin has none.
        key: unique on the page.

    Returns:
        The id of a token that was chosen, or the text that was entered, just now; else None.
    """
    state = _typed(_state(key), origin) or ""
    data = {"label": label, "placeholder": placeholder, "origin": origin, "asked": state}
    found = options(state) if state else ()
    result = mount("tokenField", {**data, "options": [as_data(one) for one in found]}, key)
    sent = _text(result.sent, MAX_TYPED + 1)
    if sent is None:
        return None
    if sent.startswith("="):
        return sent[1:] or None
    return int(sent) if sent.isdecimal() and len(sent) < 10 else None


def copy_link(params: Mapping[str, str], *, key: str) -> None:
    """A button that copies the address of the view, with `params` beside what stands in it."""
    mount("copyLink", {"label": "Copy link", "params": dict(params)}, key, "content")


def _state(key: str) -> Any:
    """What the field with this key told last, before it is drawn anew."""
    state = st.session_state.get(key)
    return state.get("typed") if isinstance(state, Mapping) else None


def _typed(state: Any, origin: str) -> str | None:
    """The text of a field's state, where it was typed while the page showed what it shows."""
    if not isinstance(state, Mapping) or state.get("origin") != origin:
        return None
    return _text(state.get("text"), None)


def _text(value: Any, longest: int | None) -> str | None:
    """A browser's text, as far as it is one: whoever speaks the protocol can send anything."""
    return value.encode("utf-8", "ignore").decode()[:longest] if isinstance(value, str) else None
