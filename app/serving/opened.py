"""The builds that are open. A build's file never changes, so one that did was harmed or put back: it is opened anew."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock

from db.catalogue import Catalogue

_State = tuple[int, int, int, int]


class OpenBuilds:
    """Opens each file once and keeps it open.

    Args:
        room: how many; one that drops out is closed with its last user.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._open: OrderedDict[Path, tuple[_State, Catalogue]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path) -> Catalogue:
        """The build in a file.

        Raises:
            AtlasError: it cannot be read.
        """
        with self._lock:
            state = _state(path)
            known = self._open.get(path)
            if known is not None:
                if known[0] == state:
                    self._open.move_to_end(path)
                    return known[1]
                del self._open[path]
                known[1].close()  # within a process DuckDB goes on reading the old file as long as one has it open
            opened = Catalogue.open(path)
            if state is not None:
                self._open[path] = (state, opened)
            while len(self._open) > self._room:
                self._open.popitem(last=False)
            return opened


def _state(path: Path) -> _State | None:
    """Changes when the file is written to, cut or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
