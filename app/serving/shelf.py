"""Remembers the newest few things."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Remembers the newest few things by key.

    Args:
        room: how many.
    """

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
        self.shrink(self._room)

    def shrink(self, room: int) -> None:
        """Forget what was not used for longest, until at most `room` are left."""
        while len(self._things) > room:
            self._things.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        """Forget it."""
        self._things.pop(key, None)

    def drop_where(self, unwanted: Callable[[T], bool]) -> None:
        """Forget all that are unwanted."""
        for key in [key for key, thing in self._things.items() if unwanted(thing)]:
            del self._things[key]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._things

    def __len__(self) -> int:
        return len(self._things)
