"""A few threads for blocking work, and a bound on what waits for them: the event loop draws pages meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from app.api.problems import UnavailableError

T = TypeVar("T")


class Pool:
    """May be used from any event loop."""

    def __init__(self, threads: int, waiting: int) -> None:
        """At most ``threads`` pieces of work at once, and at most ``waiting`` more behind them."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self._most = threads + waiting
        self._under_way = 0
        self._lock = Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns or raises.

        Raises:
            UnavailableError: too much waits already.
        """
        with self._lock:
            if self._under_way >= self._most:
                raise UnavailableError("The server is busy with other questions: ask again in a moment.")
            self._under_way += 1
        future = self._threads.submit(work)
        # Counted until it has really ended: who asked may leave before.
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _done(self, _future: "Future[T]") -> None:
        with self._lock:
            self._under_way -= 1
