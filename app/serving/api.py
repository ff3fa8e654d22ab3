"""The HTTP API at ``/api``: the questions of :mod:`db.questions`, answered with the shell's own JSON.

Parameters, their bounds and the schemas of the answers are made from the questions' and the records' fields.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, is_dataclass, replace
from enum import StrEnum
from functools import cache
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote_to_bytes, urlencode

from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi import Path as PathParameter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving import logs
from app.serving.problems import (
    MEDIA_TYPE,
    MalformedError,
    Pool,
    Problem,
    UnavailableError,
    handle_problems,
    one_line,
    status_of,
)
from app.serving.resources import catalogue, catalogue_root, every_build, remembered
from app.serving.settings import configuration
from db import groups, questions, records
from db.catalogue.builds import GENERIC, model_folders
from db.catalogue.export import as_json, json_fields
from db.catalogue.store import Catalogue
from db.errors import AtlasError, NotFoundError
from db.files import state_of
from db.neuron import NEURON_PATTERN
from db.questions import DEEPEST, MOST_LISTED, QUESTIONS, ConceptSearch, Question, Search, Span, WholeBuild
from db.texts.records import FoundExcerpt, NamedNeuron, NeuronTexts
from db.texts.store import DESCRIPTIONS

# What the API takes and what it answers, as pydantic models.


class Parameters(BaseModel):
    """Parameters of a question; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="which of several models, by the name that /v1/models gives; without it the server's first choice",
    )


@cache
def form(question: type[Question]) -> type[Parameters]:
    """The query parameters of a question, by the same names and with the same defaults as the shell's options."""
    fields: dict[str, Any] = {
        one.name: (_kind(one), _bounds(one)) for one in questions.parameters(question) if one.name != "label"
    }
    return create_model(question.__name__, __base__=Parameters, **fields)


def _kind(one: questions.Parameter) -> Any:
    if one.several:
        return list[Annotated[int, Field(ge=0, le=2**31 - 1)]]
    if one.kind == Span:
        return Annotated[str | None, Field(pattern=one.option.pattern), AfterValidator(_span)]
    return one.kind | None if one.default is None else one.kind


def _span(text: str | None) -> Span | None:
    return None if text is None else questions.read_span(text)


def _bounds(one: questions.Parameter) -> Any:
    option = one.option
    counted = one.several or one.kind is str
    least, most = ("min_length", "max_length") if counted else ("ge", "le")
    bounds: dict[str, Any] = {
        least: None if one.several else option.least,
        most: option.most,
        "description": option.about,
        "examples": None if option.example is None else [option.example],
    }
    if one.kind is float:
        bounds["allow_inf_nan"] = False
    default = {MISSING: ..., (): []}.get(one.default, one.default)
    return Field(default, **{name: value for name, value in bounds.items() if value is not None})


@cache
def shape(record: Any) -> type[BaseModel]:
    """What the JSON of a record has: for the OpenAPI document alone, the JSON itself is made without it."""
    fields: dict[str, Any] = {}
    for one in json_fields(record):
        kind: Any = one.kind
        if is_dataclass(one.kind):
            kind = shape(kind)
        elif issubclass(kind, StrEnum):
            kind = Literal[*map(str, kind)]
        elif kind is Path:
            kind = str
        kind = list[kind] if one.several else kind
        fields[one.name] = (kind | None if one.optional else kind, Field(description=one.about or None))
    return create_model(record.__name__, __config__=ConfigDict(extra="forbid"), __doc__=record.__doc__, **fields)


ANSWERS: dict[str, Any] = {
    "search": list[shape(records.Hit)],  # type: ignore[misc]
    "concept": shape(records.ConceptAnswer),
    "neuron": shape(records.NeuronCard),
    "texts": shape(NeuronTexts),
    "excerpts": list[shape(FoundExcerpt)],  # type: ignore[misc]
    "named": list[shape(NamedNeuron)],  # type: ignore[misc]
    "similar": list[shape(records.SimilarNeuron)],  # type: ignore[misc]
    "token": shape(records.TokenPage),
    "overview": shape(records.Overview),
    "groups": list[shape(groups.Group)],  # type: ignore[misc]
    "group": shape(groups.GroupAnswer),
    "builds": list[shape(records.Build)],  # type: ignore[misc]
    "models": list[shape(records.Model)],  # type: ignore[misc]
}
"""The shape of each answer, by the path."""


async def readable(request: Request) -> None:
    """Refuse a query that says something twice, or in bytes that are no text.

    Raises:
        MalformedError: it does.
    """
    try:
        unquote_to_bytes(request.scope["query_string"]).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("The query is not valid UTF-8: percent-encode the text's UTF-8 bytes.") from None
    names = [name for name, _ in request.query_params.multi_items() if name not in _REPEATABLE]
    repeated = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if repeated is not None:
        raise MalformedError(f"The parameter “{repeated[:60]}” is given twice: give it once.")


_REPEATABLE = {one.name for question in QUESTIONS.values() for one in questions.parameters(question) if one.several}


# Models and builds, without where they lie on this machine.


def builds(model: str | None) -> tuple[records.Build, ...]:
    """As ``python -m db builds``, with paths that begin at the folder of the catalogues.

    Raises:
        NotFoundError: no such model.
        UnavailableError: there is no build at all.
    """
    return tuple(
        replace(build, path=Path(build.model, build.path.name), problem=build.problem and one_line(build.problem))
        for build in _found(model)
    )


def models(model: str | None) -> tuple[records.Model, ...]:
    """Each model with what its current build says of it; raises as `builds` does."""
    found: dict[str, records.Model] = {}
    for build in builds(model):
        first = _is_first(build.model)
        found.setdefault(build.model, records.Model(build.model, None, "No build of it is current.", first))
        if build.current:
            found[build.model] = records.Model(build.model, build.stamp, build.problem, first)
    return tuple(found.values())


def _is_first(name: str) -> bool:
    try:
        return catalogue().path.parent.name == name
    except AtlasError:
        return False


def _found(model: str | None) -> list[records.Build]:
    try:
        everything = every_build()
    except NotFoundError as error:
        raise UnavailableError(str(error)) from error
    found = [build for build in everything if model in (None, build.model)]
    if not found:
        names = ", ".join(dict.fromkeys(build.model for build in everything))
        raise NotFoundError(f"There is no model of that name; there are: {names}.")
    return found


# From parameters to an HTTP answer: the current build, an ETag, the shell's own JSON.

_CODE = Path(__file__).parents[2]
_POOL = Pool(threads=4, waiting=64)
_CACHED = {"Cache-Control": "no-cache"}
"""May be kept, and is asked about each time: a new build shows at once, and an unchanged one costs 304."""


async def answered(request: Request, name: str, asked: Parameters, label: str | None = None) -> Response:
    """The answer to a question about one build.

    Args:
        request: its address is part of the ETag.
        name: of the question.
        asked: its parameters.
        label: of the neuron that it is about.

    Raises:
        AtlasError: it cannot be answered; see :func:`app.serving.problems.status_of`.
    """

    def answer() -> Response:
        question = _question(QUESTIONS[name], asked, label)
        atlas = opened(asked.model)
        stamp = atlas.info
        texts = "" if atlas.texts is None else atlas.texts.path.name
        beside = str([state_of(atlas.path.parent / name) for name in (GENERIC, groups.FILE, DESCRIPTIONS)])
        tag = etag(stamp.model, stamp.build_id, stamp.created_at, texts, beside, request.url.path, request.url.query)
        headers = {"ETag": tag, "Build-Id": stamp.build_id}
        if unchanged(request, tag):
            return Response(None, 304, {**_CACHED, **headers})
        found = _overview(atlas, question) if isinstance(question, WholeBuild) else as_json(question.answer(atlas))
        further = _further(request, found, question)
        return written(found, headers | ({"Link": further} if further else {}))

    return await told(name, answer)


async def listed(request: Request, name: str, model: str | None) -> Response:
    """The answer to a question about the builds there are; raises as `builds` does."""

    def answer() -> Response:
        found = as_json(builds(model) if name == "builds" else models(model))
        tag = etag(json.dumps(found))
        if unchanged(request, tag):
            return Response(None, 304, {**_CACHED, "ETag": tag})
        return written(found, {"ETag": tag})

    return await told("list", answer)


def _question(question: type[Question], asked: Parameters, label: str | None) -> Question:
    given = {"label": label, **dict(asked)}
    known = questions.parameters(question)
    return question(**{one.field: tuple(given[one.name]) if one.several else given[one.name] for one in known})


async def told(name: str, answer: Callable[[], Response], pool: Pool = _POOL) -> Response:
    """The answer, made in a thread of the pool; one line of the log says which question it was, and nothing of what was
    typed.
    """
    started = time.perf_counter()
    status = 500
    try:
        response = await pool.run(answer)
        status = response.status_code
        return response
    except AtlasError as error:
        status = status_of(error)
        raise
    finally:
        logs.event("api", question=name, status=status, seconds=round(time.perf_counter() - started, 3))


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


def _overview(atlas: Catalogue, question: WholeBuild) -> dict[str, Any]:
    """Made once a build at its longest, because it reads the whole build, and cut to what is asked."""
    whole: dict[str, Any] = remembered(
        ("api", "overview", str(atlas.path)), lambda: as_json(WholeBuild(limit=MOST_LISTED).answer(atlas))
    )
    return {name: rows if name == "layers" else rows[: question.limit] for name, rows in whole.items()}


def _further(request: Request, found: Any, question: Question) -> str | None:
    """The header that names the next page, where there may be one."""
    if not isinstance(question, Search | ConceptSearch):
        return None
    rows = found["neurons"] if isinstance(found, dict) else found
    offset = question.offset + question.limit
    if not rows or len(rows) < question.limit or offset > DEEPEST:
        return None
    following = request.url.include_query_params(offset=offset)
    return f'<{following.path}?{following.query}>; rel="next"'


@cache
def _code() -> str:
    """Changes with the code that makes the answers."""
    files = sorted(path for room in ("db", "app/serving") for path in (_CODE / room).rglob("*.py"))
    return hashlib.blake2s(b"\0".join(path.read_bytes() for path in files)).hexdigest()


# The API as an ASGI application, to be mounted at ``/api``.

_ABOUT = (
    "What the neurons of a language model promote and suppress, and what they did on a prompt; read-only. What a "
    "catalogue answers is the JSON that `python -m db … --json` prints, of its current build. It carries an ETag: send "
    "that back in If-None-Match, and an unchanged answer is 304. Where a page is full, the header Link names the next "
    "one. What asks the model takes the address of its page, and answers as `python -m app.attribution … --json`."
)
_PROBLEMS = {
    400: "The query cannot be read.",
    404: "No such model, neuron, token or group.",
    422: "A parameter that cannot be meant.",
    503: "There is no catalogue that can be read, or the server is busy.",
}
Label = Annotated[
    str,
    PathParameter(
        description="a neuron: L28.F29 is layer 28, index 29 of the FFN; L21.H19.N7 layer 21, head 19, dimension 7",
        pattern=NEURON_PATTERN,
        examples=["L2.F3", "L21.H19.N7"],
    ),
]


def api(*more: APIRouter) -> FastAPI:
    """A new application, with more routes below /v1. It reads the settings once and the catalogues at each request."""
    app = FastAPI(
        title="Neuron Atlas",
        version="1",
        description=_ABOUT,
        docs_url=None,  # both would load their scripts from another site; /api/ is our own page
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for router in (_router(), *more):
        app.include_router(router, prefix="/v1", dependencies=[Depends(readable)])
    app.add_api_route("/", page, include_in_schema=False)
    app.add_middleware(HeadAsGet)
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


class HeadAsGet:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        asked = scope["type"] == "http" and scope["method"] == "HEAD"
        await self._app({**scope, "method": "GET"} if asked else scope, receive, without_body if asked else send)


def _router() -> APIRouter:
    router = APIRouter()
    _add(router, "models", _of_builds("models"), "The models and their current builds.")
    _add(router, "builds", _of_builds("builds"), "All builds, and which are current.")
    for name, question in QUESTIONS.items():
        labelled = any(one.name == "label" for one in questions.parameters(question))
        ask = _of_neuron(name, form(question)) if labelled else _of_build(name, form(question))
        _add(router, name, ask, str(question.__doc__), "/{label}" if labelled else "")
    return router


def _add(router: APIRouter, name: str, ask: Callable[..., Any], about: str, more: str = "") -> None:
    """A route that answers from the catalogue, and says when an answer is unchanged."""
    unchanged: dict[int | str, dict[str, Any]] = {304: {"description": "What If-None-Match names is still the answer."}}
    add_route(router, name, ask, about, ANSWERS[name], more=more, responses=unchanged)


def add_route(
    router: APIRouter,
    name: str,
    ask: Callable[..., Any],
    about: str,
    shape: Any,
    *,
    problems: Mapping[int, str] | None = None,
    more: str = "",
    responses: Mapping[int | str, dict[str, Any]] | None = None,
) -> None:
    """A route that yields JSON of a shape, or a problem; of these there may be more than any route has."""
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    found: dict[int | str, dict[str, Any]] = {200: {"model": shape, "description": about}, **(responses or {})}
    found |= {status: {"description": text, **problem} for status, text in (_PROBLEMS | dict(problems or {})).items()}
    found[503]["model"] = Problem  # named once as a model, so that the document holds its schema
    router.add_api_route(
        f"/{name}{more}",
        ask,
        operation_id=name,
        responses=found,
        response_class=Response,
        summary=about,
    )


def _of_builds(name: str) -> Callable[..., Any]:
    async def ask(request: Request, asked: Annotated[Parameters, Query()]) -> Response:
        return await listed(request, name, asked.model)

    return ask


def _of_build(name: str, parameters: type[Parameters]) -> Callable[..., Any]:
    async def ask(request: Request, asked: Annotated[parameters, Query()]) -> Response:  # type: ignore[valid-type]
        return await answered(request, name, asked)

    return ask


def _of_neuron(name: str, parameters: type[Parameters]) -> Callable[..., Any]:
    async def ask(
        request: Request,
        label: Label,
        asked: Annotated[parameters, Query()],  # type: ignore[valid-type]
    ) -> Response:
        return await answered(request, name, asked, label)

    return ask


# The page at ``/api/``, for people: made from the OpenAPI document; nothing of it comes from elsewhere.

_SHARED = "model"
LEADING = "x-leading"
"""Marks, in a parameter's schema, what a question is about though it need not be given by this name."""
_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --paper: #fbfaf8; --ink: #1f2428; --link: #1d6a86; --line: #dedad3 }
@media (prefers-color-scheme: dark) { :root { --paper: #131517; --ink: #e6e4df; --link: #7cc4dc; --line: #34383c } }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; background: var(--paper); color: var(--ink) }
a { color: var(--link) }
h2 { margin: 2.5rem 0 .5rem; font: 600 1.05rem ui-monospace, monospace; overflow-wrap: anywhere }
p { margin: .5rem 0 }
table { border-collapse: collapse; width: 100%; margin-top: .8rem }
td, th { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid var(--line) }
td:nth-child(1), th:nth-child(1) { width: 6rem }
td:nth-child(2), th:nth-child(2) { width: 30% }
code { font-size: .95em; overflow-wrap: anywhere }
"""


async def page(request: Request) -> HTMLResponse:
    """The page at ``/api/``."""
    root = request.scope.get("root_path", "")
    document: dict[str, Any] = request.app.openapi()
    asked = [(path, methods["get"]) for path, methods in document["paths"].items()]
    choices = {name: schema["enum"] for name, schema in document["components"]["schemas"].items() if "enum" in schema}
    body = "".join(_about(root, path, question, choices) for path, question in asked)
    title = escape(document["info"]["title"])
    text = _with_code(document["info"]["description"])
    shared = next(one for one in asked[0][1]["parameters"] if one["name"] == _SHARED)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}: HTTP API</h1><p>{text}</p>"
        f"<p>Every question also takes <code>{_SHARED}</code>: {escape(shared['description'])}</p>"
        f'<p><a href="{escape(root)}/openapi.json">OpenAPI document</a> · '
        f'<a href="{escape(root.removesuffix("/api"))}/">dashboard</a></p>{body}</body></html>',
        headers={"Cache-Control": "no-cache"},
    )


def _about(root: str, path: str, question: dict[str, Any], choices: dict[str, list[str]]) -> str:
    found = question.get("parameters", [])
    rows = "".join(_parameter(one, choices) for one in found if one["name"] != _SHARED)
    address, query = path, {}
    for one in found:
        example = next(iter(one["schema"].get("examples", [])), None)
        if one["in"] == "path":
            address = address.replace("{" + one["name"] + "}", quote(str(example)))
        elif one.get("required") or LEADING in one["schema"]:
            query[one["name"]] = example
    example = f"{root}{address}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    head = "<tr><th>parameter</th><th>holds</th><th>meaning</th></tr>"
    return (
        f"<h2>GET {escape(root + path)}</h2><p>{escape(question['summary'])}</p>"
        f'<p>For example <a href="{escape(example)}"><code>{escape(example)}</code></a></p>'
        + (f"<table>{head}{rows}</table>" if rows else "")
    )


def _parameter(one: dict[str, Any], choices: dict[str, list[str]]) -> str:
    needed = ", needed" if one.get("required") else ""
    meaning = escape(one.get("description") or one["schema"].get("description", ""))
    return (
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(_holds(one['schema'], choices))}{needed}</td>"
        f"<td>{meaning}</td></tr>"
    )


def _with_code(text: str) -> str:
    """Text whose parts between backticks are code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _holds(schema: dict[str, Any], choices: dict[str, list[str]]) -> str:
    """A parameter's schema in words."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    words = " or ".join(_kind_in_words(kind, choices) for kind in kinds)
    default = schema.get("default", kinds[0].get("default"))
    return words + (f", {default} without it" if default not in (None, []) else "")


def _kind_in_words(kind: dict[str, Any], choices: dict[str, list[str]]) -> str:
    named = choices[kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind.get("enum")
    if named:
        return " or ".join(map(str, named))
    if kind["type"] == "array":
        words = "token ids" if kind["items"]["type"] == "integer" else "texts"
    else:
        words = _KINDS[kind["type"]]
    if "minimum" in kind and "maximum" in kind:
        return f"{words} from {kind['minimum']:,.10g} to {kind['maximum']:,.10g}"
    return words + (f" of at most {kind['maxLength']:,} characters" if "maxLength" in kind else "")
