"""The upper left of the prompt page: its tokens, what comes next, and what that is held against."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import streamlit as st

from app import navigation
from app.asking import explaining
from app.asking.reading import Reading
from app.drawing import prompt_charts
from app.drawing.components import Bar, bars, chip, chips
from app.drawing.fields import Option, token_field
from app.drawing.wording import literal, nats, percent, signed
from app.notices import warn
from app.state.selection import Place, PromptSelection
from app.views.pictures import drawn
from app.views.prompt_tables import beside
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.prompt import PromptToken
    from app.attribution.results import Analysis, Prediction

HERE = "prompt"
_OPTION = 20
_CONTROL_HEIGHT = 44
"""Of the control below the bars: without it nothing shall move."""


def tokens(found: "Sequence[PromptToken]", position: int, asked: PromptSelection) -> None:
    """The prompt's tokens; a click moves the explained position."""
    last = len(found) - 1
    moved = replace(asked, target=None, distractor=None, place=Place(tables=asked.place.tables))
    items = [
        chip(
            token.display,
            navigation.href(HERE, replace(moved, position=None if place == last else place)),
            hint=f"position {place}, token {token.id}",
            current=place == position,
        )
        for place, token in enumerate(found)
    ]
    chips(items, key="tokens", here=HERE, label="tokens of the prompt")


def explained(analysis: "Analysis | None") -> None:
    """Which token is explained."""
    if analysis is None:
        st.caption("The most probable next tokens. Click one to explain it.")
        return
    target = analysis.target
    st.caption(
        literal(f"Explained: “{target.token.display}”, {percent(target.probability)}, ")
        + f"log-probability {literal(nats(target.log_probability))} nats. Click another to explain that."
    )


def upcoming(predictions: "Sequence[Prediction]", asked: PromptSelection, reading: Reading | None) -> None:
    """The most probable next tokens; a click explains one. The reading is that of the asked text where there is one."""
    target = None if reading is None else reading.analysis.target.token.id
    rows = [
        Bar(
            chip(
                one.token.display,
                navigation.href(HERE, _asking(asked, "target", one.token.id)),
                hint=f"token {one.token.id}",
                current=one.token.id == target,
            ),
            one.probability,
            percent(one.probability),
        )
        for one in predictions
    ]
    bars(rows, key="predictions", here=HERE, label="most probable next tokens")
    if reading is None:
        st.container(height=_CONTROL_HEIGHT, border=False)
        return
    from app.attribution.forms import predictions_frame

    drawn("predictions", prompt_charts.predictions(reading))
    beside(asked, "predictions", predictions_frame(reading.analysis), "Next tokens")


def fields(asked: PromptSelection, atlas: Catalogue) -> None:
    """Any other target, and any token to hold the target against."""
    left, right = st.columns(2, gap="small")
    with left:
        _token_field("Another target", "prompt_target", partial(_asking, asked, "target"), asked, atlas)
    with right:
        _token_field("Why not", "prompt_distractor", partial(_asking, asked, "distractor"), asked, atlas)


def _asking(selection: PromptSelection, name: Literal["target", "distractor"], token: int | None) -> PromptSelection:
    """The selection with another target or distractor; what was looked at in the old one's neurons is left."""
    place = replace(selection.place, own=None, read=None, through=None)
    if name == "target":
        return replace(selection, place=place, target=token)
    return replace(selection, place=place, distractor=token)


def _token_field(
    label: str, key: str, asking: Callable[[int], PromptSelection], asked: PromptSelection, atlas: Catalogue
) -> None:
    """Typed or chosen, the token leads to the same text with it."""
    given = token_field(
        label,
        placeholder="one token, such as London",
        options=partial(_options, asked, atlas),
        origin=navigation.href(HERE, asked.question),
        key=key,
        here=HERE,
    )
    if given is None:
        return
    try:
        chosen = given if isinstance(given, int) else explaining.target_id(atlas, asked, given)
    except AtlasError as error:
        warn([str(error)])
        return
    navigation.show(asking(chosen))
    st.rerun()


def _options(asked: PromptSelection, atlas: Catalogue, text: str) -> list[Option]:
    """Tokens that begin so; without a model there are none to choose from, and Enter says why."""
    with suppress(AtlasError):
        return [
            Option(shorten(one.token.display, _OPTION), one.token.id, percent(one.probability), f"token {one.token.id}")
            for one in explaining.beginning(atlas, asked, text)
        ]
    return []


def against(reading: Reading, selection: PromptSelection) -> None:
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
