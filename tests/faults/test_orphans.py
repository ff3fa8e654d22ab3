"""Who is killed leaves nothing behind that it started: a test run no server, a server no build."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.catalogues import make_catalogue
from tests.conftest import CHECKOUT

PATIENCE = 30  # seconds
HOLDER = """
import sys
from pathlib import Path
from tests.server_process import serving

folder = Path(sys.argv[1])
with serving(folder / "log", ATLAS_CATALOGUE=str(folder), ATLAS_MODE="catalogue", ATLAS_WORKSPACE="off") as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()
"""


def test_a_server_ends_with_the_tests_that_started_it_even_when_they_are_killed(tmp_path: Path) -> None:
    make_catalogue(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        server = psutil.Process(int(holder.stdout.readline()))
        assert server.is_running()
        holder.send_signal(signal.SIGKILL)
        assert holder.wait(PATIENCE) == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE
    while _runs(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(server)


ENDLESS = """
import sys, threading
from indexer import __main__
__main__._COMMANDS["build"] = lambda _: threading.Event().wait()
sys.exit(__main__.main())
"""
INDEXING = """
import sys
from app.answers import add

add.INDEXER = (sys.executable, "-c", sys.argv[1])
indexing = add.Indexing()
indexing.begin(add.Doing.BUILD, "demo")
print(indexing._run.process.pid, flush=True)
sys.stdin.read()
"""


def test_a_build_ends_with_the_server_that_began_it_even_when_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INDEXING, ENDLESS]
    environment = os.environ | {"ATLAS_CATALOGUE": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        indexer = psutil.Process(int(holder.stdout.readline()))
        assert _runs(indexer)
        holder.send_signal(signal.SIGKILL)
        assert holder.wait(PATIENCE) == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE
    while _runs(indexer) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(indexer)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # nobody may collect an orphan
    except psutil.NoSuchProcess:
        return False
