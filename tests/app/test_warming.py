"""What the first page would wait for is done before."""

import sys

import pytest

from app.navigation import PAGES
from app.serving import warming
from app.serving.memory import keep_little
from db.errors import AtlasError


def test_pages_and_catalogue_are_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(warming, "catalogue", lambda: opened.append(True))
    warming.warm_up().join(60)
    assert opened == [True]
    assert all(f"app.views.{page}" in sys.modules for page in PAGES)


def test_without_a_catalogue_the_pages_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise AtlasError("There is no catalogue.")

    monkeypatch.setattr(warming, "catalogue", missing)
    warming.warm_up().join(60)
    assert not caplog.records


def test_a_fault_is_written_down_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warming, "catalogue", lambda: 1 / 0)
    warming.warm_up().join(60)
    assert "warming up failed" in caplog.text


def test_little_memory_is_kept_wherever_that_can_be_said() -> None:
    keep_little()  # what it changes cannot be asked; it must do no harm
