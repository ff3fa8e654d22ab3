"""Is a loaded build whole? What keys and constraints would guarantee is checked here, once, before publishing.

The big tables are read in the order they are stored in, a bounded number of rows at a time, and compared with the one
order and shape that they may have.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db.catalogue.reader import Reader, read_only_connection
from db.errors import AtlasError
from db.records import BuildStamp

_ROWS_AT_ONCE = 2_000_000
_CACHED_ROWS = 1 << 16  # what is computed of so many stays in the processor's cache
_UNREPRODUCIBLE = ("build_id", "code_version", "created_at", "dequantised")
_Columns = dict[str, NDArray[Any]]


def check_build(path: Path, stamp: BuildStamp) -> None:
    """Compare a build's content with its stamp and with itself.

    Raises:
        AtlasError: the first thing that is wrong.
    """
    Reader.open(path).close()  # what no reader would open is not published
    with read_only_connection(path) as connection, ThreadPoolExecutor(1) as aside:
        _check_counts(connection, stamp)
        # The longest check runs at the same time as the others; a cursor is a connection of its own to the same file.
        by_token = aside.submit(_check_by_token, connection.cursor(), stamp)
        _check_neurons(connection)
        used = _check_padding(connection, stamp)
        _check_by_neuron(connection, stamp, used)
        _check_neighbours(connection, stamp, used)
        by_token.result()


def content_hash(path: Path) -> str:
    """SHA-256 over all tables in stored order, without the build's id, time and code version.

    Two builds with the same hash give the same answers. For tests of reproducibility, not for security.
    """
    digest = hashlib.sha256()
    with read_only_connection(path) as connection:
        for table in ("build", "token"):
            cursor = connection.execute(f"SELECT * FROM {table} ORDER BY ALL")
            kept = [i for i, column in enumerate(cursor.description or []) if column[0] not in _UNREPRODUCIBLE]
            for row in cursor.fetchall():
                digest.update(repr([row[i] for i in kept]).encode("utf-8", "surrogatepass"))
        for table in ("neuron", "neuron_token", "token_neuron", "token_neighbour"):
            # One digest a column, so that the size of the chunks does not matter.
            columns: dict[str, hashlib._Hash] = {}
            for chunk in _chunks(connection, table, _ROWS_AT_ONCE):
                for name, values in chunk.items():
                    columns.setdefault(name, hashlib.sha256()).update(values.tobytes())
            for name in sorted(columns):
                digest.update(f"{table}.{name}".encode() + columns[name].digest())
    return digest.hexdigest()


def _chunks(connection: duckdb.DuckDBPyConnection, table: str, rows: int, columns: str = "*") -> Iterator[_Columns]:
    """The table's rows in stored order: ``rowid`` counts them. Gaps, which only ``head`` has, read as -1."""
    total = _one(connection, f"SELECT count(*) FROM {table}")
    for start in range(0, total, rows):
        where = f"rowid >= {start} AND rowid < {start + rows}"
        # As Arrow: several times faster than DuckDB's own arrays, which are masked.
        found = connection.execute(f"SELECT {columns} FROM {table} WHERE {where}").to_arrow_table()
        yield {name: _array(found[name]) for name in found.column_names}


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    if column.null_count:
        column = column.fill_null(-1)
    return np.asarray(column.combine_chunks())


def _one(connection: duckdb.DuckDBPyConnection, statement: str) -> int:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AtlasError(f"The build is not whole and was not published: {problem}. Delete its shards and build again.")


def _check_counts(connection: duckdb.DuckDBPyConnection, stamp: BuildStamp) -> None:
    pairs = 2 * stamp.depth * stamp.neurons
    for what, expected in {
        "token": stamp.vocabulary,
        "neuron": stamp.neurons,
        "neuron WHERE kind = 0": stamp.ffn_neurons,
        "neuron_token": pairs,
        "token_neuron": pairs,
    }.items():
        found = _one(connection, f"SELECT count(*) FROM {what}")
        _require(found == expected, f"table {what} has {found:,} rows, not {expected:,}")
    layers = _one(connection, "SELECT count(DISTINCT layer) FROM neuron")
    outside = _one(connection, f"SELECT count(*) FROM neuron WHERE layer < 0 OR layer >= {stamp.layers}")
    _require(
        layers == stamp.layers and outside == 0, f"there are neurons in {layers} layers, not in all {stamp.layers}"
    )
    ids = connection.execute("SELECT token_id FROM token").fetchnumpy()["token_id"]
    _require(np.array_equal(ids, np.arange(stamp.vocabulary)), "token ids are not 0, 1, 2, … in order")


def _check_padding(connection: duckdb.DuckDBPyConnection, stamp: BuildStamp) -> NDArray[np.bool_]:
    """Which rows of the unembedding are tokens: all, in a stamp that does not count the others."""
    if stamp.padding is None:
        return np.ones(stamp.vocabulary, np.bool_)
    tokens = connection.execute("SELECT special, octet_length(bytes) AS size FROM token ORDER BY token_id").fetchnumpy()
    unused = np.asarray((tokens["special"] == 1) & (tokens["size"] == 0))
    found = int(unused.sum())
    _require(found == stamp.padding, f"{found:,} rows are no token, not {stamp.padding:,}")
    return ~unused


def _check_neurons(connection: duckdb.DuckDBPyConnection) -> None:
    rows = connection.execute("SELECT * FROM neuron").fetchnumpy()
    ids = rows["neuron_id"]
    _require(np.array_equal(ids, np.arange(len(ids))), "neuron ids are not 0, 1, 2, … in order")
    figures = np.stack([rows[name] for name in ("mean", "std", "norm", "top_z", "bottom_z")])
    _require(bool(np.isfinite(figures).all()), "a mean, standard deviation, norm or z is not finite")
    _require(bool((figures[1:3] >= 0).all()), "a standard deviation or norm is negative")
    # The order that ids promise: in a layer and kind the index counts through each head, and heads follow on.
    misplaced = _one(
        connection,
        """
        SELECT count(*) FROM (
            SELECT neuron_id, coalesce(head, 0) * (1 + max("index") OVER block) + "index" AS place,
                row_number() OVER (ORDER BY layer, kind, head, "index") - 1 AS expected_id,
                row_number() OVER (PARTITION BY layer, kind ORDER BY head, "index") - 1 AS expected_place,
                kind, head
            FROM neuron WINDOW block AS (PARTITION BY layer, kind)
        ) WHERE neuron_id <> expected_id OR place <> expected_place OR (kind = 0) <> (head IS NULL)
            OR kind NOT IN (0, 1)
        """,
    )
    _require(misplaced == 0, f"{misplaced:,} neurons are not where their layer, kind, head and index put them")


def _check_by_neuron(connection: duckdb.DuckDBPyConnection, stamp: BuildStamp, used: NDArray[np.bool_]) -> None:
    depth, first = stamp.depth, 0
    per_neuron = 2 * depth
    for rows in _chunks(connection, "neuron_token", max(1, _ROWS_AT_ONCE // per_neuron) * per_neuron):
        neurons = len(rows["neuron_id"]) // per_neuron
        shape = (neurons, 2, depth)
        columns = {name: values.reshape(shape) for name, values in rows.items()}
        expected = {
            "neuron_id": np.arange(first, first + neurons)[:, None, None],
            "sign": np.array([1, -1])[None, :, None],
            "rank": np.arange(1, depth + 1)[None, None, :],
        }
        for name, values in expected.items():
            _fail_at(columns[name] != values, first, f"lacks a rank of 1–{depth} at one end, or has one twice")
        tokens, logits = columns["token_id"], columns["logit"]
        _fail_at((tokens < 0) | (tokens >= stamp.vocabulary), first, f"has a token outside 0–{stamp.vocabulary - 1}")
        _fail_at(~used[tokens], first, "has a row at an end that is no token")
        _fail_at(np.diff(np.sort(tokens, axis=2), axis=2) == 0, first, "has one token twice at an end")
        _fail_at(~np.isfinite(logits), first, "has a logit that is not finite")
        steps = np.diff(logits, axis=2) * expected["sign"]
        _fail_at(steps > 0, first, "has logits that do not fall from the most extreme rank on")
        first += neurons


def _fail_at(wrong: NDArray[np.bool_], first: int, problem: str) -> None:
    if wrong.any():
        _require(False, f"neuron {first + int(np.argwhere(wrong)[0][0])} {problem}")


def _check_by_token(connection: duckdb.DuckDBPyConnection, stamp: BuildStamp) -> None:
    """The second order holds the same rows, strictly sorted.

    Each of its rows names the place of a row in the first order, which must hold the same token. Strictly sorted rows
    differ, so their places do; and there are as many rows as places, as was checked before.
    """
    depth, places = stamp.depth, 2 * stamp.depth * stamp.neurons
    tokens = np.concatenate(
        [chunk["token_id"] for chunk in _chunks(connection, "neuron_token", _ROWS_AT_ONCE, "token_id")]
    )
    last = np.zeros((4, 0), np.int64)
    for rows in _chunks(connection, "token_neuron", _ROWS_AT_ONCE):
        _require(bool(np.isfinite(rows["z"]).all()), "a z is not finite")
        for start in range(0, len(rows["z"]), _CACHED_ROWS):
            token, sign, rank, neuron = (
                rows[name][start : start + _CACHED_ROWS].astype(np.int64)
                for name in ("token_id", "sign", "rank", "neuron_id")
            )
            place = (2 * neuron + (sign < 0)) * depth + rank - 1
            known = (place >= 0) & (place < places) & (rank >= 1) & (rank <= depth) & (np.abs(sign) == 1)
            same = bool(known.all()) and bool((tokens[place] == token).all())
            _require(same, "the rows by token are not the rows by neuron")
            table = np.concatenate([last, [token, -sign, rank, neuron]], axis=1)
            last = table[:, -1:]
            _require(_strictly_sorted(table), "the rows by token are not in order, or are there twice")


def _strictly_sorted(keys: NDArray[np.int64]) -> bool:
    """Whether the columns of `keys` rise, the first row counting most."""
    rises = np.zeros(keys.shape[1] - 1, dtype=bool)
    for key in keys[::-1]:
        step = np.diff(key)
        rises = (step > 0) | ((step == 0) & rises)
    return bool(rises.all())


def _check_neighbours(connection: duckdb.DuckDBPyConnection, stamp: BuildStamp, used: NDArray[np.bool_]) -> None:
    """No neighbours at all, or the same number for every token: ranked, in order, each another token and once."""
    ids = np.flatnonzero(used)
    total = _one(connection, "SELECT count(*) FROM token_neighbour")
    if total == 0:
        return
    each, rest = divmod(total, len(ids))
    _require(rest == 0, f"{total:,} neighbours are not the same number for each of {len(ids):,} tokens")
    first = 0
    for rows in _chunks(connection, "token_neighbour", max(1, _ROWS_AT_ONCE // each) * each):
        columns = {name: values.reshape(-1, each) for name, values in rows.items()}
        tokens = ids[first : first + len(columns["rank"]), None]
        ordered = (columns["token_id"] == tokens).all() and (columns["rank"] == np.arange(1, each + 1)).all()
        _require(bool(ordered), "the neighbours of a token are not ranked from 1, or not in order")
        near = columns["neighbour_id"]
        known = (near >= 0) & (near < stamp.vocabulary) & (near != tokens)
        _require(bool(known.all() and used[near].all()), "a neighbour is no other token of the vocabulary")
        _require(bool((np.diff(np.sort(near, axis=1), axis=1) != 0).all()), "a token has one neighbour twice")
        _require(bool((np.abs(columns["cosine"]) <= 1).all()), "a cosine is not between -1 and 1")
        first += len(tokens)
