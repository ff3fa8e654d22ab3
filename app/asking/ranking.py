"""How the result of a search is ordered, cut into pages and put into words. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from app.state.selection import PAGE_ROWS, By, Order, SearchSelection
from db import filters
from db.answers import ConceptNeuron, Hit, Token
from db.concepts import Concept
from db.neuron import Sign

Row = TypeVar("Row", Hit, ConceptNeuron)
Key = tuple[float | str, ...]

_TOKEN = (Order.Z, Order.RANK, Order.LOGIT, Order.NEURON, Order.SIGN)
_CONCEPT = (Order.SCORE, Order.MATCHED, Order.Z, Order.RANK, Order.NEURON, Order.SIGN)
_EXACT = (Order.SCORE, Order.NEURON, Order.SIGN)
_ASKED = (Order.Z, Order.RANK, Order.LOGIT)  # the catalogue sorts hits by these
_BY = {
    Order.SCORE: "score",
    Order.MATCHED: "number of tokens",
    Order.Z: "largest |z|",
    Order.RANK: "best rank",
    Order.NEURON: "place in the model",
    Order.SIGN: "end",
}


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """A page of a result."""

    rows: tuple[Row, ...]
    number: int
    """From 1."""
    total: int
    """Rows of the whole result."""

    @property
    def pages(self) -> int:
        """How many there are."""
        return -(-self.total // PAGE_ROWS)

    @property
    def first(self) -> int:
        """The number of its first row, from 1."""
        return offset(self.number) + 1


def offset(number: int) -> int:
    """How many rows come before a page."""
    return PAGE_ROWS * (number - 1)


def page_number(selection: SearchSelection, total: int) -> int:
    """The page asked for, or the last one there is."""
    return min(selection.page, max(1, -(-total // PAGE_ROWS)))


def cut(rows: tuple[Row, ...], selection: SearchSelection) -> Page[Row]:
    """The page asked for."""
    number = page_number(selection, len(rows))
    return Page(rows[offset(number) : offset(number + 1)], number, len(rows))


def orders(by: By, *, exact: bool = False) -> tuple[Order, ...]:
    """What can rank the result of a search, its own best-first order first."""
    return _TOKEN if by is By.TOKEN else _EXACT if exact else _CONCEPT


def order_of(selection: SearchSelection, by: By) -> Order:
    """What ranks the result; for an order that this search has not got, its own best-first order."""
    possible = orders(by, exact=selection.exact)
    chosen = None if selection.order is None else Order(selection.order)
    return possible[0] if chosen is None or chosen not in possible else chosen


def hit_filters(selection: SearchSelection) -> filters.Filters:
    """Conditions and order of a token search, as far as the catalogue has the order."""
    order = order_of(selection, By.TOKEN)
    return replace(selection.conditions, order=filters.Order(order) if order in _ASKED else filters.Order.Z)


def is_best_first(selection: SearchSelection, by: By) -> bool:
    """Whether the catalogue itself sorts so."""
    order = order_of(selection, by)
    return not selection.reverse and order in (_ASKED if by is By.TOKEN else (Order.SCORE,))


def sorted_hits(rows: tuple[Hit, ...], selection: SearchSelection) -> tuple[Hit, ...]:
    """Hits that came in the order of :func:`hit_filters`."""
    order = order_of(selection, By.TOKEN)
    return _sorted(rows, None if order in _ASKED else _HIT_KEYS[order], selection)


def sorted_ends(rows: tuple[ConceptNeuron, ...], selection: SearchSelection) -> tuple[ConceptNeuron, ...]:
    """Ends of neurons that came by falling score."""
    order = order_of(selection, By.CONCEPT)
    return _sorted(rows, None if order is Order.SCORE else _END_KEYS[order], selection)


def concept_sentence(concept: Concept, selection: SearchSelection) -> str:
    """What is shown of a concept, such as “FFN neurons that promote “␣red”, “␣blue” and 30 more, by score”."""
    conditions = replace(selection.conditions, max_rank=None) if selection.exact else selection.conditions
    order = order_of(selection, By.CONCEPT)
    by = "weighted mean z" if selection.exact and order is Order.SCORE else _BY[order]
    said = conditions.describe(()).replace("no token", concept.describe(), 1)
    return _ordered(said, f"by {by}", selection)


def hits_sentence(tokens: Sequence[Token], selection: SearchSelection) -> str:
    """What is shown of tokens, such as “FFN neurons that promote “␣Paris”, by z”."""
    order = order_of(selection, By.TOKEN)
    by = f"by {order}" if order in _ASKED else f"by {_BY[order]}"
    return _ordered(selection.conditions.describe(tokens), by, selection)


def _ordered(said: str, by: str, selection: SearchSelection) -> str:
    return said.removesuffix(", by z") + f", {by}" + (", reversed" if selection.reverse else "")


def _sorted(rows: tuple[Row, ...], key: Callable[[Row], Key] | None, selection: SearchSelection) -> tuple[Row, ...]:
    ordered = rows if key is None else tuple(sorted(rows, key=key))
    return ordered[::-1] if selection.reverse else ordered


def _place(row: Hit | ConceptNeuron) -> Key:
    neuron = row.neuron
    return neuron.layer, str(neuron.kind), -1 if neuron.head is None else neuron.head, neuron.index


def _sign(row: Hit | ConceptNeuron) -> Key:
    return (0 if row.sign is Sign.PROMOTES else 1,)


_HIT_KEYS: dict[Order, Callable[[Hit], Key]] = {Order.NEURON: _place, Order.SIGN: _sign}
_END_KEYS: dict[Order, Callable[[ConceptNeuron], Key]] = {
    Order.NEURON: _place,
    Order.SIGN: _sign,
    Order.MATCHED: lambda end: (-len(end.matched), -end.score),
    Order.Z: lambda end: (-max(abs(one.z) for one in end.matched), -end.score),
    Order.RANK: lambda end: (min(one.rank for one in end.matched), -end.score),
}
