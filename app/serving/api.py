"""Which models and builds there are, without where they lie on this machine."""

import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from app.serving import api_forms, logs
from app.serving.api_forms import DEEPEST, MOST_LISTED
from app.serving.api_page import page
from app.serving.problems import MEDIA_TYPE, Pool, Problem, UnavailableError, handle_problems, public, status_of
from app.serving.resources import catalogue, catalogue_root, remembered
from app.serving.settings import configuration
from db import queries
from db.catalogue.builds import CURRENT, BuildFile, build_files, model_folders
from db.catalogue.store import Catalogue
from db.errors import AtlasError, NotFoundError
from db.queries import ANSWERS
from db.terminal import builds_json

_STAMPED = (
    "build_id",
    "created_at",
    "family",
    "layers",
    "heads",
    "d_model",
    "vocabulary",
    "ffn_neurons",
    "attention_neurons",
    "depth",
)


def builds(model: str | None) -> list[dict[str, Any]]:
    """As ``python -m db builds --json``, with paths that begin at the folder of the catalogues.

    Raises:
        NotFoundError: no such model.
        UnavailableError: there is no build at all.
    """
    entries = builds_json(_found(model))
    for entry in entries:
        entry["path"] = f"{entry['model']}/{Path(entry['path']).name}"
        entry["problem"] = entry["problem"] and public(entry["problem"])
    return entries


def models(model: str | None) -> list[dict[str, Any]]:
    """Each model with what its current build says of it; raises as `builds` does."""
    current: dict[str, BuildFile | None] = {}
    for name, build in _found(model):
        current.setdefault(name, None)
        if build.current:
            current[name] = build
    return [_model(name, build) for name, build in current.items()]


def _model(name: str, build: BuildFile | None) -> dict[str, Any]:
    problem = "No build of it is current." if build is None else build.problem and public(build.problem)
    stamp = None if build is None else build.stamp
    told = {field: None if stamp is None else getattr(stamp, field) for field in _STAMPED}
    return {"model": name, **told, "problem": problem, "first": _is_first(name)}


def _is_first(name: str) -> bool:
    try:
        return catalogue().path.parent.name == name
    except AtlasError:
        return False


def _found(model: str | None) -> list[tuple[str, BuildFile]]:
    """The builds, opened again only when a file has changed."""
    root = catalogue_root()
    seen = tuple(
        (str(path), state.st_mtime_ns, state.st_size)
        for folder in model_folders(root)
        for path in (folder / CURRENT, *build_files(folder))
        for state in (path.stat(),)
    )

    def look() -> list[tuple[str, BuildFile]]:
        return queries.builds(root, None)

    try:
        everything = remembered(("api", "builds", seen), look)
    except NotFoundError as error:
        raise UnavailableError(str(error)) from error
    found = [(name, build) for name, build in everything if model in (None, name)]
    if not found:
        names = ", ".join(dict.fromkeys(name for name, _ in everything))
        raise NotFoundError(f"There is no model of that name; there are: {names}.")
    return found


# From parameters to an HTTP answer: the current build, an ETag, the shell's own JSON.

_CODE = Path(__file__).parents[2]
_POOL = Pool(threads=4, waiting=64)


async def answered(request: Request, name: str, options: Namespace) -> Response:
    """The answer to a question about one build.

    Args:
        request: its address is part of the ETag.
        name: the shell's command.
        options: what the shell's parser would yield.

    Raises:
        AtlasError: it cannot be answered; see :func:`app.serving.problems.status_of`.
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
    files = sorted(path for room in ("db", "app/serving") for path in (_CODE / room).rglob("*.py"))
    return hashlib.blake2s(b"\0".join(path.read_bytes() for path in files)).hexdigest()


# The API as an ASGI application, to be mounted at ``/api``.

Asked = TypeVar("Asked")
_ABOUT = (
    "What the neurons of a language model promote and suppress, read-only. Every answer is the JSON that "
    "`python -m db … --json` prints, of the current build of a catalogue. Answers carry an ETag: send it back in "
    "If-None-Match, and an unchanged answer is 304. Where a page is full, the header Link names the next one."
)
_PROBLEMS = {
    400: "The query cannot be read.",
    404: "No such model, neuron or token.",
    422: "A parameter that cannot be meant.",
    503: "There is no catalogue that can be read, or the server is busy.",
}

v1 = APIRouter(prefix="/v1", dependencies=[Depends(api_forms.readable)])


def api() -> FastAPI:
    """A new application. It reads the settings once and the catalogues at each request."""
    app = FastAPI(
        title="Neuron Atlas",
        version="1",
        description=_ABOUT,
        docs_url=None,  # both would load their scripts from another site; /api/ is our own page
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.include_router(v1)
    app.add_api_route("/", page, include_in_schema=False)
    handle_problems(app)
    origins = configuration().cors_origins
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET"],
            allow_headers=["If-None-Match"],
            expose_headers=["ETag", "Link", "Build-Id"],
        )
    return app


def _question(path: str, answer: Any, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A route that yields JSON of a shape, or a problem."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, description in _PROBLEMS.items()
    }
    responses: dict[int | str, dict[str, Any]] = {
        200: {"model": answer, "description": what},
        304: {"description": "What If-None-Match names is still the answer."},
        **problems,
        # Named once as a model, so that the document holds its schema.
        503: {"model": Problem, **problems[503]},
    }
    return v1.get(path, responses=responses, response_class=Response, summary=what, description="")


@_question("/models", list[api_forms.Model], "The models and their current builds.")
async def list_models(request: Request, asked: Annotated[api_forms.Builds, Query()]) -> Response:
    """The models and their current builds."""
    return await listed(request, models, asked.model)


@_question("/builds", list[api_forms.Build], "All builds, and which are current.")
async def list_builds(request: Request, asked: Annotated[api_forms.Builds, Query()]) -> Response:
    """All builds, and which are current."""
    return await listed(request, builds, asked.model)


@_question("/overview", api_forms.OverviewAnswer, "A build as a whole: layers, peaked neurons, favoured tokens.")
async def overview(request: Request, asked: Annotated[api_forms.Overview, Query()]) -> Response:
    """A build as a whole."""
    return await answered(request, "overview", asked.options())


@_question("/neuron/{label}", api_forms.Neuron, "One neuron: both ends of its logits, and its statistics.")
async def neuron(request: Request, label: api_forms.Label, asked: Annotated[api_forms.OneNeuron, Query()]) -> Response:
    """One neuron."""
    return await answered(request, "neuron", asked.options(label=label))


@_question("/similar/{label}", list[api_forms.SimilarNeuron], "Neurons that share tokens with it, most similar first.")
async def similar(request: Request, label: api_forms.Label, asked: Annotated[api_forms.Similar, Query()]) -> Response:
    """Neurons that share tokens with a neuron."""
    return await answered(request, "similar", asked.options(label=label))


@_question("/search", list[api_forms.Hit], "Neurons that promote or suppress a token.")
async def search(request: Request, asked: Annotated[api_forms.Search, Query()]) -> Response:
    """Neurons that promote or suppress a token."""
    return await answered(request, "search", asked.options())


@_question("/concept", api_forms.ConceptAnswer, "Neurons that cover a concept, given by words.")
async def concept(request: Request, asked: Annotated[api_forms.Concept, Query()]) -> Response:
    """Neurons that cover a concept."""
    return await answered(request, "concept", asked.options())


@_question("/token", api_forms.Token, "A token: its neighbours, and the neurons that have it, by layer.")
async def token(request: Request, asked: Annotated[api_forms.OneToken, Query()]) -> Response:
    """A token."""
    return await answered(request, "token", asked.options())
