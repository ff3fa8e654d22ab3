"""The offline job: plan of shards -> Parquet, layer by layer -> one published build.

A shard is a layer. It is written under a temporary name and renamed when complete, so that a job that was killed goes
on from the shards that are there. Peak memory: the unembedding, one layer's value vectors, one chunk of logits.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from db.errors import AtlasError
from db.publish import BuildStamp, current_build, publish
from db.tables import KIND_CODES, SCHEMA_VERSION, SIGN_CODES
from indexer.checkpoint import Checkpoint
from indexer.language_model import load_model
from indexer.projection import Projection, Projector
from indexer.tokens import token_table
from indexer.unembedding import Unembedding
from indexer.weights import Weights

CODE_VERSION = "1"
"""Raised when the same checkpoint and options would give other contents; part of every build's identity."""

DEPTH = 50


@dataclass(frozen=True)
class Built:
    """What `build` did.

    Attributes:
        path: the build's file.
        fresh: False when it was there already and nothing was done.
        neurons: neurons in it.
        screened, unproven: neurons screened in bf16, and those of them that needed more than the first round; 0 and 0
            in float32.
    """

    path: Path
    fresh: bool
    neurons: int
    screened: int = 0
    unproven: int = 0


def build(
    checkpoint: Checkpoint,
    catalogue: Path,
    *,
    depth: int = DEPTH,
    screen: bool | None = None,
    say: Callable[[str], None] = lambda _line: None,
    progress: Callable[[Iterator[int], int], Iterator[int]] = lambda layers, _total: layers,
) -> Built:
    """Project every neuron of `checkpoint` and publish the catalogue under `catalogue`/<model name>/.

    Args:
        checkpoint: the model.
        catalogue: the folder of all catalogues.
        depth: tokens kept at each end of a neuron.
        screen: see `Projector`.
        say: told what is being done, a line a stage.
        progress: wraps the iteration over layers (a progress bar).

    Raises:
        AtlasError: the model is unfit (its identities fail, files damaged), or the disk is full. Nothing half-done is
            published; a
            later call goes on from the finished layers.
    """
    size = checkpoint.dimensions
    weights = checkpoint.weights()
    unembedding = Unembedding.from_weights(weights, checkpoint.epsilon())
    stamp = _stamp(checkpoint, unembedding, depth)
    neurons = stamp.ffn_neurons + stamp.attention_neurons
    directory = catalogue / checkpoint.name
    if _is_current(directory, stamp.build_id):
        return Built(current_build(directory), fresh=False, neurons=neurons)

    say(f"Checking that the neurons of {checkpoint.name} are where {stamp.family} keeps them")
    load_model(checkpoint, layers=2)

    work = directory / f"work-{stamp.build_id}"
    projector = Projector(unembedding, depth, screen=screen)
    say(
        f"Projecting {neurons:,} neurons" + (" (bf16 screening, float32 logits)" if projector.screens else " (float32)")
    )
    try:
        work.mkdir(parents=True, exist_ok=True)
        shards = [work / f"layer-{layer:04d}" for layer in range(size.layers)]
        for layer in progress(iter(range(size.layers)), size.layers):
            if not shards[layer].is_dir():
                _write_shard(shards[layer], weights, projector, layer)
        say("Sorting, checking and publishing")
        path = publish(directory, stamp, token_table(checkpoint.tokenizer, size.vocabulary), shards)
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise AtlasError(
            f"The disk is full: {directory} needs about {_disk_needed(neurons, depth) / 1e6:.0f} MB, "
            f"{_free(directory) / 1e6:.0f} MB are free. Make room and run the same command again; finished layers "
            "are kept."
        ) from error
    shutil.rmtree(work, ignore_errors=True)
    return Built(path, fresh=True, neurons=neurons, screened=projector.seen, unproven=projector.unproven)


def _is_current(directory: Path, build_id: str) -> bool:
    try:
        return current_build(directory).name == f"build-{build_id}.duckdb"
    except AtlasError:
        return False


def _stamp(checkpoint: Checkpoint, unembedding: Unembedding, depth: int) -> BuildStamp:
    size = checkpoint.dimensions
    identity = {
        "checkpoint": checkpoint.identity,
        "unembedding_hash": unembedding.hash,
        "tokenizer_hash": checkpoint.tokenizer_hash,
        "schema_version": SCHEMA_VERSION,
        "code_version": CODE_VERSION,
        "depth": min(depth, size.vocabulary),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return BuildStamp(
        build_id=digest[:16],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=checkpoint.name,
        family=str(checkpoint.config.model_type),
        layers=size.layers,
        d_model=size.d_model,
        vocabulary=size.vocabulary,
        ffn_neurons=size.layers * size.ffn_neurons,
        attention_neurons=size.layers * size.attention_neurons,
        heads=size.heads,
        head_dim=size.head_dim,
        tokenizer_json=checkpoint.tokenizer_json,
        **identity,  # type: ignore[arg-type]
    )


def _write_shard(shard: Path, weights: Weights, projector: Projector, layer: int) -> None:
    """One layer's neurons and their tokens; the folder appears when both files are complete."""
    size = weights.dimensions
    device = projector.rows.device
    ffn = projector.project(weights.ffn_values(layer).to(device))
    attention = projector.project(weights.attention_values(layer).to(device))
    first = layer * (size.ffn_neurons + size.attention_neurons)

    tables = [
        _neuron_rows(ffn, layer, first, head_dim=None),
        _neuron_rows(attention, layer, first + size.ffn_neurons, head_dim=size.head_dim),
    ]
    pairs = [_pair_rows(ffn, first), _pair_rows(attention, first + size.ffn_neurons)]
    partial = shard.with_name(shard.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pq.write_table(pa.concat_tables(tables), partial / "neurons.parquet")
    pq.write_table(pa.concat_tables(pairs), partial / "tokens.parquet")
    partial.rename(shard)


def _neuron_rows(projection: Projection, layer: int, first: int, *, head_dim: int | None) -> pa.Table:
    count = projection.mean.shape[0]
    place = torch.arange(count)
    head = pa.nulls(count, pa.int16()) if head_dim is None else pa.array((place // head_dim).numpy(), pa.int16())
    kind = "ffn" if head_dim is None else "attention"
    return pa.table(
        {
            "neuron_id": pa.array((place + first).numpy(), pa.int32()),
            "kind": pa.array([KIND_CODES[kind]] * count, pa.int16()),
            "layer": pa.array([layer] * count, pa.int16()),
            "head": head,
            "index": pa.array((place if head_dim is None else place % head_dim).numpy(), pa.int32()),
            "mean": pa.array(projection.mean.cpu().numpy(), pa.float32()),
            "std": pa.array(projection.std.cpu().numpy(), pa.float32()),
            "norm": pa.array(projection.norm.cpu().numpy(), pa.float32()),
        }
    )


def _pair_rows(projection: Projection, first: int) -> pa.Table:
    """Both ends of every neuron, sorted by neuron, promotes before suppresses, rank."""
    count, depth = projection.top_tokens.shape
    tokens = torch.stack([projection.top_tokens, projection.bottom_tokens], dim=1)  # [neuron, end, rank]
    logits = torch.stack([projection.top_logits, projection.bottom_logits], dim=1)
    ids = torch.arange(first, first + count).repeat_interleave(2 * depth)
    signs = torch.tensor([SIGN_CODES["promotes"], SIGN_CODES["suppresses"]]).repeat_interleave(depth).repeat(count)
    ranks = torch.arange(1, depth + 1).repeat(2 * count)
    return pa.table(
        {
            "neuron_id": pa.array(ids.numpy(), pa.int32()),
            "sign": pa.array(signs.numpy(), pa.int16()),
            "rank": pa.array(ranks.numpy(), pa.int16()),
            "token_id": pa.array(tokens.flatten().cpu().numpy(), pa.int32()),
            "logit": pa.array(logits.flatten().cpu().numpy(), pa.float32()),
        }
    )


def _disk_needed(neurons: int, depth: int) -> float:
    """Bytes, roughly: the shards, the sorted tables and DuckDB's room for sorting."""
    return neurons * depth * 2 * (10 + 14 + 16)


def _free(directory: Path) -> int:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return shutil.disk_usage(existing).free
