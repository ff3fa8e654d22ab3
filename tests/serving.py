"""The server as its own process, as people start it; for tests that do it harm and for measuring."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
START_SECONDS = 120
STOP_SECONDS = 20
COMMAND = (sys.executable, "-m", "streamlit", "run", "app/server.py")


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serving(log: Path, command: Sequence[str] = COMMAND, **environment: str) -> Iterator[Server]:
    """Serve this checkout on a port that is free, with these variables beside the process's own.

    Args:
        log: written anew.
        command: what to start, from the checkout's folder; options for address and port are added.
        environment: variables.

    Raises:
        RuntimeError: it does not start.
    """
    options = ("--server.address", "127.0.0.1", "--server.port", "0")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            cwd=CHECKOUT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Server(f"http://127.0.0.1:{_port(process, log)}", process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> str:
    """The port that the server chose, once it says so."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"URL: http://[\w.]+:(\d+)", log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"The server did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
