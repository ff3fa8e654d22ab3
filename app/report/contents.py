"""What a report says, ready to be set: an analysis, the catalogue's tokens and the drawings, as plain values."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

import pandas as pd
from markupsafe import Markup

from app.answers.reading import Reading, certainty_lines, most, reading_of
from app.charts import Chart, prompt_charts
from app.charts.pictures import inline_svgs
from app.charts.printed import printed
from app.state.address import shared
from app.state.selections import DEFAULT_TOP, Map, PromptSelection, Rule, Show
from app.words import nats, percent, signed
from db.catalogue.store import Catalogue
from db.neuron import Head, Neuron, NeuronKind
from db.records import BuildStamp
from db.token_text import display, shorten

if TYPE_CHECKING:
    from app.attribution.results import Analysis, Query, QueryNeuron, ValueNeuron


# Where a report's figures come from, and how they are had again: an address and a shell command.


@dataclass(frozen=True, slots=True)
class Origin:
    """What was asked, and of which server."""

    question: PromptSelection
    """With its place: the address opens the page as it was."""
    base: str = ""
    """The address of the app's start page; empty where it is not known, as in the shell."""
    model: str = "demo"
    """As the shell's ``--model`` takes it."""
    made: datetime | None = None
    """When; None is now."""

    @property
    def date(self) -> str:
        """Such as “2026-01-31 10:20 UTC”."""
        return (self.made or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")

    def address(self, build: BuildStamp) -> str:
        """The page's address with its build; without its server where that is not known."""
        link = shared("prompt", self.question, build)
        return urljoin(self.base, link) if urlsplit(self.base).scheme in ("http", "https") else link

    def command(self) -> str | None:
        """The shell command that writes the same report; None where a shell cannot be given such a prompt."""
        asked = self.question
        if any(not one.isprintable() and one != "\n" for one in asked.prompt):
            return None
        options = {
            "--model": None if self.model == "demo" else self.model,
            "--target-id": asked.target,
            "--distractor-id": asked.distractor,
            "--position": asked.position,
            "--top": None if asked.top == DEFAULT_TOP else asked.top,
            "--conventions": None if asked.rule is Rule.EXACT else asked.rule,
        }
        words = [part for name, value in options.items() if value is not None for part in (name, str(value))]
        words += ["--lens"] if asked.place.map is Map.LENS else []
        words = ["python", "-m", "app.report", *words, "--out", "report.html", "--", asked.prompt]
        return " ".join(map(shlex.quote, words))


# Charts as inline SVG elements that several can stand in one page, each described as a whole.

_SVG = "http://www.w3.org/2000/svg"
_ID = re.compile(r"url\(#([^)]+)\)")
_PER_MARK = ("role", "aria-roledescription", "aria-hidden", "class")
"""Marks are neither described one by one nor styled by the page."""
ElementTree.register_namespace("", _SVG)


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what it shows, in words."""

    svg: Markup
    alt: str


def figures(drawings: Mapping[str, tuple[Chart, str]]) -> dict[str, Figure]:
    """Draw charts, each with what it shows. Their names keep their gradients' ids apart."""
    made = inline_svgs([printed(chart) for chart, _ in drawings.values()])
    return {
        name: Figure(_labelled(svg, name, alt), alt)
        for (name, (_, alt)), svg in zip(drawings.items(), made, strict=True)
    }


def _labelled(svg: str, name: str, alt: str) -> Markup:
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if attribute in _PER_MARK:
                del element.attrib[attribute]
            elif attribute == "id":
                element.set("id", f"{name}-{value}")
            else:
                element.set(attribute, _ID.sub(rf"url(#{name}-\1)", value))
    root.set("role", "img")
    root.set("aria-label", alt)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escapes


# What a report is made of, as plain values for the template. Tokens are in display form; only drawings are markup.


@dataclass(frozen=True, slots=True)
class Bar:
    """A number in words, and its length from -1 to 1."""

    words: str
    share: float


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """A token that may come next."""

    token: str
    probability: Bar
    explained: bool


@dataclass(frozen=True, slots=True)
class NeuronRow:
    """A neuron; first and second are the tokens of its two ends, the one that comes first by the sign rule first."""

    label: str
    score: Bar
    first: tuple[str, ...]
    second: tuple[str, ...]
    promoted_first: bool = True
    source: str = ""
    activation: str = ""


@dataclass(frozen=True, slots=True)
class NeuronTable:
    """Neurons, the most extreme first. total: how many the analysis lists."""

    title: str
    unit: str
    rows: tuple[NeuronRow, ...]
    total: int
    on_prompt: bool = True
    """Whether activations, and the ends that they make active, are known."""


@dataclass(frozen=True, slots=True)
class Why:
    """What switched the value neurons on."""

    lead: str
    neurons: NeuronTable
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that the template sets, in the order of the page."""

    title: str
    prompt: str
    facts: tuple[tuple[str, str], ...]
    tokens: tuple[tuple[int, str, bool], ...]
    """Position, text, and whether it is the explained one."""
    predictions: tuple[PredictionRow, ...]
    target: str
    """The explained token with its figures."""
    target_token: str
    contrast: str
    """The sum of the difference of logits in a sentence; empty without a distractor."""
    meaning: str
    unit: str
    layers: Figure
    layer_rows: tuple[tuple[int, str, str], ...]
    heads: Figure
    head_rows: tuple[tuple[str, Bar], ...]
    lens: Figure | None
    tables: tuple[NeuronTable, ...]
    why: Why | None
    sure: tuple[tuple[str, str], ...]
    address: str
    command: str | None


# A report's tables of neurons: those that raised and lowered the target, and what switched them on.

_DEPTH = 6
"""Tokens of the end that comes first; of the other a third."""
_TOKEN = 24


def value_tables(reading: Reading, catalogue: Catalogue, rows: int) -> tuple[NeuronTable, ...]:
    names = {NeuronKind.FFN: "FFN neurons", NeuronKind.ATTENTION: "Attention neurons"}
    return tuple(
        _value_table(f"{names[kind]} that {reading.words[show]}", found, reading, catalogue, rows)
        for show in (Show.RAISED, Show.LOWERED)
        for kind in names
        if (found := reading.lists[show, kind])
    )


def _value_table(
    title: str, found: "Sequence[ValueNeuron]", reading: Reading, catalogue: Catalogue, rows: int
) -> NeuronTable:
    shown, scale = found[:rows], most(found)
    ends = _ends([one.neuron for one in shown], catalogue)
    tokens = reading.analysis.tokens
    return NeuronTable(
        title,
        reading.unit,
        tuple(
            _value_row(one, ends[one.neuron], scale, "" if one.position is None else tokens[one.position].display)
            for one in shown
        ),
        len(found),
    )


def _value_row(
    one: "ValueNeuron", ends: tuple[tuple[str, ...], tuple[str, ...]], scale: float, token: str
) -> NeuronRow:
    positive = one.activation > 0
    first, second = ends if positive else (ends[1], ends[0])
    return NeuronRow(
        one.neuron.label,
        Bar(nats(one.score), one.score / scale),
        first,
        second[: _DEPTH // 3],
        positive,
        "" if one.position is None else f"{one.position} {shorten(token, _TOKEN)}",
        signed(one.activation),
    )


def why(query: "Query", figures: tuple[Figure, ...], catalogue: Catalogue, rows: int) -> Why:
    attention, ffn = query.readers
    skipped = f" {query.skipped} were left out, since what they read adds up to nothing." if query.skipped else ""
    lead = (
        f"A value neuron is switched on by what it reads. These FFN neurons wrote most of what the {attention} "
        f"strongest attention value neurons read; the charts split what they and the {ffn} strongest FFN value neurons "
        f"read over the layers below.{skipped}"
    )
    return Why(lead, _query_table(query.ffn_neurons, catalogue, rows), figures)


def _query_table(found: "Sequence[QueryNeuron]", catalogue: Catalogue, rows: int) -> NeuronTable:
    shown = found[:rows]
    ends = _ends([one.neuron for one in shown], catalogue)
    scale = max((abs(one.score) for one in found), default=1.0) or 1.0
    lines = tuple(
        NeuronRow(one.neuron.label, Bar(nats(one.score), one.score / scale), *ends[one.neuron]) for one in shown
    )
    return NeuronTable("Query neurons", "score (nats)", lines, len(found), on_prompt=False)


def _ends(neurons: Sequence[Neuron], catalogue: Catalogue) -> dict[Neuron, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The tokens that each promotes and suppresses most, shortened."""
    found = catalogue.strongest_tokens(neurons, _DEPTH) if neurons else {}
    return {
        neuron: (
            tuple(shorten(token.display, _TOKEN) for token in ends.promotes),
            tuple(shorten(token.display, _TOKEN) for token in ends.suppresses),
        )
        for neuron, ends in found.items()
    }


ROWS = 50
"""Neurons of a table; the JSON and the tables hold all that were found."""
_HEADS = 12

_CONVENTIONS = {
    "exact": "exact: figures agree with the model's own probabilities",
    "notebook": "notebook: constants of the final norm are dropped, as the method's published notebooks do",
}


def contents(
    analysis: "Analysis", catalogue: Catalogue, origin: Origin, *, lens: pd.DataFrame | None = None, rows: int = ROWS
) -> Contents:
    """Gather a report.

    Args:
        analysis: what it is about.
        catalogue: where the neurons' tokens are; of the same model.
        origin: what was asked, and where.
        lens: the logit lens (`frames.lens_frame`), where it was asked for.
        rows: neurons of each table.
    """
    reading = reading_of(analysis)
    target = analysis.target
    layers, heads = prompt_charts.layers(reading), prompt_charts.heads(reading)
    drawn = _drawn(reading, layers, heads, lens)
    return Contents(
        title=f"{shorten(_readable(analysis.prompt), 60)} → {shorten(target.token.display, _TOKEN)}",
        prompt=_readable(analysis.prompt),
        facts=_facts(analysis, catalogue, origin),
        tokens=tuple((at, one.display, at == analysis.position) for at, one in enumerate(analysis.tokens)),
        predictions=_predictions(analysis),
        target=f"“{target.token.display}”, probability {percent(target.probability)}, log-probability "
        f"{nats(target.log_probability)} nats",
        target_token=shorten(target.token.display, _TOKEN),
        contrast=_contrast(reading),
        meaning=reading.meaning,
        unit=reading.unit,
        layers=drawn["layers"],
        layer_rows=_layer_rows(layers.frame),
        heads=drawn["heads"],
        head_rows=_head_rows(heads.frame),
        lens=drawn.get("lens"),
        tables=value_tables(reading, catalogue, rows),
        why=None
        if analysis.query is None
        else why(analysis.query, tuple(drawn[name] for name in drawn if name.startswith("query-")), catalogue, rows),
        sure=tuple(certainty_lines(reading)),
        address=origin.address(catalogue.info),
        command=origin.command(),
    )


def _drawn(reading: Reading, layers: Chart, heads: Chart, lens: pd.DataFrame | None) -> dict[str, Figure]:
    """All drawings at once: starting to draw takes longer than drawing."""
    analysis = reading.analysis
    wanted: dict[str, tuple[Chart, str]] = {
        "layers": (layers, _strongest_layers(layers.frame, reading)),
        "heads": (heads, f"Every head of every layer, coloured by {reading.unit}: {' | '.join(reading.sides)}"),
    }
    if lens is not None:
        wanted["lens"] = (
            prompt_charts.lens(lens, analysis.prompt),
            "The most probable token at every layer and position",
        )
    if analysis.query is not None:
        from app.attribution.frames import query_layers_frame

        for number, chart in enumerate(prompt_charts.query_charts(query_layers_frame(analysis.query))):
            alt = f"{chart.title}: shares of the embedding and of every layer, in nats"
            wanted[f"query-{number}"] = (chart, alt)
    return figures(wanted)


def _readable(text: str) -> str:
    """A prompt with its spaces and line breaks, and what is otherwise invisible in display form."""
    return display(text.encode("utf-8", "replace")).replace("␣", " ").replace("↵", "\n")


def _facts(analysis: "Analysis", catalogue: Catalogue, origin: Origin) -> tuple[tuple[str, str], ...]:
    info = catalogue.info
    return (
        ("Model", f"{analysis.model} ({analysis.family}, {info.layers} layers, d {info.d_model:,})"),
        ("Catalogue", f"build {info.build_id}, made {info.created_at[:10]}"),
        ("Conventions", _CONVENTIONS[str(analysis.conventions)]),
        ("Explained position", f"{analysis.position} of {len(analysis.tokens)} tokens, counted from 0"),
        ("Report made", origin.date),
    )


def _predictions(analysis: "Analysis") -> tuple[PredictionRow, ...]:
    return tuple(
        PredictionRow(
            one.token.display,
            Bar(percent(one.probability), one.probability),
            one.token.id == analysis.target.token.id,
        )
        for one in analysis.predictions
    )


def _contrast(reading: Reading) -> str:
    contrast = reading.analysis.contrast
    if contrast is None:
        return ""
    sums = " ".join(f"{signed(value)} {name}," for name, value in reading.sum_of_parts().items()).rstrip(",")
    return (
        f"Why “{reading.analysis.target.token.display}” and not “{contrast.distractor.token.display}” "
        f"({percent(contrast.distractor.probability)}): {nats(contrast.logit_difference)} nats = {sums}. Layers, heads "
        "and value neurons below show their share of this difference."
    )


def _layer_rows(frame: pd.DataFrame) -> tuple[tuple[int, str, str], ...]:
    scores = frame.pivot(index="layer", columns="part", values="score").sort_index()
    return tuple(
        (layer, nats(row["attention"]), nats(row["ffn"])) for layer, row in enumerate(scores.to_dict("records"))
    )


def _strongest_layers(frame: pd.DataFrame, reading: Reading) -> str:
    best = frame.sort_values("score", ascending=False).head(3)
    named = ", ".join(
        f"{'FFN' if part == 'ffn' else part} of layer {layer} {nats(score)}"
        for part, layer, score in zip(best["part"], best["layer"], best["score"], strict=True)
    )
    return f"Attention and FFN of every layer by {reading.unit}; the largest: {named}"


def _head_rows(frame: pd.DataFrame) -> tuple[tuple[str, Bar], ...]:
    best = frame.sort_values("score", key=abs, ascending=False).head(_HEADS)
    scale = float(best["score"].abs().max()) or 1.0
    return tuple(
        (Head(layer, head).label, Bar(nats(score), score / scale))
        for layer, head, score in zip(
            best["layer"].tolist(), best["head"].tolist(), best["score"].tolist(), strict=True
        )
    )
