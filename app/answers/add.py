"""A model is added: what it would cost, and its build, each `python -m indexer` in a process of its own, one at a time.

The process ends when its standard input does, and this server alone holds the other end: however the server ends, so
does the build. Its finished layers stay in the catalogue, and the next build of the same model goes on from there.
"""

import logging
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock, Thread

import psutil
import streamlit as st
from cachetools import LRUCache
from pydantic import TypeAdapter

from app.serving import access, resources
from app.serving.settings import configuration
from db.catalogue.builds import CURRENT, unfinished
from db.errors import AtlasError

INDEXER = (sys.executable, "-m", "indexer")
_BAR = re.compile(r"(\d+)/(\d+) \[[^\]]*layer")
"""The indexer's own bar: layers that are finished, and all of them."""
_PUBLISHED = re.compile(r"^(?:Published|Nothing to do:) (.+)/build-[^/]+\.duckdb")
_LINES = 40
_KEPT = 64
_PIECE = 4096  # bytes
_OFFERED = 12
_log = logging.getLogger(__name__)


class Doing(StrEnum):
    """What the indexer is asked for; its own commands."""

    ESTIMATE = "estimate"
    BUILD = "build"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a build is expected to take, in bytes and seconds; `indexer.estimate.Estimate` describes the fields."""

    model: str
    neurons: int
    rows: int
    indexing_seconds: float
    publishing_seconds: float
    seconds: float
    peak_memory: float
    file_size: float
    disk_while_building: float
    notices: list[str]


_EXPECTED = TypeAdapter(Expected)
"""Reads the estimate's JSON."""


@dataclass(frozen=True, slots=True)
class Known:
    """What became of a model that was named: what it would take, why that or its build ended without an answer, and the
    name of its catalogue once that is there.
    """

    expected: Expected | None = None
    problem: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the running one is.

    Attributes:
        doing, source: what it is.
        stage: what the indexer said last.
        finished, layers: layers; 0 of 0 before and without any.
        seconds_left: about, of a build; None where nothing tells.
    """

    doing: Doing
    source: str
    stage: str
    finished: int
    layers: int
    seconds_left: float | None


class _Run:
    """One run of the indexer, listened to on a thread of its own."""

    def __init__(self, doing: Doing, source: str, known: Known) -> None:
        self.doing, self.source, self.known = doing, source, known
        self.stopped = False
        self._lines: list[str] = []
        self._seen: list[tuple[float, int]] = []
        self._layers = 0
        asked = ["--json"] if doing is Doing.ESTIMATE else []
        self.process = subprocess.Popen(
            [*INDEXER, doing, "--with-stdin", *asked, "--catalogue", str(resources.catalogue_root()), "--", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # what stops the server from a terminal is not the build's to answer
        )

    def listen(self) -> Known:
        """Wait for its end; what is known then."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        rest = ""
        while piece := self.process.stderr.read1(_PIECE):  # type: ignore[attr-defined]
            *whole, rest = re.split(r"[\r\n]+", rest + piece.decode("utf-8", "replace"))
            self._hear(whole + [rest] * bool(_BAR.search(rest)))
        self._hear([rest])
        told = self.process.stdout.read().decode("utf-8", "replace")
        return self._outcome(self.process.wait(), told)

    def _hear(self, lines: list[str]) -> None:
        for line in lines:
            bar = _BAR.search(line)
            if bar is not None:
                finished, self._layers = int(bar[1]), int(bar[2])
                if not self._seen or self._seen[-1][1] < finished:
                    self._seen.append((time.monotonic(), finished))
            elif line.strip():
                self._lines = [*self._lines, line.strip()][-_LINES:]

    def _outcome(self, status: int, told: str) -> Known:
        if self.stopped:
            return Known(self.known.expected)
        if status == 0 and self.doing is Doing.ESTIMATE:
            return Known(_EXPECTED.validate_json(told))
        published = next(filter(None, map(_PUBLISHED.match, self._lines)), None)
        if status == 0 and published is not None:
            return Known(self.known.expected, model=Path(published[1]).name)
        error = next((one for one in reversed(self._lines) if one.startswith("error: ")), "")
        if not error:
            _log.error("the indexer ended with status %s: %s", status, " | ".join(self._lines[-3:]))
        return Known(self.known.expected, error.removeprefix("error: ") or _unexplained(status))

    def progress(self) -> Progress:
        """How far it is now."""
        finished = self._seen[-1][1] if self._seen else 0
        left = None if self.known.expected is None else seconds_left(self._seen, self._layers, self.known.expected)
        said = self._lines[-1].partition("|")[0].strip() if self._lines else "Starting"
        return Progress(self.doing, self.source, said, finished, self._layers, left)


def _unexplained(status: int) -> str:
    if status < 0:
        return (
            f"The system ended the indexer (signal {-status}), most likely because memory ran out. Finished layers are "
            "kept: make room, and build again."
        )
    return "The indexer failed by a fault of ours; the server’s log has its last lines. Finished layers are kept."


def seconds_left(seen: list[tuple[float, int]], layers: int, expected: Expected) -> float | None:
    """Until a build is published; None before its first layer.

    Args:
        seen: when how many layers were finished; the first two belong to what an earlier run left.
        layers: in all.
        expected: what they should take, as long as none has been timed.
    """
    if not seen or not layers:
        return None
    (since, before), (latest, finished) = seen[min(1, len(seen) - 1)], seen[-1]
    timed = finished > before
    each = (latest - since) / (finished - before) if timed else expected.indexing_seconds / layers
    return max(0.0, (layers - finished) * each - (time.monotonic() - latest)) + expected.publishing_seconds


class Indexing:
    """The indexer of one server."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._run: _Run | None = None
        self._listener = Thread()
        self._known: LRUCache[str, Known] = LRUCache(_KEPT)

    def begin(self, doing: Doing, source: str) -> None:
        """Start; another waits for nothing, but is refused."""
        with self._lock:
            if self._run is not None:
                raise AtlasError(
                    f"{self._run.source} is being worked on, and one model is added at a time: wait until it has "
                    "finished, or stop it."
                )
            run = self._run = _Run(doing, source, self._known.get(source, Known()))
            self._listener = Thread(target=self._follow, args=(run,), name="atlas-indexer", daemon=True)
            self._listener.start()

    def _follow(self, run: _Run) -> None:
        try:
            found = run.listen()
        except Exception:  # as with an estimate that cannot be read
            _log.exception("the indexer could not be followed")
            found = Known(run.known.expected, _unexplained(1))
        with self._lock:
            self._known[run.source] = found
            self._run = None

    def stop(self) -> None:
        """End the running one; what it has finished is kept."""
        with self._lock:
            if self._run is not None:
                self._run.stopped = True
                self._run.process.kill()
            listener = self._listener
        if listener.is_alive():
            listener.join()

    def progress(self) -> Progress | None:
        """Of the running one."""
        with self._lock:
            return None if self._run is None else self._run.progress()

    def known(self, source: str) -> Known:
        """What became of a model that was named."""
        with self._lock:
            return self._known.get(source, Known())


@st.cache_resource(show_spinner=False)
def _indexing() -> Indexing:
    return Indexing()


def named(typed: str) -> str:
    """A hub id or a path, as the indexer takes it.

    Raises:
        AtlasError: it is empty, or no name of a file.
    """
    source = typed.strip()
    if not source:
        raise AtlasError("Give a model: a hub id, or the path of a folder or a .gguf file on this machine.")
    if "\0" in source:
        raise AtlasError("The path has a character in it that no path has. Type it anew.")
    return str(Path(source).expanduser()) if source.startswith("~") else source


def begin(doing: Doing, source: str) -> None:
    """Have the indexer estimate or build a model, in the background.

    Raises:
        RefusedError: this visitor may not.
        AtlasError: another one is being worked on, or the disk has too little room for what was estimated.
    """
    access.require_may_add()
    root, expected = resources.catalogue_root(), known(source).expected
    if root.is_file() or (root / CURRENT).is_file():
        raise AtlasError(f"This server shows {root} alone. Start it with ATLAS_CATALOGUE as a folder for several.")
    if doing is Doing.BUILD and expected is not None and (lacking := lacks_disk(expected)):
        raise AtlasError(lacking)
    _indexing().begin(doing, source)


def stop() -> None:
    """End what is running; finished layers are kept.

    Raises:
        RefusedError: this visitor may not.
    """
    access.require_may_add()
    _indexing().stop()


def progress() -> Progress | None:
    """How far what is running is; None where nothing is."""
    return _indexing().progress()


def known(source: str) -> Known:
    """What became of a model that was named."""
    return _indexing().known(source)


def lacks_disk(expected: Expected) -> str:
    """Why the disk has too little room for a build, in a sentence; empty where it has enough."""
    root = resources.catalogue_root().absolute()
    free = shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free
    if free >= expected.disk_while_building:
        return ""
    return (
        f"The build needs about {expected.disk_while_building / 1e9:.1f} GB of disk while it runs, and "
        f"{free / 1e9:.1f} GB are free in {root}: make room first."
    )


def lacks_memory(expected: Expected) -> str:
    """The same of memory; a build is not refused for that, since the system may make room."""
    free = psutil.virtual_memory().available
    if free >= expected.peak_memory:
        return ""
    return (
        f"The build needs about {expected.peak_memory / 1e9:.1f} GB of memory at most, and {free / 1e9:.1f} GB are "
        "free now: it may be slow, or be ended by the system."
    )


def offered() -> tuple[list[str], list[tuple[str, str]]]:
    """What may be added without typing: the folders of models that have no catalogue, by name; and the builds that were
    begun and not finished, each by the name of its catalogue and by what its model is found by.
    """
    root, models = resources.catalogue_root(), configuration().models
    begun = unfinished(root)
    taken = {*resources.catalogue_names(), *(name for name, _ in begun)}
    there = sorted(path.parent.name for path in models.glob("*/config.json")) if models.is_dir() else []
    return [name for name in there if name not in taken][:_OFFERED], begun[:_OFFERED]
