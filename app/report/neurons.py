"""A report's tables of neurons: those that raised and lowered the target, and what switched them on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.asking.reading import Reading, most
from app.drawing.wording import nats, signed
from app.report.drawing import Figure
from app.report.parts import Bar, NeuronRow, NeuronTable, Why
from app.state.selection import Show
from db.catalogue import Catalogue
from db.neuron import Neuron, NeuronKind
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.results import Query, QueryNeuron, ValueNeuron

_DEPTH = 6
"""Tokens of the end that comes first; of the other a third."""
_TOKEN = 24


def value_tables(reading: Reading, catalogue: Catalogue, rows: int) -> tuple[NeuronTable, ...]:
    names = {NeuronKind.FFN: "FFN neurons", NeuronKind.ATTENTION: "Attention neurons"}
    return tuple(
        _value_table(f"{names[kind]} that {reading.words[show]}", found, reading, catalogue, rows)
        for show in (Show.RAISED, Show.LOWERED)
        for kind in names
        if (found := reading.lists[show, kind])
    )


def _value_table(
    title: str, found: "Sequence[ValueNeuron]", reading: Reading, catalogue: Catalogue, rows: int
) -> NeuronTable:
    shown, scale = found[:rows], most(found)
    ends = _ends([one.neuron for one in shown], catalogue)
    tokens = reading.analysis.tokens
    return NeuronTable(
        title,
        reading.unit,
        tuple(
            _value_row(one, ends[one.neuron], scale, "" if one.position is None else tokens[one.position].display)
            for one in shown
        ),
        len(found),
    )


def _value_row(
    one: "ValueNeuron", ends: tuple[tuple[str, ...], tuple[str, ...]], scale: float, token: str
) -> NeuronRow:
    positive = one.activation > 0
    first, second = ends if positive else (ends[1], ends[0])
    return NeuronRow(
        one.neuron.label,
        Bar(nats(one.score), one.score / scale),
        first,
        second[: _DEPTH // 3],
        positive,
        "" if one.position is None else f"{one.position} {shorten(token, _TOKEN)}",
        signed(one.activation),
    )


def why(query: "Query", figures: tuple[Figure, ...], catalogue: Catalogue, rows: int) -> Why:
    attention, ffn = query.readers
    skipped = f" {query.skipped} were left out, since what they read adds up to nothing." if query.skipped else ""
    lead = (
        f"A value neuron is switched on by what it reads. These FFN neurons wrote most of what the {attention} "
        f"strongest attention value neurons read; the charts split what they and the {ffn} strongest FFN value neurons "
        f"read over the layers below.{skipped}"
    )
    return Why(lead, _query_table(query.ffn_neurons, catalogue, rows), figures)


def _query_table(found: "Sequence[QueryNeuron]", catalogue: Catalogue, rows: int) -> NeuronTable:
    shown = found[:rows]
    ends = _ends([one.neuron for one in shown], catalogue)
    scale = max((abs(one.score) for one in found), default=1.0) or 1.0
    lines = tuple(
        NeuronRow(one.neuron.label, Bar(nats(one.score), one.score / scale), *ends[one.neuron]) for one in shown
    )
    return NeuronTable("Query neurons", "score (nats)", lines, len(found), on_prompt=False)


def _ends(neurons: Sequence[Neuron], catalogue: Catalogue) -> dict[Neuron, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The tokens that each promotes and suppresses most, shortened."""
    found = catalogue.strongest_tokens(neurons, _DEPTH) if neurons else {}
    return {
        neuron: (
            tuple(shorten(token.display, _TOKEN) for token in ends.promotes),
            tuple(shorten(token.display, _TOKEN) for token in ends.suppresses),
        )
        for neuron, ends in found.items()
    }
