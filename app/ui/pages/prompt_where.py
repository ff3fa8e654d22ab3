"""Where on the prompt page: layers, the flow, heads, a head's source positions and pattern, and the logit lens."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app.answers import explain
from app.answers.reading import Reading, how_found
from app.attribution import frames
from app.charts import catalogue_charts, prompt_charts
from app.charts.style import KIND_NAMES, KINDS
from app.state.selections import CompareSelection, Map, Place, PromptSelection
from app.ui import navigation
from app.ui.common import data_table, drawn, folded, sync
from app.ui.common import shown as draw_chart
from app.ui.components import Cell, Chip, Column, TableRow, chip, chips, legend, link, neuron_table, plots
from app.ui.components.plots import Group, Line, Scale, Square, columns, grid, shade
from app.ui.components.plots import flow as draw
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


def beside(selection: PromptSelection, name: str, frame: pd.DataFrame, words: str) -> None:
    """What a chart shows, as a table, where tables are asked for."""
    if selection.place.tables:
        st.caption(f"{words}, as a table")
        data_table(frame, name)


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
    from app.attribution.frames import flow_frame, layers_frame

    analysis, place = reading.analysis, selection.place
    layers = layers_frame(reading.source)
    ffn = layers[layers["part"] == "ffn"]["score"].tolist()
    left, right = st.columns([13, 7], gap="large")
    with left:
        legend("raises", "lowers")
        draw(
            len(ffn),
            plots.feet(analysis.tokens, analysis.position),
            plots.arcs(found.moves, place, address),
            plots.marks(ffn, place, address),
            axis="position and its token; layers upwards; at the right what each layer's FFN added",
            key="flow",
            here=HERE,
            label="flow of the prompt",
        )
        drawn("flow", prompt_charts.flow(reading, found))
    with right:
        _list(found, place, address)
    st.caption(literal(_words(found, reading)))
    beside(selection, "flow", flow_frame(found), "What heads moved")


def _list(found: "Flow", place: Place, address: "Callable[[Place], str]") -> None:
    most = max((abs(move.score) for move in found.moves), default=1.0) or 1.0
    rows = [
        TableRow(
            address(plots.to_move(place, move)),
            (
                Cell(
                    Head(move.layer, move.head).label + (" ✕" if plots.is_chosen(place, move) else ""),
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
    draw_chart("attention_pattern", catalogue_charts.attention_pattern(shown), shown, "Attention between positions")
    if count > _PATTERN_TOKENS:
        st.caption(f"The last {_PATTERN_TOKENS} positions; the table has all.")


# The logit lens on the prompt page: what each layer's input would predict, read as if it were the last.

_LENS_TOKENS = 40


def lens_map(selection: PromptSelection, atlas: Catalogue) -> None:
    """Layers upwards, the output on top."""
    try:
        frame = frames.lens_frame(explain.detail(atlas, selection, "lens"))
    except AtlasError as error:
        fail(error)
        return
    first = max(0, int(frame["position"].max()) + 1 - _LENS_TOKENS)
    shown = frame[frame["position"] >= first]
    last = int(frame["layer"].max())
    lines = [
        Line("output" if layer == last else str(layer), tuple(_square(row) for row in rows.to_dict("records")))
        for layer, rows in reversed(list(shown.groupby("layer")))
    ]
    bottom = shown[shown["layer"] == last]
    names = [f"{place} {token}" for place, token in zip(bottom["position"], bottom["token"], strict=True)]
    grid(
        lines,
        names,
        Scale("probability of the target; the text is the most probable token", "", "100 %"),
        axes=("into layer", "position and its token"),
        key="lens",
        here=HERE,
        label="logit lens",
    )
    drawn("lens", prompt_charts.lens(frame, prompt_charts.subject(selection.prompt)))
    if first:
        st.caption(f"The last {_LENS_TOKENS} positions; the table has all.")
    folded(
        "The same as a data table, with CSV export",
        lambda: data_table(frame, "logit_lens"),
        key="logit_lens",
        expanded=selection.place.tables,
    )


def _square(row: dict[Any, Any]) -> Square:
    hint = (
        f"position {row['position']} “{row['token']}”: {row['top']} {percent(row['top_probability'])}, target "
        f"{percent(row['target_probability'])}"
    )
    return Square(row["target_probability"] ** 0.5, hint, shorten(row["top"], 12))


_MAPS = {"heads": "heads", "lens": "logit lens"}
_NONE, _FFN = -1, -2


def looking(selection: PromptSelection, place: Place) -> str:
    """The address of the same question, looked at elsewhere."""
    return navigation.href(HERE, replace(selection, place=place))


def layers(reading: Reading, selection: PromptSelection) -> None:
    """Attention beside FFN, a column a layer; a click looks into the layer."""
    from app.attribution.frames import layers_frame

    scores = layers_frame(reading.source).pivot(index="layer", columns="part", values="score").sort_index()
    place = selection.place
    groups = [
        Group(
            str(layer),
            tuple((float(row[part]), part) for part in KINDS),
            looking(selection, place.within(None if layer == place.layer else layer)),
            f"layer {layer}: " + ", ".join(f"{KIND_NAMES[part]} {nats(row[part])}" for part in KINDS),
            layer == place.layer,
        )
        for layer, row in enumerate(scores.to_dict("records"))
    ]
    st.subheader("Where: layers", anchor=False)
    legend("attention", "ffn")
    columns(groups, unit=reading.unit, axis="layer", key="layers", here=HERE, label="layers")
    drawn("layers", prompt_charts.layers(reading))
    beside(selection, "layers", layers_frame(reading.source), "Layers")
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
    from app.attribution.frames import heads_frame

    place, frame = selection.place, heads_frame(reading.source)
    most = float(frame["score"].abs().max())
    lines = [
        Line(
            str(head),
            tuple(
                _head_square(Head(layer, head), score, most, selection)
                for layer, score in zip(rows["layer"].tolist(), rows["score"].tolist(), strict=True)
            ),
        )
        for head, rows in enumerate(rows for _, rows in frame.groupby("head"))
    ]
    scale = Scale(f"{reading.unit}, logarithmic colour: {' | '.join(reading.sides)}", nats(-most), nats(most))
    grid(
        lines,
        [str(layer) for layer in sorted(set(frame["layer"]))],
        scale,
        axes=("head", "layer"),
        key="heads",
        here=HERE,
        label="attention heads",
    )
    drawn("heads", prompt_charts.heads(reading))
    beside(selection, "heads", frame, "Heads")
    if place.head is None:
        st.caption("Click a head for its source positions and its attention pattern.")


def _head_square(head: Head, score: float, most: float, selection: PromptSelection) -> Square:
    hint = f"{head.label}: {nats(score)} nats"
    return Square(shade(score, most), hint, href=_to_head(head, selection), current=head == selection.place.head)


def _to_head(head: Head, selection: PromptSelection) -> str:
    """To the head, or away from it where it is chosen already."""
    place = selection.place
    chosen = head == place.head
    return looking(selection, place.within(head[0], head=None if chosen else head))


def _heads_of_layer(reading: Reading, selection: PromptSelection, layer: int) -> None:
    from app.attribution.frames import heads_frame

    frame, place = heads_frame(reading.source), selection.place
    rows = frame[frame["layer"] == layer]
    groups = [
        Group(
            str(head),
            ((score, "attention"),),
            _to_head(Head(layer, head), selection),
            f"{Head(layer, head).label}: {nats(score)} nats",
            place.head == (layer, head),
        )
        for head, score in zip(rows["head"].tolist(), rows["score"].tolist(), strict=True)
    ]
    st.markdown(f"**Layer {layer}**, its heads")
    columns(groups, unit=reading.unit, axis="head", key="layer_heads", here=HERE, label=f"heads of layer {layer}")
    drawn("layer_heads", prompt_charts.heads_of_layer(reading, layer))
    beside(selection, "layer_heads", rows, f"Heads of layer {layer}")
    chips(
        [link("✕ All layers", looking(selection, place.within(None)))],
        key="all_layers",
        here=HERE,
        label="leave the layer",
    )
