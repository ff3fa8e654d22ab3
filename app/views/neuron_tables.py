"""Tables of neurons on a prompt: value neurons, and the query neurons behind them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from app import navigation
from app.asking.reading import most
from app.drawing.components import Cell, Chip, Column, TableRow, chip, link, neuron_table
from app.drawing.wording import nats, signed
from app.state.compare_selection import CompareSelection
from app.state.parts import Part
from app.state.selection import NeuronSelection, PromptSelection
from db.answers import NeuronTokens
from db.catalogue import Catalogue
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.results import Analysis, QueryNeuron, ValueNeuron

HERE = "prompt"
_DEPTH = 5
_SCORE_HINT = "log-probability increase of the target; around zero"
_SHARE_HINT = "share of the difference of logits; around zero"
_ACTIVATION = Column("activation", "number", "what the value vector was multiplied by; negative swaps its two ends")
_QUERY = (
    Column("neuron", "name"),
    Column("score (nats)", "bar", "its share of what switched the value neurons on"),
    Column("promotes, then suppresses", "tokens"),
    Column("", "action"),
)


def value_table(
    found: "tuple[ValueNeuron, ...]",
    kind: NeuronKind,
    analysis: "Analysis",
    selection: PromptSelection,
    atlas: Catalogue,
    unit: str,
) -> None:
    """Value neurons, a row each: the row opens the neuron, its “why” shows the neuron's own query neurons."""
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    scale = most(found)
    rows = [_value_row(one, analysis, strongest[one.neuron], scale, selection) for one in found]
    columns = (
        Column("neuron", "name"),
        *((Column("from", "source", "source position and its token"),) if kind is NeuronKind.ATTENTION else ()),
        Column(unit, "bar", _SCORE_HINT if analysis.contrast is None else _SHARE_HINT),
        _ACTIVATION,
        Column("tokens it raised, then those it lowered", "tokens"),
        Column("", "action"),
    )
    neuron_table(columns, rows, key=f"neurons_{kind}", here=HERE, label=f"{kind} neurons")


def _value_row(
    one: "ValueNeuron", analysis: "Analysis", strongest: NeuronTokens, scale: float, selection: PromptSelection
) -> TableRow:
    source: tuple[Cell, ...] = ()
    if one.position is not None:
        token = analysis.tokens[one.position]
        source = (Cell(f"{one.position}", chips=(chip(token.display),)),)
    return TableRow(
        navigation.href("neuron", NeuronSelection(one.neuron.label, selection)),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            *source,
            Cell(nats(one.score), share=one.score / scale),
            Cell(signed(one.activation)),
            Cell(chips=raised_first(strongest, one.activation)),
            Cell(chips=(_why(one, selection), _zero(one, selection))),
        ),
    )


def _why(one: "ValueNeuron", selection: PromptSelection) -> Chip:
    """To the neuron's own query neurons."""
    own = (one.neuron, one.position)
    href = navigation.href(HERE, replace(selection, place=replace(selection.place, own=own)))
    return Chip("why", "link", href=href, hint=f"what switched {one.neuron.label} on")


def _zero(one: "ValueNeuron", selection: PromptSelection) -> Chip:
    """To the comparison of the prompt with and without the neuron."""
    href = navigation.href("compare", CompareSelection.of(selection, (Part.of(one.neuron),)))
    return Chip("zero", "link", href=href, hint=f"what if {one.neuron.label} were zero")


def query_table(
    found: "Sequence[QueryNeuron]", key: str, label: str, selection: PromptSelection, atlas: Catalogue
) -> None:
    """Query neurons, a row each: the row opens the neuron, “through” reads it through a head."""
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    scale = max((abs(one.score) for one in found), default=1.0) or 1.0
    rows = []
    for one in found:
        ends = strongest[one.neuron]
        place = replace(selection.place, read=one.neuron, through=None)
        through = navigation.href(HERE, replace(selection, place=place))
        tokens = tuple(chip(token.display, tone="promotes") for token in ends.promotes)
        tokens += tuple(chip(token.display, tone="suppresses") for token in ends.suppresses[:3])
        rows.append(
            TableRow(
                navigation.href("neuron", NeuronSelection(one.neuron.label, selection)),
                (
                    Cell(one.neuron.label, dot="ffn"),
                    Cell(nats(one.score), share=one.score / scale),
                    Cell(chips=tokens),
                    Cell(chips=(link("through a head", through),)),
                ),
            )
        )
    neuron_table(_QUERY, rows, key=key, here=HERE, label=label)


def raised_first(strongest: NeuronTokens, activation: float) -> tuple[Chip, ...]:
    """The end that the activation's sign makes active, then the other, faint."""
    promoted = [chip(token.display, tone="promotes", faint=activation <= 0) for token in strongest.promotes]
    suppressed = [chip(token.display, tone="suppresses", faint=activation > 0) for token in strongest.suppresses]
    return (*promoted, *suppressed[:2]) if activation > 0 else (*suppressed, *promoted[:2])
