"""A published build, read-only: one named method a question.

    >>> with Catalogue.open(path) as catalogue:  # doctest: +SKIP
    ...     matches = catalogue.resolve(" Python")
    ...     hits = catalogue.search_token([token.token_id for token in matches.matched], limit=5)

A Catalogue may be shared by threads. Besides what a method names, any raises AtlasError for a damaged or closed file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import select

from db import questions, tables
from db.answers import Hit, NeuronCard, NeuronTokens, Token, TokenLogit, TokenMatches, neuron_of, sign_of
from db.errors import AtlasError
from db.filters import Filters
from db.layout import Layout
from db.neuron import Neuron, NeuronKind
from db.reader import Reader
from db.stamp import BuildStamp
from db.vocabulary import Splitter, checked, spellings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_EVERYTHING = Filters()


class Catalogue(Reader):
    """The neurons of one model and the tokens at both ends of each. Make one with :meth:`open`."""

    @cached_property
    def info(self) -> BuildStamp:
        """The build's stamp."""
        (row,) = self._rows(select(*(tables.build.c[field.name] for field in fields(BuildStamp))))
        return BuildStamp(**row._mapping)

    @cached_property
    def _layout(self) -> Layout:
        return Layout.from_rows(self._rows(Layout.statement()))

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self.info.tokenizer_json)

    @cached_property
    def _seen(self) -> dict[int, Token]:
        """Tokens met so far, at most the vocabulary: a search asks for those that resolving its text has just found."""
        return {}

    def resolve(self, text: str) -> TokenMatches:
        """The tokens a text stands for, whatever its leading space and case, and what the tokenizer splits it into.

        Raises:
            AtlasError: the text is empty, too long or not valid Unicode.
        """
        wanted = {spelling: place for place, spelling in enumerate(spellings(checked(text)))}
        found = [_token(row) for row in self._rows(questions.tokens_by_text(list(wanted)))]
        self._seen.update((token.token_id, token) for token in found)
        found.sort(key=lambda token: (wanted[token.text], token.token_id))
        pieces = [token_id for token_id in self._splitter.split(text) if token_id < self.info.vocabulary]
        known = self.tokens(pieces)
        return TokenMatches(text, tuple(found), tuple(known[token_id] for token_id in pieces))

    def token(self, token_id: int) -> Token:
        """One token.

        Raises:
            AtlasError: no such id in the vocabulary.
        """
        return self.tokens([token_id])[token_id]

    def tokens(self, ids: Iterable[int]) -> dict[int, Token]:
        """Tokens by id, in the order given.

        Raises:
            AtlasError: an id that is not in the vocabulary.
        """
        wanted = self._known_ids(ids)
        unseen = [token_id for token_id in wanted if token_id not in self._seen]
        if unseen:
            self._seen.update((row.token_id, _token(row)) for row in self._rows(questions.tokens_by_id(unseen)))
        return {token_id: self._seen[token_id] for token_id in wanted}

    def search_token(
        self, token_ids: Iterable[int], filters: Filters = _EVERYTHING, *, limit: int = 100, offset: int = 0
    ) -> tuple[Hit, ...]:
        """Neurons with one of the tokens at an end, best first. A neuron that has several of them is several hits.

        Raises:
            AtlasError: an unknown token id, layers or head that the model lacks, a negative limit or offset.
        """
        if limit < 0 or offset < 0:
            raise AtlasError(f"Limit and offset count from 0; {limit} and {offset} were given.")
        wanted = self._checked(token_ids, filters)
        if not wanted:
            return ()
        known = self.tokens(wanted)
        rows = self._rows(questions.hits(wanted, filters, limit, offset))
        return tuple(
            Hit(neuron_of(kind, layer, head, index), sign_of(sign), rank, known[token_id], logit, z)
            for kind, layer, head, index, sign, rank, token_id, logit, z in rows
        )

    def count_hits(self, token_ids: Iterable[int], filters: Filters = _EVERYTHING) -> int:
        """How many hits :meth:`search_token` has in all; raises as it does."""
        wanted = self._checked(token_ids, filters)
        return int(self._rows(questions.hit_count(wanted, filters))[0][0]) if wanted else 0

    def layer_counts(self, token_ids: Iterable[int], filters: Filters = _EVERYTHING) -> "pd.DataFrame":
        """Distinct neurons among the hits, a row for each layer, kind and sign that has any; raises as the search does.

        Columns: layer, kind ("ffn" or "attention"), sign ("promotes" or "suppresses"), neurons.
        """
        import pandas as pd

        wanted = self._checked(token_ids, filters)
        rows = self._rows(questions.layer_counts(wanted, filters)) if wanted else []
        named = [(layer, _KINDS[kind], str(sign_of(sign)), count) for layer, kind, sign, count in rows]
        return pd.DataFrame(named, columns=["layer", "kind", "sign", "neurons"])

    def neuron(self, neuron: Neuron) -> NeuronCard:
        """All that is stored of one neuron.

        Raises:
            AtlasError: no such neuron; the message names the ranges that exist.
        """
        rows = self._rows(questions.card(self._layout.neuron_id(neuron)))
        ends: dict[int, list[TokenLogit]] = {1: [], -1: []}
        for row in rows:
            ends[row.sign].append(TokenLogit(_token(row), row.logit, row.z))
        first = rows[0]
        return NeuronCard(neuron, first.mean, first.std, first.norm, tuple(ends[1]), tuple(ends[-1]))

    def strongest_tokens(self, neurons: Sequence[Neuron], depth: int = 5) -> dict[Neuron, NeuronTokens]:
        """The first ``depth`` tokens of both ends of up to some thousand neurons, in the order given, in one query.

        Raises:
            AtlasError: a neuron that does not exist.
        """
        ids = {self._layout.neuron_id(neuron): neuron for neuron in neurons}
        if not ids:
            return {}
        ends: dict[tuple[int, int], list[Token]] = {}
        for row in self._rows(questions.strongest_tokens(list(ids), depth)):
            ends.setdefault((row.neuron_id, row.sign), []).append(_token(row))
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

        block = self._layout.block(layer, kind)
        logits = np.array([row[1] for row in self._rows(questions.extremes(block.first, block.size))], dtype=np.float32)
        return logits[: block.size], logits[block.size :]

    def layer_statistics(self, layer: int, kind: NeuronKind) -> "pd.DataFrame":
        """Where the neurons of a layer and kind stand among each other: one row each, in neuron order.

        Columns: index, head (missing for FFN), mean, std, norm, top_logit, bottom_logit, top_z, bottom_z.

        Raises:
            AtlasError: no such layer or kind.
        """
        import pandas as pd

        block = self._layout.block(layer, kind)
        rows = self._rows(questions.layer_statistics(block.first, block.size))
        columns = ["index", "head", "mean", "std", "norm", "top_logit", "bottom_logit", "top_z", "bottom_z"]
        return pd.DataFrame([tuple(row) for row in rows], columns=columns).astype({"head": "Int64"})

    def _known_ids(self, ids: Iterable[int]) -> list[int]:
        wanted = list(dict.fromkeys(ids))
        size = self.info.vocabulary
        for token_id in wanted:
            if not 0 <= token_id < size:
                raise AtlasError(f"There is no token {token_id}: the vocabulary of {self.info.model} is 0–{size - 1}.")
        return wanted

    def _checked(self, token_ids: Iterable[int], filters: Filters) -> list[int]:
        info = self.info
        if filters.layers is not None and filters.layers[1] >= info.layers:
            low, high = filters.layers
            raise AtlasError(f"Layers {low}–{high} were asked for, but {info.model} has layers 0–{info.layers - 1}.")
        if filters.head is not None and filters.head >= info.heads:
            raise AtlasError(f"Head {filters.head} was asked for, but {info.model} has heads 0–{info.heads - 1}.")
        return self._known_ids(token_ids)


_KINDS = {code: name for name, code in tables.KIND_CODES.items()}


def _token(row: questions.Answer) -> Token:
    return Token(row.token_id, row.display if row.text is None else row.text, row.display, bool(row.special))
