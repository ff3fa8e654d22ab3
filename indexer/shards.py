"""Finished pieces of a job on disk: written whole or not at all, and believed only when proven whole.

A shard is a folder of Parquet files and a stamp with each file's rows, size and checksum. It is written under a
temporary name, forced to the disk and renamed, so that neither a kill nor a power cut leaves half a shard under a
shard's name; and should a disk lose bytes all the same, the stamp tells.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from db.catalogue.schema import KIND_CODES, SIGN_CODES
from db.files import locked, sync
from indexer.families import Dimensions
from indexer.projection import Projection

STAMP = "shard.json"
_PARTIAL = ".part"
_WORK = "work-"
_LOCK = ".indexing.lock"


def write_shard(shard: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write the tables, by file name; the folder `shard` appears when all is on the disk.

    Raises:
        OSError: the disk is full or fails.
    """
    partial = shard.with_name(shard.name + _PARTIAL)
    for old in (partial, shard):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    stamp = {}
    for name, table in tables.items():
        # Read once, soon, from this disk: better compression would cost more than it saves.
        pq.write_table(table, partial / name, compression="lz4", use_dictionary=["sign", "rank", "kind", "layer"])
        sync(partial / name)
        stamp[name] = _described(partial / name, table.num_rows)
    (partial / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    sync(partial / STAMP)
    sync(partial)
    partial.rename(shard)
    sync(shard.parent)


def is_whole(shard: Path, rows: Mapping[str, int]) -> bool:
    """Whether the shard holds exactly these files, with their numbers of rows and the bytes that were written."""
    try:
        stamp = json.loads((shard / STAMP).read_text(encoding="utf-8"))
        return bool(stamp == {name: _described(shard / name, count) for name, count in rows.items()})
    except (OSError, ValueError):
        return False


def _described(path: Path, rows: int) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "rows": rows,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def work_folder(directory: Path, build_id: str) -> Path:
    """Where the shards of one build lie until it is published."""
    return directory / f"{_WORK}{build_id}"


def work_folders(directory: Path) -> list[Path]:
    """Unfinished work of any build of this model."""
    return sorted(path for path in directory.glob(f"{_WORK}*") if path.is_dir())


def clean(work: Path) -> None:
    """Remove what a killed job left half written."""
    for path in work.glob(f"*{_PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def only_indexer(directory: Path) -> Iterator[None]:
    """Hold a model's folder for one indexer. The system lets go of it when the process ends, however it ends.

    Raises:
        AtlasError: another process holds it.
    """
    held = (
        f"Another process is indexing into {directory}: wait until it has finished, or stop it; the same command then "
        "goes on from its finished layers."
    )
    with locked(directory / _LOCK, held):
        yield


def neuron_rows(projection: Projection, layer: int, size: Dimensions) -> pa.Table:
    """The rows of the catalogue's table ``neuron`` for one layer."""
    ffn, attention = np.arange(size.ffn_width), np.arange(size.attention_width)
    kinds = [KIND_CODES["ffn"]] * len(ffn) + [KIND_CODES["attention"]] * len(attention)
    heads = pa.concat_arrays([pa.nulls(len(ffn), pa.int16()), pa.array(attention // size.head_dim, pa.int16())])
    count = len(kinds)
    return pa.table(
        {
            "neuron_id": pa.array(np.arange(layer * count, (layer + 1) * count), pa.int32()),
            "kind": pa.array(kinds, pa.int16()),
            "layer": pa.array(np.full(count, layer), pa.int16()),
            "head": heads,
            "index": pa.array(np.concatenate([ffn, attention % size.head_dim]), pa.int32()),
            "mean": pa.array(projection.mean.numpy(), pa.float32()),
            "std": pa.array(projection.std.numpy(), pa.float32()),
            "norm": pa.array(projection.norm.numpy(), pa.float32()),
        }
    )


def pair_rows(projection: Projection, layer: int) -> pa.Table:
    """The rows of its table ``neuron_token`` for one layer: by neuron, promotes before suppresses, by rank."""
    count, depth = projection.top_tokens.shape
    first = layer * count
    signs = np.array([SIGN_CODES["promotes"], SIGN_CODES["suppresses"]], np.int16)
    tokens = np.stack([projection.top_tokens.numpy(), projection.bottom_tokens.numpy()], axis=1)  # [neuron, end, rank]
    logits = np.stack([projection.top_logits.numpy(), projection.bottom_logits.numpy()], axis=1)
    return pa.table(
        {
            "neuron_id": pa.array(np.arange(first, first + count, dtype=np.int32).repeat(2 * depth)),
            "sign": pa.array(np.tile(signs.repeat(depth), count)),
            "rank": pa.array(np.tile(np.arange(1, depth + 1, dtype=np.int16), 2 * count)),
            "token_id": pa.array(tokens.reshape(-1).astype(np.int32, copy=False)),
            "logit": pa.array(logits.reshape(-1)),
        }
    )
