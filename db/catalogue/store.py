"""What is stored of tokens and neurons, looked up: one named method a question."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, case, func, literal, select, union_all

from db.catalogue import concepts, schema, similar, statements
from db.catalogue.concepts import WIDEN, Concept, WeightedToken, parse
from db.catalogue.filters import Filters
from db.catalogue.layout import Layout
from db.catalogue.schema import neuron, neuron_token, token, token_neuron
from db.catalogue.statements import NEURON_COLUMNS, TOKEN_COLUMNS, Statement
from db.catalogue.vocabulary import Tokens, token_of
from db.errors import AtlasError, NotFoundError
from db.neuron import Neuron, NeuronKind, Sign
from db.records import (
    ConceptNeuron,
    Hit,
    MatchedToken,
    Neighbour,
    NeuronCard,
    NeuronTokens,
    PeakedNeuron,
    SimilarNeuron,
    Token,
    TokenFavour,
    TokenLogit,
    neuron_of,
    sign_of,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


EVERYTHING = Filters()


class Lookups(Tokens):
    """Tokens, hits, neurons and layers of one build."""

    @cached_property
    def layout(self) -> Layout:
        """Where each neuron stands: label <-> stored id."""
        return Layout.from_rows(self.rows(Layout.statement()))

    def search_token(
        self, token_ids: Iterable[int], filters: Filters = EVERYTHING, *, limit: int = 100, offset: int = 0
    ) -> tuple[Hit, ...]:
        """Neurons with one of the tokens at an end, best first. A neuron that has several of them is several hits.

        Raises:
            AtlasError: an unknown token id, layers or head that the model lacks, a negative limit or offset.
        """
        check_page(limit, offset)
        wanted = self.checked(token_ids, filters)
        if not wanted:
            return ()
        known = self.tokens(wanted)
        rows = self.rows(statements.hits(wanted, filters, self.layout.spans(filters), limit, offset))
        return tuple(
            Hit(self.layout.neuron(neuron_id), sign_of(sign), rank, known[token_id], logit, z)
            for neuron_id, sign, rank, token_id, logit, z in rows
        )

    def count_hits(self, token_ids: Iterable[int], filters: Filters = EVERYTHING) -> int:
        """How many hits :meth:`search_token` has in all; raises as it does."""
        wanted = self.checked(token_ids, filters)
        return int(self.rows(statements.hit_count(wanted, filters, self.layout.spans(filters)))[0][0]) if wanted else 0

    def layer_counts(self, token_ids: Iterable[int], filters: Filters = EVERYTHING) -> "pd.DataFrame":
        """Distinct neurons among the hits, a row for each layer, kind and sign that has any; raises as the search does.

        Columns: layer, kind ("ffn" or "attention"), sign ("promotes" or "suppresses"), neurons.
        """
        import pandas as pd

        wanted = self.checked(token_ids, filters)
        rows = self.rows(statements.layer_counts(wanted, filters, self.layout.spans(filters))) if wanted else []
        named = [(layer, KINDS[kind], str(sign_of(sign)), count) for layer, kind, sign, count in rows]
        return pd.DataFrame(named, columns=["layer", "kind", "sign", "neurons"])

    def neuron(self, neuron: Neuron) -> NeuronCard:
        """All that is stored of one neuron.

        Raises:
            AtlasError: no such neuron; the message names the ranges that exist.
        """
        rows = self.rows(statements.card(self.layout.neuron_id(neuron)))
        ends: dict[int, list[TokenLogit]] = {1: [], -1: []}
        for row in rows:
            ends[row.sign].append(TokenLogit(token_of(row), row.logit, row.z))
        first = rows[0]
        return NeuronCard(neuron, first.mean, first.std, first.norm, tuple(ends[1]), tuple(ends[-1]))

    def strongest_tokens(self, neurons: Sequence[Neuron], depth: int = 5) -> dict[Neuron, NeuronTokens]:
        """The first ``depth`` tokens of both ends of up to some thousand neurons, in the order given, in one query.

        Raises:
            AtlasError: a neuron that does not exist.
        """
        ids = {self.layout.neuron_id(neuron): neuron for neuron in neurons}
        if not ids:
            return {}
        ends: dict[tuple[int, int], list[Token]] = {}
        for row in self.rows(statements.strongest_tokens(list(ids), depth)):
            ends.setdefault((row.neuron_id, row.sign), []).append(token_of(row))
        return {
            neuron: NeuronTokens(tuple(ends.get((neuron_id, 1), ())), tuple(ends.get((neuron_id, -1), ())))
            for neuron_id, neuron in ids.items()
        }

    def extremes(self, layer: int, kind: NeuronKind) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Highest and lowest logit of every neuron of a layer and kind, each of shape [neurons], in neuron order.

        Raises:
            AtlasError: no such layer or kind.
        """
        import numpy as np

        block = self.layout.block(layer, kind)
        logits = np.array([row[1] for row in self.rows(statements.extremes(block.first, block.size))], dtype=np.float32)
        return logits[: block.size], logits[block.size :]

    def layer_statistics(self, layer: int, kind: NeuronKind) -> "pd.DataFrame":
        """Where the neurons of a layer and kind stand among each other: one row each, in neuron order.

        Columns: index, head (missing for FFN), mean, std, norm, top_logit, bottom_logit, top_z, bottom_z.

        Raises:
            AtlasError: no such layer or kind.
        """
        import pandas as pd

        block = self.layout.block(layer, kind)
        rows = self.rows(statements.layer_statistics(block.first, block.size))
        columns = ["index", "head", "mean", "std", "norm", "top_logit", "bottom_logit", "top_z", "bottom_z"]
        return pd.DataFrame([tuple(row) for row in rows], columns=columns).astype({"head": "Int64"})

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
        return self.known_ids(token_ids)


KINDS = {code: name for name, code in schema.KIND_CODES.items()}


def check_page(limit: int, offset: int = 0) -> None:
    """Refuse a negative limit or offset.

    Raises:
        AtlasError: it is one.
    """
    if limit < 0 or offset < 0:
        raise AtlasError(f"Limit and offset count from 0; {limit} and {offset} were given.")


# A build as a whole: its layers, its most peaked neurons, the tokens that most neurons favour.

QUANTILES = (5, 25, 50, 75, 95)
_KINDS = {code: name for name, code in schema.KIND_CODES.items()}


def overview(catalogue: "Lookups") -> "pd.DataFrame":
    """See :meth:`db.catalogue.Catalogue.overview`."""
    import pandas as pd

    rows = catalogue.rows(_overview())
    named = [(layer, _KINDS[kind], count, *figures) for layer, kind, count, *figures in rows]
    columns = [f"{what}_{percent}" for what in ("norm", "peak") for percent in QUANTILES]
    return pd.DataFrame(named, columns=["layer", "kind", "neurons", *columns])


def _overview() -> Statement:
    peak = case((neuron.c.top_z > -neuron.c.bottom_z, neuron.c.top_z), else_=-neuron.c.bottom_z)
    figures: list[ColumnElement[float]] = [
        func.percentile_cont(percent / 100).within_group(what)
        for what in (neuron.c.norm, peak)
        for percent in QUANTILES
    ]
    groups = (neuron.c.layer, neuron.c.kind)
    return select(*groups, func.count(), *figures).group_by(*groups).order_by(*groups)


def most_peaked(catalogue: "Lookups", filters: Filters, limit: int) -> tuple[PeakedNeuron, ...]:
    """See :meth:`db.catalogue.Catalogue.most_peaked`."""
    return tuple(
        PeakedNeuron(neuron_of(*row[:4]), sign_of(row.sign), row.z, token_of(row))
        for row in catalogue.rows(_most_peaked(filters, limit))
    )


def _most_peaked(filters: Filters, limit: int) -> Statement:
    """Columns: NEURON_COLUMNS, sign, z, TOKEN_COLUMNS; by falling |z|."""
    ends = []
    for sign, z in ((Sign.PROMOTES, neuron.c.top_z), (Sign.SUPPRESSES, neuron.c.bottom_z)):
        if filters.sign in (None, sign):
            code = literal(schema.SIGN_CODES[sign]).label("sign")
            least = [] if filters.min_z is None else [z * schema.SIGN_CODES[sign] >= filters.min_z]
            end = select(neuron.c.neuron_id, *NEURON_COLUMNS, code, z.label("z"))
            ends.append(end.where(*filters.neuron_conditions(neuron), *least))
    found = union_all(*ends).subquery("found")
    ordering = (func.abs(found.c.z).desc(), found.c.neuron_id, found.c.sign.desc())
    best = select(found).order_by(*ordering).limit(limit).subquery("best")
    pairs = neuron_token
    first = and_(pairs.c.neuron_id == best.c.neuron_id, pairs.c.sign == best.c.sign, pairs.c.rank == 1)
    columns = (best.c.kind, best.c.layer, best.c.head, best.c.index, best.c.sign, best.c.z, *TOKEN_COLUMNS)
    return (
        select(*columns)
        .select_from(best.join(pairs, first).join(token, token.c.token_id == pairs.c.token_id))
        .order_by(func.abs(best.c.z).desc(), best.c.neuron_id, best.c.sign.desc())
    )


def favourites(catalogue: "Lookups", limit: int) -> tuple[TokenFavour, ...]:
    """See :meth:`db.catalogue.Catalogue.favourites`."""
    rows = catalogue.rows(_favourites(limit))
    tokens = catalogue.tokens(dict.fromkeys(row[0] for row in rows))
    return tuple(TokenFavour(tokens[token_id], sign_of(sign), first, stored) for token_id, sign, first, stored in rows)


def _favourites(limit: int) -> Statement:
    pairs = token_neuron
    first = func.sum(case((pairs.c.rank == 1, 1), else_=0)).label("first")
    stored = func.count().label("stored")
    return (
        select(pairs.c.token_id, pairs.c.sign, first, stored)
        .group_by(pairs.c.token_id, pairs.c.sign)
        .order_by(first.desc(), stored.desc(), pairs.c.token_id, pairs.c.sign.desc())
        .limit(limit)
    )


# A published build, read-only: one named method a question.

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
        return concepts.concept_of_words(self, parse(text), widen)

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
        ends = self.rows(statements.concept_neurons(weights, filters, spans, limit, offset))
        ids = sorted({row[0] for row in ends})
        known = {entry.token.token_id: entry for entry in concept.tokens}
        rows = self.rows(statements.matched_tokens(ids, list(weights), filters)) if ids else ()
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
        counted = statements.concept_count(weights, filters, self.layout.spans(filters))
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
        return similar.similar(self, neuron, limit)

    def neighbours(self, token_id: int) -> tuple[Neighbour, ...]:
        """The tokens nearest to a token, nearest first; none where the build holds no neighbours.

        Raises:
            AtlasError: no such token.
        """
        self.token(token_id)
        rows = self.rows(statements.neighbours(token_id))
        return tuple(Neighbour(token_of(row), row.rank, row.cosine) for row in rows)

    def neighbour_of(self, token_id: int) -> int:
        """Of how many tokens this one is a neighbour: large for hubs, which are near everything.

        Raises:
            AtlasError: no such token.
        """
        self.token(token_id)
        return int(self.rows(statements.neighbour_of(token_id))[0][0])

    def overview(self) -> "pd.DataFrame":
        """How long and how peaked the neurons of each layer and kind are.

        Columns: layer, kind, neurons, then norm_5, norm_25, norm_50, norm_75, norm_95 and the same of peak (the larger
        |z| of a neuron's first token at either end): quantiles in percent.
        """
        return overview(self)

    def most_peaked(self, filters: Filters = EVERYTHING, *, limit: int = 20) -> tuple[PeakedNeuron, ...]:
        """The ends of neurons whose first token stands out most, by z; of ``filters`` rank and order do not count.

        Raises:
            AtlasError: layers or head that the model lacks, or a negative limit.
        """
        check_page(limit)
        self.checked((), filters)
        return most_peaked(self, filters, limit)

    def favourites(self, *, limit: int = 20) -> tuple[TokenFavour, ...]:
        """The tokens that stand first at most neurons' ends. Reads the whole build: a second for 50 million rows.

        Raises:
            AtlasError: a negative limit.
        """
        check_page(limit)
        return favourites(self, limit)

    def tokens_of(self, text: str) -> tuple[Token, ...]:
        """The tokens that a text stands for.

        Raises:
            AtlasError: there is none; the message says what the text splits into.
        """
        matches = self.resolve(text)
        if not matches.matched:
            raise NotFoundError(matches.no_match())
        return matches.matched
