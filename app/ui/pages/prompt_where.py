"""Where on the prompt page: layers, the flow, heads, a head's source positions and pattern, and the logit lens."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.answers import effects, explain
from app.answers.reading import Reading, disagreement, moves_sentence
from app.attribution import frames
from app.attribution.measured import Measured
from app.attribution.results import Flow, Move, ValueNeuron
from app.charts import Chart, catalogue_charts, prompt_charts
from app.charts.prompt_charts import LENS_POSITIONS
from app.serving import access
from app.serving.settings import public
from app.state.selections import CompareSelection, Map, Place, PromptSelection, SteerSelection, question_key
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import choice, data_table, folded, switch, sync
from app.ui.components import Cell, Chip, Column, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import fail
from app.words import literal, nats, percent
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Intervention, Neuron, Part
from db.records import NeuronTokens
from db.token_text import shorten

_MAPS = {"heads": "heads", "lens": "logit lens"}
_NONE, _FFN = -1, -2
"""In the boxes, besides the numbers of layers and heads."""
_PATTERN_TOKENS = 64
_POLL_SECONDS = 1.0
_EVERY = {"ffn_helping": "Helped the answer most", "ffn_hindering": "Hindered it most"}
_LISTED_TOKENS = 6
_TOKEN_LISTS = {
    "input": "strongest tokens of the layer’s input at this position (logit lens)",
    "key": "strongest tokens of what a query must hold to attend here",
    "value": "strongest tokens of what the head writes when it attends here",
}


def layers(reading: Reading, selection: PromptSelection) -> None:
    """Attention beside FFN, one column per layer; a click looks into the layer."""
    with st.container(horizontal=True, vertical_alignment="center"):
        legend("attention", "ffn")
        _figures(reading, selection, "layers")
    chart = prompt_charts.layers(reading, selection.place, partial(_looking, selection))
    _chart(chart, selection)
    measured = prompt_charts.figure(chart.frame, selection.place) == prompt_charts.EFFECT
    words = f"loss of {reading.answer} without that part, as measured" if measured else reading.meaning
    st.caption(literal(f"Each bar is the {words}. Click a layer to look into it."))


def looked_into(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """What is chosen: a layer by its heads, a head by its source positions and its pattern."""
    layer, head = selection.place.layer, selection.place.head
    if head is not None:
        _head(reading, selection, head, atlas)
    elif layer is not None:
        _heads_of_layer(reading, selection, layer)


def maps(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """The map of heads, or the logit lens."""
    _controls(reading, selection, atlas)
    if selection.place.map is Map.LENS:
        _lens(selection, atlas)
    else:
        _heads(reading, selection)


def _figures(reading: Reading, selection: PromptSelection, where: str) -> None:
    """The switch between what was scored and what was measured, where that is or will be known."""
    if reading.source.head_effects is None and not access.has_model():
        return

    def to(figures: str) -> PromptSelection:
        return replace(selection, place=replace(selection.place, effects=figures == prompt_charts.EFFECT))

    chosen = prompt_charts.EFFECT if selection.place.effects else "score"
    names = {"score": "scored", prompt_charts.EFFECT: "measured"}
    switch("Figures", names, chosen, key=f"{where}_figures", to=to)


def chart_table(chart: Chart, selection: PromptSelection) -> None:
    """What a chart shows as a table, where tables are asked for."""
    if selection.place.tables:
        st.caption(f"{chart.title}, as a table")
        data_table(chart.frame, chart.name)


def _chart(chart: Chart, selection: PromptSelection) -> None:
    show(chart)
    chart_table(chart, selection)


def _looking(selection: PromptSelection, place: Place) -> str:
    """The address of the same question, looked at elsewhere."""
    return navigation.href(replace(selection, place=place))


# What heads moved, over all layers at once.


def flow(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """The picture, and the same moves as a list of links."""
    try:
        found: Flow = explain.detail(atlas, selection, "flow")
    except AtlasError as error:  # a stored analysis on a server without the model has no flow; the rest stands
        st.info(literal(public(str(error))))
        return
    chart = prompt_charts.flow(reading, found, selection.place, partial(_looking, selection))
    left, right = st.columns([13, 7], gap="large")
    with left:
        lowers, raises = reading.sides
        if reading.analysis.contrast is None:
            legend("raises", "lowers")
        else:
            legend(raises=raises, lowers=lowers)
        show(chart)
    with right:
        st.markdown("**Strongest moves**, by head and source position")
        _moves(found, selection)
    st.caption(literal(moves_sentence(found, reading)))
    chart_table(chart, selection)


def _moves(found: Flow, selection: PromptSelection) -> None:
    place = selection.place

    def head(move: Move) -> Cell:
        chosen = " ✕" if prompt_charts.chosen(place, move) else ""
        return Cell(Head(move.layer, move.head).label + chosen, dot="attention")

    def source(move: Move) -> Cell:
        return Cell(f"{move.position}", chips=(chip(move.token.display),))

    columns: list[lists.ColumnOf[Move]] = [
        (Column("head", "name", "a click opens the head at that source position"), head),
        (Column("from", "source", "source position and its token"), source),
        lists.bar("nats", found.moves, lambda move: move.score, nats, "of what the head moved from there, alone"),
        lists.text(
            "attention",
            "number",
            lambda move: percent(move.attention_weight),
            "the explained position’s attention to the source",
        ),
    ]

    def opens(move: Move) -> str:
        return _looking(selection, prompt_charts.to_move(place, move))

    lists.table(found.moves, columns, opens, key="moves", label="strongest moves")


# The map of heads or of the logit lens.


def _controls(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """Which map, and layer and head by name for whoever uses no pointer."""
    place = selection.place
    shown_layer = _NONE if place.layer is None else place.layer
    shown_head = _FFN if place.ffn else _NONE if place.head is None else place.head.head
    sync("prompt_layer", shown_layer)
    sync("prompt_head", shown_head)

    def changed() -> None:
        state = st.session_state
        layer, head = int(state["prompt_layer"]), int(state["prompt_head"])
        moved = replace(place, map=Map(state["prompt_map"] or Map.HEADS))
        if layer != shown_layer:
            moved = moved.within(None if layer == _NONE else layer)
        elif place.layer is not None and head != shown_head:
            part = None if head in (_NONE, _FFN) else Head(place.layer, head)
            moved = moved.within(place.layer, head=part, ffn=head == _FFN)
        navigation.show(replace(selection, place=moved))

    def box(label: str, key: str, numbers: list[int], none: str, *, disabled: bool = False) -> None:
        def name(number: int) -> str:
            return {_NONE: none, _FFN: "FFN"}.get(number, str(number))

        st.selectbox(label, numbers, key=key, format_func=name, on_change=changed, width=150, disabled=disabled)

    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        choice("Map", _MAPS, str(place.map), key="prompt_map", changed=changed)
        box("Layer", "prompt_layer", [_NONE, *range(atlas.info.layers)], "all layers")
        heads = [_NONE, _FFN, *range(atlas.info.heads)]
        box("Head or FFN", "prompt_head", heads, "all of it", disabled=place.layer is None)
        if place.map is Map.HEADS:
            _figures(reading, selection, "map")


def _heads(reading: Reading, selection: PromptSelection) -> None:
    _chart(prompt_charts.heads(reading, selection.place, partial(_looking, selection)), selection)
    if selection.place.head is None:
        st.caption("Click a head for its source positions and its attention pattern.")


def _heads_of_layer(reading: Reading, selection: PromptSelection, layer: int) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Layer {layer}**, its heads", width="content")
            leave = link("✕ All layers", _looking(selection, selection.place.within(None)))
            chips([leave], key="all_layers", label="leave the layer", focus=f"layer {layer}", width="content")
        _chart(prompt_charts.heads_of_layer(reading, layer, selection.place, partial(_looking, selection)), selection)
        st.caption("Click a head for its source positions and its attention pattern.")


def _lens(selection: PromptSelection, atlas: Catalogue) -> None:
    """What each layer's input would predict, read as if it were the last: layers upwards, the output on top."""
    try:
        frame = frames.lens_frame(explain.detail(atlas, selection, "lens"))
    except AtlasError as error:
        fail(error)
        return
    show(prompt_charts.lens(frame, selection.prompt))
    if frame["position"].max() >= LENS_POSITIONS:
        st.caption(f"The last {LENS_POSITIONS} positions; the table has all.")
    _tables("The same as a data table, with CSV export", {"logit_lens": frame}, "logit_lens", selection)


# One head: what it took from each source position, and where it looks from every position.


def _head(reading: Reading, selection: PromptSelection, head: Head, atlas: Catalogue) -> None:
    with st.container(border=True):
        zero = CompareSelection.of(selection, (Part.of(head),))
        links = [link("✕ Close the head", _looking(selection, selection.place.within(head.layer)))]
        links += access.has_model() * [
            link("What if it were zero?", zero),
            link("Steer it", SteerSelection.of(selection, Intervention(Part.of(head)))),
        ]
        with st.container(horizontal=True, vertical_alignment="center"):
            words = f"**{literal(f'Head {head.label}')}**: {literal(nats(reading.head_score(head)))} nats"
            st.markdown(words + literal(_as_measured(reading, head)), width="content")
            chips(links, key="close_head", label="leave the head", focus=head.label, width="content")
        _other_heads(reading, selection, head)
        try:
            positions = reading.source_positions(explain.detail(atlas, selection, "positions", head))
            pattern = frames.pattern_frame(explain.detail(atlas, selection, "pattern", head))
        except AtlasError as error:
            fail(error)
            return
        left, right = st.columns([8, 5], gap="medium")
        with left:
            _positions(positions, selection)
        with right:
            _pattern(pattern)
        found = {"source_positions": positions, "attention_pattern": pattern}
        _tables("Both as data tables, with CSV export", found, "head_tables", selection)


def _as_measured(reading: Reading, head: Head) -> str:
    """What a head was measured to do, to go on with after its score; nothing where it was not measured."""
    effect = reading.head_effect(head)
    if effect is None:
        return ""
    differs = disagreement(reading.head_score(head), effect)
    way = "loses" if effect > 0 else "gains"
    more = f" ({differs})" if differs else ""
    return f" by its score; measured: without it {reading.answer} {way} {abs(effect):.3f} nats{more}"


def _other_heads(reading: Reading, selection: PromptSelection, head: Head) -> None:
    """All heads of its layer, with their nats."""
    heads = (Head(head.layer, number) for number in range(reading.source.heads.shape[1]))
    items = [
        chip(
            one.label,
            _looking(selection, selection.place.within(one.layer, head=one)),
            note=nats(reading.head_score(one)),
            current=one == head,
        )
        for one in heads
    ]
    chips(items, key="other_heads", label=f"heads of layer {head.layer}")


def _positions(frame: pd.DataFrame, selection: PromptSelection) -> None:
    place = selection.place
    rows = frame.sort_values("score", key=abs, ascending=False).to_dict("records")

    def name(row: dict[Any, Any]) -> str:
        return f"{row['position']} {shorten(row['token'], 16)}" + (" ✕" if row["position"] == place.source else "")

    def opens(row: dict[Any, Any]) -> str:
        source = None if row["position"] == place.source else int(row["position"])
        return _looking(selection, replace(place, source=source))

    def tokens(of: str, row: dict[Any, Any]) -> tuple[Chip, ...]:
        return tuple(map(chip, row[f"{of}_tokens"][:_LISTED_TOKENS]))

    columns: list[lists.ColumnOf[dict[Any, Any]]] = [
        lists.text("source position", "name", name, "a click shows only the neurons that this head moved from there"),
        lists.bar("score (nats)", rows, lambda row: row["score"], nats, "of what the head wrote from this position"),
        lists.text(
            "attention",
            "number",
            lambda row: percent(row["attention_weight"]),
            "the analysed position’s attention to this one",
        ),
        *(lists.chips_of(of, "list", partial(tokens, of), hint) for of, hint in _TOKEN_LISTS.items()),
    ]
    lists.table(rows, columns, opens, key="positions", label="source positions")
    st.caption("Strongest first. A row shows the neurons that this head moved from there, in the list below.")


def _pattern(frame: pd.DataFrame) -> None:
    count = int(frame["query"].max()) + 1
    show(catalogue_charts.attention_pattern(frame[frame["key"] >= count - _PATTERN_TOKENS]))
    if count > _PATTERN_TOKENS:
        st.caption(f"The last {_PATTERN_TOKENS} positions; the table has all.")


def _tables(label: str, tables: Mapping[str, pd.DataFrame], key: str, selection: PromptSelection) -> None:
    def draw() -> None:
        for name, frame in tables.items():
            data_table(frame, name)

    folded(label, draw, key=key, expanded=selection.place.tables)


# All FFN neurons, measured.


def every_neuron(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """The FFN neurons that do most of all; or the button that has them measured, and how far that is."""
    found = effects.all_measured(atlas, selection, reading.analysis)
    if isinstance(found, Measured):
        _every_list(found, selection, atlas)
        return
    refusal, key = effects.why_not_all(atlas, selection), f"every_{question_key(selection)}"
    if refusal:
        st.info(literal(refusal))
        return
    going = bool(st.session_state.get(key))

    def press() -> None:
        st.session_state[key] = not going

    st.caption(
        "The lists above hold what some score put forward. This measures every FFN neuron, some hundred a second. It "
        "goes on while this page is open; what is measured is kept, so it can be stopped."
    )
    words = "Stop" if going else "Go on" if found else f"Measure all {atlas.info.ffn_neurons:,}"
    st.button(words, key="every_button", on_click=press, type="secondary" if going else "primary")
    if going:
        _every_progress(selection, reading, atlas, key)
    elif found:
        st.progress(found, f"{percent(found)} measured")


def _every_progress(selection: PromptSelection, reading: Reading, atlas: Catalogue, key: str) -> None:
    @st.fragment(run_every=_POLL_SECONDS)
    def poll() -> None:
        try:
            told = effects.measure_all(atlas, selection)
        except AtlasError as error:
            st.session_state[key] = False
            fail(error)
            return
        found = effects.all_measured(atlas, selection, reading.analysis)
        st.progress(found if isinstance(found, float) else 1.0, told or "…")
        if told is None:
            st.session_state[key] = False
            st.rerun()

    poll()


def _every_list(found: Measured, selection: PromptSelection, atlas: Catalogue) -> None:
    for (name, title), column in zip(_EVERY.items(), st.columns(2, gap="medium"), strict=True):
        one, rows = found.found[name], found.found[name].neurons[: effects.LISTED]
        strongest = atlas.strongest_tokens([row.neuron for row in rows], 5)
        columns: list[lists.ColumnOf[ValueNeuron]] = [
            lists.named(strongest, atlas),
            lists.bar("measured effect", rows, lambda row: row.effect or 0.0, nats, "nats of the answer; not a score"),
            lists.bar("score", rows, lambda row: row.score, nats, "nats; bars have their own scale"),
            (Column(lists.RAISED, "tokens"), partial(_raised, strongest)),
        ]
        with column:
            st.markdown(f"**{title}**, the first {len(rows)}: {literal(one.chosen)}")
            if rows:
                opens = partial(_opens, selection)
                lists.table(rows, columns, opens, key=name, label=f"FFN neurons: {title}")


def _raised(strongest: Mapping[Neuron, NeuronTokens], row: ValueNeuron) -> Cell:
    return lists.raised_first(strongest[row.neuron], row.activation)


def _opens(selection: PromptSelection, row: ValueNeuron) -> str:
    return lists.neuron_link(row.neuron, selection)
