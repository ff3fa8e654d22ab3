"""Work that takes longer than drawing a page, such as explaining a prompt.

It is done one piece at a time on a thread of its own. Sessions take turns; those who wait see their place and what is
being done; two who ask the same share one piece; results are remembered; what takes too long, or what nobody waits for
any more, is stopped.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

from db.errors import AtlasError


class Reason(StrEnum):
    """Why something was refused, for the log."""

    MODE = "mode"
    """This server has no model, or explains its own prompts only."""
    LIMIT = "limit"
    """More was asked than the settings allow."""
    BUSY = "busy"
    """Too much is waiting already."""
    TIME = "time"
    """It took longer than the settings allow."""


class RefusedError(AtlasError):
    """One sentence for a person, and the reason."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class LeftError(Exception):
    """Nobody waits for this any more. Not an AtlasError, so that no one takes it for a result."""


T = TypeVar("T", bound=Hashable)


class Turns(Generic[T]):
    """Things that wait for their turn. Owners take turns, and each owner's things come in the order they were added.

    Someone with fifty things waiting therefore delays another's only one by a single thing. A thing may have several
    owners, and comes when the first of them has their turn.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, OrderedDict[T, None]] = OrderedDict()

    def add(self, owner: Hashable, thing: T) -> None:
        """Let it wait; what waits already keeps its place."""
        self._lines.setdefault(owner, OrderedDict()).setdefault(thing)

    def drop(self, thing: T) -> None:
        """Remove it from the queue of every owner."""
        for owner in [owner for owner, line in self._lines.items() if thing in line]:
            del self._lines[owner][thing]
            if not self._lines[owner]:
                del self._lines[owner]

    def next(self, fits: Callable[[T], bool] = lambda _: True) -> T | None:
        """Take the thing whose turn it is, of those that fit; None where none waits."""
        thing = next(filter(fits, self.order()), None)
        if thing is None:
            return None
        self._lines.move_to_end(next(owner for owner, line in self._lines.items() if thing in line))
        self.drop(thing)
        return thing

    def order(self) -> Iterator[T]:
        """All that waits, in the order in which it would come if nothing were added."""
        lines, seen = [list(line) for line in self._lines.values()], set[T]()
        while lines:
            for line in lines:
                while line and line[0] in seen:
                    line.pop(0)
                if line:
                    seen.add(line[0])
                    yield line.pop(0)
            lines = [line for line in lines if line]


Report = Callable[[str], None]
"""Says what is being done."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks.

    Attributes:
        owner: tells sessions apart.
        look: called again and again while waiting; raises an error once whoever waits has gone.
    """

    owner: Hashable = None
    look: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Finished:
    """How a piece of work ended.

    Attributes:
        kind: of work.
        key: what the result depends on; it may hold a prompt.
        outcome: “done”, “left” (nobody waited any more), “refused”, “unusable” (what was asked) or “failed”.
        waited: seconds until its turn.
        seconds: it took, without what it did for all.
    """

    kind: str
    key: Hashable
    outcome: str
    waited: float
    seconds: float


@dataclass(eq=False, slots=True)
class Piece:
    """One piece of work. Everything but `make` and its result is guarded by the workshop's lock.

    Attributes:
        kind: of work.
        key: what the result depends on.
        make: does the work.
        asked: when it was first asked for.
        started: when its turn came.
        left: when one of those who waited last left.
        not_counted: seconds that it spent on what serves all.
        serving_all: whether it does such a thing now.
        looked: when it was last seen whether it may go on.
        askers: how many wait for it.
        owners: whose page last asked for it.
        aside: whether nobody waits for it: it goes on while others ask for other things, which come first.
        stage: what is being done.
        finished: set when it ended, well or not.
    """

    kind: str
    key: Hashable
    make: Callable[[Report], Any]
    asked: float
    started: float | None = None
    left: float = 0.0
    not_counted: float = 0.0
    serving_all: bool = False
    looked: float = 0.0
    askers: int = 0
    owners: set[Hashable] = field(default_factory=set)
    aside: bool = False
    stage: str = "Waiting for the model …"
    finished: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None

    def work(self, report: Report, watched: Callable[[], AbstractContextManager[object]]) -> None:
        """Do it, and keep what it makes or raises for whoever waits."""
        try:
            with watched():
                self.result = self.make(report)
        except BaseException as raised:
            self.error = raised
        self.make = _nothing  # it may hold what should not be kept

    def outcome(self) -> Any:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.result

    def seconds(self, now: float) -> float:
        """How long it has worked."""
        return 0.0 if self.started is None else now - self.started - self.not_counted

    def ended(self, now: float) -> Finished:
        """How it ended."""
        match self.error:
            case None:
                outcome = "done"
            case LeftError():
                outcome = "left"
            case RefusedError():
                outcome = "refused"
            case AtlasError():
                outcome = "unusable"
            case _:
                outcome = "failed"
        return Finished(self.kind, self.key, outcome, (self.started or now) - self.asked, self.seconds(now))


def _nothing(_report: Report) -> None:
    """Takes the place of work that is done."""


Result = TypeVar("Result")

_LOOK_SECONDS = 0.05
_QUIET_SECONDS = 0.25
"""Work shorter than this is not worth a word."""
_CHECK_SECONDS = 0.2
_GRACE_SECONDS = 5.0
"""A page that is drawn anew asks again within this time."""


class Workshop:
    """Does the work and remembers it.

    Args:
        room: how many results are kept, by the kind of work.
        waiting: more unfinished pieces than this are refused.
        limit: a piece may take so many seconds.
        patience: who has waited so many seconds for a turn gives up.
        grace: what nobody has waited for during so many seconds is dropped.
        on_end: told of each piece that ended, on the workshop's thread.
        watched: around each piece; is handed what to call as often as may be, and what that raises ends the piece. A
            piece that is not watched is stopped where it says what it is doing.
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
        watched: Callable[[Callable[[], None]], AbstractContextManager[object]] = lambda _: nullcontext(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._made: dict[str, LRUCache[Hashable, Piece]] = {kind: LRUCache(size) for kind, size in room.items()}
        self._unfinished: dict[Hashable, Piece] = {}
        self._turns: Turns[Piece] = Turns()
        self._waiting, self._limit, self._patience, self._grace = waiting, limit, patience, grace
        self._on_end, self._watched, self._clock = on_end, watched, clock
        self._lock = threading.Lock()
        self._here = threading.local()
        self._running: Piece | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="atlas-work")

    def result(
        self,
        kind: str,
        key: Hashable,
        make: Callable[[Report], Result],
        watch: Report | None = None,
        asker: Asker | None = None,
    ) -> Result:
        """What `make` returns; remembered where it was made before.

        Args:
            kind: of work.
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
        made: Result = piece.outcome()
        return made

    def begun(self, kind: str, key: Hashable, make: Callable[[Report], Any], asker: Asker | None = None) -> Piece:
        """A piece of work that nobody waits for: what a page shows once it is there. It goes on as long as somebody
        asks for it again within the grace; whatever anyone waits for comes between its steps. Where it fails, that is
        remembered like a result: nobody is there who could have it tried again.

        Raises:
            RefusedError: too much work is waiting.
        """
        piece = self._ask(kind, key, make, asker or Asker(), aside=True)
        self._leave(piece)
        return piece

    def known(self, kind: str, key: Hashable) -> Any:
        """A result that was made before; None where it was not, or is still being made.

        Raises:
            Exception: what failed and is not to be tried again; see `begun`.
        """
        with self._lock:
            piece = self._made[kind].get(key)
        return None if piece is None else piece.outcome()

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Around what a piece of work does for all, such as loading the model: it does not count against its time."""
        started, piece = self._clock(), self._now
        around = piece.serving_all
        piece.serving_all = True
        try:
            yield
        finally:
            piece.serving_all = around
            if not around:
                piece.not_counted += self._clock() - started

    @property
    def _now(self) -> Piece:
        """What this thread works on; one that counts for nothing where it is not the workshop's."""
        return getattr(self._here, "piece", None) or Piece("", None, _nothing, 0.0)

    def _ask(
        self, kind: str, key: Hashable, make: Callable[[Report], Any], asker: Asker, *, aside: bool = False
    ) -> Piece:
        with self._lock:
            made = self._made[kind].get(key)
            if made is not None:
                made.askers += 1
                return made
            piece = self._unfinished.get((kind, key))
            for other in list(self._unfinished.values()):
                if other is not piece and not other.aside:
                    other.owners.discard(asker.owner)  # whose page asks something else now
            self._sweep()
            if piece is None:
                if len(self._unfinished) >= self._waiting:
                    raise RefusedError(Reason.BUSY, "Too many prompts are waiting already. Try again in a minute.")
                piece = Piece(kind, key, make, self._clock(), aside=aside)
                self._unfinished[kind, key] = piece
                self._worker.submit(self._work)
            piece.askers += 1
            piece.aside &= aside
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

    def _work(self, fits: Callable[[Piece], bool] = lambda _: True) -> bool:
        """Do the piece whose turn it is, of those that fit; returns whether there was one left."""
        with self._lock:
            self._sweep()
            piece = self._turns.next(fits)
            if piece is None:
                return False
            around, self._running, piece.started = self._running, piece, self._clock()
        self._here.piece = piece
        piece.work(lambda stage: self._report(piece, stage), self._around)
        self._here.piece = around
        with self._lock:
            self._running = around
            if self._unfinished.get((piece.kind, piece.key)) is piece:
                del self._unfinished[piece.kind, piece.key]
            if piece.error is None or (piece.aside and not isinstance(piece.error, LeftError)):
                self._made[piece.kind][piece.key] = piece  # else what failed may be tried again
        try:
            self._on_end(piece.ended(self._clock()))
        finally:
            piece.finished.set()
        return True

    def _around(self) -> AbstractContextManager[object]:
        with self.untimed():  # the first may have to import what all need
            return self._watched(self._check)

    def _report(self, piece: Piece, stage: str) -> None:
        """Note what is being done; what others wait for comes between the steps of what nobody waits for."""
        with self._lock:
            piece.stage = stage
            self._require_going_on(piece)
        while piece.aside:
            with self.untimed():
                if not self._work(lambda other: not other.aside):
                    break

    def _check(self) -> None:
        """Between two stages, of what is being done on this thread."""
        piece, now = self._now, self._clock()
        if not piece.serving_all and now - piece.looked > _CHECK_SECONDS:
            piece.looked = now
            with self._lock:
                self._require_going_on(piece)

    def _require_going_on(self, piece: Piece) -> None:
        """Stop what is deserted or has taken too long."""
        if self._is_deserted(piece):
            if self._unfinished.get((piece.kind, piece.key)) is piece:
                del self._unfinished[piece.kind, piece.key]  # whoever asks from now on gets a new one
            raise LeftError
        if piece.seconds(self._clock()) > self._limit:
            raise RefusedError(
                Reason.TIME,
                f"This was stopped after {self._limit:g} seconds, the longest that this server allows. Ask for "
                "fewer neurons or a shorter prompt.",
            )
