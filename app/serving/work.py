"""Work that takes longer than drawing a page: done one piece at a time, watched, shared, bounded and remembered.

All pieces run on one thread, since each wants all cores; those who ask take turns (:mod:`app.serving.turns`). Who asks
waits and is told their place and then what is being done. Two who ask the same share one piece of work. What nobody
waits for any more is dropped, or stopped at its next stage where it runs already; whoever comes back soon enough finds
it still going. Knows neither Streamlit nor models: sessions are told apart by whatever key they hand in.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from app.serving.refusals import Reason, RefusedError
from app.serving.shelf import Shelf
from app.serving.turns import Turns
from app.serving.work_piece import Asker, Finished, LeftError, Piece, Report

__all__ = ["Asker", "Finished", "Report", "Workshop"]

T = TypeVar("T")

_LOOK_SECONDS = 0.05
_QUIET_SECONDS = 0.25
"""Work shorter than this is not worth a word."""
_GRACE_SECONDS = 5.0
"""A page that is drawn anew asks again within this time."""


class Workshop:
    """Does the work and remembers it.

    Args:
        room: how many results are kept, by the kind of work.
        waiting: more unfinished pieces than this are refused.
        limit: a piece may take so many seconds; checked whenever it says what it is doing.
        patience: who has waited so many seconds for a turn gives up.
        grace: what nobody has waited for during so many seconds is dropped.
        on_end: told of each piece that ended, on the workshop's thread.
        clock: the time in seconds.
    """

    def __init__(
        self,
        room: dict[str, int],
        *,
        waiting: int = 64,
        limit: float = 120,
        patience: float = 1800,
        grace: float = _GRACE_SECONDS,
        on_end: Callable[[Finished], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._made: dict[str, Shelf[Piece]] = {kind: Shelf(size) for kind, size in room.items()}
        self._unfinished: dict[Hashable, Piece] = {}
        self._turns: Turns[Piece] = Turns()
        self._waiting, self._limit, self._patience, self._grace = waiting, limit, patience, grace
        self._on_end, self._clock = on_end, clock
        self._lock = threading.Lock()
        self._here = threading.local()
        self._running: Piece | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="atlas-work")

    def result(
        self,
        kind: str,
        key: Hashable,
        make: Callable[[Report], T],
        watch: Report | None = None,
        asker: Asker | None = None,
    ) -> T:
        """What `make` returns, from the shelf where it was made before.

        Args:
            kind: names the shelf.
            key: what the result depends on.
            make: does the work, on the workshop's thread; is handed a function to say what it is doing, which is also
                where it may be stopped.
            watch: told the place in the queue and what is being done, on the caller's thread, whenever that changes.
            asker: who asks; all without one count as the same.

        Raises:
            RefusedError: too much work is waiting, or this took too long.
            AtlasError: what `make` raised.
        """
        asker = asker or Asker()
        piece = self._ask(kind, key, make, asker)
        try:
            self._wait(piece, watch, asker)
        finally:
            self._leave(piece)
        made: T = piece.outcome()
        return made

    def known(self, kind: str, key: Hashable) -> Any:
        """A result that was made before; None where it was not, or is still being made."""
        with self._lock:
            piece = self._made[kind].get(key)
        return None if piece is None else piece.outcome()

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Around what a piece of work does for all, such as loading the model: it does not count against its time."""
        started = self._clock()
        try:
            yield
        finally:
            piece: Piece | None = getattr(self._here, "piece", None)
            if piece is not None:
                piece.not_counted += self._clock() - started

    def _ask(self, kind: str, key: Hashable, make: Callable[[Report], Any], asker: Asker) -> Piece:
        with self._lock:
            made = self._made[kind].get(key)
            if made is not None:
                made.askers += 1
                return made
            piece = self._unfinished.get((kind, key))
            for other in list(self._unfinished.values()):
                if other is not piece:
                    other.owners.discard(asker.owner)  # whose page asks something else now
            self._sweep()
            if piece is None:
                if len(self._unfinished) >= self._waiting:
                    raise RefusedError(Reason.BUSY, "Too many prompts are waiting already. Try again in a minute.")
                piece = Piece(kind, key, make, self._clock())
                self._unfinished[kind, key] = piece
                self._worker.submit(self._work)
            piece.askers += 1
            piece.owners.add(asker.owner)
            if piece.started is None:
                self._turns.add(asker.owner, piece)
            return piece

    def _wait(self, piece: Piece, watch: Report | None, asker: Asker) -> None:
        began, shown = self._clock(), ""
        while not piece.finished.wait(_LOOK_SECONDS):
            asker.look()
            waited = self._clock() - began
            if piece.started is None and waited > self._patience:
                raise RefusedError(Reason.BUSY, "This waited too long behind other prompts. Try again later.")
            if watch is not None and waited > _QUIET_SECONDS:
                text = self._told(piece)
                if text != shown:
                    shown = text
                    watch(text)

    def _told(self, piece: Piece) -> str:
        """What to tell those who wait for a piece."""
        with self._lock:
            if piece.started is not None or self._running is None:
                return piece.stage
            self._sweep()
            before = 1 + next((n for n, one in enumerate(self._turns.order()) if one is piece), 0)
            return f"{before} before yours. Now, for another: {self._running.stage}"

    def _leave(self, piece: Piece) -> None:
        with self._lock:
            piece.askers -= 1
            piece.left = self._clock()

    def _is_deserted(self, piece: Piece) -> bool:
        return piece.askers == 0 and (not piece.owners or self._clock() - piece.left > self._grace)

    def _sweep(self) -> None:
        """Drop what waits for its turn and is deserted."""
        for piece in [one for one in self._turns.order() if self._is_deserted(one)]:
            self._turns.drop(piece)
            del self._unfinished[piece.kind, piece.key]

    def _work(self) -> None:
        """Do the piece whose turn it is; there may be none left."""
        with self._lock:
            self._sweep()
            piece = self._turns.next()
            if piece is None:
                return
            self._running, piece.started = piece, self._clock()
        self._here.piece = piece
        piece.work(lambda stage: self._report(piece, stage))
        self._here.piece = None
        with self._lock:
            self._running = None
            if self._unfinished.get((piece.kind, piece.key)) is piece:
                del self._unfinished[piece.kind, piece.key]
            if piece.error is None:  # what failed may be tried again
                self._made[piece.kind].put(piece.key, piece)
        try:
            self._on_end(piece.ended(self._clock()))
        finally:
            piece.finished.set()

    def _report(self, piece: Piece, stage: str) -> None:
        """Note what is being done, and stop it where it is deserted or has taken too long."""
        with self._lock:
            piece.stage = stage
            if self._is_deserted(piece):
                del self._unfinished[piece.kind, piece.key]  # whoever asks from now on gets a new one
                raise LeftError
            if piece.seconds(self._clock()) > self._limit:
                raise RefusedError(
                    Reason.TIME,
                    f"This was stopped after {self._limit:g} seconds, the longest that this server allows. Ask for "
                    "fewer neurons or a shorter prompt.",
                )
