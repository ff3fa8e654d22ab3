"""Both orders of the pairs, sorted in memory, are those of a plain sort of the rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from db.catalogue import publish
from db.catalogue.check import content_hash
from tests.catalogues import make_catalogue

NEURONS, DEPTH, VOCABULARY = 60, 7, 90


def rows(seed: int = 0, lowest_token: int = 0) -> pa.Table:
    """Rows in the order by neuron."""
    random = np.random.default_rng(seed)
    shape = (NEURONS, 2, DEPTH)
    tokens = random.permuted(np.tile(np.arange(VOCABULARY), (NEURONS * 2, 1)), axis=1)[:, :DEPTH] + lowest_token
    columns: dict[str, Any] = {
        "neuron_id": np.broadcast_to(np.arange(NEURONS)[:, None, None], shape).astype(np.int32),
        "sign": np.broadcast_to(np.array([1, -1])[None, :, None], shape).astype(np.int16),
        "rank": np.broadcast_to(np.arange(1, DEPTH + 1), shape).astype(np.int16),
        "token_id": tokens.astype(np.int32),
        "logit": random.normal(size=shape).astype(np.float32),
    }
    return pa.table({name: pa.array(column.ravel()) for name, column in columns.items()})


def statistics() -> pa.Table:
    random = np.random.default_rng(9)
    order = random.permutation(NEURONS)
    std = random.uniform(0.5, 2, NEURONS).astype(np.float32)
    std[order == 3] = 0
    mean = random.normal(size=NEURONS).astype(np.float32)
    return pa.table({"neuron_id": order.astype(np.int32), "mean": mean, "std": std})


def test_rows_in_order_are_handed_back():
    table = rows()
    assert publish.by_neuron(table) is table


@pytest.mark.parametrize("at_once", [1, 50, 1 << 17])
def test_rows_in_any_order_are_sorted_by_neuron(at_once, monkeypatch):
    monkeypatch.setattr(publish, "_AT_ONCE", at_once)
    table = rows()
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    assert publish.by_neuron(shuffled).equals(table)
    assert publish.by_neuron(pa.concat_tables([table.slice(100), table.slice(0, 100)])).equals(table)


@pytest.mark.parametrize("lowest_token", [0, -1, 2**31 - VOCABULARY])
@pytest.mark.parametrize("piece", [50, 1_500_000])
def test_the_order_by_token(lowest_token, piece, monkeypatch):
    monkeypatch.setattr(publish, "_PIECE_ROWS", piece)
    monkeypatch.setattr(publish, "_ROUND_ROWS", 10)
    table = rows(lowest_token=lowest_token)
    found = publish.by_token(table, statistics())
    figures = {one["neuron_id"]: one for one in statistics().to_pylist()}
    expected = []
    for row in table.to_pylist():
        own = figures[row["neuron_id"]]
        row["z"] = (row.pop("logit") - own["mean"]) / own["std"] if own["std"] else 0.0
        expected.append(row)
    expected.sort(key=lambda row: (row["token_id"], -row["sign"], row["rank"], row["neuron_id"]))
    for name in ("token_id", "sign", "rank", "neuron_id"):
        assert found[name].to_pylist() == [row[name] for row in expected]
    np.testing.assert_allclose(found["z"].to_numpy(), [row["z"] for row in expected], rtol=1e-5, atol=1e-6)
    assert found["z"].type == pa.float32()


def test_numbers_too_long_for_64_bits_are_sorted_all_the_same(monkeypatch):
    table = rows()
    wanted = publish.by_token(table, statistics())
    far = table.set_column(2, "rank", pa.array(table["rank"].to_numpy().astype(np.int64) << 40))
    found = publish.by_token(far, statistics())
    assert found["token_id"].equals(wanted["token_id"])
    assert found["neuron_id"].equals(wanted["neuron_id"])


def test_no_rows_and_neurons_that_nobody_knows():
    table = rows()
    assert len(publish.by_token(table.slice(0, 0), statistics())) == 0
    z = publish.by_token(table, statistics().filter(pa.compute.field("neuron_id") < NEURONS - 1))
    unknown = z.filter(pa.compute.field("neuron_id") == NEURONS - 1)
    assert len(unknown) == 2 * DEPTH
    assert set(unknown["z"].to_pylist()) == {0.0}


def test_pieces_are_about_alike_and_whole_row_groups():
    sizes = [len(batch) for batch in publish.in_pieces(pa.table({"x": np.zeros(6_336_000, np.int8)})).to_batches()]
    assert sum(sizes) == 6_336_000
    assert len(sizes) == 4
    assert all(size % 24_576 == 0 for size in sizes[:-1])
    assert max(sizes) - min(sizes) < 8 * 24_576


def test_what_does_not_fit_into_memory_is_sorted_on_disk_to_the_same(tmp_path, monkeypatch):
    small = make_catalogue(tmp_path / "memory")
    with monkeypatch.context() as patched:
        patched.setattr(publish, "BYTES_A_ROW", 10**9)
        patched.setattr(publish, "by_token", None)
        large = make_catalogue(tmp_path / "disk")
    assert content_hash(large.path) == content_hash(small.path)
