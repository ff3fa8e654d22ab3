"""What a published file says twice must agree: the order by token is checked against the order by neuron."""

import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest

from db.catalogue import check
from db.catalogue.check import check_build
from db.errors import AtlasError
from tests.catalogues import ToyCatalogue

OTHER = "the rows by token are not the rows by neuron"
DISORDER = "not in order, or are there twice"


def anew(order: str) -> list[str]:
    """Store the rows by token in another order."""
    return [
        f"CREATE TABLE moved AS SELECT * FROM token_neuron ORDER BY {order}",
        "DELETE FROM token_neuron",
        "INSERT INTO token_neuron SELECT * FROM moved",
        "DROP TABLE moved",
    ]


STORED = "token_id, sign DESC, rank, neuron_id"
# The first row overwrites the second, which stands beside it.
TWICE = f"""
    CREATE OR REPLACE TABLE two AS SELECT *, row_number() OVER (ORDER BY {STORED}) AS place FROM token_neuron;
    UPDATE two SET neuron_id = f.neuron_id, sign = f.sign, rank = f.rank, token_id = f.token_id, z = f.z
        FROM (SELECT * FROM two WHERE place = 1) f WHERE two.place = 2;
    DELETE FROM token_neuron;
    INSERT INTO token_neuron SELECT * EXCLUDE place FROM two ORDER BY two.place;
    DROP TABLE two
"""
CHANGES: dict[str, tuple[list[str], str]] = {
    "by neuron": (anew("neuron_id, sign DESC, rank"), DISORDER),
    "suppressed first": (anew("token_id, sign, rank, neuron_id"), DISORDER),
    "neurons backwards": (anew("token_id, sign DESC, rank, neuron_id DESC"), DISORDER),
    "one twice": (TWICE.split(";"), DISORDER),
    "another token": (["UPDATE token_neuron SET token_id = 39 - token_id", *anew(STORED)], OTHER),
    "another sign": (["UPDATE token_neuron SET sign = -sign", *anew(STORED)], OTHER),
    "no sign": (["UPDATE token_neuron SET sign = 0 WHERE neuron_id = 3 AND rank = 1"], OTHER),
    "a rank too high": (["UPDATE token_neuron SET rank = rank + 1", *anew(STORED)], OTHER),
    "a rank of zero": (["UPDATE token_neuron SET rank = 0 WHERE neuron_id = 3 AND rank = 1"], OTHER),
    "a foreign neuron": (["UPDATE token_neuron SET neuron_id = 1000 WHERE neuron_id = 38"], OTHER),
    "a negative neuron": (["UPDATE token_neuron SET neuron_id = -1 WHERE neuron_id = 0"], OTHER),
    "no z": (["UPDATE token_neuron SET z = 'nan' WHERE neuron_id = 3"], "a z is not finite"),
}


@pytest.mark.parametrize("at_once", [7, 10**6])
@pytest.mark.parametrize("what", CHANGES)
def test_an_order_by_token_that_does_not_fit_is_refused(what, at_once, toy: ToyCatalogue, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(check, "_CACHED_ROWS", max(1, at_once // 2))
    statements, problem = CHANGES[what]
    path = Path(shutil.copy(toy.path, tmp_path / "build-changed.duckdb"))
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            if statement.strip():
                connection.execute(statement)
        connection.execute("CHECKPOINT")
    with pytest.raises(AtlasError, match=problem):
        check_build(path, toy.stamp)


@pytest.mark.parametrize("at_once", [1, 7, 390, 10**6])
def test_a_good_build_passes_in_pieces_of_any_size(at_once, toy: ToyCatalogue, monkeypatch):
    monkeypatch.setattr(check, "_ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(check, "_CACHED_ROWS", at_once)
    check_build(toy.path, toy.stamp)


def test_strictly_sorted():
    keys = np.array([[1, 1, 2], [5, 5, 0], [0, 1, 0]])
    assert check._strictly_sorted(keys)
    assert check._strictly_sorted(keys[:, :1])
    assert not check._strictly_sorted(keys[:, [0, 0]])
    assert not check._strictly_sorted(keys[:, ::-1])
