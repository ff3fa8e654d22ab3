"""The upper left of the prompt page: its tokens, what comes next, and what that is held against."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import streamlit as st

from app import explaining, navigation
from app.components import Bar, bars, chip, chips
from app.notices import warn
from app.reading import Reading
from app.selection import Place, PromptSelection
from app.wording import literal, nats, percent, signed
from db.catalogue import Catalogue
from db.errors import AtlasError

if TYPE_CHECKING:
    from app.attribution.results import Analysis

HERE = "prompt"


def tokens(analysis: "Analysis", selection: PromptSelection) -> None:
    """The prompt's tokens; a click moves the explained position."""
    last = len(analysis.tokens) - 1
    moved = replace(selection, target=None, distractor=None, place=Place())
    items = [
        chip(
            token.display,
            navigation.href(HERE, replace(moved, position=None if place == last else place)),
            hint=f"position {place}, token {token.id}",
            current=place == analysis.position,
        )
        for place, token in enumerate(analysis.tokens)
    ]
    st.caption(f"{last + 1} tokens. The framed one is where the next token is explained; click another to move there.")
    chips(items, key="tokens", here=HERE, label="tokens of the prompt")


def predictions(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """The most probable next tokens; a click explains another. Below, fields for any target and distractor."""
    analysis, target = reading.analysis, reading.analysis.target
    st.subheader("What comes next", anchor=False)
    st.caption(
        literal(f"Explained: “{target.token.display}”, {percent(target.probability)}, ")
        + f"log-probability {literal(nats(target.log_probability))} nats. Click another to explain that."
    )
    rows = [
        Bar(
            chip(
                one.token.display,
                navigation.href(HERE, _asking(selection, "target", one.token.id)),
                hint=f"token {one.token.id}",
                current=one.token.id == target.token.id,
            ),
            one.probability,
            percent(one.probability),
        )
        for one in analysis.predictions
    ]
    bars(rows, key="predictions", here=HERE, label="most probable next tokens")
    left, right = st.columns(2, gap="small")
    with left:
        _token_field("Another target", "prompt_target", partial(_asking, selection, "target"), selection, atlas)
    with right:
        _token_field("Why not", "prompt_distractor", partial(_asking, selection, "distractor"), selection, atlas)
    _against(reading, selection)


def _asking(selection: PromptSelection, name: Literal["target", "distractor"], token: int | None) -> PromptSelection:
    """The selection with another target or distractor; what was looked at in the old one's neurons is left."""
    place = replace(selection.place, own=None, read=None, through=None)
    if name == "target":
        return replace(selection, place=place, target=token)
    return replace(selection, place=place, distractor=token)


def _token_field(
    label: str, key: str, asking: Callable[[int], PromptSelection], selection: PromptSelection, atlas: Catalogue
) -> None:
    def changed() -> None:
        text = st.session_state[key]
        if not text:
            return
        try:
            navigation.show(asking(explaining.target_id(atlas, selection, text)))
            st.session_state[key] = ""
        except AtlasError as error:
            st.session_state[f"{key}_error"] = str(error)

    st.text_input(label, key=key, max_chars=100, placeholder="one token, such as London", on_change=changed)
    error = st.session_state.pop(f"{key}_error", None)
    if error:
        warn([error])


def _against(reading: Reading, selection: PromptSelection) -> None:
    """Which token the target is held against, and what the difference adds up from."""
    contrast = reading.analysis.contrast
    if contrast is None:
        return
    with st.container(border=True):
        target, other = reading.analysis.target, contrast.distractor
        sums = " ".join(f"{signed(value)} {name}," for name, value in reading.sum_of_parts().items()).rstrip(",")
        st.markdown(
            f"**{literal(f'Why “{target.token.display}” and not “{other.token.display}”')}** "
            + literal(f"({percent(other.probability)}): {nats(contrast.logit_difference)} nats = {sums}.")
        )
        st.caption("Layers, heads, source positions and value neurons now show their share of this difference.")
        off = chip(
            other.token.display,
            navigation.href(HERE, _asking(selection, "distractor", None)),
            hint="click to explain the target alone",
            removes=True,
        )
        chips([off], key="against", here=HERE, label="held against")
