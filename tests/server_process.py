"""The server as its own process, as people start it; for tests that do it harm and for measuring."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
def serving(log: Path, command: Sequence[str] = COMMAND, path: str = "", **environment: str) -> Iterator[Server]:
    """Serve this checkout, with these variables beside the process's own, on a port that is free unless one names it.

    Args:
        log: written anew.
        command: what to start, from the checkout's folder; options for address and port are added.
        path: what the server stands under, such as "/behind/proxy".
        environment: variables.

    Raises:
        RuntimeError: it does not start.
    """
    options = ["--server.address", "127.0.0.1", "--server.port", environment.get("STREAMLIT_SERVER_PORT", "0")]
    if path:
        options += ["--server.baseUrlPath", path]
    with log.open("wb") as output:
        # A session of its own, so that whatever it starts ends with it.
        process = subprocess.Popen(
            [*command, *options],
            cwd=CHECKOUT,
            env=os.environ | {"ATLAS_PRELOAD": "false"} | environment,  # most tests need no model
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with ending_with_us(process):
            yield Server(_answering(process, log, path), process, log)
    finally:
        _stop(process)


@contextmanager
def ending_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the process, which leads a session of its own, when this one dies, even by SIGKILL.

    A shell waits for the end of a pipe that only this process holds open, and the kernel closes it whatever happens.
    """
    end = f"kill -TERM -{process.pid} && sleep 5 && kill -KILL -{process.pid}"
    watcher = subprocess.Popen(
        ["sh", "-c", f"cat >/dev/null; {{ {end}; }} 2>/dev/null"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        # Before its pipe closes: the process's number may be another's by then.
        watcher.kill()
        watcher.wait()
        assert watcher.stdin is not None
        watcher.stdin.close()


def _answering(process: subprocess.Popen[bytes], log: Path, path: str) -> str:
    """The address of the server, once it is there; its port is the one that its log names."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"URL: http://[\w.]+:(\d+)", log.read_text(encoding="utf-8", errors="replace"))
        if found:
            address = f"http://127.0.0.1:{found[1]}{path}"
            with suppress(OSError), urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return address
        time.sleep(0.1)
    state = f"ended with status {process.returncode}" if process.returncode is not None else "does not answer"
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(f"The server {state}. The end of {log}:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started: politely, then for good."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
