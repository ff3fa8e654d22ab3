"""What cannot be answered, as problem JSON (RFC 9457): a status and one sentence, never a traceback."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from threading import Lock
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.serving.settings import public
from app.serving.worker import Reason, RefusedError
from db.errors import AtlasError, NotFoundError
from db.token_text import display, shorten

MEDIA_TYPE = "application/problem+json"
_NAMED = 3  # wrong parameters named in one sentence
_WRITTEN = {
    "label": "no neuron label: write L28.F29 (layer, index) or L21.H19.N7 (layer, head, dimension)",
    "layers": "no range of layers: write 20-29, or 7",
}
_REFUSED = {Reason.MODE: 403, Reason.LIMIT: 422, Reason.BUSY: 503, Reason.TIME: 503}
_LOG = logging.getLogger(__name__)


class Problem(BaseModel):
    """Why there is no answer."""

    type: str = Field("about:blank", description="Always about:blank: the status says what kind of problem it is.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="One sentence: what was given, what was expected, what to do.")


class UnavailableError(AtlasError):
    """The catalogue cannot answer now: status 503."""


class MalformedError(AtlasError):
    """The request cannot be read: status 400."""


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """The answer that says what is wrong."""
    body = Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(
        body.model_dump_json(), status, {"Cache-Control": "no-store"} | (headers or {}), media_type=MEDIA_TYPE
    )


def handle_problems(app: FastAPI) -> None:
    """Let every error of an application leave it as problem JSON."""
    app.add_exception_handler(AtlasError, _of_atlas)
    app.add_exception_handler(RequestValidationError, _of_parameters)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_defect)


def status_of(error: AtlasError) -> int:
    """The status an error stands for: 422 unless it is ours to mend."""
    if isinstance(error, MalformedError):
        return 400
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, RefusedError):
        return _REFUSED[error.reason]
    # An error that the database caused is about the file, not about the question.
    return 503 if isinstance(error, UnavailableError) or isinstance(error.__cause__, DBAPIError) else 422


def one_line(error: AtlasError | str) -> str:
    """An error's message for programs: as visitors read it, on one line."""
    return " ".join(public(str(error)).split())


def _of_atlas(request: Request, error: Exception) -> Response:
    assert isinstance(error, AtlasError)
    status = status_of(error)
    if status == 503:
        _LOG.error("%s: %s", request.url.path, error)
        return problem(status, one_line(error), {"Retry-After": "10"})
    return problem(status, one_line(error))


def _of_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    sentences = [_sentence(one) for one in found[:_NAMED]]
    more = f" And {len(found) - _NAMED} more." if len(found) > _NAMED else ""
    return problem(422, " ".join(sentences) + more)


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: "There is nothing at this address: /api/ lists what there is.",
        405: "This API is read-only: ask with GET.",
    }
    detail = details.get(error.status_code, error.detail)
    return problem(error.status_code, detail, dict(error.headers or {}))


def _of_defect(request: Request, error: Exception) -> Response:
    """What we did not foresee. It is raised once more after this answer, and so logged with its traceback."""
    return problem(500, "This is a defect of the server; its log says more.")


def _sentence(error: dict[str, Any]) -> str:
    """One wrong parameter, in words."""
    place: Sequence[str | int] = error["loc"]
    name = shorten(display(str(place[1] if len(place) > 1 else place[0]).encode("utf-8", "replace")), 60)
    if error["type"] == "extra_forbidden":
        return f"There is no parameter “{name}” here: /api/ lists what there is."
    if error["type"] == "missing":
        return f"The parameter “{name}” is missing."
    given = shorten(display(_text(error.get("input")).encode("utf-8", "replace")), 60)
    if error["type"] == "string_pattern_mismatch" and name in _WRITTEN:
        return f"“{given}” is {_WRITTEN[name]}."
    expected = str(error["msg"]).removeprefix("Input ").removeprefix("String ").removeprefix("Value error, ")
    return f"The parameter “{name}” {expected}, and “{given}” was given."


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


# A few threads for blocking work, and a bound on what waits for them: the event loop draws pages meanwhile.

T = TypeVar("T")


class Pool:
    """May be used from any event loop."""

    def __init__(self, threads: int, waiting: int) -> None:
        """At most ``threads`` pieces of work at once, and at most ``waiting`` more behind them."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self._most = threads + waiting
        self._under_way = 0
        self._lock = Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns or raises.

        Raises:
            UnavailableError: too much waits already.
        """
        with self._lock:
            if self._under_way >= self._most:
                raise UnavailableError("The server is busy with other questions: ask again in a moment.")
            self._under_way += 1
        future = self._threads.submit(work)
        # Counted until it has really ended: who asked may leave before.
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _done(self, _future: "Future[T]") -> None:
        with self._lock:
            self._under_way -= 1
