"""Where on the prompt page: layers, the flow, heads, a head's source positions and pattern, and the logit lens."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.answers import explain
from app.answers.reading import Reading, how_found
from app.attribution import frames
from app.charts import Chart, catalogue_charts, prompt_charts
from app.charts.prompt_charts import LENS_POSITIONS
from app.state.selections import CompareSelection, Map, Place, PromptSelection
from app.ui import navigation
from app.ui.common import data_table, folded, sync
from app.ui.components import Cell, Chip, Column, TableRow, chip, chips, legend, link, neuron_table
from app.ui.components.charts import show
from app.ui.navigation import fail
from app.words import literal, nats, percent
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, NeuronKind, Part
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.results import Flow


# Data tables beside the charts of the prompt page, for whoever reads figures rather than pictures.


def switch(selection: PromptSelection) -> None:
    """Tables on or off; the address remembers it."""
    sync("prompt_tables", selection.place.tables)

    def changed() -> None:
        tables = bool(st.session_state["prompt_tables"])
        navigation.show(replace(selection, place=replace(selection.place, tables=tables)))

    st.toggle("Tables beside the charts", key="prompt_tables", on_change=changed)


def beside(selection: PromptSelection, chart: Chart) -> None:
    """What a chart shows, as a table, where tables are asked for."""
    if selection.place.tables:
        st.caption(f"{chart.title}, as a table")
        data_table(chart.frame, chart.name)


# The first thing of “where” on the prompt page: which heads moved what from where, over all layers at once.

HERE = "prompt"
_COLUMNS = (
    Column("head", "name", "a click opens the head at that source position"),
    Column("from", "source", "source position and its token"),
    Column("nats", "bar", "of what the head moved from there, alone"),
    Column("attention", "number", "the explained position's attention to the source"),
)


def flow_map(reading: Reading, selection: PromptSelection, atlas: Catalogue, address: "Callable[[Place], str]") -> None:
    """The picture, and the same moves as a list of links."""
    try:
        found = explain.detail(atlas, selection, "flow")
    except AtlasError as error:  # a stored analysis on a server without the model has no flow; the rest stands
        st.info(literal(str(error)))
        return
    place = selection.place
    chart = prompt_charts.flow(reading, found, place, address)
    left, right = st.columns([13, 7], gap="large")
    with left:
        legend("raises", "lowers")
        show(chart, HERE)
    with right:
        _list(found, place, address)
    st.caption(literal(_words(found, reading)))
    beside(selection, chart)


def _list(found: "Flow", place: Place, address: "Callable[[Place], str]") -> None:
    most = max((abs(move.score) for move in found.moves), default=1.0) or 1.0
    rows = [
        TableRow(
            address(prompt_charts.to_move(place, move)),
            (
                Cell(
                    Head(move.layer, move.head).label + (" ✕" if prompt_charts.chosen(place, move) else ""),
                    dot="attention",
                ),
                Cell(f"{move.position}", chips=(chip(move.token.display),)),
                Cell(nats(move.score), share=move.score / most),
                Cell(percent(move.attention_weight)),
            ),
        )
        for move in found.moves
    ]
    st.markdown("**Strongest moves**, by head and source position")
    neuron_table(_COLUMNS, rows, key="moves", here=HERE, label="strongest moves")


def _words(found: "Flow", reading: Reading) -> str:
    proof = found.certificate
    share = "share of the difference of logits" if reading.analysis.contrast is not None else "log-probability increase"
    rest = (
        f"The {len(found.moves)} strongest heads × source positions, by the size of their {share}: {how_found(proof)}."
    )
    return f"An arc is what one head moved from a position to the explained one, as thick as its nats. {rest}"


# One head on the prompt page: what it took from each source position, and where it looks from every position.

_PATTERN_TOKENS = 64
_SHOWN = 6
_PROMPT_HEAD_COLUMNS = (
    Column("source position", "name", "a click shows only the neurons that this head moved from there"),
    Column("score (nats)", "bar", "of what the head wrote from this position"),
    Column("attention", "number", "the analysed position's attention to this one"),
    Column("input", "list", "strongest tokens of the layer's input at this position (logit lens)"),
    Column("key", "list", "strongest tokens of what a query must hold to attend here"),
    Column("value", "list", "strongest tokens of what the head writes when it attends here"),
)


def head_panel(reading: Reading, selection: PromptSelection, head: Head, atlas: Catalogue) -> None:
    """Source positions beside the attention pattern."""
    with st.container(border=True):
        st.markdown(f"**{literal(f'Head {head.label}')}**: {literal(nats(reading.head_score(head)))} nats")
        close = selection.place.within(head[0])
        links = [link("✕ Close the head", navigation.href(HERE, replace(selection, place=close)))]
        zero = CompareSelection.of(selection, (Part(head[0], NeuronKind.ATTENTION, head[1]),))
        links.append(link("What if it were zero?", navigation.href("compare", zero)))
        chips(links, key="close_head", here=HERE, label="leave the head", focus=head.label)
        try:
            frame = frames.positions_frame(explain.detail(atlas, selection, "positions", head))
            pattern = frames.pattern_frame(explain.detail(atlas, selection, "pattern", head))
        except AtlasError as error:
            fail(error)
            return
        scores = reading.source_scores(head)
        if scores is not None:
            frame = frame.assign(score=scores)
        left, right = st.columns([8, 5], gap="medium")
        with left:
            _positions(frame, selection)
        with right:
            _pattern(pattern)

        def tables() -> None:
            data_table(frame, "source_positions")
            data_table(pattern, "attention_pattern")

        folded("Both as data tables, with CSV export", tables, key="head_tables", expanded=selection.place.tables)


def _positions(frame: pd.DataFrame, selection: PromptSelection) -> None:
    most = float(frame["score"].abs().max()) or 1.0
    place = selection.place
    rows = []
    for row in frame.sort_values("score", key=abs, ascending=False).to_dict("records"):
        position = int(row["position"])
        chosen = position == place.source
        href = navigation.href(HERE, replace(selection, place=replace(place, source=None if chosen else position)))
        rows.append(
            TableRow(
                href,
                (
                    Cell(f"{position} {shorten(row['token'], 16)}" + (" ✕" if chosen else "")),
                    Cell(nats(row["score"]), share=row["score"] / most),
                    Cell(percent(row["attention_weight"])),
                    *(Cell(chips=_tokens(row[name])) for name in ("input_tokens", "key_tokens", "value_tokens")),
                ),
            )
        )
    neuron_table(_PROMPT_HEAD_COLUMNS, rows, key="positions", here=HERE, label="source positions")
    st.caption("Strongest first. A row shows the neurons that this head moved from there, in the list below.")


def _tokens(texts: list[str]) -> tuple[Chip, ...]:
    return tuple(chip(text) for text in texts[:_SHOWN])


def _pattern(frame: pd.DataFrame) -> None:
    count = int(frame["query"].max()) + 1
    shown = frame[frame["key"] >= count - _PATTERN_TOKENS]
    show(catalogue_charts.attention_pattern(shown))
    if count > _PATTERN_TOKENS:
        st.caption(f"The last {_PATTERN_TOKENS} positions; the table has all.")


# The logit lens on the prompt page: what each layer's input would predict, read as if it were the last.


def lens_map(selection: PromptSelection, atlas: Catalogue) -> None:
    """Layers upwards, the output on top."""
    try:
        frame = frames.lens_frame(explain.detail(atlas, selection, "lens"))
    except AtlasError as error:
        fail(error)
        return
    show(prompt_charts.lens(frame, selection.prompt), HERE)
    if frame["position"].max() >= LENS_POSITIONS:
        st.caption(f"The last {LENS_POSITIONS} positions; the table has all.")
    folded(
        "The same as a data table, with CSV export",
        lambda: data_table(frame, "logit_lens"),
        key="logit_lens",
        expanded=selection.place.tables,
    )


_MAPS = {"heads": "heads", "lens": "logit lens"}
_NONE, _FFN = -1, -2


def looking(selection: PromptSelection, place: Place) -> str:
    """The address of the same question, looked at elsewhere."""
    return navigation.href(HERE, replace(selection, place=place))


def layers(reading: Reading, selection: PromptSelection) -> None:
    """Attention beside FFN, one column per layer; a click looks into the layer."""
    chart = prompt_charts.layers(reading, selection.place, partial(looking, selection))
    st.subheader("Where: layers", anchor=False)
    legend("attention", "ffn")
    show(chart, HERE)
    beside(selection, chart)
    st.caption(literal(f"Each bar is the {reading.meaning}. Click a layer to look into it."))


def where(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """The flow over all layers; then the map of heads with what is chosen in it, or the logit lens."""
    place = selection.place
    st.subheader("Where: what heads moved, and from where", anchor=False)
    flow_map(reading, selection, atlas, partial(looking, selection))
    st.subheader("Where: heads" if place.map is Map.HEADS else "Where: logit lens", anchor=False)
    _controls(selection, atlas)
    if place.map is Map.LENS:
        lens_map(selection, atlas)
    elif place.layer is None:
        _head_map(reading, selection)
    else:
        left, right = st.columns([3, 2], gap="large")
        with left:
            _head_map(reading, selection)
        with right:
            _heads_of_layer(reading, selection, place.layer)
    if place.head is not None:
        head_panel(reading, selection, place.head, atlas)


def _controls(selection: PromptSelection, atlas: Catalogue) -> None:
    """Which map, and layer and head by name for whoever uses no pointer."""
    place = selection.place
    sync("prompt_map", str(place.map))
    sync("prompt_layer", _NONE if place.layer is None else place.layer)
    chosen = _FFN if place.ffn else _NONE if place.head is None else place.head[1]
    sync("prompt_head", chosen)

    def changed() -> None:
        state = st.session_state
        layer, head = int(state["prompt_layer"]), int(state["prompt_head"])
        moved = replace(place, map=Map(state["prompt_map"] or Map.HEADS))
        if layer != (_NONE if place.layer is None else place.layer):
            moved = moved.within(None if layer == _NONE else layer)
        elif place.layer is not None and head != chosen:
            part = None if head in (_NONE, _FFN) else Head(place.layer, head)
            moved = moved.within(place.layer, head=part, ffn=head == _FFN)
        navigation.show(replace(selection, place=moved))

    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.segmented_control(
            "Map", list(_MAPS), key="prompt_map", format_func=_MAPS.__getitem__, on_change=changed, required=True
        )
        numbers = [_NONE, *range(atlas.info.layers)]
        st.selectbox(
            "Layer", numbers, key="prompt_layer", format_func=_name("all layers"), on_change=changed, width=150
        )
        st.selectbox(
            "Head or FFN",
            [_NONE, _FFN, *range(atlas.info.heads)],
            key="prompt_head",
            format_func=_name("all of it"),
            on_change=changed,
            width=150,
            disabled=place.layer is None,
        )


def _name(none: str) -> Callable[[int], str]:
    return lambda number: {_NONE: none, _FFN: "FFN"}.get(number, str(number))


def _head_map(reading: Reading, selection: PromptSelection) -> None:
    chart = prompt_charts.heads(reading, selection.place, partial(looking, selection))
    show(chart, HERE)
    beside(selection, chart)
    if selection.place.head is None:
        st.caption("Click a head for its source positions and its attention pattern.")


def _heads_of_layer(reading: Reading, selection: PromptSelection, layer: int) -> None:
    chart = prompt_charts.heads_of_layer(reading, layer, selection.place, partial(looking, selection))
    st.markdown(f"**Layer {layer}**, its heads")
    show(chart, HERE)
    beside(selection, chart)
    chips(
        [link("✕ All layers", looking(selection, selection.place.within(None)))],
        key="all_layers",
        here=HERE,
        label="leave the layer",
    )
