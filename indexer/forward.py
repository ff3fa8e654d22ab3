"""One forward pass, with what every neuron did in it: prompt tokens -> ResidualStream.

Everything is read by hooks on the library's own modules, which are always removed; nothing of transformers is copied or
patched. One attention function is added, where transformers has its own registered.

Legend: L = layers, T = tokens up to the analysed position, H = heads, KV = key-value heads, G = heads that share one,
D = head_dim, n = FFN neurons of a layer, d = d_model, V = vocabulary.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from inspect import getsource
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import eager_mask
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.llama import modeling_llama

from db.neuron import Neuron, NeuronKind
from indexer.architecture import Architecture, Dimensions
from indexer.experts import READ, weights_by_expert
from indexer.families import epsilon_of
from indexer.weights import fused_rows

PATTERN_BYTES = 4 * 2**20
"""Up to which all attention patterns of a prompt are kept: of the demo model's those of 62 tokens."""


@dataclass(frozen=True, eq=False)
class ResidualStream:
    """What one forward pass wrote and read, at every position up to the analysed one (which is the last here).

    Attributes:
        token_ids: [T].
        layer_input: [L+1, T, d]; row l enters layer l, row L is the final hidden state before the final norm.
        attention_output: [L, T, d]; what attention added, biases included.
        ffn_output: [L, T, d]; what the FFN added, biases included.
        ffn_activation: [L, T, n]; what multiplies each FFN value vector. Of experts the router's weight is part; 0
            where one is not chosen, and beyond the neurons of a layer that has fewer than another.
        value: [L, T, KV, D]; the attention values, value bias included, before the group mapping. Where a norm stands
            behind attention, they are divided by its scale at the analysed position, as `ffn_activation` is at every
            position by that of the norm behind the FFN.
        attention_weight: [L, H, T]; the analysed position's attention to each source position.
        logits: [V]; the model's own output at the analysed position.
        patterns: [L, H, T, T]; the attention from every position (row) to every other; None where that is more than
            `PATTERN_BYTES`.
        routing: [L, T, E]; the router's weights as applied, 0 where an expert is not chosen; None without experts.
    """

    token_ids: Int[Tensor, " T"]
    layer_input: Float[Tensor, "L1 T d"]
    attention_output: Float[Tensor, "L T d"]
    ffn_output: Float[Tensor, "L T d"]
    ffn_activation: Float[Tensor, "L T n"]
    value: Float[Tensor, "L T KV D"]
    attention_weight: Float[Tensor, "L H T"]
    logits: Float[Tensor, " V"]
    patterns: Float[Tensor, "L H T T"] | None = None
    routing: Float[Tensor, "L T E"] | None = None

    @property
    def position(self) -> int:
        """The analysed position."""
        return int(self.token_ids.shape[0]) - 1

    def router(self, neuron: Neuron) -> tuple[float, ...] | None:
        """The router's weight for a neuron's expert at every position; None where it has none."""
        if neuron.expert is None or self.routing is None:
            return None
        return tuple(self.routing[neuron.layer, :, neuron.expert].tolist())

    def attention_activation(self, layer: int) -> Float[Tensor, "H T D"]:
        """α[h, p] · v[kv(h), p, n]: what multiplies each attention value vector, one entry a source position."""
        group = self.attention_weight.shape[1] // self.value.shape[2]
        value = self.value[layer].permute(1, 0, 2).repeat_interleave(group, dim=0)
        return self.attention_weight[layer, :, :, None] * value


def capture(
    model: nn.Module,
    architecture: Architecture,
    dimensions: Dimensions,
    token_ids: Int[Tensor, " T"],
) -> ResidualStream:
    """Run `token_ids` through the model once and keep what the method needs.

    The analysed position is the last token: later tokens cannot influence it, so they are best left out. Not
    thread-safe on one model; `LanguageModel.lock` is for that.
    """
    size = dimensions
    tokens = int(token_ids.shape[0])
    device = next(model.parameters()).device

    def room(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float32, device=device)

    inputs = room(size.layers + 1, tokens, size.d_model)
    attention = room(size.layers, tokens, size.d_model)
    ffn = room(size.layers, tokens, size.d_model).zero_()
    neurons = LayerNeurons(architecture, size, epsilon_of(model.config, architecture))
    activation = room(size.layers, tokens, size.ffn_width).zero_()
    routing = None if size.experts is None else room(size.layers, tokens, size.experts.count).zero_()
    value = room(size.layers, tokens, size.kv_heads, size.head_dim)
    weight = room(size.layers, size.heads, tokens)
    values = fused_rows(architecture, size, 1)
    scale = room(size.layers, tokens)
    fits = 4 * size.layers * size.heads * tokens**2 <= PATTERN_BYTES
    patterns = room(size.layers, size.heads, tokens, tokens) if fits else None

    with hooked() as add:
        for layer in range(size.layers):
            block = model.get_submodule(f"{architecture.layers}.{layer}")
            add.before(block, inputs[layer])
            add.after(
                block.get_submodule(architecture.attention),
                _keep_attention(weight[layer], None if patterns is None else patterns[layer]),
            )
            add.after(block.get_submodule(architecture.value), _keep_columns(value[layer], values))
            neurons.watch(add, block, layer, _keep_first(activation[layer]))
            if architecture.mixture is not None and routing is not None and size.has_experts(layer):
                add.routing(block.get_submodule(architecture.mixture.module), routing[layer])
            add.after(block.get_submodule(architecture.adds[0]), _keep(attention[layer]))
            for part in architecture.ffn_adds(size, layer):
                add.after(block.get_submodule(part), _add(ffn[layer]))
            if architecture.attention_post_norm is not None:
                add.after(block.get_submodule(architecture.attention_post_norm), _scale(scale[layer], neurons.epsilon))
        add.before(model.get_submodule(architecture.final_norm), inputs[size.layers])
        with torch.inference_mode():
            result = model(token_ids[None].to(device), use_cache=False, logits_to_keep=1)
    if architecture.attention_post_norm is not None:
        value /= scale[:, -1, None, None, None]
    if size.residual_multiplier != 1:
        attention *= size.residual_multiplier
        ffn *= size.residual_multiplier
    return ResidualStream(
        token_ids=token_ids,
        layer_input=inputs,
        attention_output=attention,
        ffn_output=ffn,
        ffn_activation=activation,
        value=value,
        attention_weight=weight,
        logits=result.logits[0, -1].float(),
        patterns=patterns,
        routing=routing,
    )


def output_gradients(
    model: nn.Module,
    architecture: Architecture,
    layers: int,
    token_ids: Int[Tensor, " T"],
    target: int,
    multiplier: float = 1.0,
) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
    """∂ log p(target) at the last position by what attention and FFN of each layer write there; nats per unit.

    One pass forward and one back; `multiplier` is of what they write. Not thread-safe on one model.
    """
    with torch.inference_mode(False), torch.enable_grad(), hooked() as add:
        added: list[Tensor] = []
        for part in (architecture.attention_writes, architecture.ffn_writes):
            for layer in range(layers):
                module = model.get_submodule(f"{architecture.layers}.{layer}.{part}")
                width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
                added.append(torch.zeros(width, device=next(model.parameters()).device, requires_grad=True))
                add.after(module, _plus(added[-1]))
        ids = token_ids.clone()[None].to(added[0].device)
        logits = model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        found = torch.stack(torch.autograd.grad(logits.log_softmax(-1)[target], added)) / multiplier
    return found[:layers], found[layers:]


def changing(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A hook that changes the module's output, the first where it gives several."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


def fitting(held: Tensor, rows: Tensor) -> Tensor:
    """[rows, 1, width], as one token a row has it, without the 1 where a model's code does without."""
    return held.squeeze(1) if held.ndim > rows.ndim else held


def adding(vectors: Float[Tensor, "rows 1 d"]) -> Callable[..., Any]:
    """A hook that adds to the module's output, to each row its own."""
    return changing(lambda output: output + fitting(vectors, output))


def _plus(vector: Float[Tensor, " d"]) -> Callable[..., Any]:
    """A hook that adds a vector to the module's output at the last position."""
    return changing(lambda output: torch.cat([output[..., :-1, :], output[..., -1:, :] + vector], dim=-2))


def attention_pattern(
    model: nn.Module, architecture: Architecture, token_ids: Int[Tensor, " T"], layer: int
) -> Float[Tensor, "H T T"]:
    """One layer's attention weights, from every position (row) to every position (column). Not thread-safe on one
    model.
    """
    kept: list[Tensor] = []
    module = model.get_submodule(f"{architecture.layers}.{layer}.{architecture.attention}")
    with hooked() as add, torch.inference_mode():
        add.after(module, lambda _module, _args, output: kept.append(output[1][0].float()))
        model(token_ids[None].to(next(model.parameters()).device), use_cache=False, logits_to_keep=1)
    return kept[0]


@contextmanager
def outputs_kept(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Float[Tensor, "T width"]]]:
    """What modules of these names yield in a pass within, by name."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            kept[name] = output.reshape(-1, output.shape[-1]).clone()

        return hook

    with hooked() as add:
        for name in names:
            add.after(model.get_submodule(name), keep(name))
        yield kept


class CleanKeys(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of the earlier positions: filled once, then joined with those of any number of single tokens."""

    filled = False

    def __init__(self) -> None:
        super().__init__()
        self.chosen_by: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """[B, KV, 1, D] of a batch of tokens -> [B, KV, T, D], and nothing is kept of them."""
        if not self.filled:
            found: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            return found
        if layer_idx >= len(self.layers):  # the prompt is one token long
            return key_states, value_states
        layer, batch = self.layers[layer_idx], key_states.shape[0]
        keys, values = (kept.expand(batch, -1, -1, -1) for kept in (layer.keys, layer.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int) -> Tensor:
        """The same of the keys by which some families choose the positions that attention looks at, [B, 1, D]."""
        if not self.filled:
            self.chosen_by[layer_idx] = indexer_key_states
        kept = self.chosen_by.get(layer_idx)
        if not self.filled or kept is None:
            return indexer_key_states
        return torch.cat([kept.expand(len(indexer_key_states), -1, -1), indexer_key_states], dim=1)


_SHARED = "keys and values where they lie"


def _attend(
    module: Any,
    query: Float[Tensor, "B H 1 D"],
    key: Float[Tensor, "B KV T D"],
    value: Float[Tensor, "B KV T Dv"],
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    **_rest: Any,
) -> tuple[Float[Tensor, "B 1 H Dv"], Float[Tensor, "B KV G T"]]:
    """Ordinary attention from a single token: heads that share keys and values are rows of one product with them."""
    batch, heads, _, size = query.shape
    weights = query.reshape(batch, key.shape[1], -1, size) @ key.transpose(2, 3) * scaling
    if softcap is not None:
        weights = (weights / softcap).tanh() * softcap
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).reshape(batch, 1, heads, -1), weights


AttentionInterface.register(_SHARED, _attend)
AttentionMaskInterface.register(_SHARED, eager_mask)


@cache
def _is_ordinary(name: str) -> bool:
    """Whether what is defined in a module attends so, and does nothing else that depends on the function's name."""
    own = getattr(sys.modules[name], "eager_attention_forward", None)
    ordinary = (one.eager_attention_forward for one in (modeling_llama, modeling_gemma2))
    if own is None or getsource(own) not in map(getsource, ordinary):
        return False
    return re.search(r"_attn_implementation (==|!=|in|not in) ", getsource(sys.modules[name])) is None


@contextmanager
def from_single_tokens(model: nn.Module) -> Iterator[None]:
    """While inside, a pass of single tokens does not copy its keys and values for each head, as transformers' own
    function does, where that function is an ordinary one: Llama's or Gemma's, word for word.
    """
    config: Any = model.config
    if not _is_ordinary(type(model).__module__):
        yield
        return
    before, config._attn_implementation = config._attn_implementation, _SHARED
    try:
        yield
    finally:
        config._attn_implementation = before


@dataclass(frozen=True, eq=False)
class JoiningRows:
    """A batch that grows from layer to layer: the rows of a layer's parts join where it has written.

    Attributes:
        kind: of the sub-layers.
        clean: [L+1, d]; the residual stream at the analysed position.
        layers: ascending.
        contributions: what is taken out.
    """

    kind: NeuronKind
    clean: Float[Tensor, "L1 d"]
    layers: Int[Tensor, " m"]
    contributions: Float[Tensor, "m d"]

    def _places(self, layer: int) -> slice:
        """Of a layer's parts in the batch, once they have joined; where the batch is whole from the start they take the
        places of other rows there.
        """
        count = int((self.layers == layer).sum())
        first = 1 + int((self.layers < layer).sum())
        return slice(first, first + count)

    def joining(self, layer: int, entered: int) -> Callable[..., Any]:
        """A hook before a module: adds the rows of the layer's parts, as the stream stands at layer `entered`'s input:
        without what an FFN's part added; of attention, still with what is about to be taken out.
        """
        taken = self.contributions[self.layers == layer]
        joined = self.clean[entered].expand_as(taken)
        if self.kind is NeuronKind.FFN:
            joined = joined - taken
        here = self._places(layer)

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden = args[0] if args else kwargs["hidden_states"]
            grown = torch.cat([hidden[: here.start], joined[:, None], hidden[here.stop :]])
            return ((grown, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": grown})

        return hook

    def taking_out(self, layer: int, multiplier: float) -> Callable[..., Tensor]:
        """A hook after attention's last module: subtracts the parts from the rows that joined last. What the module
        writes is added `multiplier` times.
        """
        taken = self.contributions[self.layers == layer] / multiplier
        here = self._places(layer)

        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            return torch.cat([output[: here.start], output[here] - taken[:, None], output[here.stop :]])

        return hook


class Hooks:
    """Adds hooks and remembers them."""

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def before(self, module: nn.Module, into: Tensor) -> None:
        """Copy the module's input, batch entry 0, into `into`."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            into.copy_((args[0] if args else kwargs["hidden_states"]).reshape(into.shape))  # of a batch of one

        self.ahead(module, hook, with_kwargs=True)

    def input(self, module: nn.Module, take: Callable[[Tensor], None]) -> None:
        """Give the module's input to `take`, as it is."""
        self.ahead(module, lambda _module, args: take(args[0]))

    def output(self, module: nn.Module, take: Callable[[Tensor], None]) -> None:
        """The same of its output."""
        self.after(module, lambda _module, _args, output: take(output))

    def routing(self, experts: nn.Module, into: Float[Tensor, "T E"]) -> None:
        """Keep the router's weights, which the experts are given."""

        def hook(_module: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
            into.copy_(weights_by_expert(args[1], args[2], into.shape[1]))

        self.ahead(experts, hook)

    def ahead(self, module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False) -> None:
        """A hook that torch calls before the module."""
        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=with_kwargs))

    def after(self, module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False) -> None:
        """A hook that torch calls after the module."""
        self.handles.append(module.register_forward_hook(hook, with_kwargs=with_kwargs))


Told = Callable[[Float[Tensor, "N n"], Float[Tensor, "N n"] | None, Float[Tensor, "N a"] | None], None]
"""Is given what a layer's neurons did at the N tokens of a batch, sequence by sequence: FFN neurons' activations, what
their gates read, and attention neurons' activations; the last two only where they are asked for.
"""


@dataclass(frozen=True, eq=False)
class LayerNeurons:
    """Puts together, layer by layer, what a pass over a batch shows of neurons; nothing of a layer is kept.

    Attributes:
        row, size: of the model.
        epsilon: of its norms.
        gates: whether the gates' side is asked for; there must be gates.
        attention: whether attention neurons are asked for.
    """

    row: Architecture
    size: Dimensions
    epsilon: float
    gates: bool = False
    attention: bool = False

    def watch(self, add: "Hooks", block: nn.Module, layer: int, told: Told) -> None:
        """Add the hooks of a layer."""
        row, seen = self.row, dict[str, Tensor]()
        mixture = row.mixture if self.size.has_experts(layer) else None
        ffn = [part for part, _ in row.ffn_inputs(self.size, layer)]
        gates = self._gate_parts(layer) if self.gates else []
        attention = [row.attention_output] if self.attention else []
        norms = [row.ffn_post_norm, row.attention_post_norm if self.attention else None]
        for part in [*ffn, *attention, *filter(None, norms)]:
            add.input(block.get_submodule(part), partial(seen.__setitem__, part))
        outputs = [*gates, *([mixture.shared_gate] if mixture is not None and mixture.shared_gate else [])]
        for part in outputs:
            add.output(block.get_submodule(part), partial(seen.__setitem__, part))

        def ended(_module: nn.Module, _args: Any, _output: Any) -> None:
            if any(part not in seen for part in ffn):  # experts that transformers' own loop runs tell nothing
                return
            active = [_rows(seen[part]) for part in ffn]
            if mixture is not None and mixture.shared_gate:
                active[0] = active[0] * _rows(seen[mixture.shared_gate]).sigmoid()
            told(
                self._scaled(active, seen, row.ffn_post_norm),
                torch.cat([self._gate_rows(part, seen[part]) for part in gates], dim=1) if gates else None,
                self._scaled([_rows(seen[part]) for part in attention], seen, row.attention_post_norm)
                if attention
                else None,
            )
            seen.clear()

        add.after(block, ended)

    def _scaled(self, parts: list[Tensor], seen: dict[str, Tensor], norm: str | None) -> Float[Tensor, "N n"]:
        found = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return found if norm is None else found / _divisor(_rows(seen[norm]), self.epsilon)[:, None]

    def _gate_parts(self, layer: int) -> list[str]:
        """The modules whose outputs hold what the gates of a layer's neurons read, in the order of neurons."""
        row, experts = self.row, self.size.experts
        if row.mixture is None or experts is None or not self.size.has_experts(layer):
            return [row.ffn_keys[0]]
        shared = [row.mixture.of_shared(row.ffn, row.ffn_keys[0])] if experts.shared else []
        return [*shared, f"{row.mixture.module}.{READ}"]

    def _gate_rows(self, part: str, output: Tensor) -> Float[Tensor, "N n"]:
        if part.endswith(f".{READ}"):
            return output[:, :, : output.shape[2] // 2].flatten(1)
        found = _rows(output)
        return found[:, : found.shape[1] // 2] if self.row.fused_gate else found


def _rows(tensor: Tensor) -> Float[Tensor, "N width"]:
    """A batch's tokens as rows."""
    return tensor.reshape(-1, tensor.shape[-1]).float()


def _divisor(read: Float[Tensor, "N d"], epsilon: float) -> Float[Tensor, " N"]:
    """What an RMSNorm divides by."""
    return torch.sqrt(read.float().square().mean(dim=-1) + epsilon)


@contextmanager
def hooked() -> Iterator[Hooks]:
    """Whatever happens inside, every hook added is removed."""
    hooks = Hooks()
    try:
        yield hooks
    finally:
        for handle in hooks.handles:
            handle.remove()


def _keep(into: Tensor) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        into.copy_((output[0] if isinstance(output, tuple) else output).reshape(into.shape))

    return hook


def _add(into: Tensor) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        into.add_((output[0] if isinstance(output, tuple) else output).reshape(into.shape))

    return hook


def _keep_attention(weight: Float[Tensor, "H T"], pattern: Float[Tensor, "H T T"] | None) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        weight.copy_(output[1][0, :, -1, :])
        if pattern is not None:
            pattern.copy_(output[1][0])

    return hook


def _keep_columns(into: Tensor, columns: slice | Int[Tensor, " n"]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        into.copy_(output.reshape(-1, output.shape[-1])[:, columns].reshape(into.shape))  # of a batch of one

    return hook


def _keep_first(into: Float[Tensor, "T widest"]) -> Told:
    """Keeps the FFN neurons' activations; a layer may have fewer than another."""

    def keep(active: Tensor, _gates: Tensor | None, _attention: Tensor | None) -> None:
        into[:, : active.shape[1]].copy_(active)

    return keep


def _scale(into: Float[Tensor, " T"], epsilon: float) -> Callable[..., None]:
    """A hook after an RMSNorm: keeps what it divides by."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...], _output: Any) -> None:
        into.copy_(_divisor(args[0][0], epsilon))

    return hook
