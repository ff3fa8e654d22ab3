"""Killed without warning at thirty random moments, the job goes on and ends with the same content.

The kills are SIGKILL to a process of its own, forked from a server that has everything imported, so that they fall
into the work and not into the imports.
"""

import multiprocessing
import random
import time
from pathlib import Path

import pytest

from db.catalogue.builds import current_build
from db.catalogue.check import content_hash
from db.errors import AtlasError
from indexer import device
from indexer.build import build
from indexer.checkpoint import Checkpoint
from tests import models

NAME, DEPTH, POINTS = "gpt2", 10, 30


def job(folder: Path, catalogue: Path) -> None:
    """What the killed process does: a whole build, computed in one way whichever is faster at the moment."""
    device.onednn_is_faster = lambda: False  # type: ignore[assignment]
    build(Checkpoint(NAME, folder), catalogue, depth=DEPTH, screen=True)


@pytest.fixture(scope="module")
def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.indexer.test_kill", "transformers.models.gpt2.modeling_gpt2"])
    return context


def start(server, catalogue: Path):
    process = server.Process(target=job, args=(models.folder(NAME), catalogue))
    process.start()
    return process


def run(server, catalogue: Path) -> float:
    """Let a job come to its end; the seconds it took."""
    started = time.perf_counter()
    process = start(server, catalogue)
    process.join(120)
    assert process.exitcode == 0
    return time.perf_counter() - started


@pytest.mark.slow
def test_thirty_random_kills_and_the_same_content(server, tmp_path):
    run(server, tmp_path / "first")  # starts the server
    seconds = run(server, tmp_path / "whole")
    whole = content_hash(current_build(tmp_path / "whole" / NAME))
    draw = random.Random(20)
    killed, states = 0, []
    for point in range(POINTS):
        catalogue = tmp_path / f"killed-{point}"
        process = start(server, catalogue)
        if point % 3:  # most of a build this small is its beginning: two of three kills come after it
            wait_for_work(catalogue)
            time.sleep(draw.uniform(0, 0.35) * seconds)
        else:
            time.sleep(draw.uniform(0.05, 1) * seconds)
        process.kill()
        process.join(120)
        killed += process.exitcode != 0
        states.append(state(catalogue / NAME, whole))
        run(server, catalogue)
        assert content_hash(current_build(catalogue / NAME)) == whole, states[-1]
        left = sorted(path.name for path in (catalogue / NAME).iterdir() if not path.name.startswith("."))
        assert left == ["CURRENT", "SOURCE", current_build(catalogue / NAME).name]
    print(f"{killed} of {POINTS} killed; met: {sorted(set(states))}")
    assert killed >= POINTS // 2, "most kills came too late to prove anything"
    assert len(set(states)) >= 4, f"the kills all met the same state: {states}"


def wait_for_work(catalogue: Path) -> None:
    deadline = time.monotonic() + 60
    while not list((catalogue / NAME).glob("work-*")) and time.monotonic() < deadline:
        time.sleep(0.002)


def state(directory: Path, whole: str) -> str:
    """What a kill left behind; whatever a reader can see is whole."""
    try:
        assert content_hash(current_build(directory)) == whole
        return "published"
    except AtlasError:
        left = sorted(path.name for path in directory.glob("*")) if directory.is_dir() else []
        shards = sorted(path.name for path in directory.glob("work-*/*"))
        return " ".join([*("publishing" for name in left if name.startswith(".publishing")), *shards]) or "nothing"
