"""The catalogue is harmed under a running server: each place says so in one sentence; once mended, all is well."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.ui.pages import ADD, PAGES
from db.catalogue.builds import CURRENT, prune, set_current
from tests.catalogues import ToyCatalogue, make_catalogue
from tests.faults.onlooker import Onlooker, looking
from tests.server_process import serving

Step = Callable[[ToyCatalogue, Path], object]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyCatalogue:
    """What the server serves; every test leaves it as it was."""
    return make_catalogue(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="module")
def kept(toy: ToyCatalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its build, elsewhere."""
    return Path(shutil.copy2(toy.path, tmp_path_factory.mktemp("kept")))


@pytest.fixture(scope="module")
def onlooker(toy: ToyCatalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Onlooker]:
    """One session through all that follows."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with (
        serving(log, ATLAS_CATALOGUE=str(toy.directory.parent), ATLAS_WORKSPACE="off") as server,
        looking(server) as onlooker,
    ):
        yield onlooker


@dataclass(frozen=True)
class Fault:
    """A harm, how it is mended, and a word of what must be said of it."""

    harm: Step
    mend: Step
    said: str


def _names(name: str) -> Step:
    return lambda toy, _: (toy.directory / CURRENT).write_text(name)


def _current(toy: ToyCatalogue, _kept: Path) -> None:
    set_current(toy.directory, toy.path)


def _put_back(toy: ToyCatalogue, kept: Path) -> None:
    """As a backup is put back: another file takes the name."""
    shutil.copy2(kept, toy.directory / "back")
    (toy.directory / "back").replace(toy.path)


def _written_back(toy: ToyCatalogue, kept: Path) -> None:
    """The same file, with its bytes again."""
    toy.path.write_bytes(kept.read_bytes())


def _cut(share: float) -> Step:
    return lambda toy, _: os.truncate(toy.path, int(toy.path.stat().st_size * share))


FAULTS = {
    "deleted": Fault(lambda toy, _: toy.path.unlink(), _put_back, "which is missing"),
    "moved away": Fault(
        lambda toy, _: toy.path.rename(toy.directory / "away"),
        lambda toy, _: (toy.directory / "away").rename(toy.path),
        "which is missing",
    ),
    "cut in half, put back": Fault(_cut(0.5), _put_back, "is cut short"),
    "cut in half, written back": Fault(_cut(0.5), _written_back, "is cut short"),
    "emptied": Fault(_cut(0), _put_back, "is not a readable catalogue"),
    "overwritten": Fault(
        lambda toy, _: toy.path.write_bytes(os.urandom(toy.path.stat().st_size)),
        _written_back,
        "is not a readable catalogue",
    ),
    "CURRENT names nothing": Fault(_names("build-absent.duckdb"), _current, "which is missing"),
    "CURRENT leads out": Fault(_names("../outside.duckdb"), _current, "which is no build of this folder"),
    "CURRENT leads to the root": Fault(_names("/outside.duckdb"), _current, "which is no build of this folder"),
    "CURRENT is empty": Fault(_names(""), _current, "which is no build of this folder"),
    "CURRENT is noise": Fault(
        lambda toy, _: (toy.directory / CURRENT).write_bytes(os.urandom(4096)), _current, "no build of this folder"
    ),
    "CURRENT is gone": Fault(lambda toy, _: (toy.directory / CURRENT).unlink(), _current, "No catalogue in"),
    "the folder is gone": Fault(
        lambda toy, _: toy.directory.rename(toy.directory.parent.parent / "away"),
        lambda toy, _: (toy.directory.parent.parent / "away").rename(toy.directory),
        "No catalogue in",
    ),
}


def is_well(onlooker: Onlooker, build_id: str = "one") -> None:
    """Page, API and health check answer, from this build."""
    shown = onlooker.page()
    assert shown.notices == []
    assert f"catalogue {build_id}" in shown.text
    answer = onlooker.api()
    assert (answer.status_code, answer.headers["build-id"]) == (200, build_id)
    health = onlooker.health()
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert health.json()["parts"]["catalogue"]["build_id"] == build_id


@pytest.mark.parametrize("name", FAULTS)
def test_a_harmed_catalogue_is_told_of_and_comes_back(
    name: str, toy: ToyCatalogue, kept: Path, onlooker: Onlooker
) -> None:
    fault = FAULTS[name]
    shutil.copy2(kept, toy.directory.parent / "outside.duckdb")  # a whole one, which must not be followed
    is_well(onlooker)
    fault.harm(toy, kept)
    try:
        (notice,) = onlooker.page().notices
        answer, health = onlooker.api(), onlooker.health()
    finally:
        fault.mend(toy, kept)
    assert fault.said in notice
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert fault.said in answer.json()["detail"]
    assert (health.status_code, health.json()["status"]) == (503, "broken")
    assert fault.said in health.json()["parts"]["catalogue"]["problem"]
    assert str(toy.directory.parent) not in answer.text + health.text
    is_well(onlooker)


@pytest.mark.parametrize("page", [page for page in PAGES if page != ADD])  # a model is added where there is none
def test_every_page_says_it_once(page: str, toy: ToyCatalogue, kept: Path, onlooker: Onlooker) -> None:
    toy.path.unlink()
    try:
        (notice,) = onlooker.page("" if page == "start" else page, {}).notices
    finally:
        _put_back(toy, kept)
    assert "which is missing" in notice
    is_well(onlooker)


def test_another_build_is_shown_at_the_next_click(toy: ToyCatalogue, onlooker: Onlooker) -> None:
    is_well(onlooker)
    second = make_catalogue(toy.directory.parent, build_id="two", seed=1)
    try:
        is_well(onlooker, "two")
        assert prune(second.directory) == [toy.path]
        is_well(onlooker, "two")
        with pytest.raises(FileNotFoundError):
            toy.path.stat()
    finally:
        shutil.rmtree(toy.shards[0].parent, ignore_errors=True)
        make_catalogue(toy.directory.parent)
        second.path.unlink()
    is_well(onlooker)
