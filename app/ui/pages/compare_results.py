"""What changed, on the page that compares: neurons by their change of importance, signs kept."""

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app.charts import prompt_charts
from app.charts.style import KIND_NAMES, KINDS
from app.state.selections import ComparePlace, CompareSelection, NeuronSelection, Place, PromptSelection
from app.ui import navigation
from app.ui.common import drawn, sync
from app.ui.components import Cell, Chip, Column, TableRow, chips, legend, link, neuron_table
from app.ui.components.plots import Group, Line, Scale, Square, columns, grid, shade
from app.ui.pages.neuron_tables import raised_first
from app.words import literal, nats, signed
from db.catalogue.store import Catalogue
from db.neuron import Head, NeuronKind, Part
from db.records import NeuronTokens

if TYPE_CHECKING:
    from app.attribution.compare import Change, Comparison


HERE = "compare"
ROWS = 100
_DEPTH = 5
_NAMES = {NeuronKind.FFN: "FFN", NeuronKind.ATTENTION: "attention"}
_COLUMNS = (
    Column("neuron", "name"),
    Column("Δ score (nats)", "bar", "log-probability increase: second minus first"),
    Column("first → second", "number", "its score in each run, nats"),
    Column("Δ activation", "number extra", "second minus first"),
    Column("first → second", "number extra", "its activation in each run; negative swaps its two ends"),
    Column("tokens it raised, then those it lowered", "tokens", "by its activation in the run where it scored more"),
    Column("", "action"),
)


def neurons(found: "Comparison", selection: CompareSelection, atlas: Catalogue) -> None:
    """The neurons of one kind that changed most, those of the chosen layer or head."""
    st.header("What: neurons", anchor=False)
    kind = selection.place.kind
    _switch(selection)
    _narrowed(selection)
    every = found.neurons[kind]
    rows = [one for one in every if _stands(one, selection)]
    legend("ffn" if kind is NeuronKind.FFN else "attention", "promotes", "suppresses")
    count = f"{len(rows)} of the {len(every)}" if len(rows) < len(every) else f"{len(every)}"
    shown = f", the first {ROWS} shown" if len(rows) > ROWS else ""
    st.caption(
        literal(
            f"{count} {_NAMES[kind]} neurons that raised or lowered either target most{shown}. {_proof(found, kind)}"
        )
    )
    if rows:
        _table(rows[:ROWS], found, selection, atlas)
    else:
        st.info("None of them stands here. Show all layers, or the other kind.")


def _proof(found: "Comparison", kind: NeuronKind) -> str:
    above = found.complete_above[kind]
    return "" if above is None else f"Proven: every neuron whose |Δ| exceeds {above:.2g} nats is among them."


def _stands(one: "Change", selection: CompareSelection) -> bool:
    place = selection.place
    if place.layer is not None and one.neuron.layer != place.layer:
        return False
    return place.head is None or one.neuron.head in (None, place.head[1])


def _switch(selection: CompareSelection) -> None:
    sync("compare_kind", str(selection.place.kind))

    def changed() -> None:
        kind = NeuronKind(st.session_state["compare_kind"] or NeuronKind.FFN)
        navigation.show(replace(selection, place=replace(selection.place, kind=kind)))

    st.segmented_control(
        "Kind",
        [str(kind) for kind in NeuronKind],
        key="compare_kind",
        format_func=lambda kind: _NAMES[NeuronKind(kind)],
        on_change=changed,
        required=True,
        label_visibility="collapsed",
    )


def _narrowed(selection: CompareSelection) -> None:
    place = selection.place
    if place.layer is None:
        return
    words = f"Only layer {place.layer}"
    if place.head is not None and place.kind is NeuronKind.ATTENTION:
        words += f", head {place.head[1]}"
    off = link(f"✕ {words}", looking(selection, replace(place, layer=None, head=None)))
    chips([off], key="narrowed", here=HERE, label="narrowed to")


def _table(rows: "list[Change]", found: "Comparison", selection: CompareSelection, atlas: Catalogue) -> None:
    tokens = atlas.strongest_tokens([one.neuron for one in rows], _DEPTH)
    most = max(abs(one.score) for one in rows) or 1.0
    listed = [_row(one, tokens[one.neuron], most, found, selection) for one in rows]
    neuron_table(_COLUMNS, listed, key="neurons", here=HERE, label="changed neurons")
    st.caption(
        "A row opens its neuron; “1st” and “2nd” show its layer on that prompt, “zero” takes it out of the second run."
    )


def _row(one: "Change", ends: NeuronTokens, most: float, found: "Comparison", selection: CompareSelection) -> TableRow:
    strong = one.first if abs(one.first.score) >= abs(one.second.score) else one.second
    origin = selection.first if strong is one.first else selection.second
    return TableRow(
        navigation.href("neuron", NeuronSelection(one.neuron.label, origin)),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            Cell(nats(one.score), share=one.score / most),
            Cell(f"{nats(one.first.score)} → {nats(one.second.score)}"),
            Cell(signed(one.activation)),
            Cell(f"{signed(one.first.activation)}{_at(one.first.position)} → {_second(one)}"),
            Cell(chips=raised_first(ends, strong.activation)),
            Cell(chips=_actions(one, selection)),
        ),
    )


def _second(one: "Change") -> str:
    return f"{signed(one.second.activation)}{_at(one.second.position)}"


def _at(position: int | None) -> str:
    """An attention neuron's source position."""
    return "" if position is None else f" at {position}"


def _actions(one: "Change", selection: CompareSelection) -> tuple[Chip, ...]:
    items = [_opened("1st", selection.first, one)]
    if selection.second != selection.first:
        items.append(_opened("2nd", selection.second, one))
    part = Part.of(one.neuron)
    if part not in selection.zero:
        href = navigation.href(HERE, replace(selection, zero=(*selection.zero, part)))
        items.append(Chip("zero", "link", href=href, hint=f"what if {one.neuron.label} were zero in the second run"))
    return tuple(items)


def _opened(text: str, question: PromptSelection, one: "Change") -> Chip:
    head = None if one.neuron.head is None else Head(one.neuron.layer, one.neuron.head)
    href = navigation.href("prompt", replace(question, place=Place(layer=one.neuron.layer, head=head)))
    return Chip(text, "link", href=href, hint=f"{one.neuron.label} on the {text} prompt")


# Where the two runs differ, on the page that compares: layers, heads, and what was zeroed.


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
    drawn("changed_layers", prompt_charts.changed_layers(found, _prompts(selection)))
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
    drawn(f"both_{part}", prompt_charts.both_layers(found, part, _prompts(selection)))


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
            tuple(_square(Head(layer, head), row[head], most, selection) for layer, row in enumerate(scores)),
        )
        for head in range(len(scores[0]))
    ]
    scale = Scale("Δ score (nats), logarithmic colour: second lower | second higher", nats(-most), nats(most))
    places = [str(layer) for layer in range(len(scores))]
    grid(lines, places, scale, axes=("head", "layer"), key="heads", here=HERE, label="changed heads")
    drawn("changed_heads", prompt_charts.changed_heads(found, _prompts(selection)))
    if selection.place.head is None:
        st.caption("Click a head for both its scores, or to zero it.")
    else:
        _head(found, selection, selection.place.head)


def _square(head: Head, change: float, most: float, selection: CompareSelection) -> Square:
    chosen = head == selection.place.head
    place = replace(selection.place, layer=head[0], head=None if chosen else head)
    hint = f"{head.label}: Δ {nats(change)} nats"
    return Square(shade(change, most), hint, href=looking(selection, place), current=chosen)


def _head(found: "Comparison", selection: CompareSelection, head: Head) -> None:
    one, two = float(found.first.heads[head]), float(found.second.heads[head])
    with st.container(border=True):
        st.markdown(
            f"**{literal(f'Head {head.label}')}**: "
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
        chips(items, key="head", here=HERE, label="the chosen head", focus=head.label)
