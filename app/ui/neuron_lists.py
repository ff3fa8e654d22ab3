"""Lists of neurons on every page: tables made from columns, and the fields that narrow a list."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import streamlit as st

from app.answers import stored
from app.answers.neuron import how_often
from app.answers.reading import OfNeuron, disagreement
from app.serving import access
from app.state.selections import (
    MAX_HAVING,
    CompareSelection,
    ListOrder,
    NeuronSelection,
    OverviewSelection,
    PageOrder,
    PromptSelection,
    SearchSelection,
    SteerSelection,
)
from app.ui import navigation
from app.ui.common import choice, sync
from app.ui.components import Cell, Chip, Column, To, Tone, address_of, as_data, chip, chips, link, mount
from app.words import nats, percent, signed
from db.catalogue.store import Catalogue
from db.neuron import Intervention, Neuron, NeuronAt, NeuronKind, Part, Sign
from db.questions import Order
from db.records import Generic, NeuronTokens, Token
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.compare import PredictionChange
    from app.attribution.results import Analysis, QueryNeuron, ValueNeuron

Row = TypeVar("Row")
ColumnOf = tuple[Column, Callable[[Row], Cell]]
"""A heading, and the cell below it in a row."""


class OfEnd(OfNeuron, Protocol):
    """A row about one end of a neuron."""

    @property
    def sign(self) -> Sign: ...


class OfToken(OfEnd, Protocol):
    """A row about a token at one end of a neuron."""

    @property
    def token(self) -> Token: ...


def table(
    rows: Sequence[Row], columns: Sequence[ColumnOf[Row]], opens: Callable[[Row], To], *, key: str, label: str
) -> None:
    """Draw one table row per item of `rows`; `opens` says where a click on it leads to."""
    headings = [as_data(heading, {"order"}) for heading, _ in columns]
    lines = [{"href": address_of(opens(row)), "cells": [as_data(cell(row)) for _, cell in columns]} for row in rows]
    mount("table", {"label": label, "columns": headings, "rows": lines}, key)


def neuron_link(neuron: Neuron, origin: PromptSelection | None = None) -> str:
    """The address of a neuron's page; `origin` is the prompt that it is opened from."""
    return navigation.href(NeuronSelection(neuron.label, origin or PromptSelection()))


def neuron_map(data: Mapping[str, object]) -> None:
    """The map of all FFN neurons: see :func:`app.answers.search.cloud`. A click on one opens it."""
    told = "Point at a neuron to read what it is; a click opens it. Drag to move, zoom with + and −."
    label = "map of the FFN neurons; the tables list them"
    pattern = {"href": neuron_link(Neuron(0, NeuronKind.FFN, None, 0)), "stands": "L0.F0"}
    mount("cloud", {"label": label, "told": told, **pattern, **data}, key="cloud")


def steer_link(neuron: Neuron, origin: PromptSelection) -> str:
    """The address of the page that steers, with four times as much of a neuron."""
    return navigation.href(SteerSelection.of(origin, Intervention(Part.of(neuron), 4.0)))


# Columns that several tables have.

Z_HINT = "(logit − mean) / standard deviation of the neuron’s logits over the vocabulary"
RANK_HINT = "1 is the neuron’s most extreme token of that end"
_BOTH_ENDS = "promotes, then suppresses"
_USUAL_FIRST = "tokens it usually raises, then those it usually lowers"
_USUAL_HINT = "in the texts that were read, as far as that is known of the neuron; others: promotes, then suppresses"


def named(
    known: Mapping[Neuron, NeuronTokens], atlas: Catalogue | None, order: StrEnum | None = None
) -> ColumnOf[OfNeuron]:
    """Labels, and below each what its neuron is called: by people, else by its tokens and texts."""
    own = {} if atlas is None else stored.called(atlas, tuple(known))

    def cell(row: OfNeuron) -> Cell:
        neuron = row.neuron
        called = own.get(neuron) or (known[neuron].name if neuron in known else None) or ""
        return Cell(neuron.label, dot=neuron.kind.value, called=called, own=neuron in own)

    return Column("neuron", "name", order=order), cell


def text(
    title: str, role: str, words: Callable[[Row], str], hint: str = "", order: StrEnum | None = None
) -> ColumnOf[Row]:
    """Words or a number."""
    return Column(title, role, hint, order=order), lambda row: Cell(words(row))


def chips_of(title: str, role: str, tokens: Callable[[Row], tuple[Chip, ...]], hint: str = "") -> ColumnOf[Row]:
    """Tokens or links."""
    return Column(title, role, hint), lambda row: Cell(chips=tokens(row))


def bar(
    title: str,
    rows: Iterable[Row],
    value: Callable[[Row], float],
    words: Callable[[float], str],
    hint: str = "",
    *,
    full: float | None = None,
    order: StrEnum | None = None,
) -> ColumnOf[Row]:
    """Values in words beside bars around zero. A bar is full at `full`, or at the largest value of the rows in size."""
    most = full or max((abs(value(row)) for row in rows), default=0.0) or 1.0
    return Column(title, "bar", hint, order=order), lambda row: Cell(words(value(row)), share=value(row) / most)


def token(hint: str, order: StrEnum | None = None) -> ColumnOf[OfToken]:
    """The row's token, marked by its end."""
    return Column("token", "token", hint, order=order), lambda row: Cell(
        tone=row.sign.value, chips=(chip(row.token.display, tone=row.sign.value),)
    )


def strongest_tokens(
    strongest: Mapping[Neuron, NeuronTokens],
    title: str = "strongest tokens of that end",
    role: str = "tokens",
    hint: str = "",
    *,
    skip: int = 0,
    order: StrEnum | None = None,
) -> ColumnOf[OfEnd]:
    """The strongest tokens of the row's end, without the first `skip`, after how often the neuron is active with it."""

    def cell(row: OfEnd) -> Cell:
        one = strongest[row.neuron]
        chips = token_chips(one.at(row.sign)[skip:], row.sign.value)
        return Cell(chips=chips, remark="" if one.usual is None else how_often(one.usual, row.sign))

    return Column(title, role, hint, order=order), cell


def both_ends(
    known: Mapping[Neuron, NeuronTokens], also: Callable[[Neuron], str] = lambda _neuron: ""
) -> ColumnOf[OfNeuron]:
    """The strongest tokens of both ends, the end first that is usually active; before them what `also` remarks."""

    def cell(row: OfNeuron) -> Cell:
        if row.neuron not in known:
            return Cell(chips=(chip("not in this catalogue"),))
        one = known[row.neuron]
        first, second = one.ends
        chips = token_chips(one.at(first), first.value)
        chips += token_chips(one.at(second)[:3], second.value, faint=one.usual is not None)
        return Cell(chips=chips, remark=remarks(also(row.neuron), "" if one.usual is None else "usually raises"))

    usual = any(one.usual is not None for one in known.values())
    return Column(_USUAL_FIRST if usual else _BOTH_ENDS, "tokens", _USUAL_HINT if usual else ""), cell


def remarks(*words: str) -> str:
    """Those that say something, one after the other."""
    return " · ".join(filter(None, words))


def token_chips(tokens: Iterable[Token], tone: Tone = "plain", *, faint: bool = False) -> tuple[Chip, ...]:
    """A chip for each token."""
    return tuple(chip(one.display, tone=tone, faint=faint) for one in tokens)


def raised_first(strongest: NeuronTokens, activation: float, *also: str) -> Cell:
    """The tokens of the end that the activation raised, then a few of the other end, faint; before them what is
    remarked of the neuron, and whether it is seldom active this way.
    """
    promoted = token_chips(strongest.promotes, "promotes", faint=activation <= 0)
    suppressed = token_chips(strongest.suppresses, "suppresses", faint=activation > 0)
    chips = (*promoted, *suppressed[:2]) if activation > 0 else (*suppressed, *promoted[:2])
    sign = Sign.of(activation)
    usual = strongest.usual
    seldom = "" if usual is None or usual.sign is sign else how_often(usual, sign)
    return Cell(chips=chips, remark=remarks(*also, seldom))


# Lists that can be ordered and searched: by their headings, and by fields where there are none, as on a phone.


class Arranged(Protocol):
    """What of a page's state says how its list is arranged."""

    @property
    def order(self) -> ListOrder | None: ...
    @property
    def reverse(self) -> bool: ...
    @property
    def having(self) -> str: ...


_ORDERS = {
    ListOrder.SCORE: ("strongest score first", "weakest score first"),
    ListOrder.EFFECT: ("measured, strongest first", "measured, weakest first"),
    ListOrder.ACTIVATION: ("highest activation first", "lowest activation first"),
    ListOrder.LAYER: ("first layers first", "last layers first"),
    ListOrder.SOURCE: ("first source positions first", "last source positions first"),
    ListOrder.PROMPTS: ("in most prompts first", "in fewest prompts first"),
    ListOrder.DIFFERENCE: ("set A’s own first", "set B’s own first"),
    ListOrder.CHANCE: ("smallest p first", "largest p first"),
}


_UPWARDS = {ListOrder.LAYER, ListOrder.SOURCE, ListOrder.CHANCE, Order.RANK, PageOrder.NEURON, PageOrder.SIGN}
"""Of these the smallest comes first."""


def sortable(
    columns: Sequence[ColumnOf[Row]], now: StrEnum, reverse: bool, at: Callable[[Any, bool], str]
) -> list[ColumnOf[Row]]:
    """The columns with links in their headings: a click orders by one, a second click turns that round.

    Args:
        columns: as they are.
        now: the order of the list.
        reverse: whether it is turned round.
        at: the address of an order, and of the same reversed.
    """

    def heading(column: Column) -> Column:
        if column.order is None:
            return column
        chosen = column.order is now
        upwards = (column.order in _UPWARDS) != reverse
        to = at(column.order, chosen and not reverse)
        return replace(column, href=to, sorted="" if not chosen else "ascending" if upwards else "descending")

    return [(heading(column), cell) for column, cell in columns]


def order_fields(
    now: Arranged, orders: Sequence[ListOrder], changed: Callable[[], None], *, hidden: bool = False
) -> None:
    """What a list is searched for, and its order; the first of `orders` is that of the list itself.

    hidden: the labels are for screen readers only.
    """
    page = navigation.here()
    labels: Literal["collapsed", "visible"] = "collapsed" if hidden else "visible"
    sync(f"{page}_has", now.having)
    order = now.order if now.order in orders else orders[0]
    sync(f"{page}_sort", f"{order}{'-' if now.reverse else ''}")
    names = {f"{order}{end}": _ORDERS[order][bool(end)] for order in orders for end in ("", "-")}
    st.text_input(
        "Only",
        key=f"{page}_has",
        max_chars=MAX_HAVING,
        placeholder="only with a token, layer, label",
        label_visibility=labels,
        on_change=changed,
        width=260,
        help="Neurons with this among the tokens listed, or of this layer (23), head (L23.H4) or label",
    )
    st.selectbox(
        "Order",
        list(names),
        key=f"{page}_sort",
        format_func=names.__getitem__,
        on_change=changed,
        width=230,
        label_visibility=labels,
    )


def chosen_order(orders: Sequence[ListOrder]) -> dict[str, Any]:
    """What these fields stand for."""
    page = navigation.here()
    chosen = st.session_state[f"{page}_sort"] or orders[0]
    order = ListOrder(chosen.rstrip("-"))
    return {
        "order": None if order is orders[0] else order,
        "reverse": chosen.endswith("-"),
        "having": st.session_state[f"{page}_has"] or "",
    }


def pager(number: int, pages: int, to: Callable[[int], str]) -> None:
    """The way to the page before, to the next one and to some others; nothing where there is one page."""
    if pages < 2:
        return
    nearby = sorted({1, number - 1, number, number + 1, pages} & set(range(1, pages + 1)))
    items = [link(f"{one}", to(one), one == number) for one in nearby]
    if number > 1:
        items.insert(0, link("← Previous", to(number - 1)))
    if number < pages:
        items.append(link("Next →", to(number + 1)))
    chips(items, key="pages", label="pages of the result")


def changed_predictions(
    rows: "Sequence[PredictionChange]", runs: tuple[str, str], opens: "Callable[[PredictionChange], To]", hint: str
) -> None:
    """How the probabilities of the likeliest tokens changed between two runs; `hint` says what a click does."""
    first, second = runs

    def probabilities(one: "PredictionChange") -> str:
        return f"{percent(one.first)} → {percent(one.second)}"

    columns: list[ColumnOf[PredictionChange]] = [
        text("next token", "name", lambda one: shorten(one.token.display, 28), hint),
        bar(
            "Δ probability",
            rows,
            lambda one: one.probability,
            lambda change: f"{signed(100 * change, 1)} %",
            f"{second} minus {first}",
        ),
        text(f"{first} → {second}", "number", probabilities),
    ]
    table(rows, columns, opens, key="changed", label="changed predictions")


# The neurons of an explanation: value neurons and query neurons.

_DEPTH = 5
_NAMING = 100
"""A neuron names the target where that is among so many of the tokens that it raised most."""
_ACTIVATION = "what the value vector was multiplied by; negative swaps its two ends"
RAISED = "tokens it raised, then those it lowered"
_RAISED_HINT = f"and the target’s place among all tokens that it raised, where it is among the first {_NAMING}"


def value_table(
    found: "Sequence[ValueNeuron]",
    kind: NeuronKind,
    analysis: "Analysis",
    selection: PromptSelection,
    atlas: Catalogue,
    unit: str,
    *,
    effects: bool,
) -> None:
    """Value neurons: a row opens the neuron, “why” shows its own query neurons, “zero” compares without it.

    effects: there is a column for what was measured, or will be.
    """
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    own = stored.told(atlas, selection, "own")
    tokens = partial(_raised, strongest, atlas.generic, f"“{shorten(analysis.target.token.display, 16)}”")
    hint = "log-probability increase of the target" if analysis.contrast is None else "share of the logit difference"

    def source(one: "ValueNeuron") -> Cell:
        tokens = () if one.position is None else (chip(analysis.tokens[one.position].display),)
        return Cell("" if one.position is None else f"{one.position}", chips=tokens)

    def actions(one: "ValueNeuron") -> tuple[Chip, ...]:
        label = one.neuron.label
        place = replace(selection.place, own=NeuronAt(one.neuron, one.position))
        to = replace(selection, place=place)
        explains = link("why", to, hint=f"what switched {label} on", name=f"why {label}")
        if not access.has_model():
            return (explains,) if own(NeuronAt(one.neuron, one.position).label) else ()
        zero = CompareSelection.of(selection, (Part.of(one.neuron),))
        return explains, link("zero", zero, hint=f"what if {label} were zero", name=f"zero {label}")

    def at(order: ListOrder, reverse: bool) -> str:
        place = replace(selection.place, order=None if order is best else order, reverse=reverse)
        return navigation.href(replace(selection, place=place))

    columns: list[ColumnOf[ValueNeuron]] = [
        named(strongest, atlas, ListOrder.LAYER),
        bar(unit, found, lambda one: one.score, nats, f"{hint}; around zero", order=ListOrder.SCORE),
        text("activation", "number", lambda one: signed(one.activation), _ACTIVATION, ListOrder.ACTIVATION),
        (Column(RAISED, "tokens", _RAISED_HINT), tokens),
        chips_of("", "action", actions),
    ]
    if effects:
        columns.insert(2, _effects(found))
    if kind is NeuronKind.ATTENTION:
        hint = "source position and its token"
        columns.insert(1, (Column("from", "source", hint, order=ListOrder.SOURCE), source))
    best = ListOrder.EFFECT if effects else ListOrder.SCORE
    now = selection.place.order or best
    if now is ListOrder.EFFECT and all(one.effect is None for one in found):
        now = ListOrder.SCORE  # until the effects are there
    table(
        found,
        sortable(columns, now, selection.place.reverse, at),
        lambda one: neuron_link(one.neuron, selection),
        key=f"neurons_{kind}",
        label=f"{kind} neurons",
    )


def _raised(strongest: Mapping[Neuron, NeuronTokens], generic: Generic, target: str, one: "ValueNeuron") -> Cell:
    """The tokens, after how far score and effect are apart, the target's place where it is high, and whether the neuron
    is in most lists.
    """
    remark = disagreement(one.score, one.effect)
    rank = f"{target} its no. {one.rank}" if one.rank is not None and one.rank <= _NAMING else ""
    routed = "" if one.router is None else f"router’s weight {one.router:.2f}"
    words = f"measured: {remark}" if remark else "", rank, generic.words(one.neuron), routed
    return raised_first(strongest[one.neuron], one.activation, *words)


def _effects(found: "Sequence[ValueNeuron]") -> "ColumnOf[ValueNeuron]":
    """What was measured, over bars of a scale of their own; the column is there before the figures are."""
    known = [one.effect for one in found if one.effect is not None]
    most, absent = max(map(abs, known), default=0.0) or 1.0, "–" if known else "…"
    hint = (
        "what the answer lost when the model ran again without the neuron, at this position; bars have their own scale"
    )

    def cell(one: "ValueNeuron") -> Cell:
        return Cell(absent) if one.effect is None else Cell(nats(one.effect), share=one.effect / most)

    return Column("measured (nats)", "bar effect", hint, both=True, order=ListOrder.EFFECT), cell


def query_table(
    found: "Sequence[QueryNeuron]", key: str, label: str, selection: PromptSelection, atlas: Catalogue
) -> None:
    """Query neurons: a row opens the neuron, “through a head” reads it through a head."""
    told = stored.told(atlas, selection, "through")
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)

    def through(one: "QueryNeuron") -> tuple[Chip, ...]:
        place = replace(selection.place, read=one.neuron, through=None)
        href, name = navigation.href(replace(selection, place=place)), f"{one.neuron.label} through a head"
        return (link("through a head", href, name=name),) if told(one.neuron.label) else ()

    columns: list[ColumnOf[QueryNeuron]] = [
        named(strongest, atlas),
        bar("score (nats)", found, lambda one: one.score, nats, "its share of what switched the value neurons on"),
        both_ends(strongest),
        chips_of("", "action", through),
    ]
    table(found, columns, lambda one: neuron_link(one.neuron, selection), key=key, label=label)


# The fields that narrow a list to one end, one kind and some layers.

_BOTH = "both"
_SIGNS = {_BOTH: "both", "promotes": "promotes", "suppresses": "suppresses"}
_KINDS = {_BOTH: "all", "ffn": "FFN", "attention": "attention"}


def kind_fields(selection: SearchSelection | OverviewSelection, changed: Callable[[], None]) -> None:
    """The end and the kind of the neurons."""
    page = navigation.here()
    choice("The neuron", _SIGNS, str(selection.sign or _BOTH), key=f"{page}_sign", changed=changed)
    choice("Kind", _KINDS, str(selection.kind or _BOTH), key=f"{page}_kind", changed=changed)


def layer_slider(
    selection: SearchSelection | OverviewSelection, atlas: Catalogue, changed: Callable[[], None], width: int
) -> None:
    """The first and the last layer; nothing where there is only one."""
    page, last = navigation.here(), atlas.info.layers - 1
    if last > 0:
        sync(f"{page}_layers", selection.layers or (0, last))
        st.slider("Layers", 0, last, key=f"{page}_layers", on_change=changed, width=width)


def chosen_kinds(atlas: Catalogue) -> dict[str, Any]:
    """What the fields stand for: values of `sign`, `kind` and `layers`, each None where nothing is left out."""
    state, page = st.session_state, navigation.here()
    sign, kind = state[f"{page}_sign"], state[f"{page}_kind"]
    every = (0, atlas.info.layers - 1)
    layers = tuple(state.get(f"{page}_layers", every))
    return {
        "sign": None if sign in (None, _BOTH) else Sign(sign),
        "kind": None if kind in (None, _BOTH) else NeuronKind(kind),
        "layers": None if layers == every else layers,
    }
