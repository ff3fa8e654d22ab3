"""Mixtures of experts by their configs: where a family's layers keep their experts, and which layers have some.

Knows no torch, as :mod:`indexer.families`.
"""

from dataclasses import dataclass
from typing import Any

from db.neuron import Experts


@dataclass(frozen=True, slots=True)
class Mixture:
    """Where a layer keeps its experts. What it is told of the rest, all families call alike (`experts_of`).

    Attributes:
        module: the experts; holds `gate_up_proj` [E, 2w, d] and `down_proj` [E, d, w].
        width: the config's name for the neurons of an expert.
        shared: the expert that every token passes, built like the FFN of a layer without experts.
        shared_width: the config's name for its neurons.
        shared_count: or for how many experts it is as wide as.
        shared_gate: what computes the logit of what its output is multiplied by.
    """

    module: str = "mlp.experts"
    width: str = "moe_intermediate_size"
    shared: str | None = None
    shared_width: str = ""
    shared_count: str = ""
    shared_gate: str | None = None

    @property
    def active(self) -> str:
        """What the activations of the experts' neurons pass through (:mod:`indexer.experts`)."""
        return f"{self.module}.active"

    def of_shared(self, ffn: str, part: str) -> str:
        """The shared expert's counterpart of a module of the FFN, such as its output matrix."""
        return f"{self.shared}{part.removeprefix(ffn)}"


def experts_of(config: Any, mixture: Mixture, layers: int, dense: int) -> Experts | None:
    """How a config's experts lie; None where it has no layer with some. `dense`: the neurons of one without."""
    count = int(getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 0)
    width = int(getattr(config, mixture.width))
    shared = int(getattr(config, mixture.shared_width or mixture.shared_count, None) or 0)
    sparse = tuple(layer for layer in range(layers) if count and _has_experts(config, layer))
    return Experts(count, width, shared if mixture.shared_width else shared * width, dense, sparse) if sparse else None


def _has_experts(config: Any, layer: int) -> bool:
    """By any of the options that say so."""
    kinds = getattr(config, "mlp_layer_types", None)
    if kinds is not None:
        return bool(kinds[layer] == "sparse")

    def option(name: str, otherwise: int) -> int:
        found = getattr(config, name, None)
        return otherwise if found is None else int(found)

    return (
        layer not in (getattr(config, "mlp_only_layers", None) or ())
        and (layer + 1) % option("decoder_sparse_step", 1) == 0
        and (layer + 1) % option("moe_layer_interval", 1) == 0
        and layer >= option("first_k_dense_replace", 0)
        and option("moe_layer_start_index", 0) <= layer <= option("moe_layer_end_index", layer)
    )
