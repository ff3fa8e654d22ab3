"""Work that takes longer than drawing a page: done one piece at a time, watched, shared and remembered.

All pieces run on one thread in the order in which they were asked for, since each wants all cores. Who asks waits and
is told what is being done; who stops waiting stops nothing, and finds the result when asking again. Two who ask the
same share one piece of work. Knows neither Streamlit nor models.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWorking
from typing import Any, Generic, TypeVar

from db.errors import AtlasError

T = TypeVar("T")
Report = Callable[[str], None]
"""Says what is being done."""

_LOOK_SECONDS = 0.05
_QUIET_SECONDS = 0.25
"""Work shorter than this is not worth a word."""


class Shelf(Generic[T]):
    """Remembers the newest few things by key."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._things: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        """The thing, which counts as used now; None where there is none."""
        if key not in self._things:
            return None
        self._things.move_to_end(key)
        return self._things[key]

    def put(self, key: Hashable, thing: T) -> None:
        """Remember it; what was not used for longest makes room."""
        self._things[key] = thing
        self._things.move_to_end(key)
        while len(self._things) > self._room:
            self._things.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        """Forget it."""
        self._things.pop(key, None)


class _Job:
    """One piece of work and what is being done for it."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.stage = "Waiting for other prompts to finish …"

    def report(self, stage: str) -> None:
        self.stage = stage


class Workshop:
    """Does the work and remembers it.

    Args:
        room: how many results are kept, by the kind of work.
        waiting: more unfinished pieces than this are refused.
        patience: who has waited so many seconds gives up; the work goes on.
    """

    def __init__(self, room: dict[str, int], *, waiting: int = 64, patience: float = 180) -> None:
        self._shelves: dict[str, Shelf[_Job]] = {kind: Shelf(size) for kind, size in room.items()}
        self._unfinished = 0
        self._waiting, self._patience = waiting, patience
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="atlas-work")

    def result(self, kind: str, key: Hashable, make: Callable[[Report], T], watch: Report | None = None) -> T:
        """What `make` returns, from the shelf where it was made before.

        Args:
            kind: names the shelf.
            key: what the result depends on.
            make: does the work, on the workshop's thread; is handed a function to say what it is doing.
            watch: told what is being done, on the caller's thread, whenever that changes.

        Raises:
            AtlasError: too much work is waiting, or this took too long; or what `make` raised.
        """
        job = self._job(kind, key, make)
        started, shown = time.monotonic(), ""
        while True:
            try:
                made: T = job.future.result(_LOOK_SECONDS)
                return made
            except StillWorking:
                if job.future.done():  # just now; or the work itself ran into a time limit
                    made = job.future.result()
                    return made
            waited = time.monotonic() - started
            if waited > self._patience:
                raise AtlasError("This waited too long behind other prompts. It goes on; look again in a minute.")
            if watch is not None and job.stage != shown and waited > _QUIET_SECONDS:
                shown = job.stage
                watch(shown)

    def known(self, kind: str, key: Hashable) -> Any:
        """A result that was made before; None where it was not, or is still being made."""
        with self._lock:
            job = self._shelves[kind].get(key)
        return None if job is None or not job.future.done() else job.future.result()

    def _job(self, kind: str, key: Hashable, make: Callable[[Report], T]) -> _Job:
        shelf = self._shelves[kind]
        with self._lock:
            job = shelf.get(key)
            if job is not None:
                return job
            if self._unfinished >= self._waiting:
                raise AtlasError("Too many prompts are waiting to be analysed. Try again in a minute.")
            job = _Job()
            shelf.put(key, job)
            self._unfinished += 1
        self._worker.submit(self._do, shelf, key, job, make)
        return job

    def _do(self, shelf: Shelf[_Job], key: Hashable, job: _Job, make: Callable[[Report], Any]) -> None:
        result, error = None, None
        try:
            result = make(job.report)
        except BaseException as raised:  # handed to whoever waits
            error = raised
        with self._lock:
            self._unfinished -= 1
            if error is not None:  # what failed may be tried again
                shelf.drop(key)
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
