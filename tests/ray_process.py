"""A Ray cluster of this machine, for tests and for measuring; it ends with the process that started it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server_process import ending_with_us

START_SECONDS = 120


@contextmanager
def ray_cluster(workers: int) -> Iterator[str]:
    """A cluster with so many workers of one CPU each; yields its address.

    Ray's processes are those of one session, which ends when this process does, even by SIGKILL.
    """
    with tempfile.TemporaryDirectory(prefix="atlas-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={workers}", "--object-store-memory=80000000"]
        command += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with ending_with_us(process):
            try:
                yield _address(process, log)
            finally:
                process.terminate()
                process.wait(START_SECONDS)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"--address='([\w.:]+)'", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"Ray does not start:\n{log.read_text(errors='replace')[-3000:]}")
