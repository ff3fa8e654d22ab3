"""A random catalogue of a large model's size, published as a real one would be."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from db.catalogue.builds import current_build
from db.catalogue.publish import publish
from db.catalogue.schema import SCHEMA_VERSION
from db.errors import AtlasError
from db.records import BuildStamp
from db.token_text import display


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    name: str
    layers: int
    ffn: int
    heads: int
    head_dim: int
    vocabulary: int
    depth: int = 50
    neighbours: int = 20

    @property
    def layer(self) -> int:
        """Neurons a layer."""
        return self.ffn + self.heads * self.head_dim


SHAPES = {
    "llama-7b": Shape("synthetic-llama-7b", layers=32, ffn=11008, heads=32, head_dim=128, vocabulary=32000),
    "demo": Shape("synthetic-demo", layers=30, ffn=1536, heads=9, head_dim=64, vocabulary=49152),
}


def make_synthetic(root: Path, shape: Shape) -> Path:
    """The build's file in ``root``; one that is there is used again."""
    directory = root / shape.name
    try:
        return current_build(directory)
    except AtlasError:
        pass
    random = np.random.default_rng(0)
    # Some tokens stand in fifty times as many lists as the median one, as hubs do.
    popularity = np.cumsum(random.pareto(2.5, shape.vocabulary) + 0.3)
    shards = []
    for layer in range(shape.layers):
        shard = root / "shards" / f"layer-{layer:04d}"
        shard.mkdir(parents=True, exist_ok=True)
        pq.write_table(_neurons(shape, layer, random), shard / "neurons.parquet", compression="none")
        pq.write_table(_pairs(shape, layer, random, popularity), shard / "tokens.parquet", compression="none")
        shards.append(shard)
    return publish(directory, _stamp(shape), _tokens(shape), shards, _neighbours(shape, random))


def _stamp(shape: Shape) -> BuildStamp:
    return BuildStamp(
        build_id="synthetic",
        schema_version=SCHEMA_VERSION,
        code_version="synthetic",
        created_at="2024-01-01T00:00:00+00:00",
        model=shape.name,
        family="llama",
        checkpoint="none",
        unembedding_hash="none",
        tokenizer_hash="none",
        layers=shape.layers,
        d_model=4096,
        vocabulary=shape.vocabulary,
        ffn_neurons=shape.layers * shape.ffn,
        attention_neurons=shape.layers * shape.heads * shape.head_dim,
        heads=shape.heads,
        head_dim=shape.head_dim,
        depth=shape.depth,
    )


def _tokens(shape: Shape) -> pa.Table:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [
        " " * (i % 2) + letters[i % 26] + letters[i // 26 % 26] + letters[i // 676 % 26] + letters[i // 17576 % 26]
        for i in range(shape.vocabulary)
    ]
    return pa.table(
        {
            "token_id": pa.array(range(shape.vocabulary), pa.int32()),
            "bytes": pa.array([name.encode() for name in names], pa.binary()),
            "text": pa.array(names, pa.string()),
            "display": pa.array([display(name.encode()) for name in names], pa.string()),
            "special": pa.array([0] * shape.vocabulary, pa.int16()),
        }
    )


def _neurons(shape: Shape, layer: int, random: np.random.Generator) -> pa.Table:
    attention = np.arange(shape.heads * shape.head_dim)
    head = pa.array([None] * shape.ffn + list(attention // shape.head_dim), pa.int16())
    return pa.table(
        {
            "neuron_id": pa.array(np.arange(shape.layer) + layer * shape.layer, pa.int32()),
            "kind": pa.array([0] * shape.ffn + [1] * len(attention), pa.int16()),
            "layer": pa.array([layer] * shape.layer, pa.int16()),
            "head": head,
            "index": pa.array(np.concatenate([np.arange(shape.ffn), attention % shape.head_dim]), pa.int32()),
            "mean": pa.array(random.normal(0, 0.01, shape.layer), pa.float32()),
            "std": pa.array(random.uniform(0.9, 1.1, shape.layer), pa.float32()),
            "norm": pa.array(random.uniform(0.5, 2, shape.layer), pa.float32()),
        }
    )


def _pairs(shape: Shape, layer: int, random: np.random.Generator, popularity: NDArray[np.float64]) -> pa.Table:
    ends = 2 * shape.layer
    # Systematic sampling: sorted draws, one from each of `depth` strata, so that no token stands twice at an end.
    draws = (np.arange(shape.depth) + random.random((ends, shape.depth))) / shape.depth * popularity[-1]
    tokens = np.searchsorted(popularity, draws.ravel()).reshape(ends, shape.depth)
    tokens = np.minimum(np.maximum.accumulate(tokens - np.arange(shape.depth), axis=1) + np.arange(shape.depth), 2**31)
    tokens = random.permuted(np.minimum(tokens, shape.vocabulary - shape.depth + np.arange(shape.depth)), axis=1)
    logits = -np.sort(-random.gumbel(3.5, 0.4, (ends, shape.depth)).astype(np.float32), axis=1)
    logits[1::2] *= -1
    ids = np.arange(shape.layer) + layer * shape.layer
    return pa.table(
        {
            "neuron_id": pa.array(np.repeat(ids, 2 * shape.depth), pa.int32()),
            "sign": pa.array(np.tile(np.repeat([1, -1], shape.depth), shape.layer), pa.int16()),
            "rank": pa.array(np.tile(np.arange(1, shape.depth + 1), ends), pa.int16()),
            "token_id": pa.array(tokens.ravel(), pa.int32()),
            "logit": pa.array(logits.ravel(), pa.float32()),
        }
    )


def _neighbours(shape: Shape, random: np.random.Generator) -> pa.Table:
    """Tokens a few steps apart are mutual neighbours."""
    half = shape.neighbours // 2
    steps = np.concatenate([np.arange(1, half + 1), -np.arange(1, half + 1)])
    near = (np.arange(shape.vocabulary)[:, None] + steps) % shape.vocabulary
    cosines = -np.sort(-random.uniform(0.3, 0.9, near.shape), axis=1)
    return pa.table(
        {
            "token_id": pa.array(np.repeat(np.arange(shape.vocabulary), len(steps)), pa.int32()),
            "rank": pa.array(np.tile(np.arange(1, len(steps) + 1), shape.vocabulary), pa.int16()),
            "neighbour_id": pa.array(near.ravel(), pa.int32()),
            "cosine": pa.array(np.round(cosines.ravel(), 3), pa.float32()),
        }
    )
