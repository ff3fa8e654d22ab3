"""Log-probability increase of whole sub-layers and of heads (README, Method, Importance)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.attribution.importance import Bases
from indexer.forward import ResidualStream
from indexer.weights import Weights


@dataclass(frozen=True, eq=False)
class LayerScores:
    """Nats by which each sub-layer raised the target's log-probability; attention + ffn telescope over the layers.

    Attributes:
        attention: [L].
        ffn: [L].
    """

    attention: Float[Tensor, " L"]
    ffn: Float[Tensor, " L"]


def base_points(stream: ResidualStream) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
    """What attention and FFN of each layer are added to, at the analysed position: layer input, layer input +
    attention output.
    """
    inputs = stream.layer_input[:-1, stream.position]
    return inputs, inputs + stream.attention_output[:, stream.position]


def layer_scores(
    attention_base: Float[Tensor, " L"], ffn_base: Float[Tensor, " L"], final: Float[Tensor, ""]
) -> LayerScores:
    """Differences of log p(w) along the residual stream: before attention, before the FFN, and after the last layer."""
    after = torch.cat([attention_base[1:], final[None]])
    return LayerScores(attention=ffn_base - attention_base, ffn=after - ffn_base)


def head_contributions(stream: ResidualStream, weights: Weights) -> Float[Tensor, "L H d"]:
    """What each head wrote at the analysed position, summed over source positions and dimensions; no output bias."""
    layers = []
    for layer in range(stream.attention_weight.shape[0]):
        mixed = stream.attention_activation(layer).sum(dim=1)  # [H, D]
        values = weights.attention_values(layer).unflatten(0, tuple(mixed.shape))  # [H, D, d]
        layers.append(torch.einsum("hn,hnd->hd", mixed, values))
    return torch.stack(layers)


def head_scores(contributions: Float[Tensor, "L H d"], bases: Bases) -> Float[Tensor, "L H"]:
    """Nats by which each head raised the target's log-probability; `bases` are the layer inputs."""
    layers, heads, _ = contributions.shape
    base = torch.arange(layers, device=contributions.device).repeat_interleave(heads)
    return bases.importance(contributions.flatten(0, 1), base).view(layers, heads)
