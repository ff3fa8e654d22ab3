"""A random catalogue of a large model's size, published as a real one would be."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from db.catalogue.builds import TEXTS, current_build
from db.catalogue.publish import publish
from db.catalogue.schema import SCHEMA_VERSION
from db.errors import AtlasError
from db.records import BuildStamp
from db.texts.publish import Gathered, Window, publish_texts
from db.texts.records import AFTER, BEFORE, EXCERPT_TOKENS, SKETCH, TextsStamp
from db.texts.schema import SCHEMA_VERSION as TEXTS_SCHEMA
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


_WINDOWS, _WINDOW, _EXCERPTS = 100_000, 256, 10


def make_texts(build: Path, shape: Shape) -> None:
    """Publish random texts of the FFN neurons beside a synthetic build, unless there are some."""
    if (build.parent / TEXTS).exists():
        return
    random = np.random.default_rng(1)
    stamp = TextsStamp(
        *("synthetic", TEXTS_SCHEMA, "synthetic", "2024-01-01T00:00:00Z", shape.name, "none", "none", "random", "", ""),
        column=None,
        split=None,
        licence=None,
        own_words=False,
        documents=_WINDOWS,
        windows=_WINDOWS,
        tokens_seen=_WINDOWS * _WINDOW,
        window=_WINDOW,
        excerpts=_EXCERPTS,
        share=0.1,
        attention=False,
    )
    blocks = (_gathered(shape, layer, random) for layer in range(shape.layers))
    words = np.minimum(random.pareto(1.0, (_WINDOWS, _WINDOW)) * 50, shape.vocabulary - 1).astype(np.int32)
    publish_texts(build.parent, stamp, blocks, (Window(i, i, 0, ids.tolist()) for i, ids in enumerate(words)))


def _gathered(shape: Shape, layer: int, random: np.random.Generator) -> Gathered:
    n, seen = shape.ffn, _WINDOWS * _WINDOW
    many = (n, 2, _EXCERPTS)
    sign = np.array([1, -1], np.float32)[None, :, None]
    peak = -np.sort(-random.uniform(5, 9, many).astype(np.float32), axis=2)
    position = random.integers(0, _WINDOW, many)
    first = np.maximum(position - BEFORE, 0)
    place = np.arange(EXCERPT_TOKENS)
    inside = place < (np.minimum(position + 1 + AFTER, _WINDOW) - first)[..., None]
    around = random.normal(0, 1, (*many, EXCERPT_TOKENS)).astype(np.float32)
    half = np.array([2.0**power for power in range(-12, 5)], np.float32)
    counts = random.integers(0, seen // 64, (n, 2 * len(half) - 1))
    counts[:, len(half)] += seen - counts.sum(axis=1)
    active = random.integers(0, seen // 4, (2, n))
    return Gathered(
        neuron_ids=(np.arange(n) + layer * shape.layer).astype(np.int32),
        mean=random.normal(0, 0.1, n),
        std=random.uniform(0.5, 1.5, n),
        positive=active[0] * 2,
        negative=active[1] * 2,
        active_positive=active[0],
        active_negative=active[1],
        active_above=random.uniform(0.5, 0.9, n).astype(np.float32),
        highest=peak[:, 0, 0],
        lowest=-peak[:, 1, 0],
        octaves=counts,
        octave_edges=np.concatenate([-half[::-1], half]),
        peak=peak * sign,
        window=random.integers(0, _WINDOWS, many).astype(np.int32),
        position=position.astype(np.int16),
        first=first.astype(np.int16),
        gate=random.choice(np.array([1, -1], np.int8), many),
        activations=np.where(inside, around, np.nan),
        case_count=np.full((n, 4), seen // 4) - random.integers(0, 1000, (n, 4)),
        case_mean=random.normal(0, 0.1, (n, 4)),
        case_strongest=random.uniform(5, 9, (n, 4)).astype(np.float32),
        sketch=random.normal(0, 1, (n, SKETCH)).astype(np.float32),
    )


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
