"""What a report says: an analysis, its charts and the catalogue's tokens, set in report.html.

The page opens offline: no script, nothing fetched, everything escaped. Only drawings are markup.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from app import charts
from app.answers.reading import (
    BY,
    DISAGREEMENT,
    MEASURED,
    Reading,
    certainty_lines,
    disagreement,
    in_words,
    most,
    moves_sentence,
    query_sentence,
    reading_of,
)
from app.attribution import frames
from app.charts import Chart, Columns, prompt_charts
from app.charts.pictures import inline_svgs, printed, visible
from app.report import Material, on_server, written_at
from app.state.address import shared
from app.state.selections import Show, SteerSelection
from app.words import isolated, nats, percent, signed
from db.catalogue.store import Catalogue
from db.lazy import lazy_import
from db.neuron import Head, Neuron, NeuronKind, Sign, labels
from db.records import BuildStamp
from db.token_text import legible, shorten

if TYPE_CHECKING:
    import pandas as pd

    from app.answers import two_runs
    from app.attribution.intervene import Steering
    from app.attribution.results import Flow, QueryNeuron, ValueNeuron
    from db.texts.records import Mark
else:
    two_runs = lazy_import("app.answers.two_runs")

_HEADS = 12
"""The strongest, in a table."""
_DEPTH = 6
"""Tokens of the end that comes first; of the other a third."""
_TOKEN = 24
"""Characters of a token."""
_CONVENTIONS = {
    "exact": "exact: figures agree with the model’s own probabilities",
    "notebook": "notebook: constants of the final norm are dropped, as the method’s published notebooks do",
}
_KINDS = {NeuronKind.FFN: "FFN neurons", NeuronKind.ATTENTION: "Attention neurons"}

_SVG = "http://www.w3.org/2000/svg"
_ID = re.compile(r"url\(#([^)]+)\)")
_PER_MARK = ("role", "aria-roledescription", "aria-hidden", "class")
"""Marks are neither described one by one nor styled by the page."""
ElementTree.register_namespace("", _SVG)

Ends = tuple[tuple[str, ...], tuple[str, ...]]
"""The tokens that a neuron promotes and suppresses most."""


def html(material: Material) -> bytes:
    """The report as one HTML file in UTF-8."""
    analysis, catalogue, origin = material.analysis, material.catalogue, material.origin
    reading, info = reading_of(analysis), None if catalogue is None else catalogue.info
    layers, heads = prompt_charts.layers(reading), prompt_charts.heads(reading)
    target, query = analysis.target, analysis.query
    facts = {
        "Model": f"{analysis.model} ({analysis.family}, {analysis.heads.shape[0]} layers"
        + (")" if info is None else f", d {info.d_model:,})"),
        "Catalogue": "none, so that the tokens of neurons are not shown"
        if info is None
        else f"build {info.build_id}, made {info.created_at[:10]}",
        "Scored by": f"{analysis.method}: {BY[analysis.method]}",
        "Conventions": _CONVENTIONS[str(analysis.conventions)],
        "Explained position": f"{analysis.position} of {len(analysis.tokens)} tokens, counted from 0",
        "Report made": written_at(origin.made),
    }
    page = template().render(
        palette=charts,
        title=f"{shorten(readable(analysis.prompt), 60)} → {shorten(target.token.display, _TOKEN)}",
        prompt=readable(analysis.prompt),
        facts=facts,
        analysis=analysis,
        predictions=prompt_charts.predictions(analysis.predictions, target.token.id).bars,
        target=f"“{target.token.display}”, probability {percent(target.probability)}, log-probability "
        f"{nats(target.log_probability)} nats",
        in_words=in_words(analysis),
        target_token=shorten(target.token.display, _TOKEN),
        contrast=_contrast(reading),
        reading=reading,
        layers=layers,
        strongest_heads=_strongest(heads.frame),
        figures=drawn(_charts(reading, layers, heads, material)),
        moves=() if material.flow is None else _moves(material.flow),
        tables=_value_tables(reading, catalogue, material.rows),
        measured=None if reading.source.head_effects is None else f"{MEASURED} of {reading.answer}. {DISAGREEMENT}",
        query="" if query is None else query_sentence(query),
        query_table=_query_table(query.ffn_neurons, catalogue, material.rows) if query else None,
        certainty=certainty_lines(reading),
        address=origin.address(info),
        command=origin.command(),
    )
    return page.encode("utf-8", "replace")


def steered_html(found: "Steering", asked: SteerSelection, build: BuildStamp, base: str) -> bytes:
    """A report on interventions: what was changed, predictions before and after, and both continuations.

    Args:
        found: with its continuations.
        asked: what the page shows.
        build: the catalogue that it was opened with.
        base: the address of the app's start page.
    """
    facts = {
        "Model": f"{found.model}, {len(found.tokens)} tokens of text, continued after position {found.position}",
        "Report made": written_at(),
    }
    names = ("The model as it is", "With the changes")
    page = template("steered.html").render(
        palette=charts,
        title=f"{shorten(readable(found.prompt), 60)}, steered",
        prompt=readable(found.prompt),
        facts=facts,
        found=found,
        sentence=two_runs.steered_sentence(found, asked),
        drawing=two_runs.drawing(asked),
        continuations=[
            (name, readable(one.text), one.ended) for name, one in zip(names, found.continuations, strict=False)
        ],
        address=on_server(base, shared(asked, build)),
        command=_steering_command(found, asked),
    )
    return page.encode("utf-8", "replace")


def _steering_command(found: "Steering", asked: SteerSelection) -> str | None:
    """The shell command that says the same; None where a shell cannot be given such a prompt."""
    if any(not one.isprintable() and one != "\n" for one in asked.prompt):
        return None
    words = ["--target-id", str(found.before.token.id), "--position", str(found.position)]
    words += ["--no-bos"] if asked.bare else []
    words += ["--chat"] if asked.chat else []
    for name, clamped in (("--scale", False), ("--clamp", True)):
        given = [one for one in asked.interventions if one.clamped is clamped]
        words += [name, labels(given)] if given else []
    words += ["--generate", str(asked.tokens)]
    drawn = {"--temperature": asked.temperature, "--top-p": asked.top_p, "--seed": asked.seed}
    words += [part for name, value in drawn.items() for part in (name, f"{value:.10g}")] if asked.drawn else []
    return " ".join(map(shlex.quote, ["python", "-m", "app.attribution", *words, "--", asked.prompt]))


@cache
def template(name: str = "report.html") -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"nats": nats, "percent": percent, "sentence": _sentence}
    return environment.get_template(name)


def _visible(value: object) -> object:
    """Texts without what HTML forbids or nobody sees, whatever they were given as; drawings as they are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sentence(text: str) -> Markup:
    return Markup(isolated(escape(visible(text))))


def readable(text: str) -> str:
    """A prompt with its spaces and line breaks, and what is otherwise invisible in display form."""
    return legible(text).replace("↵", "\n")


def _contrast(reading: Reading) -> str:
    """The sum of the difference of logits in a sentence; empty without a distractor."""
    contrast = reading.analysis.contrast
    if contrast is None:
        return ""
    return (
        f"Why “{reading.analysis.target.token.display}” and not “{contrast.distractor.token.display}” "
        f"({percent(contrast.distractor.probability)}): {nats(contrast.logit_difference)} nats = "
        f"{reading.sum_in_words()}. Layers, heads and value neurons below show their share of this difference."
    )


# Charts as inline SVG elements that several can stand in one page, each described as a whole.


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what it shows, in words."""

    svg: Markup
    alt: str


def _charts(reading: Reading, layers: Columns, heads: Chart, material: Material) -> dict[str, tuple[Chart, str]]:
    """Each chart with what it shows."""
    lens, flow = material.lens, material.flow
    charts: dict[str, tuple[Chart, str]] = {
        "layers": (layers, _strongest_layers(layers.frame, reading)),
        "heads": (heads, f"Every head of every layer, coloured by {reading.unit}: {' | '.join(reading.sides)}"),
    }
    if flow is not None:
        charts["flow"] = (prompt_charts.flow(reading, flow), moves_sentence(flow, reading).removesuffix("."))
    if reading.source.head_effects is not None:
        show = material.origin.question.place.show
        show = Show.RAISED if show is Show.QUERY else show
        found = [one for kind in NeuronKind for one in reading.lists[show, kind]]
        scatter = prompt_charts.scatter(reading, found, reading.words[show])
        charts["measured"] = (
            scatter,
            f"The {len(found)} neurons that {reading.words[show]}: score across, effect upwards",
        )
    if lens is not None:
        chart = prompt_charts.lens(lens, reading.analysis.prompt)
        charts["lens"] = (chart, "The most probable token at every layer and position")
    if reading.analysis.query is not None:
        for number, one in enumerate(prompt_charts.query_charts(frames.query_layers_frame(reading.analysis.query))):
            alt = f"{one.title}: shares of the embedding and of every layer, in nats"
            charts[f"query-{number}"] = (one, alt)
    return charts


def _strongest_layers(frame: "pd.DataFrame", reading: Reading) -> str:
    best = frame.sort_values("score", ascending=False).head(3)
    named = ", ".join(
        f"{charts.KIND_NAMES[part]} of layer {layer} {nats(score)}"
        for part, layer, score in zip(best["part"], best["layer"], best["score"], strict=True)
    )
    return f"Attention and FFN of every layer by {reading.unit}; the largest: {named}"


def drawn(charts: Mapping[str, tuple[Chart, str]]) -> dict[str, Figure]:
    """All drawings at once: starting to draw takes longer than drawing. Their names keep their gradients' ids apart."""
    made = inline_svgs([printed(chart) for chart, _ in charts.values()])
    return {
        name: Figure(_labelled(svg, name, alt), alt) for (name, (_, alt)), svg in zip(charts.items(), made, strict=True)
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


# Tables: the strongest heads, the neurons that raised and lowered the target, and what switched them on.


def _strongest(heads: "pd.DataFrame") -> list[tuple[str, float, float, float | None, float]]:
    """Label, score, its share of the largest, effect and its share; without effects None and 0."""
    best = heads.sort_values("score", key=abs, ascending=False).head(_HEADS)
    effects = best["effect"] if "effect" in best else [None] * len(best)
    scale = float(best["score"].abs().max()) or 1.0
    rows = zip(best["layer"].tolist(), best["head"].tolist(), best["score"].tolist(), effects, strict=True)
    most = max((abs(one) for one in effects if one is not None), default=0.0) or 1.0
    return [
        (Head(layer, head).label, score, score / scale, effect, (effect or 0.0) / most)
        for layer, head, score, effect in rows
    ]


def _moves(found: "Flow") -> list[tuple[str, str, float, float, float]]:
    """Head, source position, score, share of the largest and attention weight of each move."""
    scale = max((abs(one.score) for one in found.moves), default=1.0) or 1.0
    return [
        (
            Head(one.layer, one.head).label,
            f"{one.position} {shorten(one.token.display, _TOKEN)}",
            one.score,
            one.score / scale,
            one.attention_weight,
        )
        for one in found.moves
    ]


@dataclass(frozen=True, slots=True)
class NeuronRow:
    """A neuron; first and second are the tokens of its two ends, the one that comes first by the sign rule first."""

    label: str
    score: float
    share: float
    first: tuple[str, ...]
    second: tuple[str, ...]
    promoted_first: bool = True
    source: str = ""
    activation: str = ""
    effect: float | None = None
    effect_share: float = 0.0
    remark: str = ""
    """How the effect differs from the score, where it differs much."""
    called: str = ""


@dataclass(frozen=True, slots=True)
class NeuronTable:
    """Neurons, the most extreme first.

    Attributes:
        total: how many the analysis lists.
        on_prompt: whether activations, and the ends that they make active, are known.
        known: whether the tokens of the ends are.
        usual: whether the end that is usually active comes first, where that is known of a neuron.
    """

    title: str
    unit: str
    rows: tuple[NeuronRow, ...]
    total: int
    on_prompt: bool = True
    known: bool = True
    usual: bool = False


def _value_tables(reading: Reading, catalogue: Catalogue | None, rows: int) -> list[NeuronTable]:
    tokens = reading.analysis.tokens
    tables = []
    for show in (Show.RAISED, Show.LOWERED):
        for kind, name in _KINDS.items():
            listed = reading.lists[show, kind]
            shown, effects = listed[:rows], [abs(one.effect or 0.0) for one in listed]
            scales = most(listed), max(effects, default=0.0) or 1.0
            ends, marks = _ends([one.neuron for one in shown], catalogue)
            lines = tuple(
                replace(
                    _value_row(
                        one, ends[one.neuron], scales, "" if one.position is None else tokens[one.position].display
                    ),
                    called=_called(marks.get(one.neuron)),
                )
                for one in shown
            )
            if lines:
                title, known = f"{name} that {reading.words[show]}", catalogue is not None
                tables.append(NeuronTable(title, reading.unit, lines, len(listed), known=known))
    return tables


def _value_row(one: "ValueNeuron", ends: Ends, scales: tuple[float, float], token: str) -> NeuronRow:
    """scales: the largest score and the largest effect."""
    positive = one.activation > 0
    first, second = ends if positive else (ends[1], ends[0])
    source = "" if one.position is None else f"{one.position} {shorten(token, _TOKEN)}"
    return NeuronRow(
        one.neuron.label,
        one.score,
        one.score / scales[0],
        first,
        second[: _DEPTH // 3],
        positive,
        source,
        signed(one.activation),
        one.effect,
        (one.effect or 0.0) / scales[1],
        disagreement(one.score, one.effect),
    )


def _query_table(listed: "Sequence[QueryNeuron]", catalogue: Catalogue | None, rows: int) -> NeuronTable:
    shown = listed[:rows]
    ends, marks = _ends([one.neuron for one in shown], catalogue)
    scale = max((abs(one.score) for one in listed), default=1.0) or 1.0
    lines = []
    for one in shown:
        mark = marks.get(one.neuron)
        first = mark is None or mark.usual is None or mark.usual.sign is Sign.PROMOTES
        both = ends[one.neuron] if first else ends[one.neuron][::-1]
        called = _called(mark)
        lines.append(NeuronRow(one.neuron.label, one.score, one.score / scale, *both, first, called=called))
    unit, known = "score (nats)", catalogue is not None
    return NeuronTable("Query neurons", unit, tuple(lines), len(listed), False, known, usual=bool(marks))


def _ends(neurons: Sequence[Neuron], catalogue: Catalogue | None) -> tuple[dict[Neuron, Ends], dict[Neuron, "Mark"]]:
    """The tokens of both ends of each, shortened, and what its texts say of it; none without a catalogue."""
    if catalogue is None:
        return dict.fromkeys(neurons, ((), ())), {}
    strongest = catalogue.strongest_tokens(neurons, _DEPTH) if neurons else {}
    shown = {
        neuron: (
            tuple(shorten(token.display, _TOKEN) for token in ends.promotes),
            tuple(shorten(token.display, _TOKEN) for token in ends.suppresses),
        )
        for neuron, ends in strongest.items()
    }
    return shown, {neuron: ends.mark for neuron, ends in strongest.items() if ends.mark is not None}


def _called(mark: "Mark | None") -> str:
    return "" if mark is None or mark.name.text is None else legible(mark.name.text)
