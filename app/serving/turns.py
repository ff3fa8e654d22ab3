"""Whose turn it is: the owners take turns, and each owner's things come in the order in which they were added.

One who has fifty things waiting therefore holds up another who has one by a single thing. A thing may have several
owners, and comes when the first of them has their turn.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Turns(Generic[T]):
    """Things that wait for their turn."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, OrderedDict[T, None]] = OrderedDict()

    def add(self, owner: Hashable, thing: T) -> None:
        """Let it wait; an owner's thing that waits already keeps its place."""
        self._lines.setdefault(owner, OrderedDict()).setdefault(thing)

    def drop(self, thing: T) -> None:
        """Let it wait no longer, whoever owns it."""
        for owner in [owner for owner, line in self._lines.items() if thing in line]:
            del self._lines[owner][thing]
            if not self._lines[owner]:
                del self._lines[owner]

    def next(self) -> T | None:
        """Take the thing whose turn it is; None where nothing waits."""
        if not self._lines:
            return None
        owner, line = next(iter(self._lines.items()))
        thing = next(iter(line))
        self._lines.move_to_end(owner)
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
