"""One piece of work, who asks for it, and how it ended."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from app.serving.refusals import RefusedError
from db.errors import AtlasError

Report = Callable[[str], None]
"""Says what is being done."""


class LeftError(Exception):
    """Nobody waits for this any more. No AtlasError, so that no one takes it for a result."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks.

    Attributes:
        owner: tells sessions apart; those of one owner take turns with those of another.
        look: called again and again while waiting; raises when whoever waits has gone.
    """

    owner: Hashable = None
    look: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Finished:
    """How a piece of work ended.

    Attributes:
        kind: names the shelf.
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
    """One piece of work. All but `make` and what it leaves is guarded by the workshop's lock.

    Attributes:
        kind: names the shelf.
        key: what the result depends on.
        make: does the work.
        asked: when it was first asked for.
        started: when its turn came.
        left: when the last of those who waited left.
        not_counted: seconds that it spent on what serves all.
        askers: how many wait for it.
        owners: whose page last asked for it.
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
    askers: int = 0
    owners: set[Hashable] = field(default_factory=set)
    stage: str = "Waiting for the model …"
    finished: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None

    def work(self, report: Report) -> None:
        """Do it, and keep what it makes or raises for whoever waits."""
        try:
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
