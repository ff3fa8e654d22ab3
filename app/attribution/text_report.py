"""An Analysis as plain text for a terminal: the same figures as the JSON, the strongest first."""

import numpy as np

from app.attribution.results import Analysis, ValueNeuron
from db.answers import NeuronTokens
from db.catalogue import Catalogue
from db.neuron import NeuronKind
from db.token_text import shorten

ROWS = 20
DEPTH = 5


def text_report(analysis: Analysis, catalogue: Catalogue | None) -> str:
    """Predictions, layers, heads and the strongest value neurons; with a catalogue, the tokens that each raises."""
    target = analysis.target
    lines = [
        f"{analysis.model}  “{analysis.prompt}”",
        "tokens       " + "  ".join(f"{place}:{token.display}" for place, token in enumerate(analysis.tokens)),
        "predictions  " + "  ".join(f"{one.token.display} {one.probability:.3f}" for one in analysis.predictions),
        f"target       {target.token.display}  at position {analysis.position}, probability {target.probability:.4f}, "
        f"log-probability {target.log_probability:.3f} nats",
        "",
        "layer  attention      FFN   (log-probability increase, nats)",
    ]
    pairs = zip(analysis.layers.attention.tolist(), analysis.layers.ffn.tolist(), strict=True)
    lines += [f"{layer:5d}  {attention:+9.3f}  {ffn:+7.3f}" for layer, (attention, ffn) in enumerate(pairs)]
    lines += ["", "strongest heads  " + "  ".join(_strongest_heads(analysis))]
    for kind, title, found in (
        (NeuronKind.FFN, "FFN value neurons", analysis.ffn_value_neurons),
        (NeuronKind.ATTENTION, "attention value neurons", analysis.attention_value_neurons),
    ):
        proof = analysis.certificates[kind]
        lines += ["", f"{title}: top {len(found)}, {proof.scored:,} scored of {proof.total:,}, proven"]
        lines += _neuron_lines(analysis, found[:ROWS], catalogue)
        if len(found) > ROWS:
            lines.append(f"  … {len(found) - ROWS} more with --json")
    lines += ["", f"{analysis.seconds.total:.2f} s, {analysis.seconds.forward:.2f} s of it the forward pass"]
    return "\n".join(lines)


def _strongest_heads(analysis: Analysis, count: int = 5) -> list[str]:
    scores = analysis.heads.flatten()
    width = analysis.heads.shape[1]
    return [
        f"L{place // width}.H{place % width} {scores[place]:+.3f}"
        for place in np.argsort(-scores, kind="stable")[:count].tolist()
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
        raised = _raised(tokens.get(one.neuron), one.activation)
        lines.append(f"  {one.neuron.label:14}{one.score:+8.4f}  activation {one.activation:+9.3f}{where}  {raised}")
    return lines


def _raised(tokens: NeuronTokens | None, activation: float) -> str:
    """The end whose tokens this activation raises: a negative one turns the value vector round."""
    if tokens is None:
        return ""
    active = tokens.promotes if activation > 0 else tokens.suppresses
    return "raises " + " ".join(shorten(token.display, 16) for token in active)
