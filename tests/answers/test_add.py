"""A model is added: the indexer's own figures and words, one at a time, stopped and gone on with."""

import sys
import time
from collections.abc import Callable

import pytest

from app.answers import add
from app.answers.add import Doing, Expected, Indexing, Known
from app.serving import access, resources
from app.serving.settings import configuration
from app.serving.worker import RefusedError
from db.catalogue.builds import current_build
from db.catalogue.check import content_hash
from db.errors import AtlasError
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.estimate import estimate
from tests import models

PATIENCE = 90.0
ONE_LAYER = """
import sys, threading
from indexer import __main__, shards
write = shards.Shards.write
def first_only(self, name, tables):
    first = name == "layer-0000"
    if name.startswith("layer"):
        threading.Event().wait(0.5 if first else None)  # longer than the bar takes to be drawn anew
    write(self, name, tables)
shards.Shards.write = first_only
sys.exit(__main__.main())
"""
"""An indexer that comes to a stand when the first layer is on the disk."""
NOT_THE_FIRST = ONE_LAYER.replace("threading.Event().wait(0.5 if first else None)", "1 / (not first)")
"""An indexer that fails where it makes the first layer anew."""
EXPECTED = Expected("llama", 240, 24_000, 30.0, 5.0, 40.0, 1e9, 1e6, 2e6, [])


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders of the models and of the catalogues."""
    models.save("llama", tmp_path / "models" / "mine")
    for name in ("models", "catalogue"):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv(f"ATLAS_{name.upper()}", str(tmp_path / name))
    configuration.cache_clear()
    yield tmp_path / "models", tmp_path / "catalogue"
    configuration.cache_clear()


@pytest.fixture
def indexing():
    found = Indexing()
    yield found
    found.stop()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def ended(indexing: Indexing, source: str) -> Known:
    wait_for(lambda: indexing.progress() is None)
    return indexing.known(source)


@pytest.mark.slow
def test_estimated_built_cancelled_and_gone_on_with(folders, indexing, monkeypatch, tmp_path):
    root, source = folders[1], str(folders[0] / "mine")
    indexing.begin(Doing.ESTIMATE, source)
    found = ended(indexing, source).expected
    own = estimate(Checkpoint("mine", folders[0] / "mine"), depth=50)
    assert found is not None
    assert (found.model, found.neurons, found.rows) == (own.model, own.neurons, own.rows)
    assert found.disk_while_building == own.disk_while_building

    monkeypatch.setattr(add, "INDEXER", (sys.executable, "-c", ONE_LAYER))
    indexing.begin(Doing.BUILD, source)
    first = root / "mine"
    wait_for(lambda: list(first.glob("work-*/layer-0000.json")))
    wait_for(lambda: (now := indexing.progress()) and (now.finished, now.layers) == (2, models.LAYERS))
    now = indexing.progress()
    assert now is not None
    assert (now.doing, now.source) == (Doing.BUILD, source)
    assert now.seconds_left is not None
    with pytest.raises(AtlasError, match="one model is added at a time"):
        indexing.begin(Doing.ESTIMATE, "another")
    indexing.stop()
    assert indexing.progress() is None
    assert indexing.known(source) == Known(found)
    assert add.offered() == ([], [("mine", source)])

    monkeypatch.setattr(add, "INDEXER", (sys.executable, "-c", NOT_THE_FIRST))
    indexing.begin(Doing.BUILD, source)
    assert ended(indexing, source) == Known(found, model="mine")
    assert add.offered() == ([], [])
    whole = build(Checkpoint("mine", folders[0] / "mine"), tmp_path / "whole").path
    assert content_hash(current_build(first)) == content_hash(whole)
    assert resources.catalogue("mine").info.neurons == found.neurons


def test_what_the_indexer_refuses_is_said_in_its_own_words(folders, indexing):
    indexing.begin(Doing.ESTIMATE, "-h")  # which is no option
    assert ended(indexing, "-h") == Known(problem="There is no folder “-h”, and it is no hub id (owner/name) either.")


@pytest.mark.parametrize(
    ("code", "said"),
    [("import os; os.kill(os.getpid(), 9)", "signal 9"), ("print('a line'); 1 / 0", "a fault of ours")],
)
def test_an_indexer_that_ends_without_a_word_is_explained(folders, indexing, monkeypatch, caplog, code, said):
    monkeypatch.setattr(add, "INDEXER", (sys.executable, "-c", code))
    indexing.begin(Doing.BUILD, "mine")
    assert said in ended(indexing, "mine").problem
    assert "the indexer ended with status" in caplog.text


def test_the_time_left_is_what_the_layers_of_this_run_took():
    now = time.monotonic()
    fresh = [(now - 31, 0), (now - 21, 1), (now - 11, 2), (now - 1, 3)]
    gone_on = [(now - 31, 0), (now - 21, 7), (now - 1, 9)]
    assert add.seconds_left([], 0, EXPECTED) is None
    assert add.seconds_left(fresh, 10, EXPECTED) == pytest.approx(7 * 10 - 1 + 5, abs=0.5)
    assert add.seconds_left(gone_on, 10, EXPECTED) == pytest.approx(1 * 10 - 1 + 5, abs=0.5)
    assert add.seconds_left([(now, 0)], 10, EXPECTED) == pytest.approx(10 * 3 + 5, abs=0.5)
    assert add.seconds_left([(now - 999, 0), (now - 500, 1), (now - 400, 2)], 3, EXPECTED) == 5.0


def test_too_little_disk_is_refused_and_too_little_memory_is_said(folders, monkeypatch):
    assert (add.lacks_disk(EXPECTED), add.lacks_memory(EXPECTED)) == ("", "")
    huge = Expected("llama", 1, 1, 1.0, 1.0, 1.0, 9e15, 1e15, 8e15, [])
    assert "8000000.0 GB of disk" in add.lacks_disk(huge)
    assert "9000000.0 GB of memory" in add.lacks_memory(huge)
    monkeypatch.setattr(access, "is_local", lambda *_: True)
    monkeypatch.setattr(add, "known", lambda _: Known(huge))
    with pytest.raises(AtlasError, match="make room first"):
        add.begin(Doing.BUILD, "mine")


def test_who_may_not_add_starts_and_stops_nothing(folders, monkeypatch):
    monkeypatch.setattr(add, "_indexing", lambda: 1 / 0)
    for ask in (lambda: add.begin(Doing.ESTIMATE, "mine"), lambda: add.begin(Doing.BUILD, "mine"), add.stop):
        with pytest.raises(RefusedError):
            ask()


def test_what_is_typed_is_taken_as_a_name():
    assert add.named("  a/b ") == "a/b"
    assert add.named("~/models/x").endswith("/models/x")
    assert not add.named("~/models/x").startswith("~")
    for typed in ("", " \n ", "a\0b"):
        with pytest.raises(AtlasError):
            add.named(typed)
