"""Two runs of the model, compared, or without and with interventions: what the pages that compare and steer ask of it,
remembered as in :mod:`app.answers.explain`, and what they say of that. A text is seen while it is written.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import LRUCache

from app import gallery
from app.answers.explain import settings_of
from app.attribution.prompt import Sampling
from app.serving import resources
from app.serving.access import require_allowed
from app.serving.settings import configuration
from app.serving.worker import Reason, RefusedError, Report
from app.state.selections import ComparePlace, CompareSelection, SteerSelection
from app.words import nats, percent, signed
from db.catalogue.store import Catalogue
from db.lazy import lazy_import
from db.neuron import Neuron, Part, Wanted
from db.token_text import display, shorten

if TYPE_CHECKING:
    from app.attribution import compare, intervene
    from app.attribution.compare import Change, Comparison, RankedTarget, Side
    from app.attribution.intervene import Continuation, Steered, Steering
else:
    compare, intervene = lazy_import("app.attribution.compare"), lazy_import("app.attribution.intervene")


def examples(atlas: Catalogue) -> list[tuple[str, CompareSelection]]:
    """Comparisons to start from; those that name a part of the model are of the gallery's alone."""
    own = bool(gallery.of_model(atlas.info.model, atlas.info.checkpoint))
    return [one for one in gallery.EXAMPLES if own or not any(isinstance(part, Part) for part in one[1].zero)]


def comparison(atlas: Catalogue, asked: CompareSelection, watch: Report | None = None) -> "Comparison":
    """Both runs, compared.

    Raises:
        AtlasError: a prompt, position, target or part is unusable; the message says why.
    """
    question = asked.question
    sides = [replace(side, top=question.top) for side in (question.first, question.second)]
    for side in sides:
        require_allowed(side.prompt, side.top)

    def make(report: Report) -> "Comparison":
        model = resources.ready(atlas, report)
        report("Running both, and scoring what changed …")
        ranges = resources.ranges_of(atlas.info.build_id, atlas)
        first, second = ((side.prompt, settings_of(side)) for side in sides)
        return compare.compare_prompts(model, first, second, question.top, zero=question.zero, ranges=ranges)

    return resources.workshop().result("detail", (atlas.info.build_id, "compare", question), make, watch)


# What is said of them, in plain text: whoever shows it as Markdown makes it literal.

_LISTED = 4


def sentence(found: "Comparison", zero: Sequence[Wanted]) -> str:
    """What is compared with what, and how sure the model is of the target in each run."""
    one, two = found.first, found.second
    less = f" without {listed([part.words for part in zero])}" if zero else ""
    if one.prompt != two.prompt or one.position != two.position:
        return f"{where(one)} against {where(two)}{less}: {_answer(one)}, and {_answer(two)}."
    if one.target.token.id != two.target.token.id:
        return f"{where(one)}: {_answer(one)}, against {_answer(two)}{less}."
    how = f" with and without {listed([part.words for part in zero])}" if zero else " against itself"
    return f"{where(one)}{how}: {moved(one.target, two.target)}."


def moved(one: "RankedTarget", two: "RankedTarget") -> str:
    """What became of the target's probability."""
    change = two.log_probability - one.log_probability
    verb = "rises" if change > 0 else "falls"
    how = "stays where it is" if abs(change) < 0.0005 else f"{verb} by {nats(abs(change))[1:]} nats"
    return (
        f"the log-probability of “{one.token.display}” {how}, from {percent(one.probability)} to "
        f"{percent(two.probability)}"
    )


def listed(every: Sequence[str]) -> str:
    """Parts in words: “head L23.H4 and neuron L29.F864”."""
    words = list(every[:_LISTED])
    if len(every) > _LISTED:
        words.append(f"{len(every) - _LISTED} more")
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def subject(found: "Comparison", zero: Sequence[Wanted]) -> str:
    """What is compared, in few words: a title to start from."""
    one, two = (where(side, 60) for side in (found.first, found.second))
    less = f"without {listed([part.words for part in zero])}" if zero else ""
    if one == two and not less:
        one, two = (f"{one} → “{side.target.token.display}”" for side in (found.first, found.second))
    return " ".join(filter(None, [one, "" if one == two else f"against {two}", less]))


def where(side: "Side | Steering", longest: int = 80) -> str:
    """The prompt, and the position where that is not the last."""
    last = side.position == len(side.tokens) - 1
    place = "" if last else f" at position {side.position}, “{side.tokens[side.position].display}”"
    return f"“{shorten(display(side.prompt.encode('utf-8', 'replace')).replace('␣', ' '), longest)}”{place}"


def _answer(side: "Side") -> str:
    return f"“{side.target.token.display}” has {percent(side.target.probability)}"


def measured(found: "Comparison") -> str:
    """The effect on the model’s own output, and what the scores say of the parts that are zeroed."""
    one, two = found.first.target, found.second.target
    text = (
        f"Measured: log-probability {signed(one.log_probability)} → {signed(two.log_probability)} nats "
        f"({nats(found.log_probability)}), rank {one.rank:,} → {two.rank:,}."
    )
    if not found.zeroed:
        return text
    if len(found.zeroed) == 1:
        (only,) = found.zeroed
        return f"{text} Scored: {only.part.label} {nats(only.score)} nats."
    scores = listed([f"{each.part.label} {nats(each.score)}" for each in found.zeroed])
    return f"{text} Scored one by one, in nats: {scores}; {nats(sum(each.score for each in found.zeroed))} together."


def changes_within(found: "Comparison", place: ComparePlace) -> "tuple[Change, ...]":
    """The neurons of the chosen kind in the chosen layer or head, the largest change first."""

    def is_within(neuron: Neuron) -> bool:
        return place.layer in (None, neuron.layer) and (place.head is None or neuron.head in (None, place.head.head))

    return tuple(one for one in found.neurons[place.kind] if is_within(one.neuron))


def neurons_sentence(found: "Comparison", place: ComparePlace, shown: int) -> str:
    """How many neurons there are in a place, of which at most `shown` are shown, and what is proven of them."""
    rows, every = len(changes_within(found, place)), len(found.neurons[place.kind])
    count = f"{rows} of the {every}" if rows < every else f"{every}"
    first = f", the first {shown} shown" if rows > shown else ""
    above = found.complete_above[place.kind]
    proof = "" if above is None else f" Proven: every neuron whose |Δ| exceeds {above:.2g} nats is among them."
    return f"{count} {place.kind.words} neurons that raised or lowered either target most{first}.{proof}"


def steered_sentence(found: "Steering", asked: SteerSelection) -> str:
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


# What comes next under interventions, and how the text goes on.

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
