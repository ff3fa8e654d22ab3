"""A few sessions at once, and a build published meanwhile: nothing fails, and the new build is found. No times."""

import asyncio
from pathlib import Path

import pytest

from indexer.build import build
from tests import models
from tests.benchmarks.load import report
from tests.benchmarks.visitors import Load, run
from tests.server_process import serving

LOAD = Load(sessions=5, seconds=12, pause=0.4, words=("the", "river"), prompts=("The river",))


@pytest.mark.slow
def test_sessions_at_once_and_a_new_build_meanwhile(tmp_path: Path) -> None:
    models.save("llama", tmp_path / "models" / "llama")
    build(models.checkpoint("llama"), tmp_path / "catalogue", depth=10)
    environment = {
        "ATLAS_CATALOGUE": str(tmp_path / "catalogue"),
        "ATLAS_MODELS": str(tmp_path / "models"),
        "ATLAS_WORKSPACE": f"sqlite:///{tmp_path / 'atlas.sqlite'}",
    }
    log = tmp_path / "server.log"
    with serving(log, **environment) as server:
        measured = asyncio.run(run(server.address, server.process.pid, LOAD, tmp_path / "catalogue" / "llama"))
    told = "\n".join([*report(measured, LOAD), log.read_text()[-3000:]])
    assert measured.errors == [], told
    assert min(len(measured.searches), len(measured.api), len(measured.prompts)) > 0, told
    assert set(measured.seen) == {"page", "api"}, told
    assert measured.old_after == 0, told
    assert " error " not in log.read_text(), told
