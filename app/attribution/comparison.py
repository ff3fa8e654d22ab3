"""A Comparison as data frames, as JSON and as text: the figures of the shell, of the exports and of the page."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from app.attribution.compare import Comparison, Side, compare_prompts
from app.attribution.prompt import Settings
from app.attribution.run import Ranges, check_question
from db.catalogue.export import write
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, parse_list
from db.records import NeuronTokens
from db.token_text import shorten
from indexer.language_model import LanguageModel

ROWS = 20
_DEPTH = 5
_CHANGES = ("neuron", "layer", "delta_score", "score_1", "score_2", "delta_activation", "activation_1", "activation_2")


def predictions_frame(comparison: Comparison) -> pd.DataFrame:
    """Columns: token_id, token (display form), delta_probability, probability_1, probability_2."""
    rows = [(one.token.id, one.token.display, one.probability, one.first, one.second) for one in comparison.predictions]
    columns = ["token_id", "token", "delta_probability", "probability_1", "probability_2"]
    return pd.DataFrame(rows, columns=columns)


def layers_frame(comparison: Comparison) -> pd.DataFrame:
    """Columns: layer, part ("attention" or "ffn"), delta_score, score_1, score_2 (nats)."""
    rows = []
    for part in ("attention", "ffn"):
        pair = (getattr(side.layers, part).tolist() for side in (comparison.first, comparison.second))
        rows += [(layer, part, two - one, one, two) for layer, (one, two) in enumerate(zip(*pair, strict=True))]
    return pd.DataFrame(rows, columns=["layer", "part", "delta_score", "score_1", "score_2"])


def heads_frame(comparison: Comparison) -> pd.DataFrame:
    """Columns: layer, head, delta_score, score_1, score_2 (nats)."""
    rows = [
        (layer, head, two - one, one, two)
        for layer, pair in enumerate(
            zip(comparison.first.heads.tolist(), comparison.second.heads.tolist(), strict=True)
        )
        for head, (one, two) in enumerate(zip(*pair, strict=True))
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "delta_score", "score_1", "score_2"])


def changes_frame(comparison: Comparison, kind: NeuronKind) -> pd.DataFrame:
    """One row a neuron. Columns: neuron, layer, delta_score, score_1, score_2 (nats), delta_activation, activation_1,
    activation_2 (signed), position_1, position_2 (source positions; absent for FFN neurons).
    """
    rows = [
        (
            one.neuron.label,
            one.neuron.layer,
            one.score,
            one.first.score,
            one.second.score,
            one.activation,
            one.first.activation,
            one.second.activation,
            one.first.position,
            one.second.position,
        )
        for one in comparison.neurons[kind]
    ]
    frame = pd.DataFrame(rows, columns=[*_CHANGES, "position_1", "position_2"])
    return frame.astype({"position_1": "Int64", "position_2": "Int64"})


def neurons_frame(comparison: Comparison) -> pd.DataFrame:
    """Both kinds of `changes_frame`, with their kind; the largest |Δ score| first."""
    parts = [changes_frame(comparison, kind).assign(kind=str(kind)) for kind in NeuronKind]
    whole = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return whole.sort_values("delta_score", key=abs, ascending=False, kind="stable", ignore_index=True)


def zeroed_frame(comparison: Comparison) -> pd.DataFrame:
    """What the second run does without. Columns: part, score (of the part where it is not zeroed, nats)."""
    return pd.DataFrame([(one.part.label, one.score) for one in comparison.zeroed], columns=["part", "score"])


TABLES: dict[str, Callable[[Comparison], pd.DataFrame]] = {
    "neurons": neurons_frame,
    "layers": layers_frame,
    "heads": heads_frame,
    "predictions": predictions_frame,
    "zeroed": zeroed_frame,
}
"""Every table of a comparison, by name."""


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """One JSON object: both runs, what was zeroed, and Δ of predictions, layers, heads and neurons."""
    return {
        "model": comparison.model,
        "conventions": str(comparison.conventions),
        "first": _side(comparison.first),
        "second": _side(comparison.second),
        "scale": comparison.scale,
        "delta_log_probability": comparison.log_probability,
        "zeroed": [{"part": one.part.label, "score": one.score} for one in comparison.zeroed],
        "predictions": [
            {"id": one.token.id, "text": one.token.text, "probability_1": one.first, "probability_2": one.second}
            for one in comparison.predictions
        ],
        "layers": {"attention": comparison.layers.attention.tolist(), "ffn": comparison.layers.ffn.tolist()},
        "heads": comparison.heads.tolist(),
        "neurons": {
            str(kind): [
                {name: None if pd.isna(value) else value for name, value in row.items()}
                for row in changes_frame(comparison, kind).to_dict(orient="records")
            ]
            for kind in NeuronKind
        },
        "complete_above": {str(kind): above for kind, above in comparison.complete_above.items()},
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "prompt": side.prompt,
        "tokens": [token.text for token in side.tokens],
        "position": side.position,
        "target": {
            "id": side.target.token.id,
            "text": side.target.token.text,
            "probability": side.target.probability,
            "log_probability": side.target.log_probability,
            "rank": side.rank,
        },
        "layers": {"attention": side.layers.attention.tolist(), "ffn": side.layers.ffn.tolist()},
        "heads": side.heads.tolist(),
    }


def comparison_text(comparison: Comparison, catalogue: Catalogue | None) -> str:
    """The same for a terminal, the largest changes first; with a catalogue, the tokens that each neuron raises."""
    lines = [*_side_lines("1", comparison.first), *_side_lines("2", comparison.second)]
    if comparison.zeroed:
        shown = "  ".join(f"{one.part.label} {one.score:+.3f}" for one in comparison.zeroed[:ROWS])
        more = f"  … {len(comparison.zeroed) - ROWS} more" if len(comparison.zeroed) > ROWS else ""
        lines += [f"zeroed in 2, with their scores (nats): {shown}{more}"]
    same = comparison.first.target.token == comparison.second.target.token
    what = "log-probability of the target" if same else "log-probability, of each its own target"
    lines += [f"measured: Δ {what} {comparison.log_probability:+.3f} nats", ""]
    lines += ["predictions (probability 1, 2, Δ)"]
    lines += [
        f"  {shorten(one.token.display, 20):22}{one.first:8.4f}{one.second:9.4f}{one.probability:+9.4f}"
        for one in comparison.predictions[:ROWS]
    ]
    lines += ["", "layer  Δ attention    Δ FFN   (log-probability increase, nats)"]
    pairs = zip(comparison.layers.attention.tolist(), comparison.layers.ffn.tolist(), strict=True)
    lines += [f"{layer:5d}  {attention:+11.3f}  {ffn:+7.3f}" for layer, (attention, ffn) in enumerate(pairs)]
    heads = heads_frame(comparison).sort_values("delta_score", key=abs, ascending=False).head(10)
    named = (f"L{one.layer}.H{one.head} {one.delta_score:+.3f}" for one in heads.itertuples())
    lines += ["", "heads that changed most (Δ)  " + "  ".join(named)]
    for kind in NeuronKind:
        lines += ["", *_neuron_lines(comparison, kind, catalogue)]
    return "\n".join(lines)


def _side_lines(name: str, side: Side) -> list[str]:
    target = side.target
    return [
        f"{name}  “{side.prompt}”  at position {side.position}: {target.token.display}, probability "
        f"{target.probability:.4f}, log-probability {target.log_probability:.3f} nats, rank {side.rank}"
    ]


def _neuron_lines(comparison: Comparison, kind: NeuronKind, catalogue: Catalogue | None) -> list[str]:
    found = comparison.neurons[kind]
    above = comparison.complete_above[kind]
    proof = "" if above is None else f", complete above |Δ| {above:.4f}"
    lines = [f"{'FFN' if kind is NeuronKind.FFN else 'attention'} neurons: {len(found)} compared{proof}"]
    lines += [f"  {'':14}{'Δ score':>9}{'1':>9}{'2':>9}{'Δ activation':>14}{'1':>9}{'2':>9}"]
    shown = found[:ROWS]
    tokens: dict[Neuron, NeuronTokens] = {}
    if catalogue is not None and shown:
        tokens = catalogue.strongest_tokens([one.neuron for one in shown], _DEPTH)
    for one in shown:
        raised = _raised(tokens.get(one.neuron), one.stronger.activation)
        lines.append(
            f"  {one.neuron.label:14}{_figures(4, one.score, one.first.score, one.second.score)}"
            f"     {_figures(3, one.activation, one.first.activation, one.second.activation)}  {raised}"
        )
    if len(found) > ROWS:
        lines.append(f"  … {len(found) - ROWS} more with --json or --out")
    return lines


def _figures(digits: int, *values: float) -> str:
    """Signed, in columns of nine; what rounds to zero has no minus sign."""
    return "".join(f"{round(value, digits) + 0.0:+9.{digits}f}" for value in values)


def _raised(tokens: NeuronTokens | None, activation: float) -> str:
    """The end whose tokens the activation raises where the neuron scored more."""
    if tokens is None:
        return ""
    active = tokens.promotes if activation > 0 else tokens.suppresses
    return "raises " + " ".join(shorten(token.display, 16) for token in active)


# Two runs compared, from the shell: ``python -m app.attribution "…" --against "…"`` or ``--zero L23.H4``.


def compared(
    options: argparse.Namespace,
    model: LanguageModel,
    settings: Settings,
    catalogue: Catalogue | None,
    ranges: Ranges | None,
) -> str:
    """What the command prints: the comparison, or where it was written to.

    Raises:
        AtlasError: a prompt, a position, a target or a part is unusable, or the file cannot be written.
    """
    prompt = options.prompt if options.against is None else options.against
    elsewhere = options.against is not None or options.against_position is not None
    position = options.against_position if elsewhere else settings.position
    other = replace(settings, target=options.against_target, position=position)
    for asked in ((options.prompt, settings), (prompt, other)):
        check_question(model, *asked)
    found = compare_prompts(
        model,
        (options.prompt, settings),
        (prompt, other),
        settings.top,
        zero=parse_list(options.zero or ""),
        ranges=ranges if settings.suppressing else None,
    )
    if options.out is not None:
        return _written(found, options.out)
    if options.json:
        return json.dumps(comparison_json(found), ensure_ascii=False, allow_nan=False)
    return comparison_text(found, catalogue)


def _written(found: Comparison, path: Path) -> str:
    """JSON holds all of it, CSV and Parquet the table of neurons."""
    if path.suffix.lower() != ".json":
        return write(neurons_frame(found), path, None)
    text = json.dumps(comparison_json(found), ensure_ascii=False, allow_nan=False)
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise AtlasError(f"{path} could not be written ({error.strerror or error}).") from error
    return f"The comparison was written to {path}."
