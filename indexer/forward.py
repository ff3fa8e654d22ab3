"""One forward pass, with what every neuron did in it: prompt tokens -> ResidualStream.

Everything is read by hooks on the library's own modules, which are always removed; nothing of transformers is copied or
patched. Legend: L = layers, T = tokens up to the analysed position, H = heads, KV = key-value heads, D = head_dim,
n = FFN neurons of a layer, d = d_model, V = vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from db.neuron import Neuron, NeuronKind
from indexer.architecture import Architecture, Dimensions
from indexer.experts import weights_by_expert
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
    ffn = room(size.layers, tokens, size.d_model)
    neurons = _FfnNeurons.room(architecture, size, tokens, device)
    value = room(size.layers, tokens, size.kv_heads, size.head_dim)
    weight = room(size.layers, size.heads, tokens)
    values = fused_rows(architecture, size, 1)
    norms = architecture.attention_post_norm, architecture.ffn_post_norm
    scales = room(2, size.layers, tokens)
    fits = 4 * size.layers * size.heads * tokens**2 <= PATTERN_BYTES
    patterns = room(size.layers, size.heads, tokens, tokens) if fits else None

    with _hooks() as add:
        for layer in range(size.layers):
            block = model.get_submodule(f"{architecture.layers}.{layer}")
            add.before(block, inputs[layer])
            add.after(
                block.get_submodule(architecture.attention),
                _keep_attention(weight[layer], None if patterns is None else patterns[layer]),
            )
            add.after(block.get_submodule(architecture.value), _keep_columns(value[layer], values))
            neurons.watch(add, block, layer)
            add.after(block.get_submodule(architecture.adds[0]), _keep(attention[layer]))
            add.after(block.get_submodule(architecture.adds[1]), _keep(ffn[layer]))
            for norm, scale in zip(norms, scales, strict=True):
                if norm is not None:
                    add.after(block.get_submodule(norm), _scale(scale[layer], model.config, architecture))
        add.before(model.get_submodule(architecture.final_norm), inputs[size.layers])
        with torch.inference_mode():
            result = model(token_ids[None].to(device), use_cache=False, logits_to_keep=1)
    activation = neurons.found()
    if norms[0] is not None:
        value /= scales[0][:, -1, None, None, None]
    if norms[1] is not None:
        activation /= scales[1][:, :, None]
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
        routing=neurons.routing,
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
    with torch.inference_mode(False), torch.enable_grad(), _hooks() as add:
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


def _plus(vector: Float[Tensor, " d"]) -> Callable[..., Tensor]:
    """A hook that adds a vector to the module's output at the last position."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return torch.cat([output[..., :-1, :], output[..., -1:, :] + vector], dim=-2)

    return hook


def attention_pattern(
    model: nn.Module, architecture: Architecture, token_ids: Int[Tensor, " T"], layer: int
) -> Float[Tensor, "H T T"]:
    """One layer's attention weights, from every position (row) to every position (column). Not thread-safe on one
    model.
    """
    kept: list[Tensor] = []
    module = model.get_submodule(f"{architecture.layers}.{layer}.{architecture.attention}")
    with _hooks() as add, torch.inference_mode():
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

    with _hooks() as add:
        for name in names:
            add.after(model.get_submodule(name), keep(name))
        yield kept


class CleanKeys(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of the earlier positions: filled once, then joined with those of any number of single tokens."""

    filled = False

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


class _Hooks:
    """Adds hooks and remembers them."""

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def before(self, module: nn.Module, into: Tensor) -> None:
        """Copy the module's input, batch entry 0, into `into`."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            into.copy_((args[0] if args else kwargs["hidden_states"]).reshape(into.shape))  # of a batch of one

        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def routing(self, experts: nn.Module, into: Float[Tensor, "T E"]) -> None:
        """Keep the router's weights, which the experts are given."""

        def hook(_module: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
            into.copy_(weights_by_expert(args[1], args[2], into.shape[1]))

        self.handles.append(experts.register_forward_pre_hook(hook))

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self.handles.append(module.register_forward_hook(hook))


@dataclass(frozen=True, eq=False)
class _FfnNeurons:
    """Where a pass keeps what FFN neurons did.

    Attributes:
        row, size: of the model.
        activation: [L, T, n]; of a shared expert without what its gate leaves of it.
        routing: [L, T, E]; the router's weights, where there is one.
        gates: [L, T, 1]; logits of the shared expert's gate, where there is one; infinite in layers without experts.
    """

    row: Architecture
    size: Dimensions
    activation: Float[Tensor, "L T n"]
    routing: Float[Tensor, "L T E"] | None
    gates: Float[Tensor, "L T 1"] | None

    @classmethod
    def room(cls, row: Architecture, size: Dimensions, tokens: int, device: torch.device) -> "_FfnNeurons":
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(size.layers, tokens, *shape, dtype=torch.float32, device=device)

        routing = None if size.experts is None else zeros(size.experts.count)
        gated = row.mixture is not None and row.mixture.shared_gate is not None
        return cls(row, size, zeros(size.ffn_width), routing, zeros(1).fill_(torch.inf) if gated else None)

    def watch(self, add: _Hooks, block: nn.Module, layer: int) -> None:
        """Add the hooks of a layer."""
        for part, neurons in self.row.ffn_inputs(self.size, layer):
            add.before(block.get_submodule(part), self.activation[layer, :, neurons])
        mixture = self.row.mixture
        if mixture is None or self.routing is None or not self.size.has_experts(layer):
            return
        add.routing(block.get_submodule(mixture.module), self.routing[layer])
        if mixture.shared_gate is not None and self.gates is not None:
            add.after(block.get_submodule(mixture.shared_gate), _keep(self.gates[layer]))

    def found(self) -> Float[Tensor, "L T n"]:
        """The activations."""
        if self.gates is not None and self.size.experts is not None:
            self.activation[:, :, : self.size.experts.shared] *= self.gates.sigmoid()
        return self.activation


@contextmanager
def _hooks() -> Iterator[_Hooks]:
    """Whatever happens inside, every hook added is removed."""
    hooks = _Hooks()
    try:
        yield hooks
    finally:
        for handle in hooks.handles:
            handle.remove()


def _keep(into: Tensor) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        into.copy_((output[0] if isinstance(output, tuple) else output).reshape(into.shape))

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


def _scale(into: Float[Tensor, " T"], config: Any, architecture: Architecture) -> Callable[..., None]:
    """A hook after an RMSNorm: keeps what it divides by."""
    epsilon = getattr(config, str(architecture.epsilon))

    def hook(_module: nn.Module, args: tuple[Tensor, ...], _output: Any) -> None:
        into.copy_(torch.sqrt(args[0][0].float().square().mean(dim=-1) + epsilon))

    return hook
