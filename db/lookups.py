"""What is stored of tokens and neurons, looked up: one named method a question."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from db import questions, tables
from db.answers import Hit, NeuronCard, NeuronTokens, Token, TokenLogit, sign_of
from db.errors import AtlasError
from db.filters import Filters
from db.layout import Layout
from db.neuron import Neuron, NeuronKind
from db.tokens import Tokens, token_of

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
        rows = self.rows(questions.hits(wanted, filters, self.layout.spans(filters), limit, offset))
        return tuple(
            Hit(self.layout.neuron(neuron_id), sign_of(sign), rank, known[token_id], logit, z)
            for neuron_id, sign, rank, token_id, logit, z in rows
        )

    def count_hits(self, token_ids: Iterable[int], filters: Filters = EVERYTHING) -> int:
        """How many hits :meth:`search_token` has in all; raises as it does."""
        wanted = self.checked(token_ids, filters)
        return int(self.rows(questions.hit_count(wanted, filters, self.layout.spans(filters)))[0][0]) if wanted else 0

    def layer_counts(self, token_ids: Iterable[int], filters: Filters = EVERYTHING) -> "pd.DataFrame":
        """Distinct neurons among the hits, a row for each layer, kind and sign that has any; raises as the search does.

        Columns: layer, kind ("ffn" or "attention"), sign ("promotes" or "suppresses"), neurons.
        """
        import pandas as pd

        wanted = self.checked(token_ids, filters)
        rows = self.rows(questions.layer_counts(wanted, filters, self.layout.spans(filters))) if wanted else []
        named = [(layer, KINDS[kind], str(sign_of(sign)), count) for layer, kind, sign, count in rows]
        return pd.DataFrame(named, columns=["layer", "kind", "sign", "neurons"])

    def neuron(self, neuron: Neuron) -> NeuronCard:
        """All that is stored of one neuron.

        Raises:
            AtlasError: no such neuron; the message names the ranges that exist.
        """
        rows = self.rows(questions.card(self.layout.neuron_id(neuron)))
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
        for row in self.rows(questions.strongest_tokens(list(ids), depth)):
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
        logits = np.array([row[1] for row in self.rows(questions.extremes(block.first, block.size))], dtype=np.float32)
        return logits[: block.size], logits[block.size :]

    def layer_statistics(self, layer: int, kind: NeuronKind) -> "pd.DataFrame":
        """Where the neurons of a layer and kind stand among each other: one row each, in neuron order.

        Columns: index, head (missing for FFN), mean, std, norm, top_logit, bottom_logit, top_z, bottom_z.

        Raises:
            AtlasError: no such layer or kind.
        """
        import pandas as pd

        block = self.layout.block(layer, kind)
        rows = self.rows(questions.layer_statistics(block.first, block.size))
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


KINDS = {code: name for name, code in tables.KIND_CODES.items()}


def check_page(limit: int, offset: int = 0) -> None:
    """Refuse a negative limit or offset.

    Raises:
        AtlasError: it is one.
    """
    if limit < 0 or offset < 0:
        raise AtlasError(f"Limit and offset count from 0; {limit} and {offset} were given.")
