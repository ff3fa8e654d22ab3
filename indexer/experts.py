"""Mixtures of experts, run so that their neurons can be read and changed by hooks, as those of any other layer.

transformers lets whoever loads a model choose how its experts are computed. The way here is its own loop over the
chosen experts, but the router's weight is applied to an expert's neurons and not to its output, which is the same, and
what the neurons read and how active they are passes through modules that do nothing:

    experts.read      [N, E, 2w]: gate and up of every expert; NaN where it is not chosen
    experts.active    [N, E·w]: router's weight x inner activation; 0 where it is not chosen
    experts.biases    [N, d]: Σ router's weight x the expert's output bias, in families that have such biases

A hook on them is told, or changes, all experts at once; without one nothing is computed for experts that are not
chosen. Each time a model is loaded, what it yields so is compared with what transformers' own loop yields.

Legend: N = tokens, E = experts, w = neurons of each, k = experts chosen for a token, d = d_model.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

READ, ACTIVE, BIASES = "read", "active", "biases"
_OURS, _THEIRS = "neurons", "eager"


def prepare(model: nn.Module, names: list[str]) -> None:
    """Have a loaded model compute the experts of these names so."""
    if not names:
        return
    for name in names:
        experts = model.get_submodule(name)
        for place in (READ, ACTIVE, BIASES):
            experts.add_module(place, nn.Identity())
    config: Any = model.config
    config._experts_implementation = _OURS


@contextmanager
def as_in_transformers(model: nn.Module) -> Iterator[None]:
    """While inside, the experts are computed by transformers' own loop."""
    config: Any = model.config
    before, config._experts_implementation = config._experts_implementation, _THEIRS
    try:
        yield
    finally:
        config._experts_implementation = before


def weights_by_expert(index: Int[Tensor, "N k"], weights: Float[Tensor, "N k"], count: int) -> Float[Tensor, "N E"]:
    """The router's weights as they are applied; 0 where an expert is not chosen."""
    return weights.new_zeros(len(index), count).scatter_(1, index, weights)


def expert_rows(
    shared: Float[Tensor, "s d"] | None, experts: Float[Tensor, "E w d"], rows: Int[Tensor, " m"] | None
) -> Float[Tensor, "n d"]:
    """The rows of the shared expert and then of all others; or of these the ones that are asked for."""
    if rows is None:
        return torch.cat([*([] if shared is None else [shared]), experts.flatten(0, 1)])
    first = 0 if shared is None else len(shared)
    beyond, width = (rows - first).clamp_min(0), experts.shape[1]
    found = experts[beyond // width, beyond % width]
    if shared is not None:
        found[rows < first] = shared[rows[rows < first]]
    return found


def expert_files(module: PreTrainedModel) -> Callable[[str], tuple[str, tuple[int, int] | None]]:
    """How files may keep what a model holds of its experts: `Promised.pieces`, by transformers' own account."""
    every = get_model_conversion_mapping(module)
    converters = [one for one in every if isinstance(one, WeightConverter)]
    renamings = [one for one in every if not isinstance(one, WeightConverter)]
    places = {pattern: place for one in converters for place, pattern in enumerate(one.source_patterns)}

    def known(name: str) -> tuple[str, tuple[int, int] | None]:
        own, pattern = rename_source_key(name, renamings, converters)
        number = re.search(r"\.experts\.(\d+)\.", name)
        return (own, None) if pattern is None or number is None else (own, (int(number[1]), places[pattern]))

    return known


def _forward(
    self: Any, hidden: Float[Tensor, "N d"], index: Int[Tensor, "N k"], weights: Float[Tensor, "N k"]
) -> Float[Tensor, "N d"]:
    """The experts' output. `self` is a module of any of transformers' mixtures."""
    chosen: dict[int, tuple[Tensor, Tensor]] = {}
    count, width = len(self.down_proj), self.down_proj.shape[1 if self.is_transposed else 2]
    read = _room(self.read, len(hidden), count, 2 * width, hidden)
    for expert in index.unique().tolist():
        token, place = (index == expert).nonzero(as_tuple=True)
        both = _product(self, hidden[token], self.gate_up_proj[expert])
        if self.has_bias:
            both = both + self.gate_up_proj_bias[expert]
        if read is not None:
            read[token, expert] = both if self.is_concatenated else torch.cat([both[:, ::2], both[:, 1::2]], dim=1)
        chosen[expert] = token, (self._apply_gate(both) * weights[token, place, None]).to(hidden.dtype)
    if read is not None:
        self.read(read)
    active = _room(self.active, len(hidden), count, width, hidden)
    if active is not None:
        active = active.zero_()
        for expert, (token, one) in chosen.items():
            active[token, expert] = one
        changed = self.active(active.flatten(1)).view(active.shape)
        on = (changed != 0).any(dim=2)
        experts = on.any(dim=0).nonzero().flatten().tolist()
        tokens = {expert: on[:, expert].nonzero().flatten() for expert in experts}
        chosen = {expert: (token, changed[token, expert]) for expert, token in tokens.items()}
    found = torch.zeros_like(hidden)
    for expert, (token, one) in chosen.items():
        found.index_add_(0, token, _product(self, one, self.down_proj[expert]))
    if self.has_bias:
        found += self.biases(weights_by_expert(index, weights, count).to(hidden.dtype) @ self.down_proj_bias)
    return found


def _product(experts: Any, read: Float[Tensor, "N in"], matrix: Tensor) -> Float[Tensor, "N out"]:
    return read @ matrix if experts.is_transposed else nn.functional.linear(read, matrix)


def _room(module: nn.Module, tokens: int, experts: int, width: int, like: Tensor) -> Float[Tensor, "N E w"] | None:
    """What a hook on the module is shown; None where there is no hook."""
    hooked = module._forward_pre_hooks or module._forward_hooks
    return like.new_full((tokens, experts, width), torch.nan) if hooked else None


ALL_EXPERTS_FUNCTIONS[_OURS] = _forward
