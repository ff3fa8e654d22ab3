"""Fields that tell what is typed while it is typed, and the control that copies an address (frontend/fields.js).

Streamlit's own text fields tell on Enter only. Ours are for one view each: a prompt, and a single token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.ui.components import as_data, mount

MAX_TYPED = 100
"""Characters of a token."""


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


def prompt_box(value: str, *, longest: int, placeholder: str, key: str, here: str) -> Typed:
    """A box that grows with its text. Enter or the button sends it, Shift+Enter begins a line.

    Args:
        value: the text that the page explains; until it changes, what is being typed stays.
        longest: characters that may be typed.
        placeholder: shown while it is empty.
        key: unique on the page.
        here: the page.
    """
    data = {"label": "Prompt", "button": "Explain", "value": value, "longest": longest, "placeholder": placeholder}
    result = mount("promptBox", data, key, here)
    typed = _typed(result.typed, value)
    return Typed(value if typed is None else typed[:longest], _text(result.sent, longest))


def token_field(
    label: str, *, placeholder: str, options: Callable[[str], Sequence[Option]], origin: str, key: str, here: str
) -> str | int | None:
    """A field for one token, with those that begin so to choose from.

    Args:
        label: above the field.
        placeholder: shown while it is empty.
        options: the tokens to choose from, once something was typed.
        origin: what the tokens depend on; something typed for another origin has none.
        key: unique on the page.
        here: the page.

    Returns:
        The id of a token that was chosen, or the text that was entered, just now; else None.
    """
    state = _typed(_state(key), origin) or ""
    data = {"label": label, "placeholder": placeholder, "origin": origin, "asked": state}
    found = options(state) if state else ()
    result = mount("tokenField", {**data, "options": [as_data(one) for one in found]}, key, here)
    sent = _text(result.sent, MAX_TYPED + 1)
    if sent is None:
        return None
    if sent.startswith("="):
        return sent[1:] or None
    return int(sent) if sent.isdecimal() and len(sent) < 10 else None


def copy_link(params: Mapping[str, str], *, key: str, here: str) -> None:
    """A button that copies the address of the view, with `params` beside what stands in it."""
    mount("copyLink", {"label": "Copy link", "params": dict(params)}, key, here)


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
