"""Does the architecture row fit the model? The identities (README, Method), on one short probe.

1. residual: layer input + attention output + FFN output = the next layer's input
2. FFN: Σ activation × value vector + output bias = FFN output
3. attention: Σ over heads, dimensions, source positions of activation × value vector + output bias = attention output
4. final norm: the frozen norm's logits at the final hidden state = the model's own output
"""

import torch
from torch import Tensor

from db.errors import AtlasError
from indexer.forward import ResidualStream
from indexer.unembedding import Unembedding
from indexer.weights import Weights

TOLERANCE = 1e-3
"""Largest deviation, as a share of the right side's largest entry. float32 sums over some thousands of terms stay
below 1e-5; a wrong matrix, a missing bias or a wrong group mapping is off by the order of 1.
"""


def check_identities(stream: ResidualStream, weights: Weights, unembedding: Unembedding, family: str) -> None:
    """Check all four on one forward pass.

    Raises:
        AtlasError: an identity does not hold; the message names it and the layer.
    """

    def demand(identity: str, layer: int | None, got: Tensor, expected: Tensor) -> None:
        deviation = (got - expected).abs().max().item()
        allowed = TOLERANCE * max(expected.abs().max().item(), 1e-6)
        if not deviation <= allowed:  # also refuses NaN
            where = "" if layer is None else f" at layer {layer}"
            raise _unfit(
                family, f"the {identity} identity fails{where} (off by {deviation:.3g}, allowed {allowed:.3g})"
            )

    for layer in range(stream.ffn_activation.shape[0]):
        added = stream.layer_input[layer] + stream.attention_output[layer] + stream.ffn_output[layer]
        demand("residual", layer, added, stream.layer_input[layer + 1])

        written = stream.ffn_activation[layer] @ weights.ffn_values(layer)
        demand("FFN", layer, _with(written, weights.ffn_bias(layer)), stream.ffn_output[layer])

        # [H, T, D] summed over source positions, heads and dimensions joined in the value matrix's row order
        mixed = stream.attention_activation(layer).sum(dim=1).flatten()
        written = mixed @ weights.attention_values(layer)
        demand("attention", layer, _with(written, weights.attention_bias(layer)), stream.attention_output[layer, -1])

    hidden = stream.layer_input[-1, -1]
    demand("final norm", None, unembedding.logits(hidden, unembedding.scale(hidden)), stream.logits)


def check_shapes(weights: Weights, family: str) -> None:
    """Are the row's matrices there, and of the sizes that the config gives?

    Raises:
        AtlasError: one is missing or of another shape; the message names it and the layer.
    """
    size, row = weights.dimensions, weights.architecture
    kv_width = size.kv_heads * size.head_dim
    expected = {
        row.ffn_output: (weights.ffn_values, (size.ffn_neurons, size.d_model)),
        row.attention_output: (weights.attention_values, (size.attention_neurons, size.d_model)),
        row.value: (weights.attention_keys, (kv_width, size.d_model)),
        row.key: (weights.attention_key_rows, (kv_width, size.d_model)),
    }
    for layer in range(size.layers):
        for part, (read, shape) in expected.items():
            try:
                found = tuple(read(layer).shape)
            except AtlasError as error:
                raise _unfit(family, f"layer {layer} has no “{part}” ({error})") from error
            if found != shape:
                raise _unfit(family, f"“{part}” at layer {layer} is {found}, and {shape} was expected")


def _unfit(family: str, why: str) -> AtlasError:
    return AtlasError(
        f"This model does not fit the architecture row of “{family}”: {why}. Figures for it would be wrong, so it is "
        "refused; its row in indexer/architecture.py needs mending."
    )


def probe_tokens(vocabulary: int, length: int = 6) -> Tensor:
    """A short, fixed, arbitrary prompt."""
    return (torch.arange(length) * 7919 + 17) % vocabulary


def _with(vector: Tensor, bias: Tensor | None) -> Tensor:
    return vector if bias is None else vector + bias
