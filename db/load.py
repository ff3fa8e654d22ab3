"""Shards into the tables of a new file, each in its stored order. Nothing here is checked: see `db.check`."""

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb_sqlalchemy import Dialect
from sqlalchemy import Table
from sqlalchemy.schema import CreateTable

from db import pairs, tables
from db.stamp import BuildStamp

NEURON_FILE = "neurons.parquet"
PAIR_FILE = "tokens.parquet"
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
_PAIRS_WITH_Z = """
    SELECT p.*, coalesce((p.logit - n.mean) / nullif(n.std, 0), 0) AS z
    FROM {pairs} p LEFT JOIN (
        SELECT neuron_id, max(mean) AS mean, max(std) AS std FROM {neurons} GROUP BY neuron_id
    ) n ON n.neuron_id = p.neuron_id
"""
# The shards' columns of table neuron, and what follows from the pairs: z of both first tokens.
_NEURONS_WITH_Z = """
    SELECT s.*, coalesce((top - s.mean) / nullif(s.std, 0), 0) AS top_z,
        coalesce((bottom - s.mean) / nullif(s.std, 0), 0) AS bottom_z
    FROM {neurons} s LEFT JOIN (
        SELECT neuron_id, max(logit) FILTER (sign = 1) AS top, min(logit) FILTER (sign = -1) AS bottom
        FROM {pairs} WHERE rank = 1 GROUP BY neuron_id
    ) ends ON ends.neuron_id = s.neuron_id
"""


def load(path: Path, stamp: BuildStamp, tokens: pa.Table, shards: Sequence[Path], neighbours: pa.Table) -> None:
    """Write the file `path`; see `db.publish.publish` for what it is made of."""
    quoted = str(path).replace("'", "''")
    config = {"temp_directory": str(path.with_suffix(".spill")), "memory_limit": f"{_SORT_MEMORY // 1_000_000}MB"}
    with duckdb.connect(config=config) as connection:  # type: ignore[arg-type]
        connection.execute(f"ATTACH '{quoted}' AS build_file (ROW_GROUP_SIZE {ROW_GROUP_ROWS})")
        connection.execute("USE build_file")
        for table in tables.metadata.sorted_tables:
            connection.execute(str(CreateTable(table).compile(dialect=Dialect())))
        neuron_files, pair_files = ([str(shard / name) for shard in shards] for name in (NEURON_FILE, PAIR_FILE))
        sources = {"neurons": _parquet(neuron_files), "pairs": _parquet(pair_files)}

        def all_but_pairs(connection: duckdb.DuckDBPyConnection) -> None:
            _load_stamp(connection, stamp)
            connection.register("token_source", tokens)
            connection.register("neighbour_source", neighbours)
            _fill(connection, tables.token, "token_source")
            _fill(connection, tables.token_neighbour, "neighbour_source")
            _fill(connection, tables.neuron, f"({_NEURONS_WITH_Z.format(**sources)})")

        with ThreadPoolExecutor(1) as aside, connection.cursor() as other:  # a connection of its own to the file
            rest = aside.submit(all_but_pairs, other)
            stored, ordered = _in_memory(pair_files), None
            if stored is not None:
                # While one order is written, the other is sorted.
                rest.result()
                written = aside.submit(_append_pieces, other, tables.neuron_token, stored)
                ordered = pairs.by_token(stored, _read(neuron_files, "neuron_id", "mean", "std"))
                written.result()
            rest.result()
        del stored, other  # what is written need not stand beside what follows
        if ordered is not None:
            _append_pieces(connection, tables.token_neuron, ordered)
        else:
            _fill(connection, tables.neuron_token, sources["pairs"])
            _fill(connection, tables.token_neuron, f"({_PAIRS_WITH_Z.format(**sources)})")
        del ordered
        connection.execute("CHECKPOINT build_file")
        connection.execute("USE memory")
        connection.execute("DETACH build_file")


def _load_stamp(connection: duckdb.DuckDBPyConnection, stamp: BuildStamp) -> None:
    row: dict[str, Any] = asdict(stamp)
    text = row.pop("tokenizer_json")
    # A large JSON text, which DuckDB would keep as it is.
    row["tokenizer_zlib"] = None if text is None else zlib.compress(text.encode("utf-8", "surrogatepass"))
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO build_file.build ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def _in_memory(pair_files: Sequence[str]) -> pa.Table | None:
    """The pairs by neuron; None where they are too many to be sorted in memory, or have gaps, which DuckDB refuses."""
    if sum(pq.read_metadata(file).num_rows for file in pair_files) * pairs.BYTES_A_ROW > _SORT_MEMORY:
        return None
    found = _read(pair_files, *(column.name for column in tables.neuron_token.columns))
    return None if any(column.null_count for column in found.columns) else pairs.by_neuron(found)


def _read(files: Sequence[str], *columns: str) -> pa.Table:
    with ThreadPoolExecutor() as readers:
        parts = list(readers.map(lambda file: pq.read_table(file, columns=list(columns)), files))
    whole = pa.concat_tables(parts).combine_chunks()
    del parts
    pa.default_memory_pool().release_unused()  # else the parts' memory stands beside all that follows
    return whole


def _parquet(files: Sequence[str]) -> str:
    return "read_parquet([" + ", ".join("'" + file.replace("'", "''") + "'" for file in files) + "])"


def _fill(connection: duckdb.DuckDBPyConnection, table: Table, source: str) -> None:
    """Insert the source's rows in the table's order, which the file keeps: zone maps live on it."""
    _append(connection, table, f"{source} ORDER BY {_ORDERS[table.name]}")


def _append_pieces(connection: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> None:
    """Insert rows that have the table's order already."""
    connection.register("ordered_source", pairs.in_pieces(rows))
    _append(connection, table, "ordered_source")
    connection.unregister("ordered_source")


def _append(connection: duckdb.DuckDBPyConnection, table: Table, source: str) -> None:
    """Insert the source's rows in the order they have."""
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    connection.execute(f"INSERT INTO build_file.{table.name} ({columns}) SELECT {columns} FROM {source}")
