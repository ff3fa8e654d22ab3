"""A Ray cluster of this machine, for tests and for measuring; it ends with the process that started it."""

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.server_process import ending_with_us

START_SECONDS = 120
_FOLDER = tempfile.TemporaryDirectory(prefix="atlas-ray-", dir="/tmp", ignore_cleanup_errors=True)


@cache
def ray_settings() -> dict[str, str]:
    """Environment variables by which Ray, started or reached from here, keeps to itself: a token, without which anybody
    on this machine could run code there, and a folder, whose path is short, because there are sockets in it.
    """
    folder = Path(_FOLDER.name)
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_TMPDIR": str(folder)}
    return own | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def ray_cluster(workers: int) -> Iterator[str]:
    """A cluster with so many workers of one CPU each; yields its address, for who has `ray_settings`.

    Ray's processes are those of one session, which ends when this process does, even by SIGKILL.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={workers}", "--object-store-memory=80000000"]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | ray_settings(),
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
