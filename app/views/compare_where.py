"""Where the two runs differ, on the page that compares: layers, heads, and what was zeroed."""

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app import navigation
from app.drawing import compare_charts
from app.drawing.components import Chip, chips, legend, link
from app.drawing.palette import KIND_NAMES, KINDS
from app.drawing.plots import Group, Line, Scale, Square, columns, grid, shade
from app.drawing.wording import literal, nats
from app.state.address import Head, head_label
from app.state.compare_selection import ComparePlace, CompareSelection
from app.state.parts import Part
from app.state.selection import Place
from app.views.pictures import drawn
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.compare import Comparison

HERE = "compare"


def looking(selection: CompareSelection, place: ComparePlace) -> str:
    """The address of the same comparison, looked at elsewhere."""
    return navigation.href(HERE, replace(selection, place=place))


def zeroed(found: "Comparison", selection: CompareSelection) -> None:
    """What the second run does without; a click takes it back."""
    if not selection.zero:
        return
    items = []
    scores = {one.part: one.score for one in found.zeroed}
    for part in selection.zero:
        kept = tuple(one for one in selection.zero if one != part)
        score = scores.get(part) if isinstance(part, Part) else None
        note = "" if score is None else f"{nats(score)} nats"
        href = navigation.href(HERE, replace(selection, zero=kept))
        items.append(Chip(part.label, "link", href=href, hint=f"{part.words}: take it back", note=note, removes=True))
    st.caption("Zeroed in the second run, with their scores where they are not; a click takes one back.")
    chips(items, key="zeroed", here=HERE, label="zeroed parts")


def layers(found: "Comparison", selection: CompareSelection) -> None:
    """Δ of every layer; a click looks into the layer."""
    place = selection.place
    changes = {"attention": found.layers.attention.tolist(), "ffn": found.layers.ffn.tolist()}
    groups = [
        Group(
            str(layer),
            tuple((changes[part][layer], part) for part in KINDS),
            looking(selection, _in_layer(place, layer)),
            f"layer {layer}: " + ", ".join(f"Δ {KIND_NAMES[part]} {nats(changes[part][layer])}" for part in KINDS),
            layer == place.layer,
        )
        for layer in range(len(changes["ffn"]))
    ]
    st.header("Where: layers", anchor=False)
    legend("attention", "ffn")
    columns(groups, unit="Δ score (nats)", axis="layer", key="layers", here=HERE, label="changed layers")
    drawn("changed_layers", compare_charts.layers(found, _prompts(selection)))
    st.caption(
        "Each bar is the second run's log-probability increase minus the first's. Click a layer to look into it."
    )


def both_layers(found: "Comparison", selection: CompareSelection) -> None:
    """Both runs beside each other, on one axis."""
    for column, part in zip(st.columns(2, gap="large"), KINDS, strict=True):
        with column:
            _both(found, selection, part)
    st.caption("Grey: the first run; in colour: the second. Both are scored with the first run's norm.")


def _both(found: "Comparison", selection: CompareSelection, part: str) -> None:
    one, two = (getattr(side.layers, part).tolist() for side in (found.first, found.second))
    groups = [
        Group(
            str(layer),
            ((one[layer], "neutral"), (two[layer], part)),
            looking(selection, _in_layer(selection.place, layer)),
            f"layer {layer}, {KIND_NAMES[part]}: {nats(one[layer])} → {nats(two[layer])} nats",
            layer == selection.place.layer,
        )
        for layer in range(len(one))
    ]
    name = KIND_NAMES[part]
    st.markdown(f"**{'FFN' if part == 'ffn' else 'Attention'}**, both runs")
    columns(groups, unit="score (nats)", axis="layer", key=f"both_{part}", here=HERE, label=f"{name} layers of both")
    drawn(f"both_{part}", compare_charts.both_layers(found, part, _prompts(selection)))


def _prompts(selection: CompareSelection) -> tuple[str, str]:
    return selection.first.prompt, selection.second.prompt


def _in_layer(place: ComparePlace, layer: int) -> ComparePlace:
    return replace(place, layer=None if layer == place.layer else layer, head=None)


def heads(found: "Comparison", selection: CompareSelection) -> None:
    """The map of changed heads, and what is known of a chosen one."""
    st.header("Where: heads", anchor=False)
    scores = found.heads.tolist()
    most = float(found.heads.abs().max())
    lines = [
        Line(
            str(head),
            tuple(_square((layer, head), row[head], most, selection) for layer, row in enumerate(scores)),
        )
        for head in range(len(scores[0]))
    ]
    scale = Scale("Δ score (nats), logarithmic colour: second lower | second higher", nats(-most), nats(most))
    places = [str(layer) for layer in range(len(scores))]
    grid(lines, places, scale, axes=("head", "layer"), key="heads", here=HERE, label="changed heads")
    drawn("changed_heads", compare_charts.heads(found, _prompts(selection)))
    if selection.place.head is None:
        st.caption("Click a head for both its scores, or to zero it.")
    else:
        _head(found, selection, selection.place.head)


def _square(head: Head, change: float, most: float, selection: CompareSelection) -> Square:
    chosen = head == selection.place.head
    place = replace(selection.place, layer=head[0], head=None if chosen else head)
    hint = f"{head_label(head)}: Δ {nats(change)} nats"
    return Square(shade(change, most), hint, href=looking(selection, place), current=chosen)


def _head(found: "Comparison", selection: CompareSelection, head: Head) -> None:
    one, two = float(found.first.heads[head]), float(found.second.heads[head])
    with st.container(border=True):
        st.markdown(
            f"**{literal(f'Head {head_label(head)}')}**: "
            + literal(f"{nats(one)} nats in the first run, {nats(two)} in the second, Δ {nats(two - one)}.")
        )
        part = Part(head[0], NeuronKind.ATTENTION, head[1])
        place = Place(layer=head[0], head=head)
        items = [link("Open in the first", navigation.href("prompt", replace(selection.first, place=place)))]
        if selection.second != selection.first:
            items.append(link("Open in the second", navigation.href("prompt", replace(selection.second, place=place))))
        if part not in selection.zero:
            more = replace(selection, zero=(*selection.zero, part))
            items.append(link("What if it were zero?", navigation.href(HERE, more)))
        close = replace(selection.place, head=None, layer=None)
        items.append(link("✕ Close the head", looking(selection, close)))
        chips(items, key="head", here=HERE, label="the chosen head", focus=head_label(head))
