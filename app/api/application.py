"""The API as an ASGI application, to be mounted at ``/api``."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from starlette.middleware.cors import CORSMiddleware

from app.api import library, parameters, shapes
from app.api.answering import answered, listed
from app.api.page import page
from app.api.problems import MEDIA_TYPE, Problem, handle_problems
from app.serving.configuration import configuration

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

v1 = APIRouter(prefix="/v1", dependencies=[Depends(parameters.readable)])


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


@_question("/models", list[shapes.Model], "The models and their current builds.")
async def models(request: Request, asked: Annotated[parameters.Builds, Query()]) -> Response:
    """The models and their current builds."""
    return await listed(request, library.models, asked.model)


@_question("/builds", list[shapes.Build], "All builds, and which are current.")
async def builds(request: Request, asked: Annotated[parameters.Builds, Query()]) -> Response:
    """All builds, and which are current."""
    return await listed(request, library.builds, asked.model)


@_question("/overview", shapes.Overview, "A build as a whole: layers, peaked neurons, favoured tokens.")
async def overview(request: Request, asked: Annotated[parameters.Overview, Query()]) -> Response:
    """A build as a whole."""
    return await answered(request, "overview", asked.options())


@_question("/neuron/{label}", shapes.Neuron, "One neuron: both ends of its logits, and its statistics.")
async def neuron(
    request: Request, label: parameters.Label, asked: Annotated[parameters.OneNeuron, Query()]
) -> Response:
    """One neuron."""
    return await answered(request, "neuron", asked.options(label=label))


@_question("/similar/{label}", list[shapes.SimilarNeuron], "Neurons that share tokens with a neuron, most alike first.")
async def similar(request: Request, label: parameters.Label, asked: Annotated[parameters.Similar, Query()]) -> Response:
    """Neurons that share tokens with a neuron."""
    return await answered(request, "similar", asked.options(label=label))


@_question("/search", list[shapes.Hit], "Neurons that promote or suppress a token.")
async def search(request: Request, asked: Annotated[parameters.Search, Query()]) -> Response:
    """Neurons that promote or suppress a token."""
    return await answered(request, "search", asked.options())


@_question("/concept", shapes.Concept, "Neurons that cover a concept, given by words.")
async def concept(request: Request, asked: Annotated[parameters.Concept, Query()]) -> Response:
    """Neurons that cover a concept."""
    return await answered(request, "concept", asked.options())


@_question("/token", shapes.Token, "A token: its neighbours, and the neurons that have it, by layer.")
async def token(request: Request, asked: Annotated[parameters.OneToken, Query()]) -> Response:
    """A token."""
    return await answered(request, "token", asked.options())
