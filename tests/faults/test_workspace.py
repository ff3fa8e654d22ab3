"""The workspace is harmed under a running server: people are told, the rest goes on, and nothing saved is lost."""

import resource
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from db.workspace.records import MAX_NOTE
from tests.catalogues import make_catalogue
from tests.faults.onlooker import Onlooker, looking
from tests.server_process import serving

NOTE = "It names languages."
FILES = ("", "-wal", "-shm")
_SHARED_MEMORY = 32_768
"""Bytes of the file through which SQLite's connections see each other."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace's file."""
    return tmp_path_factory.mktemp("workspace") / "atlas.sqlite"


@pytest.fixture(scope="module")
def onlooker(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Onlooker]:
    """One session, whose visitor has kept a note."""
    folder = tmp_path_factory.mktemp("served")
    make_catalogue(folder)
    environment = {"ATLAS_CATALOGUE": str(folder), "ATLAS_WORKSPACE": f"sqlite:///{file}"}
    with serving(folder / "log", **environment) as server, looking(server) as onlooker:
        onlooker.note(NOTE)
        yield onlooker


def is_well(onlooker: Onlooker, note: str = NOTE) -> None:
    """What was kept is shown, and the health check is content."""
    shown = onlooker.page()
    assert shown.notices == []
    assert note in shown.text.replace("\\", "")
    assert onlooker.part("workspace") == {"status": "ok"}


def is_impaired(onlooker: Onlooker, said: str) -> None:
    """Both pages that show what is kept say so, the health check and the log too, and what needs no workspace works."""
    for page, params in (("neuron", None), ("saved", {})):
        (notice,) = onlooker.page(page, params).notices
        assert said in notice
    assert onlooker.page("search", {"q": "Python"}).notices == []
    assert onlooker.api().status_code == 200
    health = onlooker.health()
    assert (health.status_code, health.json()["status"]) == (200, "impaired")
    assert health.json()["parts"]["workspace"]["status"] == "broken"
    assert said in onlooker.server.log.read_text("utf-8", "replace")
    assert health.json()["parts"]["catalogue"]["status"] == "ok"


@contextmanager
def away(file: Path) -> Iterator[None]:
    """Move the database away for a while."""
    folder = file.parent / "away"
    folder.mkdir()
    for end in FILES:
        part = file.with_name(file.name + end)
        if part.exists():
            part.rename(folder / part.name)
    try:
        yield
    finally:
        for end in FILES:
            file.with_name(file.name + end).unlink(missing_ok=True)
        for part in folder.iterdir():
            part.rename(file.parent / part.name)
        folder.rmdir()


def test_one_that_is_gone_is_missed_and_not_begun_anew(onlooker: Onlooker, file: Path) -> None:
    is_well(onlooker)
    with away(file):
        is_impaired(onlooker, "is not there")
        assert not file.exists()
    is_well(onlooker)


def test_one_that_cannot_be_read(onlooker: Onlooker, file: Path) -> None:
    is_well(onlooker)
    with away(file):
        file.write_bytes(b"no database at all, but long enough to be read as one" * 1000)
        is_impaired(onlooker, "not a database")
    is_well(onlooker)


def test_one_that_is_cut_short(onlooker: Onlooker, file: Path) -> None:
    is_well(onlooker)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    whole = shutil.copy2(file, file.with_suffix(".whole"))
    with file.open("r+b") as cut:
        cut.truncate(6000)
    try:
        is_impaired(onlooker, "malformed")
    finally:
        Path(whole).replace(file)
    is_well(onlooker)


def test_one_that_another_program_has_locked(onlooker: Onlooker, file: Path) -> None:
    is_well(onlooker)
    other = sqlite3.connect(file, isolation_level=None)
    try:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        is_impaired(onlooker, "by another process for too long")
    finally:
        other.close()
    is_well(onlooker)


@contextmanager
def full(onlooker: Onlooker, room: int) -> Iterator[None]:
    """No file of the server may grow beyond so many bytes for a while: its writes fail as on a full disk."""
    pid = onlooker.server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can bound the files of a process that runs")
def test_a_full_disk_keeps_what_was_saved(onlooker: Onlooker) -> None:
    is_well(onlooker)
    with full(onlooker, _SHARED_MEMORY + 4096):  # it can be read, and a short note may find room, but no long one
        shown = onlooker.note("x" * MAX_NOTE)
        (notice,) = shown.notices
        assert "The workspace" in notice
        assert "cannot be used just now" in notice
        assert NOTE in shown.text.replace("\\", "")
    is_well(onlooker)
    with full(onlooker, 4096):
        is_impaired(onlooker, "cannot be used just now")
    is_well(onlooker)
    assert onlooker.server.process.poll() is None
    onlooker.note("Once more.")
    is_well(onlooker, "Once more.")
    onlooker.note(NOTE)
    is_well(onlooker)
