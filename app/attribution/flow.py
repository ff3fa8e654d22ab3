"""Which heads moved what from where: the strongest head x source-position contributions of a whole prompt.

A head's contribution to the analysed position is the sum of what it moved there from each source position; here each
of those parts is scored by itself, Imp(part | layer input), and the strongest of all layers are kept, whether they
raised or lowered the target.

The list is proven complete as the value neurons' are (:mod:`app.attribution.value_neurons`): with z the change of the
logits that a part c makes, and ū the mean row of the folded unembedding,

    c · g - (max z - min z)² / 8 <= Imp(c) <= c · g,    max z - min z <= 2 |c| max |row - ū| / s

so |Imp(c)| is bounded by the larger of c · g and (max z - min z)² / 8 - c · g. The mean row may be taken away since the
width of z does not know it, and that makes the bound some two times tighter.

Legend: L = layers, H = heads, T = source positions, D = head_dim, d = d_model.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.results import Certificate, Contrast, Flow, Move
from app.attribution.run import PromptRun
from app.attribution.value_neurons import Bounds, certified_top
from indexer.unembedding import Unembedding

MOVES = 40
"""How many are looked for unless told otherwise; more make a picture that nobody can read."""


def flow(run: PromptRun, count: int = MOVES) -> Flow:
    """The `count` strongest moves over all layers by |log-probability increase|, exact and proven complete."""
    bases, stream = run.at_attention, run.stream
    layers, heads, tokens = stream.attention_weight.shape
    reach = 2 * _longest_centred_row(run.model.unembedding) / run.scale

    def bound(layer: int) -> Float[Tensor, " HT"]:
        parts = _parts(run, layer).flatten(0, 1)
        upper = parts @ bases.gradient[layer]
        return torch.maximum(upper, (reach * parts.norm(dim=1)).square() / 8 - upper)

    def scores(entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        layer = entries // (heads * tokens)
        found = torch.empty(len(entries), stream.layer_input.shape[2])
        for one in layer.unique().tolist():
            here = layer == one
            found[here] = _parts(run, one).flatten(0, 1)[entries[here] % (heads * tokens)]
        return bases.importance(found, layer)

    ranking = certified_top(Bounds(bound, layers, heads * tokens), lambda entries: scores(entries).abs(), count)
    proof = ranking.certificate
    exact = scores(ranking.entries).tolist()
    moves = zip(ranking.entries.tolist(), exact, strict=True)
    return Flow(
        tuple(_move(run, entry, score) for entry, score in moves),
        Certificate(proof.scored, proof.total, proof.proven, "norms"),
    )


def contrast_flow(run: PromptRun, contrast: Contrast, count: int = MOVES) -> Flow:
    """The same by |share of the difference of logits|, which is linear: all are known, the strongest are kept."""
    shares = contrast.positions.flatten()
    best = np.argsort(-np.abs(shares), kind="stable")[:count]
    moves = tuple(_move(run, entry, float(shares[entry])) for entry in best.tolist())
    return Flow(moves, Certificate(len(shares), len(shares), True, "linear"))


def _parts(run: PromptRun, layer: int) -> Float[Tensor, "H T d"]:
    """What each head of a layer wrote at the analysed position, by source position."""
    activation = run.stream.attention_activation(layer)  # [H, T, D]
    heads, _, width = activation.shape
    return activation @ run.model.weights.attention_values(layer).view(heads, width, -1)


def _longest_centred_row(unembedding: Unembedding) -> float:
    """max |row - ū|, without a second matrix of the unembedding's size."""
    folded = unembedding.folded
    mean = folded.mean(dim=0)
    squares = folded.norm(dim=1).square() - 2 * (folded @ mean) + mean.square().sum()
    # The three terms are rounded one by one; the sum of their roundings stays far below this part.
    return float(squares.max().clamp_min(0).sqrt()) * (1 + 1e-5)


def _move(run: PromptRun, entry: int, score: float) -> Move:
    _, heads, tokens = run.stream.attention_weight.shape
    rest, position = divmod(entry, tokens)
    layer, head = divmod(rest, heads)
    weight = float(run.stream.attention_weight[layer, head, position])
    return Move(layer, head, position, run.tokens[position], score, weight)


def flow_json(found: Flow) -> dict[str, Any]:
    """The moves, strongest first, with the tokens' exact texts, and the certificate."""
    proof = found.certificate
    return {
        "moves": [
            {
                "layer": one.layer,
                "head": one.head,
                "position": one.position,
                "token": one.token.text,
                "score": one.score,
                "attention_weight": one.attention_weight,
            }
            for one in found.moves
        ],
        "certificate": {
            "scored": proof.scored,
            "total": proof.total,
            "proven": proof.proven,
            "bound": proof.bound,
        },
    }
