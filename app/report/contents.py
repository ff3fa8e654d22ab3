"""What a report says, ready to be set: an analysis, the catalogue's tokens and the drawings, as plain values."""

from typing import TYPE_CHECKING

import pandas as pd

from app.asking.certainty import certainty_lines
from app.asking.reading import Reading, reading_of
from app.drawing import prompt_charts
from app.drawing.wording import nats, percent, signed
from app.report.drawing import Figure, figures
from app.report.neurons import value_tables, why
from app.report.origin import Origin
from app.report.parts import Bar, Contents, PredictionRow
from app.state.address import head_label
from db.catalogue import Catalogue
from db.token_text import display, shorten

if TYPE_CHECKING:
    from app.attribution.results import Analysis

ROWS = 50
"""Neurons of a table; the JSON and the tables hold all that were found."""
_HEADS = 12
_TOKEN = 24
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
        lens: the logit lens (`details.lens_frame`), where it was asked for.
        rows: neurons of each table.
    """
    reading = reading_of(analysis)
    target = analysis.target
    drawn = _drawn(reading, lens)
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
        layer_rows=_layer_rows(prompt_charts.layers(reading).data),
        heads=drawn["heads"],
        head_rows=_head_rows(prompt_charts.heads(reading).data),
        lens=drawn.get("lens"),
        tables=value_tables(reading, catalogue, rows),
        why=None
        if analysis.query is None
        else why(analysis.query, tuple(drawn[name] for name in drawn if name.startswith("query-")), catalogue, rows),
        sure=tuple(certainty_lines(reading)),
        address=origin.address(catalogue.info),
        command=origin.command(),
    )


def _drawn(reading: Reading, lens: pd.DataFrame | None) -> dict[str, Figure]:
    """All drawings at once: starting to draw takes longer than drawing."""
    analysis = reading.analysis
    layers, heads = prompt_charts.layers(reading), prompt_charts.heads(reading)
    wanted = {
        "layers": (layers, _strongest_layers(layers.data, reading)),
        "heads": (heads, f"Every head of every layer, coloured by {reading.unit}: {' | '.join(reading.sides)}"),
    }
    if lens is not None:
        drawn = prompt_charts.lens(lens, prompt_charts.subject(analysis.prompt))
        wanted["lens"] = (drawn, "The most probable token at every layer and position")
    if analysis.query is not None:
        for number, (title, one) in enumerate(prompt_charts.query_layers(analysis.query).items()):
            alt = f"{title}: shares of the embedding and of every layer, in nats"
            wanted[f"query-{number}"] = (one, alt)
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
        (head_label((layer, head)), Bar(nats(score), score / scale))
        for layer, head, score in zip(
            best["layer"].tolist(), best["head"].tolist(), best["score"].tolist(), strict=True
        )
    )
