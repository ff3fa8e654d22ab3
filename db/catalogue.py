"""A published build, read-only: one named method a question.

    >>> with Catalogue.open(path) as catalogue:  # doctest: +SKIP
    ...     matches = catalogue.resolve(" Python")
    ...     hits = catalogue.search_token([token.token_id for token in matches.matched], limit=5)
    ...     concept = catalogue.concept("programming languages")
    ...     neurons = catalogue.concept_neurons(concept, limit=5)

A Catalogue may be shared by threads. Besides what a method names, any raises AtlasError for a damaged or closed file.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from db import concept_questions, similarity, survey, widening
from db.answers import ConceptNeuron, MatchedToken, Neighbour, PeakedNeuron, SimilarNeuron, Token, TokenFavour, sign_of
from db.concepts import WIDEN, Concept, WeightedToken
from db.errors import AtlasError, NotFoundError
from db.filters import Filters
from db.lookups import EVERYTHING, Lookups, check_page
from db.neuron import Neuron
from db.tokens import token_of
from db.words import parse

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Catalogue"]

MAX_CONCEPT = 200
"""Most tokens of a concept."""


class Catalogue(Lookups):
    """The neurons of one model and the tokens at both ends of each. Make one with :meth:`open`."""

    def concept(self, text: str, *, widen: int = WIDEN) -> Concept:
        """What a free text stands for: “French”, “programming languages”, “python, -snake”.

        Args:
            text: words; white space or commas separate, a minus before a word makes it one to avoid.
            widen: how many neighbours of the words are added at most; none where the build holds no neighbours.

        Raises:
            AtlasError: the text is empty, too long, not valid Unicode or has too many words; a negative ``widen``.
        """
        check_page(widen)
        return widening.concept_of_words(self, parse(text), widen)

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
            AtlasError: layers or head that the model lacks, a negative limit or offset, more than MAX_CONCEPT tokens.
        """
        check_page(limit, offset)
        weights = self._weights(concept, filters)
        if not weights:
            return ()
        spans = self.layout.spans(filters)
        ends = self.rows(concept_questions.concept_neurons(weights, filters, spans, limit, offset))
        ids = sorted({row[0] for row in ends})
        known = {entry.token.token_id: entry for entry in concept.tokens}
        rows = self.rows(concept_questions.matched_tokens(ids, list(weights), filters)) if ids else ()
        matched: dict[tuple[int, int], list[MatchedToken]] = {}
        for neuron_id, sign, token_id, rank, z in rows:
            found = MatchedToken(known[token_id].token, known[token_id].weight, rank, z)
            matched.setdefault((neuron_id, sign), []).append(found)
        return tuple(
            ConceptNeuron(self.layout.neuron(neuron_id), sign_of(sign), score, tuple(matched[neuron_id, sign]))
            for neuron_id, sign, score in ends
        )

    def count_concept(self, concept: Concept, filters: Filters = EVERYTHING) -> int:
        """How many ends :meth:`concept_neurons` has in all; raises as it does."""
        weights = self._weights(concept, filters)
        if not weights:
            return 0
        counted = concept_questions.concept_count(weights, filters, self.layout.spans(filters))
        return int(self.rows(counted)[0][0])

    def _weights(self, concept: Concept, filters: Filters) -> dict[int, float]:
        self.checked(concept.token_ids, filters)
        weights = concept.shares()
        if len(weights) > MAX_CONCEPT:
            raise AtlasError(f"The concept has {len(weights)} tokens; at most {MAX_CONCEPT} are searched for at once.")
        return weights if any(weight > 0 for weight in weights.values()) else {}

    def similar(self, neuron: Neuron, *, limit: int = 20) -> tuple[SimilarNeuron, ...]:
        """Neurons that share tokens with this one, most alike first; alike in their ends, or in opposite ends.

        Raises:
            AtlasError: no such neuron, or a negative limit.
        """
        check_page(limit)
        return similarity.similar(self, neuron, limit)

    def neighbours(self, token_id: int) -> tuple[Neighbour, ...]:
        """The tokens nearest to a token, nearest first; none where the build holds no neighbours.

        Raises:
            AtlasError: no such token.
        """
        self.token(token_id)
        rows = self.rows(concept_questions.neighbours(token_id))
        return tuple(Neighbour(token_of(row), row.rank, row.cosine) for row in rows)

    def neighbour_of(self, token_id: int) -> int:
        """Of how many tokens this one is a neighbour: large for hubs, which are near everything.

        Raises:
            AtlasError: no such token.
        """
        self.token(token_id)
        return int(self.rows(concept_questions.neighbour_of(token_id))[0][0])

    def overview(self) -> "pd.DataFrame":
        """How long and how peaked the neurons of each layer and kind are.

        Columns: layer, kind, neurons, then norm_5, norm_25, norm_50, norm_75, norm_95 and the same of peak (the larger
        |z| of a neuron's first token at either end): quantiles in percent.
        """
        return survey.overview(self)

    def most_peaked(self, filters: Filters = EVERYTHING, *, limit: int = 20) -> tuple[PeakedNeuron, ...]:
        """The ends of neurons whose first token stands out most, by z; of ``filters`` rank and order do not count.

        Raises:
            AtlasError: layers or head that the model lacks, or a negative limit.
        """
        check_page(limit)
        self.checked((), filters)
        return survey.most_peaked(self, filters, limit)

    def favourites(self, *, limit: int = 20) -> tuple[TokenFavour, ...]:
        """The tokens that stand first at most neurons' ends. Reads the whole build: a second for 50 million rows.

        Raises:
            AtlasError: a negative limit.
        """
        check_page(limit)
        return survey.favourites(self, limit)

    def tokens_of(self, text: str) -> tuple[Token, ...]:
        """The tokens that a text stands for.

        Raises:
            AtlasError: there is none; the message says what the text splits into.
        """
        matches = self.resolve(text)
        if not matches.matched:
            raise NotFoundError(matches.no_match())
        return matches.matched
