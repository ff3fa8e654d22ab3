"""Target against distractor: shares of a difference of logits (README, Method; the "logit minus" of arXiv 2402.02872).

log p(w) - log p(w′) = logit_w - logit_w′, in which the softmax's sum cancels. With the norm frozen a contribution c
has the share c · (folded_w - folded_w′) / s of it: linear, so exact at once for layers, heads, source positions and
neurons.
"""

from dataclasses import replace

import torch

from app.attribution.plain import array
from app.attribution.results import Contrast, SublayerScores
from app.attribution.run import PromptRun
from db.neuron import NeuronKind


def contrast(run: PromptRun, distractor: int, k: int) -> Contrast:
    """Every sub-layer's, head's, source position's and neuron's share of the difference of logits, in nats."""
    stream, unembedding, weights = run.stream, run.model.unembedding, run.model.weights
    direction = (unembedding.folded[run.target_id] - unembedding.folded[distractor]) / run.scale
    here = stream.position
    constant = unembedding.constant(run.settings.conventions)
    final = unembedding.logits(stream.layer_input[-1, here], run.scale, run.settings.conventions)
    favouring = {kind: run.linear(kind, direction, k) for kind in NeuronKind}
    opposing = {
        kind: tuple(replace(one, score=-one.score) for one in run.linear(kind, -direction, k)) for kind in NeuronKind
    }
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
        layers=SublayerScores(
            array(stream.attention_output[:, here] @ direction), array(stream.ffn_output[:, here] @ direction)
        ),
        heads=array(run.head_contributions @ direction),
        positions=array(torch.stack(positions)),
        ffn_neurons=favouring[NeuronKind.FFN],
        attention_neurons=favouring[NeuronKind.ATTENTION],
        ffn_opposing=opposing[NeuronKind.FFN],
        attention_opposing=opposing[NeuronKind.ATTENTION],
    )
