"""What is shown on the prompt page as it is kept: the analysis, and what was looked at in it."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from app.asking import explaining
from app.asking.reading import head_after
from app.asking.saving import DETAILS, TOP, question_key, workspace_to_write
from app.serving import logs
from app.state import links
from app.state.selection import Map, PromptSelection
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.workspace import Draft, Saved
from db.workspace.values import MAX_TITLE

if TYPE_CHECKING:
    from app.attribution.results import Analysis


def suggested_title(selection: PromptSelection, analysis: "Analysis") -> str:
    """A title to start from: the prompt and what is explained, in display form where it cannot be written."""
    text = "".join(one if one.isprintable() else " " for one in selection.prompt)
    words = " ".join(text.split()) or "A prompt"
    end = f" →{analysis.target.token.display.replace('␣', ' ')}"
    if analysis.contrast is not None:
        end += f", not{analysis.contrast.distractor.token.display.replace('␣', ' ')}"
    room = MAX_TITLE - len(end)
    return (words if len(words) <= room else words[: room - 1] + "…") + end[:MAX_TITLE]


def draft(title: str, selection: PromptSelection, analysis: "Analysis", atlas: Catalogue) -> Draft:
    """The view as it is kept: the analysis, and what was looked at in it."""
    from app.attribution.forms import to_json

    return Draft(
        title=title,
        model=atlas.info.model,
        build_id=atlas.info.build_id,
        unembedding_hash=analysis.unembedding_hash,
        address=links.address("prompt", selection.params()).partition("?")[2],
        question=question_key(selection),
        result=to_json(analysis) | {TOP: selection.top, DETAILS: details(_looked_at(selection, analysis, atlas))},
    )


Answers = list[tuple[str, Any, Callable[[], Any]]]
"""Question, what it is about, and how it is answered."""


def details(answers: Answers) -> dict[str, dict[str, Any]]:
    """Answers as JSON, by question and what each is about; one that fails is left out."""
    from app.attribution import details_form

    found: dict[str, dict[str, Any]] = {}
    for name, what, ask in answers:
        try:
            found.setdefault(name, {})[details_form.label_of(what)] = details_form.to_json(name, ask())
        except AtlasError as error:
            logs.event("not_kept", question=name, reason=type(error).__name__)
    return found


def _looked_at(selection: PromptSelection, analysis: "Analysis", atlas: Catalogue) -> Answers:
    """What the page asks one step further, at the place that is shown."""
    place = selection.place
    answers: Answers = [("flow", None, partial(explaining.flow, atlas, selection))]
    if place.map is Map.LENS:
        answers.append(("lens", None, partial(explaining.lens, atlas, selection)))
    if place.head is not None:
        answers.append(("positions", place.head, partial(explaining.source_positions, atlas, selection, place.head)))
        answers.append(("pattern", place.head, partial(explaining.pattern, atlas, selection, place.head)))
    if place.own is not None:
        answers.append(("own", place.own, partial(explaining.own_query, atlas, selection, *place.own)))
    if place.read is not None:
        head = place.through or head_after(place.read, analysis, atlas.info.heads)
        if head is not None:
            through = partial(explaining.through_head, atlas, place.read, head, selection)
            answers.append(("through", (place.read, head), through))
    return answers


def save(title: str, selection: PromptSelection, analysis: "Analysis", atlas: Catalogue) -> Saved:
    """Keep what is shown.

    Raises:
        AtlasError: it cannot be kept; the message says why.
    """
    return workspace_to_write().save(draft(title, selection, analysis, atlas))
