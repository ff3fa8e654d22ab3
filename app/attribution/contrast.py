"""Target against distractor: shares of a difference of logits (README, Method; the "logit minus" of arXiv 2402.02872).

log p(w) - log p(w′) = logit_w - logit_w′, in which the softmax's sum cancels. With the norm frozen a contribution c
has the share c · (folded_w - folded_w′) / s of it: linear, so exact at once for layers, heads, source positions and
neurons.
"""

import torch
from torch import Tensor

from app.attribution.entries import Entries
from app.attribution.layers import LayerScores
from app.attribution.results import Contrast, ValueNeuron
from app.attribution.run import PromptRun


def contrast(run: PromptRun, distractor: int, k: int) -> Contrast:
    """Every sub-layer's, head's, source position's and neuron's share of the difference of logits, in nats."""
    stream, unembedding, weights = run.stream, run.model.unembedding, run.model.weights
    direction = (unembedding.folded[run.target_id] - unembedding.folded[distractor]) / run.scale
    here = stream.position
    constant = unembedding.constant(run.settings.conventions)
    final = unembedding.logits(stream.layer_input[-1, here], run.scale, run.settings.conventions)
    favouring, opposing = {}, {}
    for entries in (run.ffn, run.attention):
        shares = entries.dot(direction.expand(run.model.dimensions.layers, -1))
        favouring[entries.kind] = _extreme(entries, shares, k, largest=True)
        opposing[entries.kind] = _extreme(entries, shares, k, largest=False)
    positions = []
    for layer in range(run.model.dimensions.layers):
        activation = stream.attention_activation(layer)  # [H, T, D]
        slopes = (weights.attention_values(layer) @ direction).view(activation.shape[0], 1, -1)
        positions.append((activation * slopes).sum(dim=2))
    return Contrast(
        distractor=run.token_probability(distractor),
        logit_difference=float(final[run.target_id] - final[distractor]),
        embedding=float(stream.layer_input[0, here] @ direction),
        constant=0.0 if constant is None else float(constant[run.target_id] - constant[distractor]),
        layers=LayerScores(stream.attention_output[:, here] @ direction, stream.ffn_output[:, here] @ direction),
        heads=run.head_contributions @ direction,
        positions=torch.stack(positions),
        ffn_neurons=favouring[run.ffn.kind],
        attention_neurons=favouring[run.attention.kind],
        ffn_opposing=opposing[run.ffn.kind],
        attention_opposing=opposing[run.attention.kind],
    )


def _extreme(entries: Entries, shares: Tensor, k: int, *, largest: bool) -> tuple[ValueNeuron, ...]:
    best = shares.topk(min(k, shares.shape[0]), largest=largest)
    activations = entries.activation(best.indices).tolist()
    triples = zip(best.indices.tolist(), best.values.tolist(), activations, strict=True)
    return tuple(ValueNeuron(*entries.name(entry), share, activation) for entry, share, activation in triples)
