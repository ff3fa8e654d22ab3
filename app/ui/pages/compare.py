"""Compare: two prompts, targets or positions, or one prompt with and without parts of the model; what changed."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import streamlit as st

from app.answers import compare, explain
from app.answers.compare import measured, sentence
from app.gallery.examples import EXAMPLES
from app.state.selections import MAX_PROMPT, MAX_ZERO, ComparePlace, CompareSelection
from app.ui import navigation
from app.ui.common import about, folded, footer, formulas, limits, open_catalogue, progress, sync, title, whole_files
from app.ui.components import Bar, Cell, Column, TableRow, bars, chip, chips, link, neuron_table
from app.ui.navigation import fail, warn
from app.ui.pages.compare_results import both_layers, heads, layers, neurons, zeroed
from app.words import literal, percent, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import labels, parse_list
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.compare import Comparison, Side


# A comparison as data tables and files.


def files(found: "Comparison") -> None:
    """Every table: to read, and as CSV, JSON and Parquet, made when its button is pressed."""
    from app.attribution.comparison import TABLES

    def tables() -> None:
        for name, table in TABLES.items():
            frame = table(found)
            if frame.empty:
                continue
            st.markdown(f"**{name.capitalize()}**, {len(frame):,} rows")
            st.dataframe(frame, hide_index=True, key=f"compare_data_{name}", height=180)
            whole_files(f"compared-{name}", partial(table, found), f"compare_{name}")
        formulas()

    folded("All of it as data tables and files", tables, key="compared")


# The two runs side by side on the page that compares: tokens and predictions, each a link that asks otherwise.

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
            target = explain.target_id(atlas, question, text)
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


_ERROR = "compare_error"


def draw() -> None:
    """The page."""
    title(
        "Compare two runs",
        "Two prompts, targets or positions, or one prompt with and without parts of the model: what changed, from "
        "layers to neurons.",
    )
    about(HERE)
    atlas = open_catalogue()
    selection, notices = CompareSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    _form(selection)
    if selection.prompt and selection.compares:
        _compared(selection, atlas)
    elif selection.prompt:
        _suggestions(selection)
    else:
        st.caption("Type two prompts, or one and what to zero; or start from one of these:")
        links = [link(words, navigation.href(HERE, example)) for words, example in EXAMPLES]
        chips(links, key="comparisons", here=HERE, label="comparisons to try")
    footer(atlas, HERE)


def _form(selection: CompareSelection) -> None:
    """Both prompts and what the second run does without. Another prompt forgets its target and position."""
    sync("compare_prompt", selection.prompt)
    sync("compare_other", selection.other)
    sync("compare_zero", labels(selection.zero).replace(",", ", "))

    def submitted() -> None:
        state = st.session_state
        prompt, other = state["compare_prompt"] or "", state["compare_other"] or ""
        try:
            zero = parse_list(state["compare_zero"] or "")
        except AtlasError as error:
            state[_ERROR] = str(error)
            return
        moved = replace(selection, zero=zero, place=ComparePlace(kind=selection.place.kind))
        if prompt != selection.prompt:
            moved = replace(moved, prompt=prompt, target=None, position=None)
        other = "" if other == prompt else other
        if other != selection.other or (not other and prompt != selection.prompt):
            moved = replace(moved, other=other, other_target=None, other_position=None)
        navigation.show(moved)

    with st.form("compare_form", border=False):
        left, right = st.columns(2, gap="medium")
        left.text_area(
            "First prompt",
            key="compare_prompt",
            height=80,
            max_chars=MAX_PROMPT,
            placeholder="The capital of France is",
        )
        right.text_area(
            "Second prompt; empty: the same",
            key="compare_other",
            height=80,
            max_chars=MAX_PROMPT,
            placeholder="The capital of Germany is",
        )
        st.text_input(
            "Zeroed in the second run",
            key="compare_zero",
            max_chars=MAX_ZERO,
            placeholder="nothing; or L23.H4, L29.F864, L12.ffn, ffn:10",
            help="Heads (L23.H4), neurons (L29.F864, L29.H1.N46), whole sub-layers (L23.attention, L12.ffn), or the "
            "strongest value neurons of a kind (ffn:10, attention:200). They are zeroed at every position.",
        )
        st.form_submit_button("Compare", type="primary", on_click=submitted)
    error = st.session_state.pop(_ERROR, None)
    if error:
        warn([error])


def _suggestions(selection: CompareSelection) -> None:
    """What one prompt alone can be compared with."""
    st.caption("Type a second prompt, name what to zero, or ask what the model does without the strongest:")
    asked = (
        ("the strongest FFN neuron", "ffn:1"),
        ("the 10 strongest FFN neurons", "ffn:10"),
        ("the 10 strongest attention neurons", "attention:10"),
        ("100 FFN and 200 attention neurons", "ffn:100,attention:200"),
    )
    links = [
        link(f"without {words}", navigation.href(HERE, replace(selection, zero=parse_list(zero))))
        for words, zero in asked
    ]
    chips(links, key="suggestions", here=HERE, label="what to zero")
    back = link("← Explain the prompt", navigation.href("prompt", selection.first))
    chips([back], key="to_prompt", here=HERE, label="the prompt page")


def _compared(selection: CompareSelection, atlas: Catalogue) -> None:
    try:
        with progress() as watch:
            found = compare.comparison(atlas, selection, watch)
    except AtlasError as error:
        fail(error)
        return
    st.markdown(f"**{literal(sentence(found, selection.zero))}**  \n{literal(measured(found))}")
    zeroed(found, selection)
    sides(found, selection, atlas)
    left, right = st.columns(2, gap="large")
    with left:
        predictions(found, selection)
    with right:
        layers(found, selection)
    both_layers(found, selection)
    heads(found, selection)
    neurons(found, selection, atlas)
    files(found)


if __name__ == "__main__":
    draw()
