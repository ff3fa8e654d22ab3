"""What the first page would wait for is done before."""

import os
import subprocess
import sys
from threading import Event, Thread
from types import SimpleNamespace

import pytest

from app.serving import logs, startup
from app.ui.pages import PAGES
from db.errors import AtlasError

MODULES = [page.module for page in PAGES.values()]


def test_pages_and_catalogue_are_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(startup, "catalogue", lambda: opened.append(True))
    startup.warm_up(MODULES).join(60)
    assert opened == [True]
    assert all(module in sys.modules for module in MODULES)


def test_without_a_catalogue_the_pages_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise AtlasError("There is no catalogue.")

    monkeypatch.setattr(startup, "catalogue", missing)
    startup.warm_up(MODULES).join(60)
    assert not caplog.records


def test_a_fault_is_written_down_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(startup, "catalogue", lambda: 1 / 0)
    startup.warm_up(MODULES).join(60)
    assert "warming up failed" in caplog.text


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was loaded, of a catalogue whose model is here, as soon as it is quiet."""
    found: list[object] = []
    monkeypatch.setattr(startup, "_FOR_MODEL", ())
    monkeypatch.setattr(startup, "_QUIET_SECONDS", 0.1)
    monkeypatch.setattr(startup, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(startup, "catalogue", lambda: "toy")
    monkeypatch.setattr(startup, "is_here", lambda _atlas: True)
    monkeypatch.setattr(startup, "model_of", found.append)
    return found


def warmed() -> Thread:
    thread = Thread(target=lambda: None)
    thread.start()
    return thread


def test_the_model_is_loaded_while_no_page_is_drawn(loaded: list[object]) -> None:
    usual = sys.getswitchinterval()
    with logs.page_view("search"):
        thread = startup.preload(warmed(), Event())
        thread.join(0.5)
        assert thread.is_alive()
        assert loaded == []
    thread.join(60)
    assert loaded == ["toy"]
    assert sys.getswitchinterval() == usual


def test_a_server_that_ends_loads_nothing_more(loaded: list[object]) -> None:
    stop = Event()
    stop.set()
    startup.preload(warmed(), stop).join(60)
    assert loaded == []


@pytest.mark.parametrize("name", ["catalogue", "is_here", "model_of"])
def test_what_cannot_be_loaded_early_is_told_to_whoever_asks(
    loaded: list[object], name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_given: object) -> bool:
        if name == "is_here":
            return False
        raise AtlasError("The weights are not here.")

    monkeypatch.setattr(startup, name, missing)
    startup.preload(warmed(), Event()).join(60)
    assert loaded == []
    assert not caplog.records


def test_a_fault_in_loading_early_is_written_down(
    loaded: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(startup, "model_of", lambda _atlas: 1 / 0)
    startup.preload(warmed(), Event()).join(60)
    assert "could not be loaded early" in caplog.text


def test_the_library_is_told_to_keep_little(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, int] = {}
    monkeypatch.setattr(startup, "ctypes", SimpleNamespace(CDLL=lambda _: SimpleNamespace(mallopt=told.__setitem__)))
    startup.keep_little()
    assert sorted(told) == [-8, -3, -1]  # GNU's numbers: arenas, blocks mapped alone, what is trimmed


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for = []

    def library(name: str | None) -> object:
        looked_for.append(name)
        return object()

    monkeypatch.setattr(startup, "ctypes", SimpleNamespace(CDLL=library))
    startup.keep_little()
    assert looked_for == [None]


@pytest.mark.parametrize("given", [None, "active"])
def test_torchs_threads_sleep_while_they_wait_unless_told_otherwise(given: str | None) -> None:
    """The library reads that when torch is imported, so the server must not have done so yet."""
    asked = "import os, sys, app.server; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = own | ({} if given is None else {"OMP_WAIT_POLICY": given})
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"False {given or 'passive'}"
