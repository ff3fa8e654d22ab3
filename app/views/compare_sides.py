"""The two runs side by side on the page that compares: tokens and predictions, each a link that asks otherwise."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import streamlit as st

from app import navigation
from app.asking import explaining
from app.drawing.components import Bar, Cell, Column, TableRow, bars, chip, chips, link, neuron_table
from app.drawing.wording import literal, percent, signed
from app.notices import warn
from app.state.compare_selection import ComparePlace, CompareSelection
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.compare import Comparison, Side

HERE = "compare"
Which = Literal["first", "second"]
_BARS = 6
_ROWS = 10


def asking(selection: CompareSelection, which: Which, target: int) -> CompareSelection:
    """The selection with another target on one side; the other keeps its own."""
    return replace(selection, target=target) if which == "first" else replace(selection, other_target=target)


def _at(selection: CompareSelection, which: Which, position: int | None) -> CompareSelection:
    """The selection with another position on one side, where the target is the top prediction again."""
    moved = replace(selection, place=ComparePlace(kind=selection.place.kind))
    if which == "first":
        return replace(moved, position=position, target=None)
    return replace(moved, other_position=position, other_target=None)


def sides(found: "Comparison", selection: CompareSelection, atlas: Catalogue) -> None:
    """The first run and the second."""
    left, right = st.columns(2, gap="large")
    with left:
        _side(found.first, "first", selection, atlas)
    with right:
        _side(found.second, "second", selection, atlas)


def _side(side: "Side", which: Which, selection: CompareSelection, atlas: Catalogue) -> None:
    zeroed = which == "second" and bool(selection.zero)
    st.header(f"{which.capitalize()} run" + (", with parts zeroed" if zeroed else ""), anchor=False)
    last = len(side.tokens) - 1
    items = [
        chip(
            token.display,
            navigation.href(HERE, _at(selection, which, None if place == last and which == "first" else place)),
            hint=f"position {place}, token {token.id}",
            current=place == side.position,
        )
        for place, token in enumerate(side.tokens)
    ]
    chips(items, key=f"tokens_{which}", here=HERE, label=f"tokens of the {which} prompt")
    target = side.target
    st.caption(
        literal(f"Explained: “{target.token.display}”, {percent(target.probability)}, ")
        + literal(f"log-probability {signed(target.log_probability)} nats, rank {side.rank:,}.")
    )
    rows = [
        Bar(
            chip(
                one.token.display,
                navigation.href(HERE, asking(selection, which, one.token.id)),
                hint=f"token {one.token.id}",
                current=one.token.id == target.token.id,
            ),
            one.probability,
            percent(one.probability),
        )
        for one in side.predictions[:_BARS]
    ]
    bars(rows, key=f"bars_{which}", here=HERE, label=f"most probable next tokens of the {which} run")
    question = selection.first if which == "first" else selection.second
    _target_field(which, question.position, side, selection, atlas)
    asked = replace(question, target=target.token.id)
    whole = "Explain on the whole model →" if zeroed else "Explain this prompt →"
    chips([link(whole, navigation.href("prompt", asked))], key=f"explain_{which}", here=HERE, label=f"explain {which}")


def _target_field(
    which: Which, position: int | None, side: "Side", selection: CompareSelection, atlas: Catalogue
) -> None:
    key = f"compare_target_{which}"

    def changed() -> None:
        text = st.session_state[key]
        if not text:
            return
        question = replace(selection.first, prompt=side.prompt, position=position, target=None)
        try:
            target = explaining.target_id(atlas, question, text)
            navigation.show(asking(selection, which, target))
            st.session_state[key] = ""
        except AtlasError as error:
            st.session_state[f"{key}_error"] = str(error)

    st.text_input(f"Another target for the {which}", key=key, max_chars=100, placeholder="London", on_change=changed)
    error = st.session_state.pop(f"{key}_error", None)
    if error:
        warn([error])


_PREDICTIONS = (
    Column("next token", "name", "a click explains this token in both runs"),
    Column("Δ probability", "bar", "second minus first"),
    Column("first → second", "number"),
)


def predictions(found: "Comparison", selection: CompareSelection) -> None:
    """How the probabilities of the likeliest tokens changed."""
    st.header("What comes next: changes", anchor=False)
    shown = found.predictions[:_ROWS]
    most = max((abs(one.probability) for one in shown), default=0.0) or 1.0
    rows = [
        TableRow(
            navigation.href(HERE, replace(selection, target=one.token.id, other_target=one.token.id)),
            (
                Cell(shorten(one.token.display, 28)),
                Cell(f"{signed(100 * one.probability, 1)} %", share=one.probability / most),
                Cell(f"{percent(one.first)} → {percent(one.second)}"),
            ),
        )
        for one in shown
    ]
    neuron_table(_PREDICTIONS, rows, key="changed", here=HERE, label="changed predictions")
