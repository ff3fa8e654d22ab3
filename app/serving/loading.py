"""What is large and slow to load: loaded once, when first asked for, and only so many of it kept."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from app.serving.shelf import Shelf

T = TypeVar("T")


class Loaded(Generic[T]):
    """The things in memory.

    Args:
        room: how many. What was used least recently makes room before the next is loaded, so that there are never more.
        load: loads one by its source.
        dropped: called after one had to go and before the next is loaded, so that whoever else keeps it lets it go too.
    """

    def __init__(self, room: int, load: Callable[[str], T], dropped: Callable[[], None] = lambda: None) -> None:
        self._room, self._load, self._dropped = room, load, dropped
        self._shelf: Shelf[T] = Shelf(room)
        self._loading = Lock()

    def get(self, source: str) -> T:
        """The thing; two who ask at once wait for one loading."""
        with self._loading:
            found = self._shelf.get(source)
            if found is None:
                if len(self._shelf) >= self._room:
                    self._shelf.shrink(self._room - 1)
                    self._dropped()
                found = self._load(source)
                self._shelf.put(source, found)
            return found

    def has(self, source: str) -> bool:
        """Whether it is in memory; does not count as a use."""
        return source in self._shelf
