"""A published build, read-only: one method per question, records or data frames as answers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from db.catalogue import concepts, statements
from db.catalogue.builds import TEXTS, current_texts, generic_of
from db.catalogue.concepts import MAX_CONCEPT, WIDEN
from db.catalogue.export import frame_of
from db.catalogue.reader import Tokens, token_of
from db.catalogue.schema import Layout, kind_of
from db.errors import AtlasError, NotFoundError
from db.files import State, state_of
from db.groups import Maps, maps_of
from db.lazy import lazy_import
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Filters, texts_of
from db.records import (
    Concept,
    ConceptNeuron,
    Generic,
    Hit,
    LayerCount,
    LayerOverview,
    MatchedToken,
    Neighbour,
    NeuronCard,
    NeuronTokens,
    PeakedNeuron,
    SimilarNeuron,
    Token,
    TokenFavour,
    TokenLogit,
    WeightedToken,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from db.texts import store as texts_store
    from db.texts.records import Mark
    from db.texts.store import Texts
else:
    np, pd, texts_store = (lazy_import(name) for name in ("numpy", "pandas", "db.texts.store"))

EVERYTHING = Filters()
QUANTILES = (5, 25, 50, 75, 95)
SIMILAR_DEPTH = 30
"""Tokens of each end by which neurons are compared."""


class Catalogue(Tokens):
    """The neurons of one model and the tokens at both ends of each. Make one with :meth:`open`.

    Safe to share between threads. Every method raises AtlasError for what the build does not have: a token id outside
    the vocabulary, layers or a head, a neuron (the message names the ranges that exist); and for a negative limit or
    offset.
    """

    @cached_property
    def layout(self) -> Layout:
        """From neurons to stored ids and back."""
        return Layout.from_rows(self.rows(statements.blocks()), self.info.experts)

    _texts: "tuple[State | None, Texts | None, str] | None" = None

    @property
    def texts(self) -> "Texts | None":
        """What activates the neurons; None where there are no texts, or none that fit: see :attr:`texts_problem`."""
        return self._known_texts()[1]

    @property
    def texts_problem(self) -> str:
        """Why the texts beside the build are ignored; empty where they are not, or there are none."""
        return self._known_texts()[2]

    def _known_texts(self) -> "tuple[State | None, Texts | None, str]":
        """As TEXTS stands now: other texts may be published while this build is open."""
        state, known = state_of(self.path.parent / TEXTS), self._texts
        if known is None or known[0] != state:
            found, problem = None, ""
            try:
                path = None if state is None else current_texts(self.path)
                found = None if path is None else texts_store.Texts.next_to(self, path)
            except AtlasError as error:
                problem = str(error)
            known = self._texts = (state, found, problem)
        return known

    def marks(self, neurons: Iterable[Neuron]) -> "dict[Neuron, Mark]":
        """The usual end and the name of each neuron, in one query; nothing where there are no texts."""
        ids = {self.layout.neuron_id(neuron): neuron for neuron in neurons}
        return {ids[neuron_id]: mark for neuron_id, mark in self._marks(ids).items()}

    def _marks(self, neuron_ids: Iterable[int]) -> "dict[int, Mark]":
        state, texts, _ = self._known_texts()
        try:
            return {} if texts is None else texts.marks_by_id(set(neuron_ids))
        except AtlasError as error:  # damaged, where opening did not look: the build answers without it
            self._texts = (state, None, str(error))
            return {}

    def _told(self, neuron_ids: Iterable[int]) -> "Callable[[int], tuple[Sign | None, str | None]]":
        """What records tell of each neuron, by its id: its usual end and its name, read in one query."""
        marks = self._marks(neuron_ids).items()
        told = {one: (mark.sign, mark.name.text) for one, mark in marks}
        return lambda neuron_id: told.get(neuron_id, (None, None))

    def close(self) -> None:
        """Let go of the build and its texts."""
        super().close()
        if self._texts is not None and self._texts[1] is not None:
            self._texts[1].close()

    @property
    def generic(self) -> Generic:
        """Which neurons are in the lists of most prompts, as `python -m app.attribution --generic` found out."""
        return generic_of(self.path, self.info.checkpoint)

    @property
    def maps(self) -> Maps:
        """Maps of the neurons and groups of those that are alike; without those that were made of other texts."""
        texts = self.texts
        sources = {None, None if texts is None else texts.stamp.texts_id}
        return {by: one for by, one in maps_of(self.path, self.info.checkpoint).items() if one.source in sources}

    def search_token(
        self, token_ids: Iterable[int], filters: Filters = EVERYTHING, *, limit: int = 100, offset: int = 0
    ) -> tuple[Hit, ...]:
        """Neurons with one of the tokens at an end, best first. A neuron that has several of them is several hits."""
        check_page(limit, offset)
        wanted = self.checked(token_ids, filters)
        if not wanted:
            return ()
        known = self.tokens(wanted)
        rows = self.rows(statements.hits(wanted, filters, self._within(filters), limit, offset))
        told = self._told(row[0] for row in rows)
        return tuple(
            Hit(self.layout.neuron(neuron_id), Sign.of(sign), rank, known[token_id], logit, z, *told(neuron_id))
            for neuron_id, sign, rank, token_id, logit, z in rows
        )

    def count_hits(self, token_ids: Iterable[int], filters: Filters = EVERYTHING) -> int:
        """How many hits :meth:`search_token` has in all."""
        wanted = self.checked(token_ids, filters)
        return int(self.rows(statements.hit_count(wanted, filters, self._within(filters)))[0][0]) if wanted else 0

    def layers_of(self, token_ids: Iterable[int], filters: Filters = EVERYTHING) -> tuple[LayerCount, ...]:
        """Distinct neurons among the hits, for each layer, kind and sign that has any."""
        wanted = self.checked(token_ids, filters)
        rows = self.rows(statements.layer_counts(wanted, filters, self._within(filters))) if wanted else []
        return tuple(LayerCount(layer, kind_of(kind), Sign.of(sign), count) for layer, kind, sign, count in rows)

    def layer_counts(self, token_ids: Iterable[int], filters: Filters = EVERYTHING) -> "pd.DataFrame":
        """:meth:`layers_of` as a data frame: columns layer, kind, sign, neurons."""
        return frame_of(LayerCount, self.layers_of(token_ids, filters))

    def neuron(self, neuron: Neuron) -> NeuronCard:
        """All that is stored of one neuron."""
        neuron_id = self.layout.neuron_id(neuron)
        rows, told = self.rows(statements.card(neuron_id)), self._told([neuron_id])(neuron_id)
        ends: dict[int, list[TokenLogit]] = {1: [], -1: []}
        for row in rows:
            ends[row.sign].append(TokenLogit(token_of(row), row.logit, row.z))
        first = rows[0]
        return NeuronCard(
            *(neuron, first.mean, first.std, first.norm, tuple(ends[1]), tuple(ends[-1])),
            *(self.generic.words(neuron), *told),
        )

    def strongest_tokens(self, neurons: Sequence[Neuron], depth: int = 5) -> dict[Neuron, NeuronTokens]:
        """The first ``depth`` tokens of both ends of up to some thousand neurons, in the order given, in one query; and
        what the texts say of each, in another.
        """
        ids = {self.layout.neuron_id(neuron): neuron for neuron in neurons}
        if not ids:
            return {}
        ends: dict[tuple[int, int], list[Token]] = {}
        for row in self.rows(statements.strongest_tokens(list(ids), depth)):
            ends.setdefault((row.neuron_id, row.sign), []).append(token_of(row))
        marks = self.marks(neurons)
        return {
            neuron: NeuronTokens(
                tuple(ends.get((neuron_id, 1), ())), tuple(ends.get((neuron_id, -1), ())), marks.get(neuron)
            )
            for neuron_id, neuron in ids.items()
        }

    def extremes(self, layer: int, kind: NeuronKind) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Highest and lowest logit of every neuron of a layer and kind, each of shape [neurons], in neuron order.

        Raises:
            AtlasError: no such layer or kind.
        """
        block = self.layout.block(layer, kind)
        logits = np.array([row[1] for row in self.rows(statements.extremes(block.first, block.size))], dtype=np.float32)
        return logits[: block.size], logits[block.size :]

    def layer_statistics(self, layer: int, kind: NeuronKind) -> "pd.DataFrame":
        """The figures of the neurons of a layer and kind: one row each, in neuron order.

        Columns: index, head (missing for FFN), mean, std, norm, top_logit, bottom_logit, top_z, bottom_z.

        Raises:
            AtlasError: no such layer or kind.
        """
        block = self.layout.block(layer, kind)
        rows = self.rows(statements.layer_statistics(block.first, block.size))
        columns = ["index", "head", "mean", "std", "norm", "top_logit", "bottom_logit", "top_z", "bottom_z"]
        return pd.DataFrame([tuple(row) for row in rows], columns=columns).astype({"head": "Int64"})

    def _within(self, filters: Filters) -> statements.Within:
        """Which neurons, and which of their ends, the filters leave."""
        spans = self.layout.spans(filters)
        return statements.Within(spans, texts_of(self).usual_ends if filters.usual else None)

    def checked(self, token_ids: Iterable[int], filters: Filters) -> list[int]:
        """The ids, each once.

        Raises:
            AtlasError: an unknown token id, layers or head that the model lacks.
        """
        info = self.info
        if filters.layers is not None and filters.layers[1] >= info.layers:
            low, high = filters.layers
            raise AtlasError(f"Layers {low}–{high} were asked for, but {info.model} has layers 0–{info.layers - 1}.")
        if filters.head is not None and filters.head >= info.heads:
            raise AtlasError(f"Head {filters.head} was asked for, but {info.model} has heads 0–{info.heads - 1}.")
        if filters.expert is not None and filters.expert >= info.expert_count:
            has = f"experts 0–{info.expert_count - 1}" if info.expert_count else "no experts"
            raise AtlasError(f"Expert {filters.expert} was asked for, but {info.model} has {has}.")
        return self.known_ids(token_ids)

    # Concepts.

    def concept(self, text: str, *, widen: int = WIDEN) -> Concept:
        """What a free text stands for: “French”, “programming languages”, “python, -snake”.

        Args:
            text: words; white space or commas separate, a minus before a word makes it one to avoid.
            widen: how many neighbours of the words are added at most; none where the build holds no neighbours.

        Raises:
            AtlasError: the text is empty, too long, not valid Unicode or has too many words; a negative ``widen``.
        """
        if widen < 0:
            raise AtlasError(f"A concept is widened by 0 tokens or more; {widen} were asked for.")
        return concepts.concept_of_words(self, concepts.parse(text), widen)

    def concept_of(self, weights: Mapping[int, float]) -> Concept:
        """The concept of chosen tokens, by id, with a weight from −1 to 1 each.

        Raises:
            AtlasError: an unknown token id, or a weight outside −1 to 1.
        """
        for weight in weights.values():
            if not -1 <= weight <= 1:
                raise AtlasError(f"A token's weight in a concept must be from -1 to 1, not {weight}.")
        tokens = self.tokens(weights)
        chosen = tuple(WeightedToken(tokens[token_id], weight) for token_id, weight in weights.items())
        return Concept(chosen, widened=self.has_neighbours)

    def concept_neurons(
        self, concept: Concept, filters: Filters = EVERYTHING, *, limit: int = 100, offset: int = 0
    ) -> tuple[ConceptNeuron, ...]:
        """The ends of neurons that cover a concept, best first; the order of ``filters`` does not count.

        Raises:
            AtlasError: as all methods, and for more than MAX_CONCEPT tokens.
        """
        check_page(limit, offset)
        weights = self._weights(concept, filters)
        if not weights:
            return ()
        spans = self._within(filters)
        ends = self.rows(statements.concept_neurons(weights, filters, spans, limit, offset))
        ids = sorted({row[0] for row in ends})
        known = {entry.token.token_id: entry for entry in concept.tokens}
        rows = self.rows(statements.matched_tokens(ids, list(weights), filters)) if ids else ()
        matched: dict[tuple[int, int], list[MatchedToken]] = {}
        for neuron_id, sign, token_id, rank, z in rows:
            found = MatchedToken(known[token_id].token, known[token_id].weight, rank, z)
            matched.setdefault((neuron_id, sign), []).append(found)
        told = self._told(ids)
        return tuple(
            ConceptNeuron(
                *(self.layout.neuron(neuron_id), Sign.of(sign), score, tuple(matched[neuron_id, sign])),
                *told(neuron_id),
            )
            for neuron_id, sign, score in ends
        )

    def count_concept(self, concept: Concept, filters: Filters = EVERYTHING) -> int:
        """How many ends :meth:`concept_neurons` has in all."""
        weights = self._weights(concept, filters)
        if not weights:
            return 0
        counted = statements.concept_count(weights, filters, self._within(filters))
        return int(self.rows(counted)[0][0])

    def _weights(self, concept: Concept, filters: Filters) -> dict[int, float]:
        self.checked(concept.token_ids, filters)
        shares = concept.shares()
        if len(shares) > MAX_CONCEPT:
            raise AtlasError(f"The concept has {len(shares)} tokens; at most {MAX_CONCEPT} are searched for at once.")
        rarity = self.rarity(list(shares))
        weights = {token_id: shares[token_id] * rare for token_id, rare in rarity.items()}
        return weights if any(weight > 0 for weight in weights.values()) else {}

    def rarity(self, token_ids: Sequence[int]) -> dict[int, float]:
        """How much a token says of an end that holds it, from 1 where it is the only one down to nearly 0: ln(1 + ends
        of neurons / ends that hold the token), as a share of the most. Tokens that no end holds are left out.
        """
        ends = 2 * self.info.neurons
        counts = self.rows(statements.ends_with(token_ids)) if token_ids else ()
        return {token_id: math.log1p(ends / count) / math.log1p(ends) for token_id, count in counts}

    def best_ends(self, concept: Concept, count: int) -> dict[tuple[int, int], float]:
        """By neuron's id and sign, the scores of the ends that cover a concept best."""
        weights = self._weights(concept, EVERYTHING)
        rows = (
            self.rows(statements.concept_neurons(weights, EVERYTHING, statements.Within(), count, 0)) if weights else ()
        )
        return {(neuron_id, sign): score for neuron_id, sign, score in rows}

    def tokens_of_neurons(self, neuron_ids: Sequence[int]) -> Sequence[statements.Answer]:
        """Rows of neuron's id, sign, token id, z, text and whether it is special, of both ends of some neurons."""
        return self.rows(statements.tokens_of_neurons(neuron_ids)) if neuron_ids else ()

    def similar(self, neuron: Neuron, *, limit: int = 20) -> tuple[SimilarNeuron, ...]:
        """Neurons that share tokens with this one, in the same ends or in opposite ends; most similar first.

            similarity = Σ over shared tokens rarity / √(rank here · rank there)  /  Σ over own tokens rarity / rank

        over both ends, with rarity = ln(ends of neurons / ends that hold the token)²: some tokens are in a tenth of all
        lists and say nothing. A neuron and itself have 1. The cosine of value vectors needs the model:
        ``indexer.directions``.
        """
        check_page(limit)
        neuron_id, depth = self.layout.neuron_id(neuron), min(SIMILAR_DEPTH, self.info.depth)
        own = [(row[0], row[1], row[2]) for row in self.rows(statements.own_tokens(neuron_id, depth))]
        ends = 2 * self.info.neurons
        counts = self.rows(statements.ends_with([row[0] for row in own]))
        rarity = {token_id: math.log(ends / count) ** 2 for token_id, count in counts}
        whole = sum(rarity[token_id] / rank for token_id, _, rank in own)
        if not whole:  # every neuron has all of these tokens
            return ()
        weights = [(token_id, sign, rarity[token_id] / math.sqrt(rank) / whole) for token_id, sign, rank in own]
        rows = self.rows(statements.similar(weights, neuron_id, depth, limit))
        shared = self._shared([(token_id, sign) for token_id, sign, _ in own], [row[0] for row in rows], depth)
        told = self._told(row[0] for row in rows)
        return tuple(
            SimilarNeuron(
                *(self.layout.neuron(other), min(1.0, score), direction < 0, shared[other, direction]), *told(other)
            )
            for other, direction, score in rows
        )

    def _shared(
        self, own: list[tuple[int, int]], neuron_ids: list[int], depth: int
    ) -> dict[tuple[int, int], tuple[Token, ...]]:
        """By neuron id and direction, the tokens in common with `own`, which are token ids and signs."""
        if not neuron_ids:
            return {}
        there: dict[tuple[int, int], set[tuple[int, int]]] = {}
        wanted = sorted({token_id for token_id, _ in own})
        for neuron_id, sign, token_id in self.rows(statements.shared_tokens(sorted(set(neuron_ids)), wanted, depth)):
            for direction in (1, -1):
                there.setdefault((neuron_id, direction), set()).add((token_id, sign * direction))
        tokens = self.tokens(dict.fromkeys(token_id for token_id, _ in own))
        return {
            key: tuple(tokens[token_id] for token_id, sign in own if (token_id, sign) in found)
            for key, found in there.items()
        }

    def neighbours(self, token_id: int) -> tuple[Neighbour, ...]:
        """The tokens nearest to a token, nearest first; none where the build holds no neighbours."""
        self.token(token_id)
        rows = self.rows(statements.neighbours(token_id))
        return tuple(Neighbour(row.rank, token_of(row), row.cosine) for row in rows)

    def neighbour_of(self, token_id: int) -> int:
        """Of how many tokens this one is a neighbour: large for hubs, which are near everything."""
        self.token(token_id)
        return int(self.rows(statements.neighbour_of(token_id))[0][0])

    def mutual_neighbours(self, token_ids: Sequence[int]) -> Sequence[statements.Answer]:
        """Rows of token id, neighbour's id, cosine, text and whether it is special, where each is the other's."""
        return self.rows(statements.mutual_neighbours(token_ids))

    def closeness(self, token_ids: Sequence[int]) -> dict[int, float]:
        """Mean cosine of each token with its ten nearest."""
        return {token_id: float(mean) for token_id, mean in self.rows(statements.closeness(token_ids))}

    # The build as a whole.

    def layers(self) -> tuple[LayerOverview, ...]:
        """How long and how peaked the neurons of each layer and kind are."""
        rows = self.rows(statements.overview(QUANTILES))
        return tuple(LayerOverview(layer, kind_of(kind), *figures) for layer, kind, *figures in rows)

    def overview(self) -> "pd.DataFrame":
        """:meth:`layers` as a data frame: columns as the fields of the record."""
        return frame_of(LayerOverview, self.layers())

    def most_peaked(self, filters: Filters = EVERYTHING, *, limit: int = 20) -> tuple[PeakedNeuron, ...]:
        """The ends of neurons whose first token stands out most, by z; of ``filters`` rank and order do not count."""
        check_page(limit)
        self.checked((), filters)
        rows = self.rows(statements.most_peaked(filters, self._within(filters), limit))
        told = self._told(row.neuron_id for row in rows)
        return tuple(
            PeakedNeuron(
                *(self.layout.neuron(row.neuron_id), Sign.of(row.sign), row.z, token_of(row)), *told(row.neuron_id)
            )
            for row in rows
        )

    def favourites(self, *, limit: int = 20) -> tuple[TokenFavour, ...]:
        """The tokens that come first at most neurons' ends. Reads the whole build: a second for 50 million rows."""
        check_page(limit)
        rows = self.rows(statements.favourites(limit))
        tokens = self.tokens(dict.fromkeys(row[0] for row in rows))
        return tuple(TokenFavour(tokens[token_id], Sign.of(sign), *counts) for token_id, sign, *counts in rows)

    def tokens_of(self, text: str) -> tuple[Token, ...]:
        """The tokens that a text stands for.

        Raises:
            AtlasError: there is none; the message says what the text splits into.
        """
        matches = self.resolve(text)
        if not matches.matched:
            raise NotFoundError(matches.no_match())
        return matches.matched


def check_page(limit: int, offset: int = 0) -> None:
    """Refuse a limit or offset that is negative or that the database cannot count to.

    Raises:
        AtlasError: it is one.
    """
    if not (0 <= limit < 2**62 and 0 <= offset < 2**62):
        raise AtlasError(f"Limit and offset count from 0 to 2⁶²; {limit} and {offset} were given.")
