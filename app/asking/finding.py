"""What the search pages ask of the catalogue: what a search looks for, one page of what it finds, and all of it.

A page in the catalogue's own order is read alone; any other order needs the whole result, which is remembered.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from app.asking import directions
from app.asking.ranking import Page, cut, hit_filters, is_best_first, offset, page_number, sorted_ends, sorted_hits
from app.serving import resources
from app.serving.work import Report
from app.state.selection import PAGE_ROWS, By, SearchSelection
from db.answers import ConceptNeuron, Hit, MatchedToken, NeuronTokens, PeakedNeuron, Token, TokenFavour, TokenMatches
from db.catalogue import Catalogue
from db.concepts import WIDEN, Concept
from db.filters import Filters
from db.neuron import Neuron, Sign

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
    ends = directions.ranked(atlas, concept, selection, watch)
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
