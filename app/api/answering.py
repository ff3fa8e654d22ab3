"""From parameters to an HTTP answer: the current build, an ETag, the shell's own JSON."""

import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.parameters import DEEPEST, MOST_LISTED
from app.api.pool import Pool
from app.api.problems import UnavailableError, status_of
from app.serving import logs
from app.serving.resources import catalogue, catalogue_root, remembered
from db.asking import ANSWERS
from db.catalogue import Catalogue
from db.errors import AtlasError, NotFoundError
from db.library import model_folders

_CODE = Path(__file__).parents[2]
_POOL = Pool(threads=4, waiting=64)


async def answered(request: Request, name: str, options: Namespace) -> Response:
    """The answer to a question about one build.

    Args:
        request: its address is part of the ETag.
        name: the shell's command.
        options: what the shell's parser would yield.

    Raises:
        AtlasError: it cannot be answered; see :func:`app.api.problems.status_of`.
    """

    def answer() -> Response:
        atlas = opened(options.model)
        stamp = atlas.info
        tag = etag(stamp.model, stamp.build_id, stamp.created_at, request.url.path, request.url.query)
        headers = {"ETag": tag, "Build-Id": stamp.build_id}
        if unchanged(request, tag):
            return Response(None, 304, {**_CACHED, **headers})
        found = _overview(atlas, options) if name == "overview" else ANSWERS[name](atlas, options)
        further = _further(request, found, options)
        return written(found, headers | ({"Link": further} if further else {}))

    return await _told(name, answer)


async def listed(request: Request, list_all: Callable[[str | None], Any], model: str | None) -> Response:
    """The answer to a question about the builds there are; raises as ``list_all`` does."""

    def answer() -> Response:
        found = list_all(model)
        tag = etag(json.dumps(found))
        if unchanged(request, tag):
            return Response(None, 304, {**_CACHED, "ETag": tag})
        return written(found, {"ETag": tag})

    return await _told("list", answer)


async def _told(name: str, answer: Callable[[], Response]) -> Response:
    """The answer, made in a thread; one line of the log says which question it was, and nothing of what was typed."""
    started = time.perf_counter()
    status = 500
    try:
        response = await _POOL.run(answer)
        status = response.status_code
        return response
    except AtlasError as error:
        status = status_of(error)
        raise
    finally:
        logs.event("api", question=name, status=status, seconds=round(time.perf_counter() - started, 3))


_CACHED = {"Cache-Control": "no-cache"}
"""May be kept, and is asked about each time: a new build shows at once, and an unchanged one costs 304."""


def written(found: Any, headers: dict[str, str]) -> Response:
    """The JSON as the shell prints it."""
    return Response(json.dumps(found, allow_nan=False), 200, {**_CACHED, **headers}, media_type="application/json")


def opened(model: str | None) -> Catalogue:
    """The current build that the dashboard shows as well.

    Raises:
        NotFoundError: no such model.
        UnavailableError: there is no catalogue, or it cannot be read.
    """
    try:
        try:
            return catalogue(model)
        except AtlasError:
            # Between reading CURRENT and opening what it names, another build may have been published, and this one
            # deleted: then CURRENT names the other one by now.
            return catalogue(model)
    except AtlasError as error:
        if model is not None and model not in [folder.resolve().name for folder in model_folders(catalogue_root())]:
            raise NotFoundError(str(error)) from error
        raise UnavailableError(str(error)) from error


def etag(*parts: str) -> str:
    """A weak ETag: of what is asked, of the build, and of the code that answers."""
    told = hashlib.blake2s("\0".join((_code(), *parts)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f'W/"{told}"'


def unchanged(request: Request, tag: str) -> bool:
    """Whether who asks has this answer already."""
    known = request.headers.get("if-none-match", "")
    return tag.removeprefix("W/") in (one.strip().removeprefix("W/") for one in known.split(","))


def _overview(atlas: Catalogue, options: Namespace) -> dict[str, Any]:
    """Made once a build at its longest, because it reads the whole build, and cut to what is asked."""
    whole: dict[str, Any] = remembered(
        ("api", "overview", str(atlas.path)), lambda: ANSWERS["overview"](atlas, Namespace(limit=MOST_LISTED))
    )
    return {name: rows if name == "layers" else rows[: options.limit] for name, rows in whole.items()}


def _further(request: Request, found: Any, options: Namespace) -> str | None:
    """The header that names the next page, where there may be one."""
    if not hasattr(options, "offset"):
        return None
    rows = found["neurons"] if isinstance(found, dict) else found
    offset = options.offset + options.limit
    if not rows or len(rows) < options.limit or offset > DEEPEST:
        return None
    following = request.url.include_query_params(offset=offset)
    return f'<{following.path}?{following.query}>; rel="next"'


@cache
def _code() -> str:
    """Changes with the code that makes the answers."""
    files = sorted(path for room in ("db", "app/api") for path in (_CODE / room).glob("*.py"))
    return hashlib.blake2s(b"\0".join(path.read_bytes() for path in files)).hexdigest()
