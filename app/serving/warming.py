"""What the first page would have to wait for, done while nobody waits: the modules of the pages, and the catalogue."""

import logging
from contextlib import suppress
from importlib import import_module
from pathlib import PurePosixPath
from threading import Thread

from app.navigation import PAGES
from app.serving.resources import catalogue
from db.errors import AtlasError

_log = logging.getLogger(__name__)


def warm_up() -> Thread:
    """Begin, in a thread of its own; a visitor who is quicker does the same work and finds what is done already."""
    thread = Thread(target=_warm, name="atlas-warm-up", daemon=True)
    thread.start()
    return thread


def _warm() -> None:
    try:
        # The page that most begin with comes first, and what draws charts and tables with the others.
        for path in PAGES.values():
            import_module(".".join(("app", *PurePosixPath(path).with_suffix("").parts)))
        with suppress(AtlasError):  # the pages say what is wrong with it
            catalogue()
    except Exception:
        _log.exception("warming up failed; the first page will be slower, and nothing else")
