"""Processes are killed in the middle of writing: what was shown as saved is there, and readers never see a half."""

import multiprocessing
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from db.neuron import Neuron
from db.workspace import Workspace
from tests.catalogues import make_catalogue
from tests.faults.onlooker import NEURON, looking
from tests.server_process import serving

KILLS = 3


@pytest.mark.slow
def test_a_server_killed_while_it_saves_loses_nothing_that_it_showed(tmp_path: Path) -> None:
    make_catalogue(tmp_path / "catalogue")
    url = f"sqlite:///{tmp_path / 'atlas.sqlite'}"
    environment = {"ATLAS_CATALOGUE": str(tmp_path / "catalogue"), "ATLAS_WORKSPACE": url}
    draw, written, shown = random.Random(3), 0, -1
    for _ in range(KILLS):
        with serving(tmp_path / "log", **environment) as server, looking(server) as onlooker:
            if shown >= 0:
                assert f"note {shown}" in onlooker.page().text or f"note {written}" in onlooker.page().text
            killer = threading.Timer(draw.uniform(1, 3), server.process.kill)
            killer.start()
            with suppress(ConnectionClosed, OSError):
                while True:
                    written += 1
                    assert f"note {written}" in onlooker.note(f"note {written}").text
                    shown = written
            killer.join()
            assert server.process.wait(20) == -signal.SIGKILL
    assert shown > 0
    with Workspace.open(url, create=False) as workspace:
        kept = workspace.note("toy", Neuron.parse(NEURON), ("weights", ""))
        with workspace.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    assert kept is not None
    assert kept.text in (f"note {shown}", f"note {written}"), "the last one shown, or the one being written"


@pytest.mark.slow
def test_publishers_killed_under_a_running_server(tmp_path: Path) -> None:
    make_catalogue(tmp_path)
    draw = random.Random(5)
    spawned = multiprocessing.get_context("spawn")
    environment = {"ATLAS_CATALOGUE": str(tmp_path), "ATLAS_WORKSPACE": "off"}
    with serving(tmp_path / "log", **environment) as server, looking(server) as onlooker:
        killed = 0
        for number in range(KILLS):
            named = {"build_id": f"killed-{number}", "seed": 1}
            publisher = spawned.Process(target=make_catalogue, args=(tmp_path,), kwargs=named)
            publisher.start()
            _wait_for(tmp_path / "toy" / ".publishing.duckdb", publisher)
            time.sleep(draw.uniform(0, 0.1))
            publisher.kill()
            publisher.join(60)
            killed += publisher.exitcode != 0
            shown = onlooker.page()
            assert shown.notices == []
            assert "catalogue one" in shown.text or "catalogue killed" in shown.text
            assert onlooker.api().status_code == 200
            assert onlooker.health().status_code == 200
        assert killed, "every kill came too late to prove anything"
        make_catalogue(tmp_path, build_id="whole", seed=2)
        assert "catalogue whole" in onlooker.page().text
        assert onlooker.api().headers["build-id"] == "whole"
    left = {path.name for path in (tmp_path / "toy").iterdir()}
    assert not any(name.startswith(".publishing") for name in left)


def _wait_for(path: Path, process: "multiprocessing.process.BaseProcess") -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
