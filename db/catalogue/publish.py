"""Shards to one checked, immutable file, and then CURRENT.

    catalogue/<model>/build-<id>.duckdb     written once under a hidden name, checked, renamed
    catalogue/<model>/CURRENT               the name of the build that readers open next

Whatever fails on the way leaves the folder as it was. A reader has either the old build or the new one.
"""

import errno
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb_sqlalchemy import Dialect
from numpy.typing import NDArray
from sqlalchemy import REAL, MetaData, Table, literal_column
from sqlalchemy.schema import CreateTable

from db.catalogue import schema
from db.catalogue.builds import CURRENT, build_path, exclusive, set_current
from db.catalogue.check import check_build, content_hash
from db.errors import AtlasError
from db.files import sync
from db.records import BuildStamp, experts_json

NEURON_FILE = "neurons.parquet"
PAIR_FILE = "tokens.parquet"
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
        tokens: the columns of table ``token``, one row per token.
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
    with publishing(target, CURRENT, content_hash, _needed_bytes(stamp, tokens, neighbours)) as temporary:
        load(temporary, stamp, tokens, shards, neighbours)
        check_build(temporary, stamp)
    return target


@contextmanager
def publishing(
    target: Path,
    pointer: str,
    content: Callable[[Path], str],
    needed: int,
    source: str = "Shards",
    again: str = "build again",
) -> Iterator[Path]:
    """Write a file under a hidden name; when the block ends without an error it has its own, which the pointer names.

    Args:
        target: the immutable file.
        pointer: CURRENT or TEXTS.
        content: tells whether a file that is there already has the same content.
        needed: bytes.
        source: what it is made from, for messages.
        again: what to do where that is damaged.

    Yields:
        The hidden file, which is not there yet.

    Raises:
        AtlasError: a full disk, a source that cannot be loaded, another publisher at work, or an existing file of this
            name with other content.
    """
    directory = target.parent
    temporary = directory / ".publishing.duckdb"
    with exclusive(directory):
        _remove(temporary)  # what a killed publisher left
        free = shutil.disk_usage(directory).free
        try:
            if free < needed:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield temporary
            sync(temporary)
            _settle(temporary, target, content)
            set_current(directory, target, pointer)
        except (OSError, duckdb.Error) as error:
            raise _explained(error, directory, needed, free, source, again) from error
        finally:
            _remove(temporary)


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


def _settle(temporary: Path, target: Path, content: Callable[[Path], str]) -> None:
    """Give the checked file its immutable name; a file that is already there must have the same content."""
    if not target.exists():
        temporary.rename(target)
        sync(target.parent)
    elif not _same(temporary, target, content):
        raise AtlasError(f"{target} exists with other content; it is never changed: use another id or delete it.")


def _same(first: Path, second: Path, content: Callable[[Path], str]) -> bool:
    try:
        return content(first) == content(second)
    except duckdb.Error:  # a damaged file is not the same
        return False


def _needed_bytes(stamp: BuildStamp, tokens: pa.Table, neighbours: pa.Table) -> int:
    pairs = 2 * stamp.depth * stamp.neurons + len(neighbours)
    return 2 * pairs * _BYTES_PER_PAIR + stamp.neurons * 40 + 2 * int(tokens.nbytes) + 4_000_000


def _explained(error: Exception, directory: Path, needed: int, free: int, source: str, again: str) -> AtlasError:
    """Why a file could not be written, for who waits for it."""
    message = str(error).strip().splitlines()[0][:300]
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(sign in message for sign in ("No space left", "Disk quota", "max_temp_directory_size")):
        return AtlasError(
            f"The disk is full: a catalogue in {directory} needs about {needed / 1e6:,.0f} MB while it is written, and "
            f"{free / 1e6:,.0f} MB were free. Make room, then run the same command again: finished shards are kept."
        )
    if isinstance(error, duckdb.Error):
        return AtlasError(f"{source} could not be loaded ({message}): delete what lies there and {again}.")
    return AtlasError(f"The catalogue in {directory} could not be written ({message}).")


def _remove(temporary: Path) -> None:
    """Delete an unfinished file, and what DuckDB keeps beside it."""
    for path in (temporary, temporary.with_name(temporary.name + ".wal"), temporary.with_suffix(".loose")):
        path.unlink(missing_ok=True)
    shutil.rmtree(temporary.with_suffix(".spill"), ignore_errors=True)


# Shards into the tables of a new file.

# Smaller than DuckDB's 122,880: a look-up of scattered neurons reads a third of the rows, for 4 % more file.
ROW_GROUP_ROWS = 24_576
_SORT_MEMORY = 2_000_000_000  # bytes; what does not fit is sorted on disk
_ORDERS = {
    "token": "token_id",
    "neuron": "neuron_id",
    "neuron_token": "neuron_id, sign DESC, rank",
    "token_neuron": "token_id, sign DESC, rank, neuron_id",
    "token_neighbour": "token_id, rank",
}


def _z_of(logit: str, neurons: str) -> str:
    """The formula of z as text, for columns of the named tables."""
    columns = (literal_column(name, REAL) for name in (logit, f"{neurons}.mean", f"{neurons}.std"))
    return str(schema.z_score(*columns).compile(compile_kwargs={"literal_binds": True}))


_PAIRS_WITH_Z = f"""
    SELECT p.*, {_z_of("p.logit", "n")} AS z
    FROM {{pairs}} p LEFT JOIN (
        SELECT neuron_id, max(mean) AS mean, max(std) AS std FROM {{neurons}} GROUP BY neuron_id
    ) n ON n.neuron_id = p.neuron_id
"""
# The shards' columns of table neuron, and what follows from the pairs: z of both first tokens.
_NEURONS_WITH_Z = f"""
    SELECT s.*, {_z_of("top", "s")} AS top_z, {_z_of("bottom", "s")} AS bottom_z
    FROM {{neurons}} s LEFT JOIN (
        SELECT neuron_id, max(logit) FILTER (sign = 1) AS top, min(logit) FILTER (sign = -1) AS bottom
        FROM {{pairs}} WHERE rank = 1 GROUP BY neuron_id
    ) ends ON ends.neuron_id = s.neuron_id
"""


def load(path: Path, stamp: BuildStamp, tokens: pa.Table, shards: Sequence[Path], neighbours: pa.Table) -> None:
    """Write the tables of the new file `path`, each in its stored order; see :func:`publish` for what they are made of.

    Nothing is checked here: that is for :mod:`db.catalogue.check`.
    """
    quoted = str(path).replace("'", "''")
    config = {"temp_directory": str(path.with_suffix(".spill")), "memory_limit": f"{_SORT_MEMORY // 1_000_000}MB"}
    with duckdb.connect(config=config) as connection:  # type: ignore[arg-type]
        connection.execute(f"ATTACH '{quoted}' AS build_file (ROW_GROUP_SIZE {ROW_GROUP_ROWS})")
        connection.execute("USE build_file")
        create_tables(connection, schema.metadata)
        neuron_files, pair_files = ([str(shard / name) for shard in shards] for name in (NEURON_FILE, PAIR_FILE))
        sources = {"neurons": _parquet(neuron_files), "pairs": _parquet(pair_files)}

        def all_but_pairs(connection: duckdb.DuckDBPyConnection) -> None:
            _load_stamp(connection, stamp)
            connection.register("token_source", tokens)
            connection.register("neighbour_source", neighbours)
            _fill(connection, schema.token, "token_source")
            _fill(connection, schema.token_neighbour, "neighbour_source")
            _fill(connection, schema.neuron, f"({_NEURONS_WITH_Z.format(**sources)})")

        with ThreadPoolExecutor(1) as aside, connection.cursor() as other:  # a connection of its own to the file
            rest = aside.submit(all_but_pairs, other)
            stored, ordered = _in_memory(pair_files), None
            if stored is not None:
                # While one order is written, the other is sorted.
                rest.result()
                written = aside.submit(_append_pieces, other, schema.neuron_token, stored)
                ordered = by_token(stored, _read(neuron_files, "neuron_id", "mean", "std"))
                written.result()
            rest.result()
        del stored, other  # what is written need not stay in memory
        if ordered is not None:
            _append_pieces(connection, schema.token_neuron, ordered)
        else:
            _fill(connection, schema.neuron_token, sources["pairs"])
            _fill(connection, schema.token_neuron, f"({_PAIRS_WITH_Z.format(**sources)})")
        del ordered
        connection.execute("CHECKPOINT build_file")
        connection.execute("USE memory")
        connection.execute("DETACH build_file")


def create_tables(connection: duckdb.DuckDBPyConnection, metadata: MetaData) -> None:
    """Make the tables, empty."""
    for table in metadata.sorted_tables:
        connection.execute(str(CreateTable(table).compile(dialect=Dialect())))


def _load_stamp(connection: duckdb.DuckDBPyConnection, stamp: BuildStamp) -> None:
    row: dict[str, Any] = asdict(stamp)
    text, row["experts"] = row.pop("tokenizer_json"), experts_json(stamp.experts)
    # A large JSON text, which DuckDB would keep as it is.
    row["tokenizer_zlib"] = None if text is None else zlib.compress(text.encode("utf-8", "surrogatepass"))
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO build_file.build ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def _in_memory(pair_files: Sequence[str]) -> pa.Table | None:
    """The pairs by neuron; None where they are too many to be sorted in memory, or have gaps, which DuckDB refuses."""
    if sum(pq.read_metadata(file).num_rows for file in pair_files) * BYTES_A_ROW > _SORT_MEMORY:
        return None
    found = _read(pair_files, *(column.name for column in schema.neuron_token.columns))
    return None if any(column.null_count for column in found.columns) else by_neuron(found)


def _read(files: Sequence[str], *columns: str) -> pa.Table:
    with ThreadPoolExecutor() as readers:
        parts = list(readers.map(lambda file: pq.read_table(file, columns=list(columns)), files))
    whole = pa.concat_tables(parts).combine_chunks()
    del parts
    pa.default_memory_pool().release_unused()  # else the parts' memory is held to the end
    return whole


def _parquet(files: Sequence[str]) -> str:
    return "read_parquet([" + ", ".join("'" + file.replace("'", "''") + "'" for file in files) + "])"


def _fill(connection: duckdb.DuckDBPyConnection, table: Table, source: str) -> None:
    """Insert the source's rows in the table's order, which the file keeps: zone maps live on it."""
    _append(connection, table, f"{source} ORDER BY {_ORDERS[table.name]}")


def _append_pieces(connection: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> None:
    """Insert rows that have the table's order already."""
    connection.register("ordered_source", in_pieces(rows))
    _append(connection, table, "ordered_source")
    connection.unregister("ordered_source")


def _append(connection: duckdb.DuckDBPyConnection, table: Table, source: str) -> None:
    """Insert the source's rows in the order they have."""
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    connection.execute(f"INSERT INTO build_file.{table.name} ({columns}) SELECT {columns} FROM {source}")


# The rows of the neuron-token tables in both stored orders, sorted in memory.

BYTES_A_ROW = 60
"""Of memory while rows are sorted: both orders, and the numbers that are sorted."""
_PIECE_ROWS = 1_500_000
"""About; DuckDB writes the pieces of a table side by side, and each leaves a block half full."""
_ROUND_ROWS = 24_576  # a piece has a multiple of so many: whole row groups
_AT_ONCE = 1 << 17  # rows: what is computed of so many stays in the processor's cache
_Whole = NDArray[np.signedinteger]


def by_neuron(pairs: pa.Table) -> pa.Table:
    """Rows of ``neuron_token``, sorted by neuron, sign descending, rank. Rows that are so already are handed back."""
    neurons, signs, ranks = (_numbers(pairs, name) for name in ("neuron_id", "sign", "rank"))
    sorted_so_far, last = True, None
    for part in _parts(len(neurons)):
        # A rank, a sign and a neuron, 15 bits, one bit and 32.
        place = (neurons[part].astype(np.int64) * 2 + (signs[part] < 0)) * (1 << 15) + ranks[part]
        sorted_so_far &= bool((place[1:] >= place[:-1]).all()) and (last is None or last <= place[0])
        last = place[-1]
    return pairs if sorted_so_far else pairs.take(pa.array(np.lexsort((ranks, -signs.astype(np.int32), neurons))))


def by_token(pairs: pa.Table, neurons: pa.Table) -> pa.Table:
    """Rows of ``token_neuron``, sorted by token, sign descending, rank, neuron.

    Args:
        pairs: rows of ``neuron_token`` in their order.
        neurons: columns neuron_id, mean and std, every neuron once.
    """
    columns = {name: _numbers(pairs, name) for name in ("neuron_id", "sign", "rank", "token_id")}
    order = _token_order(columns["token_id"], columns["sign"], columns["rank"])
    columns["z"] = _z(columns["neuron_id"], _numbers(pairs, "logit"), neurons)
    size = _piece(len(order))
    pieces = [order[start : start + size] for start in range(0, max(len(order), 1), size)]
    return pa.concat_tables([pa.table({name: column[piece] for name, column in columns.items()}) for piece in pieces])


def in_pieces(table: pa.Table) -> pa.Table:
    """The same rows in pieces."""
    return pa.Table.from_batches(table.to_batches(max_chunksize=_piece(len(table))), table.schema)


def _piece(rows: int) -> int:
    """Rows per piece, so that all pieces are of about the same size."""
    each = -(-rows // max(1, round(rows / _PIECE_ROWS)))
    return max(1, -(-each // _ROUND_ROWS)) * _ROUND_ROWS


def _numbers(table: pa.Table, name: str) -> NDArray:  # type: ignore[type-arg]
    return np.asarray(table[name].combine_chunks())


def _parts(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _AT_ONCE, rows)) for start in range(0, rows, _AT_ONCE))


def _token_order(tokens: _Whole, signs: _Whole, ranks: _Whole) -> NDArray[np.int64]:
    """Places of the rows, given in the order by neuron, in the order by token."""
    rows = len(tokens)
    if rows == 0:
        return np.zeros(0, np.int64)
    place_bits, rank_bits = rows.bit_length(), int(ranks.max()).bit_length()
    if min(tokens.min(), ranks.min()) < 0 or place_bits + rank_bits + 1 + int(tokens.max()).bit_length() > 63:
        return np.lexsort((ranks, -signs.astype(np.int32), tokens))
    keys = np.empty(rows, np.int64)
    for part in _parts(rows):
        some = tokens[part].astype(np.int64)
        some <<= 1
        some |= signs[part] < 0
        some <<= rank_bits
        some |= ranks[part]
        some <<= place_bits
        some |= np.arange(part.start, part.stop)
        keys[part] = some
    keys.sort()
    keys &= (1 << place_bits) - 1
    return keys


def _z(neuron_ids: _Whole, logits: NDArray[np.float32], neurons: pa.Table) -> NDArray[np.float32]:
    """`schema.z_score` of rows in neuron order, in place: there are tens of millions. 0 where the neuron is unknown."""
    neurons = neurons.sort_by("neuron_id")
    known, mean, std = (_numbers(neurons, name) for name in ("neuron_id", "mean", "std"))
    starts = np.flatnonzero(np.diff(neuron_ids, prepend=neuron_ids[0] - 1)) if len(neuron_ids) else np.zeros(0, int)
    found = np.minimum(np.searchsorted(known, neuron_ids[starts]), max(len(known) - 1, 0))
    counts = np.diff(starts, append=len(neuron_ids))
    divisor = np.where(known[found] == neuron_ids[starts], std[found], 0).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        z: NDArray[np.float32] = mean[found].repeat(counts)
        np.subtract(logits, z, out=z)
        z /= divisor.repeat(counts)
    for start, count in zip(starts[divisor == 0], counts[divisor == 0], strict=True):
        z[start : start + count] = 0
    return z
