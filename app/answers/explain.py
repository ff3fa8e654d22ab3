"""What the pages ask of the model: an analysis, and one step further into it; and how both are kept. All remembered."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from app import attribution
from app.answers import explain, stored
from app.attribution import drilldowns, measured
from app.attribution.drilldowns import DETAILS, TOP
from app.attribution.prompt import Named, PromptToken, read_token
from app.attribution.results import (
    Activations,
    Analysis,
    Found,
    KeySide,
    Prediction,
    QueryNeuron,
    Seconds,
    ValueNeuron,
    Within,
    to_json,
)
from app.gallery import WALKTHROUGH_PROMPT
from app.serving import logs, resources
from app.serving.access import require_allowed
from app.serving.settings import configuration
from app.serving.worker import Report
from app.state import address
from app.state.selections import Map, Place, PromptSelection, Section, question_key
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import Head, Neuron, NeuronAt, NeuronKind, Part, Sign
from db.records import NeuronTokens
from db.workspace import AnalysisEntry, Saved
from db.workspace.records import MAX_TITLE

if TYPE_CHECKING:
    import torch

    from app.attribution import PromptRun, query, run
    from app.attribution import analysis as analyses
else:
    torch = lazy_import("torch")
    run = lazy_import("app.attribution.run")
    query = lazy_import("app.attribution.query")
    analyses = lazy_import("app.attribution.analysis")

T = TypeVar("T")


def analysis(atlas: Catalogue, question: PromptSelection, watch: Report | None = None) -> Analysis:
    """The whole analysis of a prompt: the stored one where there is one, else the model's."""
    found = stored.answer(atlas, question)
    if found is not None:
        return found.analysis
    require_allowed(question.prompt, question.top)

    def make(report: Report) -> Analysis:
        resources.ready(atlas, report)
        started = time.perf_counter()
        asked = run_of(atlas, question.question, report)
        forward = time.perf_counter() - started
        with torch.inference_mode():
            report("Layers and heads …")
            _ = asked.at_attention, asked.at_ffn
            explained = attribution.explain(asked, resources.ranges_of(atlas.info.build_id, atlas), report)
        return replace(explained, seconds=Seconds(0.0, forward, time.perf_counter() - started))

    return resources.workshop().result("analysis", (atlas.info.build_id, question.question), make, watch)


def run_of(atlas: Catalogue, question: PromptSelection, report: Report) -> "PromptRun":
    """The prompt's run, from the shelf where it is still there. On the workshop's thread only."""
    runs, key = resources.runs(), (atlas.info.build_id, question)
    found = runs.get(key)
    if found is None:
        model = resources.ready(atlas, report)
        report("Running the prompt …")
        found = attribution.run_prompt(model, question.prompt, settings_of(question))
        runs[key] = found
    return found


def settings_of(question: PromptSelection) -> attribution.Settings:
    """What a question asks of the model, within this server's limits."""
    return attribution.Settings(
        top=question.top,
        target=question.target,
        distractor=question.distractor,
        position=question.position,
        bos=not question.bare,
        chat=question.chat,
        conventions=attribution.Conventions(question.rule.value),
        suppressing=True,
        max_tokens=configuration().max_tokens,
        memory_mb=configuration().memory_mb,
        method=question.method,
    )


@dataclass(frozen=True)
class Preview:
    """What a prompt's next token may be, without any attribution."""

    tokens: tuple[PromptToken, ...]
    predictions: tuple[Prediction, ...]
    notices: tuple[str, ...]


def preview(atlas: Catalogue, asked: PromptSelection, watch: Report | None = None) -> Preview:
    """The tokens of a text that is being typed, and what may come next. Its run is not kept: the next letter needs
    another.
    """
    require_allowed(asked.prompt)
    typed = PromptSelection(asked.prompt, bare=asked.bare, chat=asked.chat)

    def make(report: Report) -> Preview:
        model = resources.ready(atlas, report)
        with torch.inference_mode():
            found = attribution.run_prompt(model, typed.prompt, settings_of(typed))
            return Preview(found.tokens, found.predictions(), found.notices)

    return resources.workshop().result("preview", (atlas.info.build_id, typed), make, watch)


# One step further.


def detail(
    atlas: Catalogue, question: PromptSelection, name: str, what: Hashable = None, watch: Report | None = None
) -> Any:
    """One step further into a prompt: the stored answer where there is one, else the model's.

    Args:
        atlas: the catalogue of the model.
        question: the prompt.
        name: which step, of `drilldowns.TABLE` or a key of `_STEPS`.
        what: what it is about, such as a head; None where it is about the whole prompt.
        watch: told what is being done.

    Raises:
        AtlasError: the model cannot tell, or is not to be asked.
    """
    kept = stored.detail(atlas, question, name, what)
    if kept is not stored.MISSING:
        return kept
    stored.require_model_for_more(atlas, question)

    def find(found: "PromptRun") -> Any:
        return _STEPS[name](found, what) if name in _STEPS else drilldowns.answer(found, name, what)

    return _asked(atlas, question, (name, what), find, watch)


def _asked(
    atlas: Catalogue,
    question: PromptSelection,
    key: tuple[Hashable, ...],
    find: Callable[["PromptRun"], T],
    watch: Report | None = None,
) -> T:
    """What `find` makes of a prompt's run."""
    require_allowed(question.prompt, question.top)

    def make(report: Report) -> T:
        found = run_of(atlas, question.question, report)
        with torch.inference_mode():
            return find(found)

    return resources.workshop().result("detail", (atlas.info.build_id, question.question, *key), make, watch)


def named(atlas: Catalogue, question: PromptSelection, what: str, text: str) -> Named:
    """The token that was typed as the target or the distractor, read as the shell reads it."""
    found: Named = detail(atlas, question, "named", (what, text))
    return found


_STEPS: dict[str, Callable[["PromptRun", Any], Any]] = {
    "beginning": lambda found, text: run.tokens_beginning(found, text),
    "named": lambda found, what: read_token(found.model, what[1], what[0]),
    "effects": lambda found, _all: measured.Sweep.of(found, measured.kept_folder()).result(),
}
"""Steps besides those of `drilldowns.TABLE`, which are not stored; and what is quicker here than there."""


def found_within(
    atlas: Catalogue,
    question: PromptSelection,
    part: Part,
    kind: NeuronKind,
    watch: Report | None = None,
    *,
    lowered: bool,
) -> Found:
    """The strongest neurons of one part of the model alone; see `within`. With a distractor, by their shares."""

    def find(found: "PromptRun") -> Found:
        if found.distractor_id is not None:
            return analyses.shares_within(found, part, kind, question.top, opposing=lowered)
        if lowered:
            ranges = resources.ranges_of(atlas.info.build_id, atlas)
            return analyses.lowering_within(found, part, kind, question.top, ranges)
        return analyses.raising_within(found, part, kind, question.top)

    stored.require_model_for_more(atlas, question)
    return _asked(atlas, question, ("within", part, kind, lowered), find, watch)


def within(atlas: Catalogue, question: PromptSelection, part: Part, measure: int = 0) -> Within:
    """All lists of one part at once; see `analysis.within`."""

    def find(found: "PromptRun") -> Within:
        return analyses.within(found, part, question.top, resources.ranges_of(atlas.info.build_id, atlas), measure)

    return _asked(atlas, question, ("within", part, measure), find)


def activations(
    atlas: Catalogue, text: PromptSelection, neuron: Neuron, watch: Report | None = None
) -> tuple[tuple[str, ...], Activations]:
    """The tokens of a text, in display form, and how active a neuron is at each."""

    def find(found: "PromptRun") -> tuple[tuple[str, ...], Activations]:
        return tuple(token.display for token in found.tokens), query.activations(found, neuron)

    return _asked(atlas, text, ("active", neuron), find, watch)


def key_sides(atlas: Catalogue, neuron: Neuron, watch: Report | None = None) -> tuple[KeySide, ...]:
    """Which tokens' embeddings switch a neuron on; the same on every prompt. See `query.key_sides`."""

    def make(report: Report) -> tuple[KeySide, ...]:
        model = resources.ready(atlas, report)
        report(f"Reading every token’s embedding with {neuron.label} …")
        with torch.inference_mode():
            return query.key_sides(model, neuron)

    return resources.workshop().result("detail", (atlas.info.build_id, "keys", neuron), make, watch)


# Keeping what the prompt page shows: the analysis, and what was looked at in it.


def suggested_title(selection: PromptSelection, analysis: Analysis) -> str:
    """A title to start from: the prompt and what is explained, in display form where it cannot be written."""
    text = "".join(one if one.isprintable() else " " for one in selection.prompt)
    words = " ".join(text.split()) or "A prompt"
    end = f" →{_in_title(analysis.target.token)}"
    if analysis.contrast is not None:
        end += f", not{_in_title(analysis.contrast.distractor.token)}"
    room = MAX_TITLE - len(end)
    return (words if len(words) <= room else words[: room - 1] + "…") + end[:MAX_TITLE]


def _in_title(token: PromptToken) -> str:
    """As it follows a word; of spaces alone, so that they are seen."""
    return token.display.replace("␣", " ") if token.display.strip("␣") else f" {token.display}"


def draft(title: str, selection: PromptSelection, analysis: Analysis, atlas: Catalogue) -> AnalysisEntry:
    """The view as it is kept: the analysis, and what was looked at in it."""
    details = drilldowns.kept(
        looked_at(selection.place, analysis),
        partial(detail, atlas, selection),
        lambda name, error: logs.event("not_kept", question=name, reason=type(error).__name__),
    )
    return AnalysisEntry(
        title=title,
        model=atlas.info.model,
        build_id=atlas.info.build_id,
        checkpoint=atlas.info.checkpoint,
        unembedding_hash=analysis.unembedding_hash,
        address=address.address("prompt", selection.params()).partition("?")[2],
        question=question_key(selection),
        result=to_json(analysis) | {TOP: selection.top, DETAILS: details},
    )


def looked_at(place: Place, analysis: Analysis) -> Iterator[tuple[str, Hashable]]:
    """The steps that the page shows at a place, and what each is about."""
    yield "flow", None
    if place.map is Map.LENS:
        yield "lens", None
    if Section.EVERY in place.open and measured.share_measured(analysis, measured.kept_folder()) == 1:
        yield "effects", measured.ALL
    if place.head is not None:
        yield "positions", place.head
        yield "pattern", place.head
    if place.own is not None:
        yield "own", place.own
    if place.read is not None:
        head = place.through or analysis.head_after(place.read)
        if head is not None:
            yield "through", (place.read, head)


def save(title: str, selection: PromptSelection, analysis: Analysis, atlas: Catalogue) -> Saved:
    """Keep what is shown.

    Raises:
        AtlasError: it cannot be kept; the message says why.
    """
    return stored.workspace_to_write().save(draft(title, selection, analysis, atlas))


QUESTION = PromptSelection(WALKTHROUGH_PROMPT)
_DEPTH = 8
_CANDIDATES = 10


@dataclass(frozen=True)
class Shown:
    """A neuron on the prompt, and the tokens that it raised there.

    Attributes:
        neuron: which.
        position: an attention neuron's source position.
        score: nats; a query neuron's is its share of what it switched on.
        activation: signed.
        end: the end of its tokens that the activation raised.
        raised: the strongest tokens of that end, in display form.
    """

    neuron: Neuron
    position: int | None
    score: float
    activation: float
    end: Sign
    raised: tuple[str, ...]


@dataclass(frozen=True)
class Walkthrough:
    """The example.

    Attributes:
        analysis: of the prompt.
        first: the FFN value neuron that raised the target most.
        naming: another of the strongest FFN value neurons, one whose raised tokens name the target; None without.
        carrying: one of the strongest attention value neurons, one that names the target if there is one.
        query: the query neuron that did most to switch that one on; None where the model is not at hand.
        through: the tokens that the attention neuron's head raises from the query neuron, in display form.
    """

    analysis: Analysis
    first: Shown
    naming: Shown | None
    carrying: Shown
    query: Shown | None
    through: tuple[str, ...]


def walkthrough(atlas: Catalogue, watch: Report | None = None) -> Walkthrough:
    """The example on this catalogue's model.

    Raises:
        AtlasError: there is neither the model nor a stored result, or the model has no value neurons to show.
    """
    analysis = explain.analysis(atlas, QUESTION, watch)
    ffn = _shown(analysis.ffn_value_neurons[:_CANDIDATES], atlas)
    attention = _shown(analysis.attention_value_neurons[:_CANDIDATES], atlas)
    if not ffn or not attention:
        raise AtlasError("The example shows value neurons, and the analysis found none.")
    target = analysis.target.token.display
    later = [one for one in attention if one.neuron.layer]  # no neuron comes before one in layer 0
    carrying = _naming(later, target) or (*later, attention[0])[0]
    query, through = _query(atlas, carrying, watch)
    return Walkthrough(analysis, ffn[0], _naming(ffn[1:], target), carrying, query, through)


def _shown(found: Sequence[ValueNeuron], atlas: Catalogue) -> list[Shown]:
    tokens = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    return [_one(one, one.position, one.activation, tokens[one.neuron]) for one in found]


def _one(one: ValueNeuron | QueryNeuron, position: int | None, activation: float, tokens: NeuronTokens) -> Shown:
    end, raised = (Sign.PROMOTES, tokens.promotes) if activation > 0 else (Sign.SUPPRESSES, tokens.suppresses)
    return Shown(one.neuron, position, one.score, activation, end, tuple(token.display for token in raised))


def _naming(found: Sequence[Shown], target: str) -> Shown | None:
    """The first that raised the target's own token among its strongest."""
    return next((one for one in found if target in one.raised), None)


def _query(atlas: Catalogue, one: Shown, watch: Report | None) -> tuple[Shown | None, tuple[str, ...]]:
    """The strongest query neuron of an attention neuron, and what it says through that one's head."""
    neuron, position = one.neuron, one.position
    if neuron.head is None or position is None:
        return None, ()
    try:
        behind = explain.detail(atlas, QUESTION, "own", NeuronAt(neuron, position)).ffn_neurons
        if not behind:
            return None, ()
        found = behind[0]
        active: Activations = explain.detail(atlas, QUESTION, "active", found.neuron, watch)
        through = explain.detail(atlas, QUESTION, "through", (found.neuron, Head(neuron.layer, neuron.head)))
    except AtlasError:
        return None, ()
    activation = active.activation[position]
    tokens = atlas.strongest_tokens([found.neuron], _DEPTH)[found.neuron]
    shown = _one(found, position, activation, tokens)
    said = through.promotes if activation > 0 else through.suppresses
    return shown, tuple(token.display for token in said)
