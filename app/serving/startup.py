"""What is done when the server starts: for its connections, its memory, and the first visitor."""

import ctypes
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from threading import Event, Thread

import psutil

from app.serving import logs
from app.serving.resources import catalogue, is_here, model_of
from db.errors import AtlasError
from db.settings import of_library


def send_at_once() -> None:
    """Let every listening TCP socket of this process hand out connections that send what they are given at once.

    Python does that by itself where a socket names its protocol, and the server's does not; neither Streamlit nor
    uvicorn has an option for it. An answer leaves in two pieces, its head and its body, and the second would wait until
    the browser has acknowledged the first, which it puts off for 40 ms: at a first view, for nearly each of some
    hundred files. A connection inherits the option from the socket that accepted it.
    """
    with suppress(psutil.Error, OSError):
        for one in psutil.Process().net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                with socket.socket(fileno=os.dup(one.fd)) as listening:
                    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ARENAS, _BLOCK = 2, 128 * 1024


def keep_little() -> None:
    """Keep little memory beyond what is used. Does nothing where the C library is not GNU's.

    The library then hands out memory from two places instead of eight per core: what is freed in one can only be used
    from there, and each page is drawn on another thread. Large blocks go back to the system as soon as they are freed.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, _ARENAS)
        library.mallopt(_M_MMAP_THRESHOLD, _BLOCK)
        library.mallopt(_M_TRIM_THRESHOLD, _BLOCK)


def share_cores() -> None:
    """Let torch's threads sleep while they wait for each other. To be called before torch is imported.

    By default they keep their cores busy with waiting. Where drawing pages or a browser needs a core, the others then
    wait for the one that it was taken from: measuring took four times as much of the processor, and of time.
    """
    of_library("OMP_WAIT_POLICY", "passive")


_log = logging.getLogger(__name__)


def warm_up(modules: Iterable[str]) -> Thread:
    """Do what the first page would wait for, in a thread of its own: import the pages and open the catalogue.

    A visitor who is quicker does the same work and finds what is done already.

    Args:
        modules: are imported in this order.
    """
    thread = Thread(target=_warm, args=(tuple(modules),), name="atlas-warm-up", daemon=True)
    thread.start()
    return thread


def _warm(modules: Iterable[str]) -> None:
    try:
        for module in modules:
            import_module(module)
        with suppress(AtlasError):  # the pages say what is wrong with it
            catalogue()
    except Exception:
        _log.exception("warming up failed; the first page will be slower, and nothing else")


_QUIET_SECONDS = 3.0
_LOOK_SECONDS = 0.2
_SWITCH_SECONDS = 0.0005
"""How long a page that is drawn meanwhile waits for its turn: a tenth of Python's own."""
_FOR_MODEL = ("torch", "transformers", "indexer.checkpoint", "indexer.language_model", "app.attribution.analysis")


def preload(after: Thread, stop: Event) -> Thread:
    """Load the model that the first prompt would wait for, in a thread of its own and while no page is drawn: whoever
    comes meanwhile waits for one of its steps at most.

    Args:
        after: goes before.
        stop: ends it between two steps.
    """
    thread = Thread(target=_preload, args=(after, stop), name="atlas-preload", daemon=True)
    thread.start()
    return thread


def _preload(after: Thread, stop: Event) -> None:
    after.join()
    warmed = time.perf_counter()  # whoever waited for the server to start comes now
    try:
        with suppress(AtlasError):  # whoever asks for the model is told what is wrong with it
            if not is_here(atlas := catalogue()):
                return
            steps: list[Callable[[], object]] = [partial(import_module, name) for name in _FOR_MODEL]
            steps.append(partial(model_of, atlas))
            for step in steps:
                while min(logs.quiet_seconds(), time.perf_counter() - warmed) < _QUIET_SECONDS:
                    if stop.wait(_LOOK_SECONDS):
                        return
                if stop.is_set():
                    return
                with _in_short_turns():
                    step()
    except Exception:
        if not stop.is_set():
            _log.exception("the model could not be loaded early; the first prompt will be slower, and nothing else")


@contextmanager
def _in_short_turns() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
