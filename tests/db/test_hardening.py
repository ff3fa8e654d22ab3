"""What a catalogue lets a query do: read its own tables, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.__main__ import main
from db.catalogue.reader import checkpoint_of, unreadable
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from tests.catalogues import ToyCatalogue, make_catalogue

FORBIDDEN = [
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM '/etc/passwd'",
    "COPY token TO 'out.csv'",
    "ATTACH 'other.duckdb'",
    "EXPORT DATABASE 'out'",
    "DELETE FROM token",
    "INSERT INTO token SELECT * FROM token",
    "CREATE TABLE mine (x INTEGER)",
    "DROP TABLE build",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "SET lock_configuration = false",
    "SELECT * FROM local_frame",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_forbidden(toy: ToyCatalogue, catalogue: Catalogue, statement: str, tmp_path: Path) -> None:
    import pandas as pd

    local_frame = pd.DataFrame({"secret": [1]})
    before = toy.path.read_bytes()
    with catalogue._engine.connect() as connection, pytest.raises(DBAPIError):
        connection.execute(text(statement))
    assert toy.path.read_bytes() == before
    assert len(local_frame) == 1


def test_two_statements_on_two_connections(catalogue: Catalogue) -> None:
    with catalogue._engine.connect() as first, catalogue._engine.connect() as second:
        rows = first.execute(text("SELECT token_id FROM token ORDER BY token_id"))
        assert second.execute(text("SELECT count(*) FROM neuron")).scalar_one() == 39
        assert len(rows.all()) == 40


def test_paths_with_special_characters(root: Path) -> None:
    with Catalogue.open(make_catalogue(root).path) as catalogue:
        assert catalogue.search_token([1])


HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"


def test_who_holds_a_locked_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = make_catalogue(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(toy.path)], **pipes) as holder:  # type: ignore[call-overload]
        holder.stdout.readline()
        for ask in (Catalogue.open, checkpoint_of):
            with pytest.raises(AtlasError) as refusal:
                ask(toy.path)
            assert f"{toy.path} is locked: process {holder.pid} (python" in str(refusal.value)
            assert "uild it again" not in str(refusal.value)
        assert main(["builds", "--catalogue", str(tmp_path)]) == 0
        assert "locked" in capsys.readouterr().out
        holder.stdin.close()
    Catalogue.open(toy.path).close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Could not set lock on file: Conflicting lock is held in /x y/duckdb (PID 7) by user me.",
            "process 7 (duckdb)",
        ),
        ("Could not set lock on file: Conflicting lock is held", "another process has it open"),
        ('Cannot open file "x": Permission denied', "may not be read by this user"),
        ("anything else", "Build it again."),
    ],
)
def test_why_a_file_cannot_be_read(said: str, told: str) -> None:
    assert told in str(unreadable(Path("x"), said, "Build it again."))


@pytest.mark.parametrize("kept", [0, 1000, 4096, 12288, 300_000, -300_000, -1])
def test_truncated(toy: ToyCatalogue, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.duckdb"
    path.write_bytes(toy.path.read_bytes()[:kept])
    with pytest.raises(AtlasError, match=r"cut\.duckdb is (not a readable catalogue|cut short).*indexer build"):
        Catalogue.open(path)


def test_damaged_in_the_middle(toy: ToyCatalogue, tmp_path: Path) -> None:
    path = tmp_path / "damaged.duckdb"
    data = bytearray(toy.path.read_bytes())
    for place in range(12_288 + 100, len(data), 4096):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(AtlasError, match=r"damaged\.duckdb.*indexer build"), Catalogue.open(path) as catalogue:
        catalogue.search_token(range(40))


def test_foreign_files(tmp_path: Path) -> None:
    text_file = tmp_path / "notes.duckdb"
    text_file.write_text("not a database " * 1000)
    database = tmp_path / "foreign.duckdb"
    duckdb.connect(str(database)).execute("CREATE TABLE cats (name TEXT)").close()
    for path, problem in (
        (text_file, "not a readable catalogue"),
        (database, "not a catalogue of neurons"),
        (tmp_path, "not a file"),
        (tmp_path / "absent.duckdb", "not a file"),
    ):
        with pytest.raises(AtlasError, match=rf"{path.name}.* {problem}.*indexer build"):
            Catalogue.open(path)
    assert not (tmp_path / "absent.duckdb").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE build SET schema_version = 0", "schema version 0, but this program reads version 2"),
        ("DELETE FROM build", "schema version unknown"),
        ("DROP TABLE token_neuron", "not a catalogue of neurons"),
        ("ALTER TABLE neuron DROP COLUMN norm", "not a catalogue of neurons"),
    ],
)
def test_another_schema(toy: ToyCatalogue, tmp_path: Path, change: str, problem: str) -> None:
    path = tmp_path / "old.duckdb"
    shutil.copy(toy.path, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute(change)
    with pytest.raises(AtlasError, match=rf"old\.duckdb .*{problem}.*indexer build"):
        Catalogue.open(path)
