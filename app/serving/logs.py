"""The log: one line per page view, piece of work, refusal or fault, as text or JSON.

What people type, and who they are, is left out unless the setting ``log_prompts`` asks for it; secrets always are.
The message of an unexpected error may repeat what was typed, so of such an error only its kind and its place are
written. Lines go to standard error.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from app.serving.worker import RefusedError
from db.errors import AtlasError

_OURS = "app"
_OTHERS = ("streamlit", "uvicorn", "websockets", "asyncio")
_CHATTY = ("uvicorn", "uvicorn.error", "uvicorn.asgi", "websockets")
"""They write one line per connection, with the address of whoever connects."""
_events = logging.getLogger("app.events")
_view: ContextVar[dict[str, Any] | None] = ContextVar("view", default=None)
_drawing: set[int] = set()
_drawn_last = time.perf_counter()


class Lines(logging.Formatter):
    """A record as one line.

    Args:
        form: “json” for one object per line, “text” for ``name=value`` pairs.
    """

    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """The line; nothing that is logged can begin a second one."""
        fields = self._fields(record)
        if self._form == "json":
            return json.dumps(fields, default=str)
        first = f"{fields.pop('time')} {fields.pop('level')} {fields.pop('event')}"
        return " ".join([first, *(f"{name}={_word(value)}" for name, value in fields.items())])

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, Any] = {"time": when, "level": record.levelname.lower()}
        told: dict[str, Any] | None = getattr(record, "fields", None)
        if told is not None:
            return {**fields, "event": record.getMessage(), **told}
        fields |= {"event": "log", "logger": record.name, "message": record.getMessage()}
        error = record.exc_info[1] if record.exc_info else None
        return fields if error is None else {**fields, "error": _error(error, whole=True)}


def _records(*, whole: bool) -> Callable[..., logging.LogRecord]:
    """Makes the records of all loggers; without errors' messages, unless `whole`.

    Here, and not where lines are written, since a package may bring a handler of its own at any time.
    """

    def make(*args: Any, **more: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **more)
        if whole:
            return record
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:  # others pass its text as the message
            message = record.getMessage() if record.name.partition(".")[0] == _OURS else "an error escaped"
            record.msg, record.args, record.exc_info = f"{message}: {_error(error, whole=False)}", (), None
        elif isinstance(record.args, tuple):
            record.args = tuple(type(one).__name__ if isinstance(one, Exception) else one for one in record.args)
        return record

    return make


def _error(error: BaseException, *, whole: bool) -> str:
    """The kind of an error and the places that it passed, innermost last; of its causes too."""
    told: list[str] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        frames = traceback.extract_tb(one.__traceback__)
        places = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
        message = f": {one}" if whole or isinstance(one, AtlasError) else ""
        told.append(f"{type(one).__qualname__}{message} at {places or 'an unknown place'}")
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return " | caused by ".join(told)


def _word(value: Any) -> str:
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def set_up(form: Literal["text", "json"], *, whole: bool) -> None:
    """Write our lines, and turn those of the packages beneath us into the same form. May be called again.

    Args:
        form: see `Lines`.
        whole: also write the messages of unexpected errors, which may repeat what was typed.
    """
    logging.setLogRecordFactory(_records(whole=whole))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(form))
    roots = (_OURS, *_OTHERS)
    for name in (*roots, *logging.root.manager.loggerDict):
        if name.partition(".")[0] not in roots:
            continue
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.propagate = name not in roots
    for name in roots:
        logging.getLogger(name).addHandler(handler)
    logging.getLogger(_OURS).setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def event(name: str, **fields: Any) -> None:
    """Write one line. Fields hold no text that people typed."""
    _events.info(name, extra={"fields": {field: value for field, value in fields.items() if value not in (None, "")}})


def note(**fields: Any) -> None:
    """Add to the line of the page that is being drawn, such as the build it shows; elsewhere, do nothing."""
    view = _view.get()
    if view is not None:
        view |= fields


def refused(error: AtlasError) -> None:
    """Note on the page's line that it could not show all it was asked for, and write a refusal down."""
    if isinstance(error, RefusedError):
        note(outcome="refused")
        event("refused", reason=str(error.reason), page=(_view.get() or {}).get("page"))
    else:
        note(outcome="unusable")


def quiet_seconds() -> float:
    """For how long no page has been drawn."""
    return 0.0 if _drawing else time.perf_counter() - _drawn_last


@contextmanager
def page_view(page: str, **fields: Any) -> Iterator[None]:
    """Around the drawing of a page: one line with how long it took and how it ended."""
    global _drawn_last
    view: dict[str, Any] = {"page": page, "outcome": "shown", **fields}
    _drawing.add(id(view))
    token, started = _view.set(view), time.perf_counter()
    try:
        yield
    except Exception:
        view["outcome"] = "failed"
        raise
    except BaseException:  # Streamlit's own: the page is drawn anew, or nobody looks any more
        view["outcome"] = "interrupted"
        raise
    finally:
        _view.reset(token)
        _drawing.discard(id(view))
        _drawn_last = time.perf_counter()
        event("page", seconds=round(time.perf_counter() - started, 3), **view)
