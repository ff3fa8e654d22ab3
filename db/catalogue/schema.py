"""The tables of a build, declared in SQLAlchemy Core so that they can live in DuckDB or PostgreSQL; z; neurons' ids.

Neuron-token pairs are stored twice: ``neuron_token`` sorted by neuron, ``token_neuron`` sorted by (token, rank). No
table has a primary key or an index: DuckDB's zone maps answer both look-ups from the order of the rows alone, and a key
would make the file several times larger. What a key would guarantee is checked once, when the build is published.

Ranks count from 1, the most extreme token of that end. Logits are those of the value vector alone: centred for
LayerNorm models, times the final norm's weight, times the unembedding; no norm scale, no biases. REAL is four bytes
everywhere; a plain Float would become DOUBLE in DuckDB and double the file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from sqlalchemy import REAL, Column, ColumnElement, Integer, LargeBinary, MetaData, SmallInteger, Table, Text, func

from db.errors import AtlasError
from db.neuron import Experts, ModelSizes, Neuron, NeuronKind, check_exists, ranges
from db.questions import Filters
from db.records import BuildStamp

SCHEMA_VERSION = 2

metadata = MetaData()

# The fields of the stamp, in their order; its tokenizer, a large JSON text, is kept deflated.
build = Table(
    "build",
    metadata,
    *(
        Column(name, {int: Integer, str: Text}[kind], nullable=False)
        for name, kind in get_type_hints(BuildStamp).items()
        if kind in (int, str)
    ),
    Column("tokenizer_zlib", LargeBinary),  # absent where the model has no `tokenizers` file
    Column("padding", Integer),
    Column("experts", Text),  # see db.records.experts_json; absent but in mixtures of experts
    Column("dequantised", Text),
    Column("neighbour_recall", REAL),
)
# Columns of build that builds of earlier versions lack.
LATER = frozenset({"padding", "experts", "dequantised", "neighbour_recall"})

token = Table(
    "token",
    metadata,
    Column("token_id", Integer, nullable=False),
    Column("bytes", LargeBinary, nullable=False),  # the exact bytes; empty for rows of the head that no token uses
    Column("text", Text),  # the bytes as UTF-8 where they are valid UTF-8, to look tokens up by
    Column("display", Text, nullable=False),  # unambiguous, printable: see db.token_text
    Column("special", SmallInteger, nullable=False),  # 1 for control tokens and unused rows
)

neuron = Table(
    "neuron",
    metadata,
    Column("neuron_id", Integer, nullable=False),  # layer by layer, FFN before attention, heads in order
    Column("kind", SmallInteger, nullable=False),  # see KIND_CODES
    Column("layer", SmallInteger, nullable=False),
    Column("head", SmallInteger),  # absent for FFN neurons
    Column("index", Integer, nullable=False),  # of experts' neurons the row in their layer: see db.neuron.Experts
    Column("mean", REAL, nullable=False),  # of the logits over the vocabulary
    Column("std", REAL, nullable=False),  # of the same (population)
    Column("norm", REAL, nullable=False),  # of the value vector, before any folding
    # How peaked the projection is: z of rank 1 at either end, 0 for a constant neuron. Derived when published.
    Column("top_z", REAL, nullable=False),
    Column("bottom_z", REAL, nullable=False),
)
DERIVED = frozenset({"top_z", "bottom_z"})  # columns of neuron that no shard has

token_neighbour = Table(  # empty where the build has none; sorted by token_id, rank
    "token_neighbour",
    metadata,
    Column("token_id", Integer, nullable=False),
    Column("rank", SmallInteger, nullable=False),  # from 1, nearest first, corrected for hubs
    Column("neighbour_id", Integer, nullable=False),
    Column("cosine", REAL, nullable=False),  # of the folded rows less their mean, three decimals
)

KIND_CODES = {"ffn": 0, "attention": 1}
SIGN_CODES = {"promotes": 1, "suppresses": -1}


def _pairs(name: str, *figures: str) -> Table:
    return Table(
        name,
        metadata,
        Column("neuron_id", Integer, nullable=False),
        Column("sign", SmallInteger, nullable=False),  # see SIGN_CODES
        Column("rank", SmallInteger, nullable=False),
        Column("token_id", Integer, nullable=False),
        *(Column(figure, REAL, nullable=False) for figure in figures),
    )


neuron_token = _pairs("neuron_token", "logit")  # sorted by neuron_id, sign descending, rank
# Sorted by token_id, sign descending, rank, neuron_id. z ranks hits, so that a search need not look up thousands of
# neurons to show a hundred.
token_neuron = _pairs("token_neuron", "z")


def z_score(logit: ColumnElement[float], mean: ColumnElement[float], std: ColumnElement[float]) -> ColumnElement[float]:
    """(logit − mean) / std, with mean and std over the neuron's own logits; 0 where these are all equal."""
    return func.coalesce((logit - mean) / func.nullif(std, 0.0, type_=REAL), 0.0)


# Neurons and their ids: by arithmetic over one row per layer and kind, whatever the layers' widths.

_KINDS = {code: NeuronKind(name) for name, code in KIND_CODES.items()}


def kind_of(code: int) -> NeuronKind:
    """The kind of a stored code."""
    return _KINDS[code]


@dataclass(frozen=True, slots=True)
class Block:
    """The neurons of one layer and kind, whose ids follow each other."""

    first: int
    """Id of the first neuron."""
    size: int
    width: int
    """Neurons per head; for FFN neurons the whole block."""


_NONE = Block(first=0, size=0, width=1)


class Layout:
    """The blocks of a build, and what follows from them."""

    def __init__(self, blocks: dict[tuple[int, NeuronKind], Block], experts: Experts | None = None) -> None:
        self._blocks = blocks
        self._experts = experts

    @classmethod
    def from_rows(cls, rows: Iterable[Any], experts: Experts | None = None) -> "Layout":
        """From one row per layer and kind: layer, kind, first id, count, largest index."""
        blocks = {(layer, kind_of(kind)): Block(first, size, last + 1) for layer, kind, first, size, last in rows}
        return cls(blocks, experts)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return 1 + max((layer for layer, _ in self._blocks), default=-1)

    def block(self, layer: int, kind: NeuronKind) -> Block:
        """The neurons of a layer and kind.

        Raises:
            AtlasError: there are none.
        """
        block = self._blocks.get((layer, kind))
        if block is None:
            raise AtlasError(
                f"There are no {kind} neurons in layer {layer}: this catalogue has {ranges(self.sizes(layer))}."
            )
        return block

    def neuron_id(self, neuron: Neuron) -> int:
        """The stored id.

        Raises:
            AtlasError: no such neuron; the message names the ranges that exist.
        """
        sizes = self.sizes(neuron.layer)
        check_exists(neuron, sizes, "this catalogue")
        return self._blocks[neuron.layer, neuron.kind].first + neuron.row(sizes)

    def spans(self, filters: Filters) -> list[tuple[int, int]] | None:
        """First and last id of every run of neurons of the filters' kind, layers, head and expert; None for all."""
        if filters.kind is None and filters.layers is None and filters.head is None and filters.expert is None:
            return None
        low, high = filters.layers or (0, self.layers - 1)
        found: list[tuple[int, int]] = []
        for (layer, kind), block in sorted(self._blocks.items(), key=lambda item: item[1].first):
            if not low <= layer <= high or filters.kind not in (None, kind):
                continue
            first, size = block.first, block.size
            if filters.head is not None:
                first, size = first + filters.head * block.width, block.width
                if kind is NeuronKind.FFN or first + size > block.first + block.size:
                    continue
            if filters.expert is not None:
                experts = self._experts
                if experts is None or kind is NeuronKind.ATTENTION or layer not in experts.layers:
                    continue
                first, size = block.first + experts.first(filters.expert), experts.width
            last = first + size - 1
            if found and found[-1][1] == first - 1:
                first = found.pop()[0]
            found.append((first, last))
        return found

    def neuron(self, neuron_id: int) -> Neuron:
        """The neuron of a stored id; KeyError for an id that no neuron has."""
        for (layer, kind), block in self._blocks.items():
            if 0 <= neuron_id - block.first < block.size:
                return Neuron.in_row(layer, kind, neuron_id - block.first, self.sizes(layer))
        raise KeyError(neuron_id)

    def sizes(self, layer: int = 0) -> ModelSizes:
        """What there is in a layer (in the first, where there is no such layer): layers may differ."""
        shown = layer if layer < self.layers else 0
        ffn = self._blocks.get((shown, NeuronKind.FFN), _NONE)
        attention = self._blocks.get((shown, NeuronKind.ATTENTION), _NONE)
        return ModelSizes(self.layers, attention.size // attention.width, attention.width, ffn.size, self._experts)
