"""The pages that ask the model, over HTTP: ``/api/v1/prompt?p=…`` answers with the figures that ``/prompt?p=…`` shows.

A question is the address of its page, and the answer the JSON that ``python -m app.attribution … --json`` prints. The
model works in the workshop, in turn with the pages: all programs together count as one visitor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, create_model
from starlette.requests import Request
from starlette.responses import Response

from app.answers import effects, explain, search, stored, two_runs
from app.attribution import drilldowns, form
from app.attribution.results import to_json
from app.serving import resources
from app.serving.access import has_model
from app.serving.api import LEADING, Parameters, add_route, opened, told, written
from app.serving.problems import Pool
from app.serving.worker import Reason, RefusedError
from app.state.address import Choice, Flag, Integer, Kind, Mark, Number, Selection, Text
from app.state.selections import By, CompareSelection, PromptSelection, SearchSelection, SteerSelection
from db.catalogue.store import Catalogue
from db.errors import AtlasError

Json = dict[str, Any]


def _prompt(atlas: Catalogue, asked: PromptSelection) -> Json:
    """An analysis with measured effects, and what is looked at in it."""
    analysis = explain.analysis(atlas, asked)
    try:
        analysis = effects.measured(atlas, asked)
    except AtlasError as error:  # some families, and servers without a model, measure nothing: their effects are null
        if isinstance(error, RefusedError) and error.reason is not Reason.MODE:
            raise
    looked_at = [(drilldowns.NAMED[name], (what,)) for name, what in explain.looked_at(asked.place, analysis)]
    if not has_model():
        looked_at = [
            (row, about)
            for row, about in looked_at
            if stored.detail(atlas, asked, row.name, about[0]) is not stored.MISSING
        ]
    details = drilldowns.answers_json(looked_at, lambda row, what: explain.detail(atlas, asked, row.name, what))
    part = effects.scope_of(asked.place)
    if part is not None and has_model():
        measure = 0 if analysis.head_effects is None else asked.top
        details["within"] = [drilldowns.to_json(explain.within(atlas, asked, part, measure))]
    return to_json(analysis) | details


def _compare(atlas: Catalogue, asked: CompareSelection) -> Json:
    """As ``--against`` and ``--zero``."""
    if not asked.compares:
        raise AtlasError("There is nothing to compare with: give p2, target2, at2 or zero.")
    found: Json = form.written(two_runs.comparison(atlas, asked))
    return found


def _steer(atlas: Catalogue, asked: SteerSelection) -> Json:
    """As ``--scale``, ``--clamp`` and ``--generate``."""
    sampling = two_runs.sampling_of(asked)
    texts = two_runs.continuations(atlas, asked, lambda _texts: None)
    found: Json = form.written(replace(two_runs.steering(atlas, asked), sampling=sampling, continuations=texts))
    return found


def _activated(atlas: Catalogue, asked: SearchSelection) -> Json:
    """As ``--activated-by``."""
    found: Json = form.written(search.find_activated(atlas, replace(asked, by=By.TEXT))[0])
    return found


# What may be asked: the parameters of the pages' addresses that change the answer. The others may be there as well, so
# that a link is a question as it is.

_TOKEN = "a token by its id, or by its text as the shell reads it"
_ABOUT_PROMPT = {
    "p": "the prompt",
    "target": f"{_TOKEN}; the token that is explained, without it the most probable one",
    "at": "the position after which the next token is explained, from 0; without it the last",
    "bos": "0 leaves out what the tokenizer puts before a text",
    "chat": "1 asks it as a user’s message, in the model’s chat template",
}
_SCORED = {"k": "how many neurons of each kind", "rule": "the conventions"}


@dataclass(frozen=True)
class Asked:
    """A page whose figures are asked for.

    Attributes:
        selection: its state.
        answer: what it shows.
        about: for people.
        parameters: what each holds, the leading one first.
        example: of that one.
    """

    selection: type[Any]
    answer: Callable[[Catalogue, Any], Json]
    about: str
    parameters: Mapping[str, str]
    example: str = "The capital of France is"


PAGES = {
    "prompt": Asked(
        PromptSelection,
        _prompt,
        "A prompt explained, with measured effects: what the page of a prompt shows at the same address.",
        {
            **_ABOUT_PROMPT,
            **_SCORED,
            "not": f"{_TOKEN}; what the target is held against",
            "method": "how neurons are scored",
            "layer": "a layer whose own strongest neurons come along",
            "part": "of the layer’s FFN alone",
            "head": "a head, such as L23.H4: its neurons, its source positions and its attention pattern",
            "from": "of the head, one source position alone",
            "map": "lens adds the logit lens",
            "own": "a value neuron, such as L29.F864 or L29.H1.N46@4: what switched it on",
            "read": "an FFN neuron that is read through a head",
            "through": "that head; without it the strongest after the neuron",
        },
    ),
    "compare": Asked(
        CompareSelection,
        _compare,
        "Two runs compared: another prompt, target or position, or parts zeroed.",
        {
            **_ABOUT_PROMPT,
            **_SCORED,
            "p2": "the second prompt; without it the first",
            "target2": f"{_TOKEN}; the second’s target",
            "at2": "the second’s position",
            "zero": "what the second does without: L23.H4,L29.F864,L12.ffn, or ffn:10 for the ten strongest",
        },
    ),
    "steer": Asked(
        SteerSelection,
        _steer,
        "A prompt under interventions: predictions before and after, and the text continued.",
        {
            **_ABOUT_PROMPT,
            "do": "what is done, such as L29.F864=4,L23.H4=0 (factors) or L29.F864:=3.5 (an activation)",
            "n": "how many tokens the text is continued by",
            "temp": "the temperature; without it the most probable token is taken",
            "topp": "tokens are drawn from so much of the probability",
            "seed": "the same draws the same text",
        },
    ),
    "activated": Asked(
        SearchSelection,
        _activated,
        "The neurons that a passage activates far more than the corpus does: the search page’s search by text.",
        {
            "text": "the passage",
            "sign": "at this end alone",
            "kind": "of this kind alone",
            "layers": "a span of layers: 20-29",
            "head": "of this head",
            "expert": "of this expert",
            "z": "from this z on",
            "usual": "1 at their usual end alone",
        },
        example="The treaty was signed in Paris.",
    ),
}

_POOL = Pool(threads=4, waiting=16)
_NAMING = {"target": "target", "target2": "target", "not": "distractor"}
_PROBLEMS = {403: "This server runs no model, or explains the prompts of its own pages alone."}


def router() -> APIRouter:
    """The routes, for `app.serving.api.api`."""
    found = APIRouter()
    for name, page in PAGES.items():
        add_route(found, name, _route(name, page), page.about, Json, problems=_PROBLEMS)
    return found


def _route(name: str, page: Asked) -> Callable[..., Any]:
    first = next(iter(page.parameters))
    fields: dict[str, Any] = {
        one: (
            str | None,  # read as the page reads it, so that what is unusable is said in the same words
            Field(
                None,
                description=about,
                examples=[page.example] if one == first else None,
                json_schema_extra=_schema(page.selection, one) | ({LEADING: True} if one == first else {}),
            ),
        )
        for one, about in page.parameters.items()
    }
    parameters = create_model(name, __base__=_Parameters, **fields)

    async def ask(request: Request, asked: Annotated[parameters, Query()]) -> Response:  # type: ignore[valid-type]
        def answer() -> Response:
            atlas = opened(asked.model)  # type: ignore[attr-defined]
            selection = _read(atlas, page, first, dict(request.query_params))
            return written(page.answer(atlas, selection), {"Build-Id": atlas.info.build_id})

        return await told(name, answer, _POOL)

    return ask


def _schema(selection: type[Selection], name: str) -> Json:
    """What a parameter holds, as the document says it."""
    kind, default = selection.kinds()[name]
    # In place of the text or null that the field's own type would say.
    holds = [_holds(kind) | ({"default": default} if default else {})]
    return {"anyOf": holds + [{"type": "string"}] * (name in _NAMING)}


def _holds(kind: Kind) -> Json:
    match kind:
        case Integer(low=low, high=high):  # a bound that hangs on the model is told where it is passed
            return {"type": "integer", "minimum": low} | ({} if callable(high) else {"maximum": high})
        case Number(low=low, high=high):
            return {"type": "number", "minimum": low, "maximum": high}
        case Flag():
            return {"type": "integer", "enum": [0, 1]}
        case Mark(word=word):
            return {"type": "string", "enum": [word]}
        case Choice(choices=choices):
            return {"type": "string", "enum": [str(one) for one in choices]}
        case Text(longest=longest):
            return {"type": "string", "maxLength": longest}
        case _:  # labels, spans and lists have a grammar of their own
            return {"type": "string"}


class _Parameters(Parameters):
    """Whatever stands in the address of a page; what that does not know is refused when it is read."""

    model_config = ConfigDict(extra="allow")


def _read(atlas: Catalogue, page: Asked, first: str, given: dict[str, str]) -> Selection:
    """The state that an address stands for.

    Raises:
        AtlasError: the leading parameter is missing, or one is unusable.
    """
    limits, names = resources.limits(atlas), _NAMING.keys() & page.parameters.keys()
    texts = {one: given.pop(one) for one in names if not given.get(one, "0").isdecimal()}
    found, notices = page.selection.read(given, limits, outcome="cannot be used")
    if notices:
        raise AtlasError(" ".join(notices))
    if not (found.passage if isinstance(found, SearchSelection) else found.prompt).strip():
        raise AtlasError(f"The parameter “{first}” is missing: {page.parameters[first]}.")
    for one, text in texts.items():
        question = found.first if isinstance(found, CompareSelection) else found.question
        given[one] = str(explain.named(atlas, question, _NAMING[one], text).id)
    named: Selection = page.selection.read(given, limits)[0]
    return named
