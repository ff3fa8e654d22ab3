import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import db.catalogue.publish
from db.catalogue.builds import builds, current_build, exclusive, prune
from db.catalogue.check import content_hash
from db.catalogue.publish import publish
from db.catalogue.reader import read_only_connection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.records import BuildStamp
from tests.catalogues import ToyCatalogue, make_catalogue, neighbour_table, token_table


def test_publish_leaves_one_file_and_current(root: Path) -> None:
    toy = make_catalogue(root)
    assert toy.path.name == "build-one.duckdb"
    assert sorted(path.name for path in toy.directory.iterdir()) == ["CURRENT", "build-one.duckdb"]
    assert current_build(toy.directory) == toy.path
    with Catalogue.open(toy.path) as catalogue:
        assert catalogue.info == toy.stamp


def test_content_is_reproducible_whatever_the_order_of_shards(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    stamp = replace(toy.stamp, build_id="two", created_at="2025-01-01T00:00:00Z")
    shuffled = tmp_path / "shuffled"
    shutil.copytree(toy.shards[0], shuffled)
    pairs = pq.read_table(shuffled / "tokens.parquet")
    order = np.random.default_rng(1).permutation(len(pairs))
    pq.write_table(pairs.take(pa.array(order)), shuffled / "tokens.parquet")
    again = publish(
        toy.directory, stamp, token_table(), [*toy.shards[:0:-1], shuffled], neighbour_table(toy.logits, 12)
    )
    assert content_hash(again) == content_hash(toy.path)
    other = make_catalogue(tmp_path / "other", seed=1)
    assert content_hash(other.path) != content_hash(toy.path)


def test_stored_order_is_the_declared_one(toy: ToyCatalogue) -> None:
    with read_only_connection(toy.path) as connection:
        for table, order in (
            ("neuron_token", "neuron_id, sign DESC, rank"),
            ("token_neuron", "token_id, sign DESC, rank, neuron_id"),
        ):
            stored = connection.execute(f"SELECT * FROM {table}").fetchall()
            assert stored == connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
        types = connection.execute("SELECT DISTINCT data_type FROM duckdb_columns() WHERE column_name = 'logit'")
        assert types.fetchall() == [("FLOAT",)]


def test_an_open_catalogue_outlives_its_successor(tmp_path: Path) -> None:
    first = make_catalogue(tmp_path)
    with Catalogue.open(current_build(first.directory)) as old:
        before = old.search_token([1])
        second = make_catalogue(tmp_path, build_id="two", seed=1)
        assert current_build(first.directory) == second.path
        with Catalogue.open(current_build(first.directory)) as new:
            assert new.info.build_id == "two"
            assert new.search_token([1]) != before
        assert old.search_token([1]) == before
        assert prune(first.directory) == [first.path]
        assert old.search_token([2])
    assert [build.path for build in builds(first.directory)] == [second.path]


Change = Callable[[np.ndarray], np.ndarray]


def _at(position: int, value: float) -> Change:
    def change(values: np.ndarray) -> np.ndarray:
        values[position] = value
        return values

    return change


def _swap(values: np.ndarray) -> np.ndarray:
    values[[0, 1]] = values[[1, 0]]
    return values


def _change(shard: Path, file: str, column: str, change: Change) -> None:
    table = pq.read_table(shard / file)
    place = table.column_names.index(column)
    values = change(table[column].to_numpy().copy())
    pq.write_table(table.set_column(place, column, pa.array(values, table[column].type)), shard / file)


BAD_PAIRS: dict[str, tuple[str, Change, str]] = {
    "rank twice": ("rank", _at(1, 1), "lacks a rank"),
    "rank zero": ("rank", _at(0, 0), "lacks a rank"),
    "unknown sign": ("sign", _at(0, 0), "lacks a rank"),
    "foreign neuron": ("neuron_id", _at(0, 999), "lacks a rank"),
    "token twice": ("token_id", lambda values: _at(1, values[0])(values), "one token twice"),
    "token beyond the vocabulary": ("token_id", _at(0, 40), "outside 0–39"),
    "negative token": ("token_id", _at(0, -1), "outside 0–39"),
    "logits out of order": ("logit", _swap, "do not fall"),
    "infinite logit": ("logit", _at(0, np.inf), "not finite"),
    "logit not a number": ("logit", _at(3, np.nan), "not finite"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pairs_are_refused(tmp_path: Path, name: str) -> None:
    column, change, problem = BAD_PAIRS[name]
    _refused(tmp_path, lambda shard: _change(shard, "tokens.parquet", column, change), problem)


BAD_NEURONS: dict[str, tuple[str, Change, str]] = {
    "id twice": ("neuron_id", _at(1, 0), "neuron ids"),
    "index twice": ("index", _at(1, 0), "are not where"),
    "layer beyond the model": ("layer", _at(0, 3), "layers"),
    "wrong kind": ("kind", _at(0, 1), "kind = 0 has 20 rows, not 21"),
    "negative deviation": ("std", _at(0, -1), "negative"),
    "norm not a number": ("norm", _at(0, np.nan), "not finite"),
}


@pytest.mark.parametrize("name", BAD_NEURONS)
def test_bad_neurons_are_refused(tmp_path: Path, name: str) -> None:
    column, change, problem = BAD_NEURONS[name]
    _refused(tmp_path, lambda shard: _change(shard, "neurons.parquet", column, change), problem)


def _truncate(shard: Path) -> None:
    path = shard / "tokens.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def _drop_rows(shard: Path) -> None:
    path = shard / "tokens.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def _drop_column(shard: Path) -> None:
    path = shard / "tokens.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["logit"]), path)


def _add_null(shard: Path) -> None:
    path = shard / "neurons.parquet"
    table = pq.read_table(path)
    means = pa.array([None] + [0.0] * (len(table) - 1), pa.float32())
    pq.write_table(table.set_column(table.column_names.index("mean"), "mean", means), path)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_truncate, "cannot be read"),
        (lambda shard: (shard / "neurons.parquet").unlink(), "cannot be read"),
        (_drop_rows, "has 389 rows, not 390"),
        (_drop_column, "columns are missing: logit"),
        (_add_null, "NOT NULL"),
    ],
    ids=["truncated", "missing", "row lost", "column lost", "null"],
)
def test_damaged_shards_are_refused(tmp_path: Path, spoil: Callable[[Path], object], problem: str) -> None:
    _refused(tmp_path, spoil, problem)


def _refused(tmp_path: Path, spoil: Callable[[Path], object], problem: str) -> None:
    """Publishing spoilt shards raises, and leaves the folder as it was."""
    toy = make_catalogue(tmp_path)
    before = _folder(toy.directory)
    spoil(toy.shards[0])
    with pytest.raises(AtlasError, match=problem):
        publish(toy.directory, replace(toy.stamp, build_id="two"), token_table(), toy.shards)
    assert _folder(toy.directory) == before


def _folder(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _stamps(stamp: BuildStamp) -> list[tuple[BuildStamp, str]]:
    return [
        (replace(stamp, build_id="../evil"), "cannot be a build's id"),
        (replace(stamp, build_id="two", depth=4), "rows, not"),
        (replace(stamp, build_id="two", vocabulary=41), "token has 40 rows, not 41"),
        (replace(stamp, build_id="two", layers=4), "not in all 4"),
        (replace(stamp, build_id="two", schema_version=99), "schema version 99"),
    ]


def test_a_stamp_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    before = _folder(toy.directory)
    for stamp, problem in _stamps(toy.stamp):
        with pytest.raises(AtlasError, match=problem):
            publish(toy.directory, stamp, token_table(), toy.shards)
        assert _folder(toy.directory) == before


def test_missing_layer_is_refused(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    with pytest.raises(AtlasError, match="neuron has 26 rows, not 39"):
        publish(toy.directory, replace(toy.stamp, build_id="two"), token_table(), toy.shards[1:])


def test_a_build_is_never_changed(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    before = toy.path.stat()
    with Catalogue.open(toy.path):  # as a running app has it
        same = neighbour_table(toy.logits, 12)
        assert publish(toy.directory, toy.stamp, token_table(), toy.shards, same) == toy.path
    assert toy.path.stat().st_ino == before.st_ino
    other = make_catalogue(tmp_path / "elsewhere", seed=1)
    with pytest.raises(AtlasError, match="exists with other content"):
        publish(toy.directory, toy.stamp, token_table(), other.shards)
    assert toy.path.stat().st_mtime_ns == before.st_mtime_ns


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _no_space_in_duckdb(path: Path, *_: object) -> None:
    path.write_bytes(b"half")
    raise duckdb.IOException('Could not write file "x": No space left on device')


@pytest.mark.parametrize(("step", "fault"), [("load", _no_space_in_duckdb), ("sync", _no_space)])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: Callable[..., None]) -> None:
    toy = make_catalogue(tmp_path)
    before = _folder(toy.directory)
    monkeypatch.setattr(db.catalogue.publish, step, fault)
    with pytest.raises(AtlasError, match=r"disk is full.*needs about \d+ MB.*[\d,]+ MB were free.*Make room"):
        publish(toy.directory, replace(toy.stamp, build_id="two"), token_table(), toy.shards)
    assert _folder(toy.directory) == before


def test_too_little_space_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_catalogue(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1))
    monkeypatch.setattr(db.catalogue.publish, "load", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(AtlasError, match="disk is full"):
        publish(toy.directory, replace(toy.stamp, build_id="two"), token_table(), toy.shards)


def test_leftovers_of_a_killed_publisher_go(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    (toy.directory / ".publishing.duckdb").write_bytes(b"half a file")
    (toy.directory / ".publishing.duckdb.wal").write_bytes(b"half a log")
    publish(toy.directory, replace(toy.stamp, build_id="two"), token_table(), toy.shards)
    assert sorted(path.name for path in toy.directory.iterdir()) == [
        "CURRENT",
        "build-one.duckdb",
        "build-two.duckdb",
    ]


def test_question_mark_in_the_path(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="without a question mark"):
        make_catalogue(tmp_path / "what?")


def test_one_publisher_at_a_time(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    with exclusive(toy.directory), pytest.raises(AtlasError, match="Another process is publishing"):
        publish(toy.directory, replace(toy.stamp, build_id="two"), token_table(), toy.shards)


def test_builds_and_prune(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two", "three", "four")):
        toy = make_catalogue(tmp_path, build_id=name, seed=number)
    (toy.directory / "CURRENT").write_text("build-two.duckdb\n")
    (toy.directory / "build-broken.duckdb").write_bytes(b"not a database")
    listed = builds(toy.directory)
    assert [build.path.stem for build in listed] == [
        f"build-{name}" for name in ("four", "three", "two", "one", "broken")
    ]
    assert [build.current for build in listed] == [False, False, True, False, False]
    assert listed[-1].stamp is None
    assert "not a readable catalogue" in str(listed[-1].problem)
    with pytest.raises(AtlasError, match="1 or more"):
        prune(toy.directory, keep=0)
    removed = prune(toy.directory, keep=2)
    assert sorted(path.stem for path in removed) == ["build-broken", "build-one", "build-three"]
    prune(toy.directory)
    assert [build.path.name for build in builds(toy.directory)] == ["build-two.duckdb"]


def _with(column: str, change: Change) -> Callable[[pa.Table], pa.Table]:
    def spoilt(table: pa.Table) -> pa.Table:
        values = change(table[column].to_numpy().copy())
        return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))

    return spoilt


BAD_NEIGHBOURS: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "row lost": (lambda table: table.slice(1), "not the same number for each"),
    "column lost": (lambda table: table.drop_columns(["cosine"]), "columns are missing: cosine"),
    "rank twice": (_with("rank", _at(1, 1)), "not ranked from 1"),
    "foreign token": (_with("token_id", _at(0, 39)), "not ranked from 1"),
    "itself": (_with("neighbour_id", _at(0, 0)), "no other token"),
    "beyond the vocabulary": (_with("neighbour_id", _at(0, 40)), "no other token"),
    "one twice": (_with("neighbour_id", lambda values: _at(1, values[0])(values)), "one neighbour twice"),
    "no cosine": (_with("cosine", _at(0, 1.5)), "not between"),
    "not a number": (_with("cosine", _at(0, np.nan)), "not between"),
}


@pytest.mark.parametrize("name", BAD_NEIGHBOURS)
def test_bad_neighbours_are_refused(tmp_path: Path, name: str) -> None:
    toy = make_catalogue(tmp_path)
    spoil, problem = BAD_NEIGHBOURS[name]
    before = _folder(toy.directory)
    spoilt = spoil(neighbour_table(toy.logits, 12))
    with pytest.raises(AtlasError, match=problem):
        publish(toy.directory, replace(toy.stamp, build_id="two"), token_table(), toy.shards, spoilt)
    assert _folder(toy.directory) == before


def test_derived_figures(toy: ToyCatalogue) -> None:
    z = (toy.logits - toy.logits.mean(1, keepdims=True)) / toy.logits.std(1, keepdims=True)
    with read_only_connection(toy.path) as connection:
        stored = connection.execute("SELECT top_z, bottom_z FROM neuron ORDER BY neuron_id").fetchnumpy()
        pairs = connection.execute("SELECT neuron_id, token_id, z FROM token_neuron").fetchnumpy()
    np.testing.assert_allclose(stored["top_z"], z.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(stored["bottom_z"], z.min(axis=1), atol=1e-5)
    np.testing.assert_allclose(pairs["z"], z[pairs["neuron_id"], pairs["token_id"]], atol=1e-5)
