"""What the steer page asks of the model, and what it says of that. A text is seen while it is written."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import LRUCache

from app.answers.compare import listed, moved, where
from app.answers.explain import settings_of
from app.attribution.prompt import Sampling
from app.serving import resources
from app.serving.access import require_allowed
from app.serving.settings import configuration
from app.serving.worker import Reason, RefusedError, Report
from app.state.selections import SteerSelection
from db.catalogue.store import Catalogue
from db.lazy import lazy_import

if TYPE_CHECKING:
    from app.attribution import intervene
    from app.attribution.intervene import Continuation, Steered, Steering
else:
    intervene = lazy_import("app.attribution.intervene")

Texts = tuple[str, ...]
"""What is written so far: as it is, and with the interventions where there are any."""
_Key = tuple[str, SteerSelection]
_written: LRUCache[_Key, Texts] = LRUCache(64)
_as_it_is: "LRUCache[_Key, Continuation]" = LRUCache(64)
"""By question without its interventions: another factor writes only the other text anew."""
_lock = Lock()
"""Of both: the workshop's thread writes, and pages read."""


def sampling_of(asked: SteerSelection) -> Sampling:
    """How the text is continued, within this server's limits.

    Raises:
        RefusedError: by more tokens than this server writes.
    """
    most = configuration().max_continued
    if asked.tokens > most:
        raise RefusedError(
            Reason.LIMIT,
            f"This server continues a text by at most {most:,} tokens, and {asked.tokens:,} were asked for: ask for "
            "fewer.",
        )
    return Sampling(asked.tokens, asked.temperature, asked.top_p, asked.seed)


def steering(atlas: Catalogue, asked: SteerSelection, watch: Report | None = None) -> "Steering":
    """Predictions before and after.

    Raises:
        AtlasError: the prompt, target or a part is unusable; the message says why.
    """
    require_allowed(asked.prompt)
    asked = replace(asked, tokens=1, temperature=0.0, top_p=1.0, seed=0)  # they change nothing here

    def make(report: Report) -> "Steering":
        return _steered(atlas, asked, report).result()

    return resources.workshop().result("detail", (atlas.info.build_id, "steer", asked), make, watch)


def continuations(
    atlas: Catalogue, asked: SteerSelection, show: Callable[[Texts], None], watch: Report | None = None
) -> "tuple[Continuation, ...]":
    """The text continued as it is, and with the interventions where there are any.

    Args:
        atlas: the catalogue of the model.
        asked: the question.
        show: is handed what is written so far, on the caller's thread, again and again.
        watch: told what is being done.

    Raises:
        AtlasError: the prompt or a part is unusable, or more tokens are asked for than the server or the model allows.
    """
    require_allowed(asked.prompt)
    sampling, key = sampling_of(asked), (atlas.info.build_id, asked)

    same = (atlas.info.build_id, replace(asked, interventions=(), target=None))

    def make(report: Report) -> "tuple[Continuation, ...]":
        one = _steered(atlas, asked, report)
        with _lock:
            known = _as_it_is.get(same)
        sides = ([] if known else [False]) + [True] * bool(asked.interventions)
        writing = [(one.continued(sampling, steered=side), list[int]()) for side in sides]
        before = () if known is None else (known,)
        for number in range(1, sampling.tokens + 1):
            report(f"Continuing the text: token {number} of {sampling.tokens} …")
            for tokens, ids in writing:
                ids.extend(_next(tokens))
            texts = tuple(intervene.text_of(one.run.model, ids) for _, ids in writing)
            with _lock:
                _written[key] = (*(one.text for one in before), *texts)
        found = (*before, *(intervene.continuation(one.run.model, ids, sampling) for _, ids in writing))
        with _lock:
            _as_it_is[same] = found[0]
        return found

    def seen(stage: str) -> None:
        if watch is not None:
            watch(stage)
        with _lock:
            texts = _written.get(key)
        if texts is not None:
            show(texts)

    return resources.workshop().result("detail", (atlas.info.build_id, "continue", asked), make, seen)


def _next(tokens: Iterator[int]) -> list[int]:
    """At most one more: a text that has ended stays as it is."""
    return [one for one in [next(tokens, None)] if one is not None]


def _steered(atlas: Catalogue, asked: SteerSelection, report: Report) -> "Steered":
    model = resources.ready(atlas, report)
    report("Running the prompt …")
    return intervene.Steered.of(model, asked.prompt, settings_of(asked.question), asked.interventions)


# What it says, in plain text: whoever shows it as Markdown makes it literal.


def sentence(found: "Steering", asked: SteerSelection) -> str:
    """What was changed, and what became of the target."""
    before, after = found.before, found.after
    if not asked.interventions:
        token = before.token.display
        return f"{where(found)}: the model continues with “{token}”. Name what to change."
    words = listed([one.words for one in asked.interventions])
    return (
        f"{where(found)} with {words}: {moved(before, after)}; rank {before.rank:,} → {after.rank:,}. "
        f"Next comes “{found.next_after.display}”."
    )


def drawing(asked: SteerSelection) -> str:
    """How the text is continued."""
    if not asked.drawn:
        return "Each time the most probable token is taken."
    return f"Drawn with temperature {asked.temperature:g}, top-p {asked.top_p:g} and seed {asked.seed}."
