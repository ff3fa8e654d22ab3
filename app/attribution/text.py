"""Results as plain text for a terminal: the same figures as the JSON, the strongest first."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from app.attribution.compare import Comparison, PredictionChange, Side, heads_frame
from app.attribution.intervene import Steering
from app.attribution.measured import in_words
from app.attribution.prompt import Method
from app.attribution.results import Analysis, Keys, ValueNeuron
from db.catalogue.store import Catalogue
from db.command_line import table
from db.neuron import Neuron, NeuronKind
from db.records import NeuronTokens
from db.token_text import display, legible, shorten

if TYPE_CHECKING:
    from app.attribution.activated import ActivatedBy

ROWS = 20
DEPTH = 5
COLUMNS = 12
"""Of a table of figures by layer and position: a wider one is left to the JSON."""


_SCORED = {
    Method.ADDED: "log-probability increase",
    Method.REMOVED: "log-probability lost by removal",
    Method.GRADIENT: "gradient × activation",
}


def text_report(analysis: Analysis, catalogue: Catalogue | None) -> str:
    """Predictions, layers, heads and the strongest value neurons; with a catalogue, the tokens that each raises."""
    target = analysis.target
    lines = [
        f"{analysis.model}  “{legible(analysis.prompt)}”",
        "tokens       " + "  ".join(f"{place}:{token.display}" for place, token in enumerate(analysis.tokens)),
        "predictions  " + "  ".join(f"{one.token.display} {one.probability:.3f}" for one in analysis.predictions),
        *(f"note         {notice}" for notice in analysis.notices),
        f"target       {target.token.display}  at position {analysis.position}, probability {target.probability:.4f}, "
        f"log-probability {target.log_probability:.3f} nats",
        "",
        *in_words(analysis),
        "",
        f"layer  attention      FFN   ({_SCORED[analysis.method]}, nats)",
    ]
    pairs = zip(analysis.layers.attention.tolist(), analysis.layers.ffn.tolist(), strict=True)
    lines += [f"{layer:5d}  {attention:+9.3f}  {ffn:+7.3f}" for layer, (attention, ffn) in enumerate(pairs)]
    lines += ["", "strongest heads  " + "  ".join(_strongest_heads(analysis))]
    for kind, title, found in (
        (NeuronKind.FFN, "FFN value neurons", analysis.ffn_value_neurons),
        (NeuronKind.ATTENTION, "attention value neurons", analysis.attention_value_neurons),
    ):
        proof = analysis.certificates[kind]
        exactly = f"to {proof.tolerance:.5f} nats" if proof.tolerance else "exactly"
        others = ", the others ruled out" if proof.scored < proof.total else ""
        lines += ["", f"{title}: top {len(found)}; {proof.scored:,} of {proof.total:,} scored {exactly}{others}"]
        lines += _neuron_lines(analysis, found[:ROWS], catalogue)
        if len(found) > ROWS:
            lines.append(f"  … {len(found) - ROWS} more with --json")
    lines += ["", f"{analysis.seconds.total:.2f} s, {analysis.seconds.forward:.2f} s of it the forward pass"]
    return "\n".join(lines)


def _strongest_heads(analysis: Analysis) -> list[str]:
    scores = analysis.heads.flatten()
    width = analysis.heads.shape[1]
    return [
        f"L{place // width}.H{place % width} {scores[place]:+.3f}"
        for place in np.argsort(-scores, kind="stable")[:5].tolist()
    ]


def _neuron_lines(analysis: Analysis, found: tuple[ValueNeuron, ...], catalogue: Catalogue | None) -> list[str]:
    tokens = catalogue.strongest_tokens([one.neuron for one in found], DEPTH) if catalogue and found else {}
    lines = []
    for one in found:
        where = (
            ""
            if one.position is None
            else f"  at {one.position}:{shorten(analysis.tokens[one.position].display, 12):12}"
        )
        where += "" if one.router is None else f"  router {one.router:.3f}"
        raised = _raised(tokens.get(one.neuron), one.activation)
        measured = "" if one.effect is None else f"  measured {one.effect:+8.4f}"
        lines.append(
            f"  {one.neuron.label:14}{one.score:+8.4f}{measured}  activation {one.activation:+9.3f}{where}  {raised}"
        )
    return lines


def _raised(tokens: NeuronTokens | None, activation: float) -> str:
    """The end whose tokens this activation raises: a negative one turns the value vector round."""
    if tokens is None:
        return ""
    active = tokens.promotes if activation > 0 else tokens.suppresses
    return "raises " + " ".join(shorten(token.display, 16) for token in active)


def comparison_text(comparison: Comparison, catalogue: Catalogue | None) -> str:
    """The same for a terminal, the largest changes first; with a catalogue, the tokens that each neuron raises."""
    lines = [*_side_lines("1", comparison.first), *_side_lines("2", comparison.second)]
    lines += [f"note: {notice}" for notice in comparison.notices]
    if comparison.zeroed:
        shown = "  ".join(f"{one.part.label} {one.score:+.3f}" for one in comparison.zeroed[:ROWS])
        more = f"  … {len(comparison.zeroed) - ROWS} more" if len(comparison.zeroed) > ROWS else ""
        lines += [f"zeroed in 2, with their scores (nats): {shown}{more}"]
    same = comparison.first.target.token == comparison.second.target.token
    what = "log-probability of the target" if same else "log-probability, of each its own target"
    lines += [f"measured: Δ {what} {comparison.log_probability:+.3f} nats", ""]
    lines += ["predictions (probability 1, 2, Δ)", *_prediction_lines(comparison.predictions)]
    lines += ["", "layer  Δ attention    Δ FFN   (log-probability increase, nats)"]
    pairs = zip(comparison.layers.attention.tolist(), comparison.layers.ffn.tolist(), strict=True)
    lines += [f"{layer:5d}  {attention:+11.3f}  {ffn:+7.3f}" for layer, (attention, ffn) in enumerate(pairs)]
    heads = heads_frame(comparison).sort_values("delta_score", key=abs, ascending=False).head(10)
    named = (f"L{one.layer}.H{one.head} {one.delta_score:+.3f}" for one in heads.itertuples())
    lines += ["", "heads that changed most (Δ)  " + "  ".join(named)]
    for kind in NeuronKind:
        lines += ["", *_change_lines(comparison, kind, catalogue)]
    return "\n".join(lines)


def _prediction_lines(found: tuple[PredictionChange, ...]) -> list[str]:
    return [
        f"  {shorten(one.token.display, 20):22}{one.first:8.4f}{one.second:9.4f}{one.probability:+9.4f}"
        for one in found[:ROWS]
    ]


def steering_text(found: Steering) -> str:
    """The same for a terminal: predictions before and after, and how the text goes on."""
    lines = [f"“{legible(found.prompt)}”", *(f"note: {notice}" for notice in found.notices)]
    changed = [one.words for one in found.interventions]
    if changed:
        more = f"; {len(changed) - ROWS} more" if len(changed) > ROWS else ""
        lines += [f"changed at every position: {'; '.join(changed[:ROWS])}{more}"]
        before, after = found.before, found.after
        lines += [
            f"target {before.token.display}: probability {before.probability:.4f} before, {after.probability:.4f} "
            f"after; rank {before.rank}, {after.rank}; Δ log-probability {found.log_probability:+.3f} nats",
            "",
            "predictions (probability before, after, Δ)",
            *_prediction_lines(found.predictions),
        ]
    if found.sampling is not None:
        one = found.sampling
        how = f"temperature {one.temperature:g}, top-p {one.top_p:g}, seed {one.seed}" if one.temperature else "greedy"
        lines += ["", f"continued by up to {one.tokens} tokens ({how})"]
        names = ("as it is", "changed")
        lines += [
            f"  {name}: {legible(written.text)}{' (the model ended the text)' if written.ended else ''}"
            for name, written in zip(names, found.continuations, strict=False)
        ]
    return "\n".join(lines)


def _side_lines(name: str, side: Side) -> list[str]:
    target = side.target
    return [
        f"{name}  “{legible(side.prompt)}”  at position {side.position}: {target.token.display}, probability "
        f"{target.probability:.4f}, log-probability {target.log_probability:.3f} nats, rank {side.target.rank}"
    ]


def _change_lines(comparison: Comparison, kind: NeuronKind, catalogue: Catalogue | None) -> list[str]:
    found = comparison.neurons[kind]
    above = comparison.complete_above[kind]
    proof = "" if above is None else f", complete above |Δ| {above:.4f}"
    lines = [f"{kind.words} neurons: {len(found)} compared{proof}"]
    lines += [f"  {'':14}{'Δ score':>9}{'1':>9}{'2':>9}{'Δ activation':>14}{'1':>9}{'2':>9}"]
    shown = found[:ROWS]
    tokens: dict[Neuron, NeuronTokens] = {}
    if catalogue is not None and shown:
        tokens = catalogue.strongest_tokens([one.neuron for one in shown], DEPTH)
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


def activated_text(found: "ActivatedBy", rows: int = 40) -> str:
    """A passage's tokens, then the neurons that it activates most."""
    lines = [
        " ".join(token.display for token in found.tokens),
        f"activates most, of {found.compared:,} neurons, against {found.corpus}:",
        "",
    ]
    head = ("neuron", "z", "activation", "at", "token", "raises", "usual end", "name")
    table_rows = [
        (
            one.neuron.label,
            f"{one.z:.1f}",
            f"{one.activation:+.3g}",
            str(one.position),
            shorten(found.tokens[one.position].display, 20),
            f"{one.sign}: {shorten(' '.join(token.display for token in one.raises), 60)}",
            str(one.usual or ""),
            one.name or "",
        )
        for one in found.neurons[:rows]
    ]
    return "\n".join([*lines, table(head, table_rows, right={1, 2, 3})])


def keys_text(found: Keys, rows: int = 12) -> str:
    """Which tokens' embeddings each key of a neuron reads the most from."""
    lines = [f"{found.neuron.label}: tokens whose embeddings its keys read the most from (reading, z)"]
    for side in found.sides:
        lines.append(f"{side.name}: mean {side.mean:+.3f}, standard deviation {side.std:.3f}")
        for name, end in (("highest", side.highest), ("lowest", side.lowest)):
            shown = "  ".join(f"{shorten(one.token.display, 16)} {one.reading:+.2f}" for one in end[:rows])
            lines.append(f"  {name:8} {shown}")
    return "\n".join(lines)


def details_text(details: Mapping[str, Any]) -> str:
    """What was asked for beside an analysis, from its JSON: lists and grids as tables, of long ones the first rows. Ids
    of tokens whose texts stand beside them are left out.
    """
    blocks = ((name, one) for name, value in details.items() for one in (value if isinstance(value, list) else [value]))
    shown = ("\n".join(_block(name, one)) for name, one in blocks)
    return "\n\n".join(["Also asked for (scores and effects in nats):", *shown])


def _block(name: str, value: Mapping[str, Any]) -> list[str]:
    """What fits into a line, and below it each part that has a block, a table or a line of its own."""
    told, parts = [name.replace("_", " ")], []
    for key, one in value.items():
        title = key.replace("_", " ")
        if key.endswith("_ids") or key == "displays":
            continue
        if isinstance(one, Mapping):
            parts += [_strongest(title, one)] if _of_figures(one) else _block(key, one)
        elif isinstance(one, list) and one and isinstance(one[0], Mapping):
            columns = list(dict.fromkeys(column for row in one for column in row if not column.endswith("_ids")))
            rows = [[_cell(row.get(column)) for column in columns] for row in one[:ROWS]]
            parts += [title, *_rows([column.replace("_", " ") for column in columns], rows, len(one))]
        elif isinstance(one, list) and one and isinstance(one[0], list):
            parts += [title, *_grid(one)]
        else:
            told.append(f"{title} {_cell(one)}")
    return ["  ".join(told), *(f"  {line}" for line in parts)]


def _of_figures(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(one, float) for one in value.values())


def _strongest(title: str, value: Mapping[str, float]) -> str:
    ordered = sorted(value.items(), key=lambda item: -abs(item[1]))
    more = f"  … {len(ordered) - ROWS} more with --json" if len(ordered) > ROWS else ""
    return f"{title}  " + "  ".join(f"{name} {figure:+.4f}" for name, figure in ordered[:ROWS]) + more


def _grid(value: Sequence[Sequence[Any]]) -> list[str]:
    """A row for each layer or position."""
    wide = max(map(len, value))
    if wide > COLUMNS:
        return [f"  {len(value)} × {wide}, with --json"]
    rows = [[str(place), *map(_cell, row)] for place, row in enumerate(value)]
    return _rows(["", *map(str, range(wide))], rows, len(rows))


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> list[str]:
    lines = [f"  {line}" for line in table(head, rows, right=set()).splitlines()]
    return lines + [f"  … {count - len(rows)} more with --json"] * (count > len(rows))


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(shorten(_cell(one), 16) for one in value[:DEPTH]) + " …" * (len(value) > DEPTH)
    if isinstance(value, str):
        return display(value.encode("utf-8", "replace")) if value[:1].isspace() else legible(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
