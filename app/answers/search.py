"""What the search pages ask of the model: all neurons ranked for a concept, and neurons alike by value vector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import pandas as pd

from app.serving import resources
from app.serving.worker import Report
from app.state.selections import PAGE_ROWS, By, Order, SearchSelection
from db.catalogue import filters
from db.catalogue.concepts import WIDEN, Concept
from db.catalogue.filters import Filters
from db.catalogue.store import Catalogue
from db.neuron import Neuron, Sign
from db.records import ConceptNeuron, Hit, MatchedToken, NeuronTokens, PeakedNeuron, Token, TokenFavour, TokenMatches

if TYPE_CHECKING:
    from indexer.directions import ConceptStrength, NeuronCosine


MOST = 20_000
"""The best so many ends are kept."""


def ranked(
    atlas: Catalogue, concept: Concept, selection: SearchSelection, watch: Report | None = None
) -> "tuple[ConceptStrength, ...]":
    """The ends of all neurons by how strongly their value vectors point to the concept, at most :data:`MOST`.

    The least z is asked of the mean z; stored ranks do not count.

    Raises:
        AtlasError: the model is not here, or the concept has no token to look for.
    """
    weights = concept.shares()
    conditions = selection.conditions

    def make(report: Report) -> "tuple[ConceptStrength, ...]":
        from indexer.directions import rank_by_direction

        model = resources.ready(atlas, report)
        report(f"Ranking all {atlas.info.neurons:,} neurons …")
        found = rank_by_direction(
            model.weights,
            model.unembedding,
            list(weights),
            list(weights.values()),
            atlas.info.neurons if conditions.head is not None else MOST,
            kind=conditions.kind,
            layers=conditions.layers,
            sign=conditions.sign,
        )
        least = conditions.min_z
        return tuple(
            one
            for one in found
            if (least is None or one.mean_z >= least)
            and (conditions.head is None or one.neuron.head == conditions.head)
        )[:MOST]

    key = (atlas.info.build_id, "concept", tuple(weights.items()), conditions)
    return resources.workshop().result("direction", key, make, watch)


def alike_by_value(
    atlas: Catalogue, neuron: Neuron, count: int, watch: Report | None = None
) -> "tuple[NeuronCosine, ...]":
    """The neurons whose value vectors have the largest cosine with this one's, in either direction.

    Raises:
        AtlasError: the model is not here.
    """

    def make(report: Report) -> "tuple[NeuronCosine, ...]":
        from indexer.directions import similar_by_value

        model = resources.ready(atlas, report)
        report(f"Comparing {neuron.label} with all {atlas.info.neurons:,} neurons …")
        return tuple(similar_by_value(model.weights, neuron, count))

    return resources.workshop().result("direction", (atlas.info.build_id, "alike", neuron, count), make, watch)


# How the result of a search is ordered, cut into pages and put into words. Pure.

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


# What the search pages ask of the catalogue: what a search looks for, one page of what it finds, and all of it.

MAX_WHOLE = 100_000
"""Most rows that are sorted or exported."""
BEST = 200
"""Neurons of a concept whose layers are counted: beyond the best there are many that share one token by chance."""
_BESIDE = 4


def searches_by(selection: SearchSelection, matches: TokenMatches | None) -> By:
    """Token or concept: as chosen, else by what the text is."""
    if selection.by is not None:
        return selection.by
    if selection.tokens is not None or (matches is not None and matches.matched):
        return By.TOKEN
    chosen = selection.added or selection.avoided
    return By.CONCEPT if selection.text.strip() or chosen else By.TOKEN


def concept_of(atlas: Catalogue, selection: SearchSelection) -> Concept:
    """The concept that the text stands for, less the tokens dropped, with those added.

    Raises:
        AtlasError: a text that holds no word, or too many.
    """
    chosen = atlas.concept_of({**dict.fromkeys(selection.added, 1.0), **dict.fromkeys(selection.avoided, -1.0)})
    if not selection.text.strip():
        return chosen
    text, widen = selection.text, 0 if selection.narrow else WIDEN
    found = resources.remembered((atlas.info.build_id, "words", text, widen), lambda: atlas.concept(text, widen=widen))
    return found.without(selection.dropped).with_tokens(chosen.tokens)


def hits_page(atlas: Catalogue, ids: Sequence[int], selection: SearchSelection) -> Page[Hit]:
    """A page of the neurons that have one of the tokens at an end."""
    if not is_best_first(selection, By.TOKEN):
        return cut(all_hits(atlas, ids, selection), selection)
    total = atlas.count_hits(ids, selection.conditions)
    number = page_number(selection, total)
    rows = atlas.search_token(ids, hit_filters(selection), limit=PAGE_ROWS, offset=offset(number))
    return Page(rows, number, total)


def all_hits(atlas: Catalogue, ids: Sequence[int], selection: SearchSelection) -> tuple[Hit, ...]:
    """The whole result, sorted."""

    def make() -> tuple[Hit, ...]:
        return sorted_hits(atlas.search_token(ids, hit_filters(selection), limit=MAX_WHOLE), selection)

    return resources.remembered(_key(atlas, selection, ids), make)


def concept_page(atlas: Catalogue, concept: Concept, selection: SearchSelection) -> Page[ConceptNeuron]:
    """A page of the ends of neurons that cover a concept."""
    if not is_best_first(selection, By.CONCEPT):
        return cut(all_of_concept(atlas, concept, selection), selection)
    total = resources.remembered(
        ("count", *_key(atlas, selection, concept.token_ids)),
        lambda: atlas.count_concept(concept, selection.conditions),
    )
    number = page_number(selection, total)
    start = offset(number)
    if start + PAGE_ROWS <= BEST:
        rows = _best(atlas, concept, selection)[start : start + PAGE_ROWS]
    else:
        rows = atlas.concept_neurons(concept, selection.conditions, limit=PAGE_ROWS, offset=start)
    return Page(rows, number, total)


def _best(atlas: Catalogue, concept: Concept, selection: SearchSelection) -> tuple[ConceptNeuron, ...]:
    """The :data:`BEST` ends, best first: the first pages, and what is counted by layer."""

    def make() -> tuple[ConceptNeuron, ...]:
        return atlas.concept_neurons(concept, selection.conditions, limit=BEST)

    return resources.remembered(("best", *_key(atlas, selection, concept.token_ids)), make)


def all_of_concept(atlas: Catalogue, concept: Concept, selection: SearchSelection) -> tuple[ConceptNeuron, ...]:
    """The whole result, sorted."""

    def make() -> tuple[ConceptNeuron, ...]:
        return sorted_ends(atlas.concept_neurons(concept, selection.conditions, limit=MAX_WHOLE), selection)

    return resources.remembered(_key(atlas, selection, concept.token_ids), make)


def exact_page(
    atlas: Catalogue, concept: Concept, selection: SearchSelection, watch: Report | None = None
) -> Page[ConceptNeuron]:
    """A page of all neurons by the concept's direction; scores are mean z, matched tokens those that are stored.

    Raises:
        AtlasError: the model is not here.
    """
    page = cut(all_exact(atlas, concept, selection, watch), selection)
    known = {entry.token.token_id: entry.weight for entry in concept.tokens}
    stored = atlas.strongest_tokens([row.neuron for row in page.rows], atlas.info.depth)
    rows = (replace(row, matched=_among(end_of(stored[row.neuron], row.sign), known)) for row in page.rows)
    return replace(page, rows=tuple(rows))


def all_exact(
    atlas: Catalogue, concept: Concept, selection: SearchSelection, watch: Report | None = None
) -> tuple[ConceptNeuron, ...]:
    """The whole of it, sorted, without matched tokens."""
    ends = ranked(atlas, concept, selection, watch)
    return sorted_ends(tuple(ConceptNeuron(end.neuron, end.sign, end.mean_z, ()) for end in ends), selection)


def _among(tokens: Sequence[Token], known: dict[int, float]) -> tuple[MatchedToken, ...]:
    """The tokens of an end that belong to a concept; their z is not looked up."""
    return tuple(
        MatchedToken(token, known[token.token_id], rank, 0.0)
        for rank, token in enumerate(tokens, 1)
        if token.token_id in known
    )


def end_of(tokens: NeuronTokens, sign: Sign) -> tuple[Token, ...]:
    """One end of a neuron."""
    return tokens.promotes if sign is Sign.PROMOTES else tokens.suppresses


def best_by_layer(atlas: Catalogue, concept: Concept, selection: SearchSelection) -> pd.DataFrame:
    """Where the :data:`BEST` ends stand. Columns: layer, kind, neurons."""
    return layers_of([one.neuron for one in _best(atlas, concept, selection)])


def layers_of(neurons: Sequence[Neuron]) -> pd.DataFrame:
    """How many neurons of each layer and kind. Columns: layer, kind, neurons."""
    frame = pd.DataFrame({"layer": [one.layer for one in neurons], "kind": [str(one.kind) for one in neurons]})
    return frame.groupby(["layer", "kind"]).size().reset_index(name="neurons")


def spelt_alike(atlas: Catalogue, token: Token) -> tuple[Token, ...]:
    """The other tokens that are this one in another spelling."""
    text = token.text.strip()
    found = atlas.resolve(text).matched if 0 < len(text) <= 1000 else ()
    return tuple(one for one in found if one.token_id != token.token_id)


def beside(atlas: Catalogue, neuron: Neuron) -> tuple[Neuron, ...]:
    """The neuron between those next to it in its layer, or in its head."""
    block = atlas.layout.block(neuron.layer, neuron.kind)
    places = range(max(0, neuron.index - _BESIDE), min(block.width, neuron.index + _BESIDE + 1))
    return tuple(replace(neuron, index=place) for place in places)


def overview(atlas: Catalogue) -> pd.DataFrame:
    """See :meth:`Catalogue.overview`."""
    return resources.remembered((atlas.info.build_id, "overview"), atlas.overview)


def most_peaked(atlas: Catalogue, conditions: Filters, count: int = 30) -> tuple[PeakedNeuron, ...]:
    """See :meth:`Catalogue.most_peaked`."""
    key = (atlas.info.build_id, "peaked", conditions, count)
    return resources.remembered(key, lambda: atlas.most_peaked(conditions, limit=count))


def favourites(atlas: Catalogue, count: int = 30) -> tuple[TokenFavour, ...]:
    """See :meth:`Catalogue.favourites`."""
    key = (atlas.info.build_id, "favourites", count)
    return resources.remembered(key, lambda: atlas.favourites(limit=count))


def _key(atlas: Catalogue, selection: SearchSelection, ids: Sequence[int]) -> tuple[object, ...]:
    """What a whole result hangs on: the build, the question and its order, but not the page."""
    question = {name: value for name, value in selection.params().items() if name != "page"}
    return atlas.info.build_id, tuple(sorted(question.items())), tuple(ids)


# Where one neuron stands among the neurons of its layer and kind. Pure: a data frame in, a small result out.

FIGURES = ("norm", "std", "top_z", "bottom_z")


@dataclass(frozen=True, slots=True)
class Standing:
    """A neuron among the others of ``Catalogue.layer_statistics``."""

    figures: dict[str, float]
    """Its own, by the name of the column."""
    larger: dict[str, float]
    """By the same names: the share of the layer's other neurons that it exceeds in size, from 0 to 1."""
    before: Neuron | None
    after: Neuron | None


def standing_of(neuron: Neuron, layer: pd.DataFrame) -> Standing:
    """Place a neuron.

    Args:
        neuron: which.
        layer: all neurons of its layer and kind, in neuron order; columns index, head and :data:`FIGURES`.
    """
    labels = [
        Neuron(neuron.layer, neuron.kind, None if pd.isna(head) else int(head), int(index))
        for head, index in zip(layer["head"], layer["index"], strict=True)
    ]
    place = labels.index(neuron)
    others = max(len(labels) - 1, 1)
    figures = {name: float(layer[name].iloc[place]) for name in FIGURES}
    larger = {name: float((layer[name].abs() < abs(figures[name])).sum()) / others for name in FIGURES}
    return Standing(
        figures,
        larger,
        labels[place - 1] if place else None,
        labels[place + 1] if place + 1 < len(labels) else None,
    )
