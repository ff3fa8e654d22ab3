"""What changed, on the page that compares: neurons by their change of importance, signs kept."""

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app import navigation
from app.drawing.components import Cell, Chip, Column, TableRow, chips, legend, link, neuron_table
from app.drawing.wording import literal, nats, signed
from app.state.compare_selection import CompareSelection
from app.state.parts import Part
from app.state.selection import NeuronSelection, Place, PromptSelection
from app.views.compare_where import looking
from app.views.neuron_tables import raised_first
from app.views.shared import sync
from db.answers import NeuronTokens
from db.catalogue import Catalogue
from db.neuron import NeuronKind

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
    head = None if one.neuron.head is None else (one.neuron.layer, one.neuron.head)
    href = navigation.href("prompt", replace(question, place=Place(layer=one.neuron.layer, head=head)))
    return Chip(text, "link", href=href, hint=f"{one.neuron.label} on the {text} prompt")
