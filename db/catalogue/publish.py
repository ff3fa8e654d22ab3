"""Shards to one checked, immutable file, and then CURRENT.

    catalogue/<model>/build-<id>.duckdb     written once under a hidden name, checked, renamed
    catalogue/<model>/CURRENT               the name of the build that readers open next

Whatever fails on the way leaves the folder as it was. A reader has either the old build or the new one.
"""

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Table

from db.catalogue import schema
from db.catalogue.builds import build_path, exclusive, set_current
from db.files import sync
from db.catalogue.check import check_build, content_hash
from db.catalogue.load import NEURON_FILE, PAIR_FILE, load
from db.errors import AtlasError
from db.records import BuildStamp

_BYTES_PER_PAIR = 8  # in one order; 6.8 measured for random tokens
_NO_NEIGHBOURS = pa.table(
    {
        "token_id": pa.array([], pa.int32()),
        "rank": pa.array([], pa.int16()),
        "neighbour_id": pa.array([], pa.int32()),
        "cosine": pa.array([], pa.float32()),
    }
)


def publish(
    directory: Path, stamp: BuildStamp, tokens: pa.Table, shards: Sequence[Path], neighbours: pa.Table | None = None
) -> Path:
    """Make a model's shards its current build; returns the build's file.

    Args:
        directory: ``catalogue/<model>/``; made if it is missing.
        stamp: what the build says about itself; content is checked against it.
        tokens: the columns of table ``token``, a row a token.
        shards: folders with ``neurons.parquet`` (columns of table ``neuron``) and ``tokens.parquet`` (of
            ``neuron_token``); together every neuron once, in any order.
        neighbours: the columns of table ``token_neighbour``; None where they were not computed, and concepts are then
            not widened.

    Raises:
        AtlasError: shards that are missing, damaged or not whole, a full disk, another publisher at work, or an
            existing build of this id with other content. CURRENT is then as it was.
    """
    if stamp.schema_version != schema.SCHEMA_VERSION:
        raise AtlasError(f"The stamp has schema version {stamp.schema_version}, not {schema.SCHEMA_VERSION}.")
    target = build_path(directory, stamp.build_id)
    if "?" in str(directory):
        # DuckDB takes what follows for a URL's query, and writes its log elsewhere.
        raise AtlasError(f"A catalogue cannot be kept in {directory}: DuckDB needs a path without a question mark.")
    neighbours = _NO_NEIGHBOURS if neighbours is None else neighbours
    _check_sources(tokens, shards, neighbours)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / ".publishing.duckdb"
    with exclusive(directory):
        _remove(temporary)  # what a killed publisher left
        needed, free = _needed_bytes(stamp, tokens, neighbours), shutil.disk_usage(directory).free
        try:
            if free < needed:
                raise OSError(errno.ENOSPC, "No space left on device")
            load(temporary, stamp, tokens, shards, neighbours)
            check_build(temporary, stamp)
            sync(temporary)
            _settle(temporary, target)
            set_current(directory, target)
        except (OSError, duckdb.Error) as error:
            raise _explained(error, directory, needed, free) from error
        finally:
            _remove(temporary)
    return target


def _check_sources(tokens: pa.Table, shards: Sequence[Path], neighbours: pa.Table) -> None:
    _require_columns("the table of neighbours", neighbours.column_names, schema.token_neighbour)
    _require_columns("the table of tokens", tokens.column_names, schema.token)
    for shard in shards:
        for name, table in ((NEURON_FILE, schema.neuron), (PAIR_FILE, schema.neuron_token)):
            path = shard / name
            try:
                columns = pq.read_schema(path).names
            except (OSError, pa.ArrowException) as error:
                raise AtlasError(f"The shard {path} cannot be read: delete {shard} and build again.") from error
            _require_columns(f"the shard {path}", columns, table)


def _require_columns(what: str, found: Sequence[str], table: Table) -> None:
    missing = [
        name for name in (column.name for column in table.columns) if name not in found and name not in schema.DERIVED
    ]
    if missing:
        raise AtlasError(f"In {what} columns are missing: {', '.join(missing)}. Delete the shards and build again.")


def _settle(temporary: Path, target: Path) -> None:
    """Give the checked file its immutable name; a build that stands there already must be the same."""
    if not target.exists():
        temporary.rename(target)
        sync(target.parent)
    elif not _same_content(temporary, target):
        raise AtlasError(f"{target} exists with other content; builds are never changed: use another id or delete it.")


def _same_content(first: Path, second: Path) -> bool:
    try:
        return content_hash(first) == content_hash(second)
    except duckdb.Error:  # a damaged file is not the same
        return False


def _needed_bytes(stamp: BuildStamp, tokens: pa.Table, neighbours: pa.Table) -> int:
    pairs = 2 * stamp.depth * stamp.neurons + len(neighbours)
    return 2 * pairs * _BYTES_PER_PAIR + stamp.neurons * 40 + 2 * int(tokens.nbytes) + 4_000_000


def _explained(error: Exception, directory: Path, needed: int, free: int) -> AtlasError:
    message = str(error).strip().splitlines()[0][:300]
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(sign in message for sign in ("No space left", "Disk quota", "max_temp_directory_size")):
        return AtlasError(
            f"The disk is full: a catalogue in {directory} needs about {needed / 1e6:,.0f} MB while it is written, and "
            f"{free / 1e6:,.0f} MB were free. Make room, then run the same command again: finished shards are kept."
        )
    if isinstance(error, duckdb.Error):
        return AtlasError(f"The shards could not be loaded ({message}): delete them and build again.")
    return AtlasError(f"The catalogue in {directory} could not be written ({message}).")


def _remove(temporary: Path) -> None:
    for path in (temporary, temporary.with_name(temporary.name + ".wal")):
        path.unlink(missing_ok=True)
    shutil.rmtree(temporary.with_suffix(".spill"), ignore_errors=True)
