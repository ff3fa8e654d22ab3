"""Lists of neurons on every page: tables made from columns, and the fields that narrow a list."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import streamlit as st

from app.state.selections import CompareSelection, NeuronSelection, OverviewSelection, PromptSelection, SearchSelection
from app.ui import navigation
from app.ui.common import choice, sync
from app.ui.components import Cell, Chip, Column, TableRow, Tone, chip, link, neuron_table
from app.words import nats, signed
from db.catalogue.store import Catalogue
from db.neuron import Neuron, NeuronAt, NeuronKind, Part, Sign
from db.records import NeuronTokens, Token

if TYPE_CHECKING:
    from app.attribution.results import Analysis, QueryNeuron, ValueNeuron

Row = TypeVar("Row")
ColumnOf = tuple[Column, Callable[[Row], Cell]]
"""A heading, and the cell below it in a row."""


class OfNeuron(Protocol):
    """A row about a neuron."""

    @property
    def neuron(self) -> Neuron: ...


class OfEnd(OfNeuron, Protocol):
    """A row about one end of a neuron."""

    @property
    def sign(self) -> Sign: ...


class OfToken(OfEnd, Protocol):
    """A row about a token at one end of a neuron."""

    @property
    def token(self) -> Token: ...


def table(
    rows: Sequence[Row],
    columns: Sequence[ColumnOf[Row]],
    opens: Callable[[Row], str],
    *,
    key: str,
    here: str,
    label: str,
) -> None:
    """Draw one table row per item of `rows`; `opens` gives the address that a click on it leads to."""
    lines = [TableRow(opens(row), tuple(cell(row) for _, cell in columns)) for row in rows]
    neuron_table([heading for heading, _ in columns], lines, key=key, here=here, label=label)


def neuron_link(neuron: Neuron, origin: PromptSelection | None = None) -> str:
    """The address of a neuron's page; `origin` is the prompt that it is opened from."""
    return navigation.href("neuron", NeuronSelection(neuron.label, origin or PromptSelection()))


# Columns that several tables have.

Z_HINT = "(logit − mean) / standard deviation of the neuron’s logits over the vocabulary"
RANK_HINT = "1 is the neuron’s most extreme token of that end"
NEURON: ColumnOf[OfNeuron] = (Column("neuron", "name"), lambda row: Cell(row.neuron.label, dot=row.neuron.kind.value))


def text(title: str, role: str, words: Callable[[Row], str], hint: str = "") -> ColumnOf[Row]:
    """Words or a number."""
    return Column(title, role, hint), lambda row: Cell(words(row))


def chips_of(title: str, role: str, chips: Callable[[Row], tuple[Chip, ...]], hint: str = "") -> ColumnOf[Row]:
    """Tokens or links."""
    return Column(title, role, hint), lambda row: Cell(chips=chips(row))


def bar(
    title: str,
    rows: Iterable[Row],
    value: Callable[[Row], float],
    words: Callable[[float], str],
    hint: str = "",
    *,
    full: float | None = None,
) -> ColumnOf[Row]:
    """Values in words over bars around zero. A bar is full at `full`, or at the largest value of the rows in size."""
    most = full or max((abs(value(row)) for row in rows), default=0.0) or 1.0
    return Column(title, "bar", hint), lambda row: Cell(words(value(row)), share=value(row) / most)


def token(hint: str) -> ColumnOf[OfToken]:
    """The row's token, marked by its end."""
    return Column("token", "token", hint), lambda row: Cell(
        tone=row.sign.value, chips=(chip(row.token.display, tone=row.sign.value),)
    )


def strongest_tokens(
    strongest: Mapping[Neuron, NeuronTokens],
    title: str = "strongest tokens of that end",
    role: str = "tokens",
    hint: str = "",
    *,
    skip: int = 0,
) -> ColumnOf[OfEnd]:
    """The strongest tokens of the row's end, without the first `skip`."""
    return chips_of(
        title, role, lambda row: token_chips(strongest[row.neuron].at(row.sign)[skip:], row.sign.value), hint
    )


def token_chips(tokens: Iterable[Token], tone: Tone = "plain", *, faint: bool = False) -> tuple[Chip, ...]:
    """A chip for each token."""
    return tuple(chip(one.display, tone=tone, faint=faint) for one in tokens)


def raised_first(strongest: NeuronTokens, activation: float) -> tuple[Chip, ...]:
    """The tokens of the end that the activation raised, then a few of the other end, faint."""
    promoted = token_chips(strongest.promotes, "promotes", faint=activation <= 0)
    suppressed = token_chips(strongest.suppresses, "suppresses", faint=activation > 0)
    return (*promoted, *suppressed[:2]) if activation > 0 else (*suppressed, *promoted[:2])


# The neurons of an explanation: value neurons and query neurons.

_DEPTH = 5
_ACTIVATION = "what the value vector was multiplied by; negative swaps its two ends"
RAISED = "tokens it raised, then those it lowered"


def value_table(
    found: "Sequence[ValueNeuron]",
    kind: NeuronKind,
    analysis: "Analysis",
    selection: PromptSelection,
    atlas: Catalogue,
    unit: str,
) -> None:
    """Value neurons: a row opens the neuron, “why” shows its own query neurons, “zero” compares without it."""
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    hint = "log-probability increase of the target" if analysis.contrast is None else "share of the logit difference"

    def source(one: "ValueNeuron") -> Cell:
        tokens = () if one.position is None else (chip(analysis.tokens[one.position].display),)
        return Cell("" if one.position is None else f"{one.position}", chips=tokens)

    def actions(one: "ValueNeuron") -> tuple[Chip, ...]:
        label = one.neuron.label
        place = replace(selection.place, own=NeuronAt(one.neuron, one.position))
        why = navigation.href("prompt", replace(selection, place=place))
        zero = navigation.href("compare", CompareSelection.of(selection, (Part.of(one.neuron),)))
        return (
            Chip("why", "link", href=why, hint=f"what switched {label} on"),
            Chip("zero", "link", href=zero, hint=f"what if {label} were zero"),
        )

    columns: list[ColumnOf[ValueNeuron]] = [
        NEURON,
        bar(unit, found, lambda one: one.score, nats, f"{hint}; around zero"),
        text("activation", "number", lambda one: signed(one.activation), _ACTIVATION),
        chips_of(RAISED, "tokens", lambda one: raised_first(strongest[one.neuron], one.activation)),
        chips_of("", "action", actions),
    ]
    if kind is NeuronKind.ATTENTION:
        columns.insert(1, (Column("from", "source", "source position and its token"), source))
    table(
        found,
        columns,
        lambda one: neuron_link(one.neuron, selection),
        key=f"neurons_{kind}",
        here="prompt",
        label=f"{kind} neurons",
    )


def query_table(
    found: "Sequence[QueryNeuron]", key: str, label: str, selection: PromptSelection, atlas: Catalogue
) -> None:
    """Query neurons: a row opens the neuron, “through a head” reads it through a head."""
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)

    def tokens(one: "QueryNeuron") -> tuple[Chip, ...]:
        ends = strongest[one.neuron]
        return token_chips(ends.promotes, "promotes") + token_chips(ends.suppresses[:3], "suppresses")

    def through(one: "QueryNeuron") -> tuple[Chip, ...]:
        place = replace(selection.place, read=one.neuron, through=None)
        return (link("through a head", navigation.href("prompt", replace(selection, place=place))),)

    columns: list[ColumnOf[QueryNeuron]] = [
        NEURON,
        bar("score (nats)", found, lambda one: one.score, nats, "its share of what switched the value neurons on"),
        chips_of("promotes, then suppresses", "tokens", tokens),
        chips_of("", "action", through),
    ]
    table(found, columns, lambda one: neuron_link(one.neuron, selection), key=key, here="prompt", label=label)


# The fields that narrow a list to one end, one kind and some layers.

_BOTH = "both"
_SIGNS = {_BOTH: "both", "promotes": "promotes", "suppresses": "suppresses"}
_KINDS = {_BOTH: "all", "ffn": "FFN", "attention": "attention"}


def kind_fields(page: str, selection: SearchSelection | OverviewSelection, changed: Callable[[], None]) -> None:
    """The end and the kind of the neurons; `page` begins the keys of the fields."""
    choice("The neuron", _SIGNS, str(selection.sign or _BOTH), key=f"{page}_sign", changed=changed)
    choice("Kind", _KINDS, str(selection.kind or _BOTH), key=f"{page}_kind", changed=changed)


def layer_slider(
    page: str,
    selection: SearchSelection | OverviewSelection,
    atlas: Catalogue,
    changed: Callable[[], None],
    width: int,
) -> None:
    """The first and the last layer; nothing where there is only one."""
    last = atlas.info.layers - 1
    if last > 0:
        sync(f"{page}_layers", selection.layers or (0, last))
        st.slider("Layers", 0, last, key=f"{page}_layers", on_change=changed, width=width)


def chosen_kinds(page: str, atlas: Catalogue) -> dict[str, Any]:
    """What the fields stand for: values of `sign`, `kind` and `layers`, each None where nothing is left out."""
    state = st.session_state
    sign, kind = state[f"{page}_sign"], state[f"{page}_kind"]
    every = (0, atlas.info.layers - 1)
    layers = tuple(state.get(f"{page}_layers", every))
    return {
        "sign": None if sign in (None, _BOTH) else Sign(sign),
        "kind": None if kind in (None, _BOTH) else NeuronKind(kind),
        "layers": None if layers == every else layers,
    }
