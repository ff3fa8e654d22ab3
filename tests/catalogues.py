"""Throw-away catalogues for tests: random projections of a toy model, published as a real build would be.

    toy = make_catalogue(tmp_path)            # tmp_path/toy/CURRENT -> build-one.duckdb
    with Catalogue.open(toy.path) as catalogue: ...

``toy.logits`` holds every logit, so that any answer can be checked against brute force.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from db.catalogue.publish import publish
from db.catalogue.schema import KIND_CODES, SCHEMA_VERSION
from db.neuron import Neuron, NeuronKind
from db.records import BuildStamp
from db.token_text import display

_WORDS = ("Python", " Python", "python", " python", "PYTHON", " Py", "Paris", " Paris", "code", " code", "x")
_SIGNS = ("\n", "\t", " ", "  ", "\u200b", "\u202e", "\u00ad", "é", "\u0301", "␣", "⟨U+200B⟩", "日本", "\x00", "%", "_")
_TEXTS = (*_WORDS, *_SIGNS, "'; DROP TABLE token; --", "<|endoftext|>")
TOKENS: tuple[bytes, ...] = (
    *(text.encode() for text in _TEXTS),
    b"\xe4",
    b"\xe4\xbd",
    b"ok\xff",
    b"",
    *(f"w{number}".encode() for number in range(8)),
)
"""40 tokens, many of them nasty: control and bidi characters, broken UTF-8, an unused row, SQL."""
SPECIAL = frozenset({TOKENS.index(b"<|endoftext|>"), TOKENS.index(b"")})


@dataclass(frozen=True)
class ToyCatalogue:
    """A published toy build and the truth about it."""

    directory: Path
    """``<root>/<model>``"""
    path: Path
    """The build's file."""
    stamp: BuildStamp
    shards: list[Path]
    neurons: list[Neuron]
    """In the order of their ids."""
    logits: NDArray[np.float32]
    """[neurons, vocabulary]"""


def token_table(tokens: Sequence[bytes] = TOKENS) -> pa.Table:
    """The table ``token`` as the indexer hands it over."""

    def text(data: bytes) -> str | None:
        try:
            return data.decode() or None
        except UnicodeDecodeError:
            return None

    return pa.table(
        {
            "token_id": pa.array(range(len(tokens)), pa.int32()),
            "bytes": pa.array(tokens, pa.binary()),
            "text": pa.array([text(data) for data in tokens], pa.string()),
            "display": pa.array([display(data) for data in tokens], pa.string()),
            "special": pa.array([int(i in SPECIAL) for i in range(len(tokens))], pa.int16()),
        }
    )


def tokenizer_json(tokens: Sequence[bytes] = TOKENS) -> str:
    """A tokenizer that splits text into as few of the tokens as it can; ids agree."""
    from tokenizers import Tokenizer, models

    names = [data.decode(errors="replace") or "(unused)" for data in tokens]
    unique = [name if names.index(name) == i else f"({i})" for i, name in enumerate(names)]
    return str(Tokenizer(models.Unigram([(name, -1.0) for name in unique], unk_id=len(tokens) - 1)).to_str())


def toy_neurons(layers: int, ffn: int, heads: int, head_dim: int) -> list[Neuron]:
    """Layer by layer, FFN before attention, heads in order."""
    found = []
    for layer in range(layers):
        found += [Neuron.ffn(layer, index) for index in range(ffn)]
        found += [Neuron.attention(layer, head, index) for head in range(heads) for index in range(head_dim)]
    return found


def write_shards(root: Path, neurons: Sequence[Neuron], logits: NDArray[np.float32], depth: int) -> list[Path]:
    """One folder a layer, as the indexer leaves them."""
    folders = []
    for layer in sorted({neuron.layer for neuron in neurons}):
        ids = [i for i, neuron in enumerate(neurons) if neuron.layer == layer]
        folder = root / f"layer-{layer:04d}"
        folder.mkdir(parents=True)
        pq.write_table(_neuron_table(ids, neurons, logits), folder / "neurons.parquet")
        pq.write_table(_pair_table(ids, logits, depth), folder / "tokens.parquet")
        folders.append(folder)
    return folders


def _neuron_table(ids: Sequence[int], neurons: Sequence[Neuron], logits: NDArray[np.float32]) -> pa.Table:
    here = [neurons[i] for i in ids]
    return pa.table(
        {
            "neuron_id": pa.array(ids, pa.int32()),
            "kind": pa.array([KIND_CODES[neuron.kind] for neuron in here], pa.int16()),
            "layer": pa.array([neuron.layer for neuron in here], pa.int16()),
            "head": pa.array([neuron.head for neuron in here], pa.int16()),
            "index": pa.array([neuron.index for neuron in here], pa.int32()),
            "mean": pa.array(logits[ids].mean(axis=1), pa.float32()),
            "std": pa.array(logits[ids].std(axis=1), pa.float32()),
            "norm": pa.array(np.linalg.norm(logits[ids], axis=1), pa.float32()),
        }
    )


def _pair_table(ids: Sequence[int], logits: NDArray[np.float32], depth: int) -> pa.Table:
    by_logit = np.argsort(-logits[ids], axis=1, kind="stable")
    tokens = np.stack([by_logit[:, :depth], by_logit[:, ::-1][:, :depth]], axis=1)
    shape = tokens.shape
    return pa.table(
        {
            "neuron_id": pa.array(np.repeat(ids, 2 * depth), pa.int32()),
            "sign": pa.array(np.broadcast_to(np.array([1, -1])[None, :, None], shape).ravel(), pa.int16()),
            "rank": pa.array(np.broadcast_to(np.arange(1, depth + 1), shape).ravel(), pa.int16()),
            "token_id": pa.array(tokens.ravel(), pa.int32()),
            "logit": pa.array(np.take_along_axis(logits[ids][:, None, :], tokens, axis=2).ravel(), pa.float32()),
        }
    )


def neighbour_table(logits: NDArray[np.float32], count: int) -> pa.Table:
    """The table ``token_neighbour``: cosine of the tokens' logits over the neurons."""
    unit = logits / np.linalg.norm(logits, axis=0)
    cosines = unit.T @ unit
    np.fill_diagonal(cosines, -2)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return pa.table(
        {
            "token_id": pa.array(np.repeat(np.arange(len(nearest)), count), pa.int32()),
            "rank": pa.array(np.tile(np.arange(1, count + 1), len(nearest)), pa.int16()),
            "neighbour_id": pa.array(nearest.ravel(), pa.int32()),
            "cosine": pa.array(np.take_along_axis(cosines, nearest, axis=1).ravel(), pa.float32()),
        }
    )


def make_catalogue(
    root: Path,
    *,
    model: str = "toy",
    build_id: str = "one",
    seed: int = 0,
    layers: int = 3,
    ffn: int = 7,
    heads: int = 2,
    head_dim: int = 3,
    depth: int = 5,
    tokens: Sequence[bytes] = TOKENS,
    neighbours: int = 12,
    **stamped: object,
) -> ToyCatalogue:
    """Publish ``root/<model>/build-<build_id>.duckdb``; ``stamped`` replaces fields of the stamp.

    ``neighbours`` of each token are stored; none for 0.
    """
    neurons = toy_neurons(layers, ffn, heads, head_dim)
    random = np.random.default_rng(seed)
    scale = random.uniform(0.5, 3, (len(neurons), 1))
    logits = (random.normal(0, 1, (len(neurons), len(tokens))) * scale + 0.1).astype(np.float32)
    stamp = BuildStamp(
        build_id=build_id,
        schema_version=SCHEMA_VERSION,
        code_version="test",
        created_at=f"2024-01-01T00:00:{seed % 60:02d}Z",
        model=model,
        family="llama",
        checkpoint="weights",
        unembedding_hash="unembedding",
        tokenizer_hash="tokenizer",
        layers=layers,
        d_model=16,
        vocabulary=len(tokens),
        ffn_neurons=sum(neuron.kind is NeuronKind.FFN for neuron in neurons),
        attention_neurons=sum(neuron.kind is NeuronKind.ATTENTION for neuron in neurons),
        heads=heads,
        head_dim=head_dim,
        depth=depth,
        tokenizer_json=tokenizer_json(tokens),
    )
    stamp = replace(stamp, **stamped)  # type: ignore[arg-type]
    shards = write_shards(root / f"shards-{model}-{build_id}", neurons, logits, depth)
    directory = root / model
    near = neighbour_table(logits, neighbours) if neighbours else None
    path = publish(directory, stamp, token_table(tokens), shards, near)
    return ToyCatalogue(directory, path, stamp, shards, neurons, logits)
