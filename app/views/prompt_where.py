"""Where on the prompt page: layers, the flow, heads, a head's source positions and pattern, and the logit lens."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import streamlit as st

from app import navigation
from app.asking.reading import Reading
from app.drawing import prompt_charts
from app.drawing.components import chips, legend, link
from app.drawing.palette import KIND_NAMES, KINDS
from app.drawing.plots import Group, Line, Scale, Square, columns, grid, shade
from app.drawing.wording import literal, nats
from app.state.address import Head, head_label
from app.state.selection import Map, Place, PromptSelection
from app.views.pictures import drawn
from app.views.prompt_flow import flow_map
from app.views.prompt_head import head_panel
from app.views.prompt_lens import lens_map
from app.views.prompt_tables import beside
from app.views.shared import sync
from db.catalogue import Catalogue

HERE = "prompt"
_MAPS = {"heads": "heads", "lens": "logit lens"}
_NONE, _FFN = -1, -2


def looking(selection: PromptSelection, place: Place) -> str:
    """The address of the same question, looked at elsewhere."""
    return navigation.href(HERE, replace(selection, place=place))


def layers(reading: Reading, selection: PromptSelection) -> None:
    """Attention beside FFN, a column a layer; a click looks into the layer."""
    from app.attribution.forms import layers_frame

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
            part = None if head in (_NONE, _FFN) else (place.layer, head)
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
    from app.attribution.forms import heads_frame

    place, frame = selection.place, heads_frame(reading.source)
    most = float(frame["score"].abs().max())
    lines = [
        Line(
            str(head),
            tuple(
                _head_square((layer, head), score, most, selection)
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
    hint = f"{head_label(head)}: {nats(score)} nats"
    return Square(shade(score, most), hint, href=_to_head(head, selection), current=head == selection.place.head)


def _to_head(head: Head, selection: PromptSelection) -> str:
    """To the head, or away from it where it is chosen already."""
    place = selection.place
    chosen = head == place.head
    return looking(selection, place.within(head[0], head=None if chosen else head))


def _heads_of_layer(reading: Reading, selection: PromptSelection, layer: int) -> None:
    from app.attribution.forms import heads_frame

    frame, place = heads_frame(reading.source), selection.place
    rows = frame[frame["layer"] == layer]
    groups = [
        Group(
            str(head),
            ((score, "attention"),),
            _to_head((layer, head), selection),
            f"{head_label((layer, head))}: {nats(score)} nats",
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
