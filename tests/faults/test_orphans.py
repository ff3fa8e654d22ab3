"""A test run that is killed leaves no server behind."""

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


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # nobody may collect an orphan
    except psutil.NoSuchProcess:
        return False
