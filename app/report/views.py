"""Reports on views of every kind, in short: a comparison, a neuron, a search; one alone, or a whole collection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from app import charts as palette
from app.answers import search, stored, two_runs
from app.answers.neuron import CASE_COLUMNS, activity, bins_frame, case_rows, described, how_often, spread, texts_of
from app.answers.reading import reading_of
from app.attribution.results import from_json
from app.charts import Chart, catalogue_charts, prompt_charts
from app.report import on_server, written_at
from app.report.contents import drawn, readable, template
from app.serving import resources
from app.serving.settings import public
from app.state.address import Selection, shared
from app.state.selections import (
    By,
    CompareSelection,
    ManySelection,
    NeuronSelection,
    PromptSelection,
    SearchSelection,
    Show,
    SteerSelection,
)
from app.words import figure, nats, percent, signed
from db.catalogue.export import card_frame
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign
from db.records import ConceptNeuron, Hit, NeuronTokens, Token
from db.texts.records import NeuronTexts
from db.token_text import shorten
from db.workspace import Collection, Saved, Workspace

if TYPE_CHECKING:
    from app.attribution.activated import ActivatedNeuron
    from app.attribution.compare import Comparison

KINDS = {
    "prompt": "explanation",
    "compare": "comparison",
    "search": "search",
    "neuron": "neuron",
    "many": "set of prompts",
    "steer": "intervention",
}
"""What a saved view is called, by its page."""
_ROWS = 30
_TEXTS = 5
_DEPTH = 6
_TOKEN = 24
_Cell = str | tuple[str, ...]
"""Text, or tokens."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table. columns: their headings; rows: cells, tokens as tuples."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[_Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class View:
    """One saved view, as it is told.

    Attributes:
        page: which page it is of.
        title: its heading.
        sentences: what it says.
        charts: each with what it shows.
        sheets: its tables.
        address: of the page, relative to the app's start page.
    """

    page: str
    title: str
    sentences: tuple[str, ...] = ()
    charts: tuple[tuple[Chart, str], ...] = ()
    sheets: tuple[Sheet, ...] = ()
    address: str = ""

    @property
    def kind(self) -> str:
        return KINDS.get(self.page, self.page)


def alone(title: str, selection: Selection, atlas: Catalogue, base: str) -> bytes:
    """The report on one view of a page that is not the prompt's, which has a report of its own."""
    return html(title, [_VIEWS[selection.page_name](title, selection, atlas)], atlas, base)


def html(title: str, views: Sequence[View], atlas: Catalogue, base: str) -> bytes:
    """The views as one HTML file in UTF-8. base: the address of the app's start page, empty where it is not known."""
    named = {f"v{number}-{at}": one for number, view in enumerate(views) for at, one in enumerate(view.charts)}
    page = template("views.html").render(
        palette=palette,
        title=shorten(readable(title), 80),
        facts={
            "Model": f"{atlas.info.model} ({atlas.info.family})",
            "Catalogue": f"build {atlas.info.build_id}, made {atlas.info.created_at[:10]}",
            "Report made": written_at(),
        },
        views=views,
        figures=drawn(named),
        link=partial(on_server, base),
    )
    return page.encode("utf-8", "replace")


def of_collection(workspace: Workspace, collection: Collection, atlas: Catalogue) -> list[View]:
    """All that is in a collection, in its order. What cannot be told, such as what only a model knows, says why."""
    contents = workspace.contents(collection.id)
    told = [_told(one, workspace, atlas) for one in contents.analyses]
    neurons = [
        Saved(
            page="neuron",
            title=neuron.label,
            model=model,
            build_id=atlas.info.build_id,
            checkpoint="",
            unembedding_hash=atlas.info.unembedding_hash,
            address=f"n={neuron.label}",
            question="",
            prompt=neuron.label,
            target="",
        )
        for model, neuron in contents.neurons
    ]
    return told + [_told(one, workspace, atlas) for one in neurons]


def _told(one: Saved, workspace: Workspace, atlas: Catalogue) -> View:
    kind: type[Selection] | None = _STATES.get(one.page)
    if kind is None:
        return View(one.page, one.title, ("This version does not know such a page.",))
    selection: Any = kind.read(dict(parse_qsl(one.address, keep_blank_values=True)), resources.limits(atlas))[0]
    if one.model != atlas.info.model or stored.fits(one, atlas) is False:
        why = f"It is of {one.model}, or of other weights of that name, and is told with the catalogue of those."
        return View(one.page, one.title, (one.prompt, why))
    try:
        if isinstance(selection, PromptSelection):
            return explanation(one.title, selection, workspace.result(one.id), atlas)
        return _VIEWS[one.page](one.title, selection, atlas)
    except AtlasError as error:
        return View(one.page, one.title, (one.prompt, public(str(error))), address=shared(selection, atlas.info))


def explanation(title: str, asked: PromptSelection, result: dict[str, Any], atlas: Catalogue) -> View:
    """A saved explanation: layers, heads and the strongest neurons. Its own report has all."""
    reading = reading_of(from_json(result))
    analysis = reading.analysis
    sheets = [
        Sheet(
            "Most probable next tokens",
            ("token", "probability"),
            tuple(((one.token.display,), percent(one.probability)) for one in analysis.predictions),
        )
    ]
    for show in (Show.RAISED, Show.LOWERED):
        for kind in NeuronKind:
            found = reading.lists[show, kind][:_ROWS]
            ends = _ends([one.neuron for one in found], atlas)
            rows = tuple(
                (one.neuron.label, nats(one.score), signed(one.activation), _raised(ends[one.neuron], one.activation))
                for one in found
            )
            caption = f"{kind.words} neurons that {reading.words[show]}: the first {len(rows)}"
            if rows:
                sheets.append(Sheet(caption, ("neuron", reading.unit, "activation", "tokens it raised"), rows))
    target = analysis.target
    return View(
        "prompt",
        title,
        (
            f"“{analysis.prompt}” → “{target.token.display}”, probability {percent(target.probability)}.",
            *analysis.notices,
        ),
        (
            (prompt_charts.layers(reading), f"Attention and FFN of every layer by {reading.unit}"),
            (prompt_charts.heads(reading), f"Every head of every layer by {reading.unit}"),
        ),
        tuple(sheets),
        shared(asked, atlas.info),
    )


def comparison(title: str, asked: CompareSelection, atlas: Catalogue, found: "Comparison | None" = None) -> View:
    """Two runs: what changed, in layers, heads, predictions and neurons."""
    found = found or two_runs.comparison(atlas, asked)
    prompts, place = (asked.first.prompt, asked.second.prompt), asked.place
    sheets = [
        Sheet(
            "How the most probable next tokens changed",
            ("token", "first", "second", "change"),
            tuple(
                ((one.token.display,), percent(one.first), percent(one.second), f"{signed(100 * one.probability, 1)} %")
                for one in found.predictions
            ),
        )
    ]
    for kind, changes in found.neurons.items():
        ends = _ends([one.neuron for one in changes[:_ROWS]], atlas)
        rows = tuple(
            (
                one.neuron.label,
                nats(one.score),
                f"{nats(one.first.score)} → {nats(one.second.score)}",
                _raised(ends[one.neuron], one.stronger.activation),
            )
            for one in changes[:_ROWS]
        )
        caption = f"{kind.words} neurons whose score changed most: the first {len(rows)} of {len(changes)}"
        sheets.append(Sheet(caption, ("neuron", "Δ score (nats)", "first → second", "tokens it raised"), rows))
    return View(
        "compare",
        title,
        (two_runs.sentence(found, asked.zero), two_runs.measured(found), *found.notices),
        (
            (prompt_charts.changed_layers(found, prompts, place, prompt_charts.nowhere), "The change of every layer"),
            (prompt_charts.changed_heads(found, prompts, place, prompt_charts.nowhere), "The change of every head"),
        ),
        tuple(sheets),
        shared(asked, atlas.info),
    )


def neuron(title: str, asked: NeuronSelection, atlas: Catalogue) -> View:
    """One neuron: both ends, the texts that activate it, and the neurons that share its tokens."""
    card = atlas.neuron(Neuron.parse(asked.label))
    frame, texts = card_frame(card), texts_of(atlas, card.neuron)
    usual = texts.usual if texts is not None and texts.usual is not None else Sign.PROMOTES
    order = sorted(Sign, key=lambda sign: sign is not usual)
    how = dict.fromkeys(Sign, "") if texts is None or texts.usual is None else {usual: ", which it usually raises"}
    sheets = [
        Sheet(
            f"The first tokens it {sign}{how.get(sign, ', which it usually lowers')}",
            ("rank", "token", "logit", "z"),
            tuple(
                (f"{rank}", (one.token.display,), signed(one.logit), signed(one.z))
                for rank, one in enumerate((card.top if sign is Sign.PROMOTES else card.bottom)[:_ROWS], 1)
            ),
        )
        for sign in order
    ]
    drawings = [
        (catalogue_charts.token_bars(frame, sign, 20), f"Logits of the first tokens it {sign}") for sign in order
    ]
    sentences = [f"{card.neuron.label}: mean logit {signed(card.mean)}, standard deviation {card.std:.2f}."]
    if texts is not None and atlas.texts is not None:
        sentences += [f"{activity(texts)} From {atlas.texts.stamp.words}.", spread(texts)]
        sentences += [described(texts)] if texts.description is not None else []
        drawings.append((catalogue_charts.activation_histogram(bins_frame(texts), linear=False), "Its activations"))
        sheets += [_texts_sheet(texts, sign) for sign in order if texts.at(sign)]
        cases = "Signs of the gate and the up row"
        sheets += [Sheet(cases, CASE_COLUMNS, tuple(case_rows(texts)))] if texts.cases else []
    similar = atlas.similar(card.neuron, limit=12)
    rows = tuple((one.neuron.label, signed(one.signed)) for one in similar)
    sheets += [Sheet("Neurons that share its tokens", ("neuron", "similarity"), rows)] if rows else []
    address = shared(asked, atlas.info)
    return View("neuron", title, tuple(sentences), tuple(drawings), tuple(sheets), address)


def _texts_sheet(found: NeuronTexts, sign: Sign) -> Sheet:
    """The first texts of one sign, a row each: what stands before the peak, at it and after it."""

    def shown(tokens: Sequence[Token]) -> str:
        return "".join(one.display for one in tokens)

    rows = tuple(
        (
            figure(one.peak),
            shown(one.tokens[: one.peak_at]),
            (one.tokens[one.peak_at].display,),
            shown(one.tokens[one.peak_at + 1 :]),
            f"{one.document:,}",
        )
        for one in found.at(sign)[:_TEXTS]
    )
    caption = f"The strongest texts at which it raises the tokens it {sign}: the first {len(rows)}"
    return Sheet(caption, ("activation", "before", "at the peak", "after", "document"), rows)


def found_neurons(title: str, asked: SearchSelection, atlas: Catalogue) -> View:
    """A search: the page of its results that was kept."""
    matches = atlas.resolve(asked.text) if asked.text else None
    result: search.Result[Any]
    by = search.searches_by(asked, matches)
    if by is By.TEXT:
        result = search.find_activated(atlas, asked)[1]
    elif by is By.CONCEPT:
        find = search.find_exactly if asked.exact else search.find_concept
        result = find(atlas, search.concept_of(atlas, asked), asked)
    else:
        tokens = matches.matched if matches is not None else ()
        tokens = tuple(atlas.tokens(asked.tokens).values()) if asked.tokens is not None else tokens
        result = search.find_hits(atlas, tokens, asked)
    ends = _ends([row.neuron for row in result.page.rows], atlas)
    rows = result.page.rows
    columns: tuple[str, ...] = (
        "neuron",
        "which end",
        "score" if result.by is By.CONCEPT else "z",
        "tokens of that end",
    )
    columns += ("how often it raises them",) if atlas.texts is not None else ()
    shown = tuple(_found_row(row, ends[row.neuron])[: len(columns)] for row in rows)
    count = f"{len(rows)} of {result.page.total:,} found"
    return View(
        "search",
        title,
        (f"{result.sentence}.",),
        ((catalogue_charts.layer_distribution(result.by_layer, atlas.info.layers, name="found"), "Where they are"),)
        if rows
        else (),
        (Sheet(count, columns, shown),) if rows else (),
        shared(asked, atlas.info),
    )


def _found_row(row: "Hit | ConceptNeuron | ActivatedNeuron", ends: NeuronTokens) -> tuple[_Cell, ...]:
    strength = signed(row.score if isinstance(row, ConceptNeuron) else row.z)
    often = "" if ends.usual is None else how_often(ends.usual, row.sign)
    return row.neuron.label, str(row.sign), strength, _shown(ends.at(row.sign)), often


def steered(title: str, asked: SteerSelection, atlas: Catalogue) -> View:
    """A prompt under interventions: predictions before and after."""
    found = two_runs.steering(atlas, asked)
    rows = tuple(((one.token.display,), percent(one.first), percent(one.second)) for one in found.predictions)
    return View(
        "steer",
        title,
        (two_runs.steered_sentence(found, asked),),
        sheets=(Sheet("Predictions before and after", ("token", "before", "after"), rows),),
        address=shared(asked, atlas.info),
    )


def _prompts(title: str, asked: ManySelection, atlas: Catalogue) -> View:
    other = asked.other_ready or asked.other
    sets = (asked.ready or asked.text, f"Against: {other}") if other else (asked.ready or asked.text,)
    return View("many", title, (*sets, "Its lists are on the page."), address=shared(asked, atlas.info))


_SAVED = (PromptSelection, CompareSelection, SearchSelection, NeuronSelection, ManySelection, SteerSelection)
_STATES: dict[str, type[Selection]] = {one.page_name: one for one in _SAVED}
_VIEWS: dict[str, Callable[[str, Any, Catalogue], View]] = {
    "compare": comparison,
    "search": found_neurons,
    "neuron": neuron,
    "many": _prompts,
    "steer": steered,
}


def _ends(neurons: Sequence[Neuron], atlas: Catalogue) -> dict[Neuron, NeuronTokens]:
    return atlas.strongest_tokens(neurons, _DEPTH) if neurons else {}


def _raised(ends: NeuronTokens, activation: float) -> tuple[str, ...]:
    return _shown(ends.at(Sign.of(activation)))


def _shown(tokens: Sequence[Any]) -> tuple[str, ...]:
    return tuple(shorten(one.display, _TOKEN) for one in tokens)
