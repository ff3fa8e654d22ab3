"""The method once more, written separately and simply, to compare with: full matrices, no bounds, no hooks.

A model is run by transformers; what its neurons did is then computed again, layer by layer, from its own modules, and
must meet the library's hidden states and logits before anything is compared with it. Scores are taken in float64 as
log_softmax(base + c) - log_softmax(base).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

CLOSE = 1e-4  # float32 sums of some dozens of terms of the order of 10


@dataclass
class Layer:
    """One layer at the analysed position t, float64; p are the source positions 0 to t.

    Attributes:
        attention_activation: [H, t+1, D].
        attention_values: [H, D, d].
        ffn_activation: [n].
        ffn_values: [n, d].
        attention_bias, ffn_bias: [d]; zero where there is none.
        attention_output, ffn_output: [T, d], at every position.
    """

    attention_activation: Tensor
    attention_values: Tensor
    ffn_activation: Tensor
    ffn_values: Tensor
    attention_bias: Tensor
    ffn_bias: Tensor
    attention_output: Tensor
    ffn_output: Tensor


@dataclass
class Head:
    """Final norm and unembedding, float64."""

    gamma: Tensor
    beta: Tensor | None  # None: RMSNorm
    matrix: Tensor
    epsilon: float

    def scale(self, hidden: Tensor) -> Tensor:
        if self.beta is None:
            return ((hidden**2).mean() + self.epsilon) ** 0.5
        return (((hidden - hidden.mean()) ** 2).mean() + self.epsilon) ** 0.5

    def logits(self, vectors: Tensor, scale: Tensor | float = 1.0, *, beta: bool = True) -> Tensor:
        """logits(x) = U · ((x − mean(x)) / s ⊙ γ + β), without mean and β for RMSNorm."""
        if self.beta is None:
            return (vectors / scale * self.gamma) @ self.matrix.T
        centred = vectors - vectors.mean(dim=-1, keepdim=True)
        shift = self.beta if beta else torch.zeros_like(self.beta)
        return (centred / scale * self.gamma + shift) @ self.matrix.T


@dataclass
class Scores:
    """Log-probability increases of everything there is, in nats, float64.

    Attributes:
        attention, ffn: [L]; whole sub-layers.
        heads: [L, H].
        head_sources: [L, H, t+1]; a head's contribution from one source position.
        ffn_neurons: [L, n].
        attention_neurons: [L, H, t+1, D].
        embedding, final: log p(w) before the first layer and after the last.
    """

    attention: Tensor
    ffn: Tensor
    heads: Tensor
    head_sources: Tensor
    ffn_neurons: Tensor
    attention_neurons: Tensor
    embedding: Tensor
    final: Tensor


@dataclass
class Run:
    """One prompt on one model, analysed at `position`."""

    position: int
    residual: list[Tensor]  # [T, d] each: before layer 0, 1, ... and after the last
    layers: list[Layer]
    head: Head
    logits: Tensor  # the model's own, at the analysed position

    def scores(self, target: int, *, beta: bool = True, removed: bool = False) -> Scores:
        """Everything scored for `target`; beta=False is the notebook's convention. removed: contributions are taken
        from the final hidden state instead of added to their base.
        """
        at = self.position
        scale = self.head.scale(self.residual[-1][at])

        def log_p(points: Tensor) -> Tensor:
            return self.head.logits(points, scale, beta=beta).log_softmax(dim=-1)[..., target]

        def score(base: Tensor, contributions: Tensor) -> Tensor:
            if removed:
                hidden = self.residual[-1][at]
                return log_p(hidden) - log_p(hidden - contributions)
            return log_p(base + contributions) - log_p(base)

        rows: dict[str, list[Tensor]] = {name: [] for name in ("a", "f", "heads", "sources", "fn", "an")}
        for before, layer in zip(self.residual, self.layers, strict=False):
            base = before[at]
            after_attention = base + layer.attention_output[at]
            rows["a"].append(score(base, layer.attention_output[at]))
            rows["f"].append(score(after_attention, layer.ffn_output[at]))
            rows["fn"].append(score(after_attention, layer.ffn_activation[:, None] * layer.ffn_values))
            # [H, t+1, D, d]
            attention = layer.attention_activation[..., None] * layer.attention_values[:, None]
            rows["an"].append(score(base, attention))
            rows["sources"].append(score(base, attention.sum(dim=2)))
            rows["heads"].append(score(base, attention.sum(dim=(1, 2))))
        stacked = {name: torch.stack(parts) for name, parts in rows.items()}
        return Scores(
            attention=stacked["a"],
            ffn=stacked["f"],
            heads=stacked["heads"],
            head_sources=stacked["sources"],
            ffn_neurons=stacked["fn"],
            attention_neurons=stacked["an"],
            embedding=log_p(self.residual[0][at]),
            final=log_p(self.residual[-1][at]),
        )


def run(folder: Path, ids: Sequence[int], position: int | None = None) -> Run:
    """The whole prompt through the model, tokens after the analysed one included; read at `position` or the last."""
    at = len(ids) - 1 if position is None else position
    model = _model(folder)
    is_gpt2 = model.config.model_type == "gpt2"
    with torch.no_grad():
        result = model(torch.tensor([list(ids)]), output_hidden_states=True, output_attentions=True)
        residual = result.hidden_states[0][0]
        residuals, layers = [residual], []
        for number, attention in enumerate(result.attentions):
            torch.testing.assert_close(residual, result.hidden_states[number][0], atol=CLOSE, rtol=0)
            layer = (_gpt2_layer if is_gpt2 else _llama_layer)(model, number, residual, attention[0], at)
            layers.append(layer)
            residual = residual + (layer.attention_output + layer.ffn_output).float()
            residuals.append(residual)
        head = _head(model)
        last = residual[at].double()
        own = result.logits[0, at].double()
        torch.testing.assert_close(head.logits(last, head.scale(last)), own, atol=CLOSE, rtol=0)
    return Run(at, [one.double() for one in residuals], layers, head, own)


def head_of(folder: Path) -> Head:
    return _head(_model(folder))


def value_vectors(folder: Path, layer: int) -> tuple[Tensor, Tensor]:
    """FFN [n, d] and attention [heads x head_dim, d] value vectors of a layer, float64."""
    model = _model(folder)
    if model.config.model_type == "gpt2":
        block = model.transformer.h[layer]
        return block.mlp.c_proj.weight.detach().double(), block.attn.c_proj.weight.detach().double()
    block = model.model.layers[layer]
    return block.mlp.down_proj.weight.detach().T.double(), block.self_attn.o_proj.weight.detach().T.double()


def assert_same_end(
    tokens: Sequence[int], logits: Sequence[float], every: Tensor, *, largest: bool, atol: float = 1e-5
) -> None:
    """The list is the top (or bottom) of `every` [V], most extreme first; tokens whose logits tie may change places."""
    assert len(set(tokens)) == len(tokens) == len(logits)
    own = every[list(tokens)]
    given = torch.tensor(list(logits), dtype=every.dtype)
    best = every.sort(descending=largest).values[: len(tokens)]
    torch.testing.assert_close(given, own, atol=atol, rtol=1e-6)  # each token with its own logit
    torch.testing.assert_close(given, best, atol=atol, rtol=1e-6)  # and none that is left out is more extreme
    assert sorted(logits, reverse=largest) == list(logits)


@cache
def _model(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def _head(model: Any) -> Head:
    matrix = model.lm_head.weight.detach().double()
    assert getattr(model.lm_head, "bias", None) is None
    if model.config.model_type == "gpt2":
        norm = model.transformer.ln_f
        return Head(norm.weight.detach().double(), norm.bias.detach().double(), matrix, norm.eps)
    norm = model.model.norm
    return Head(norm.weight.detach().double(), None, matrix, norm.variance_epsilon)


def _llama_layer(model: Any, number: int, residual: Tensor, weight: Tensor, at: int) -> Layer:
    """`weight`: [H, T, T], attention of each position to each source position."""
    block = model.model.layers[number]
    attention, mlp = block.self_attn, block.mlp
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    value = attention.v_proj(block.input_layernorm(residual))  # [T, kv_heads x head_dim]
    matrix = attention.o_proj.weight  # [d, heads x head_dim]
    width = matrix.shape[1] // heads
    activation, values, mixed = [], [], []
    for head in range(heads):
        group = head // (heads // kv_heads)
        own = value[:, group * width : (group + 1) * width]  # [T, D]
        activation.append(weight[head, at, : at + 1, None] * own[: at + 1])
        values.append(matrix[:, head * width : (head + 1) * width].T)
        mixed.append(weight[head] @ own)
    attention_output = attention.o_proj(torch.cat(mixed, dim=1))
    inner = block.post_attention_layernorm(residual + attention_output)
    gated = torch.nn.functional.silu(mlp.gate_proj(inner)) * mlp.up_proj(inner)
    return _layer(
        activation,
        values,
        gated[at],
        mlp.down_proj.weight.T,
        attention.o_proj.bias,
        mlp.down_proj.bias,
        attention_output,
        mlp.down_proj(gated),
    )


def _gpt2_layer(model: Any, number: int, residual: Tensor, weight: Tensor, at: int) -> Layer:
    block = model.transformer.h[number]
    width = residual.shape[1]
    heads = model.config.n_head
    size = width // heads
    read = block.ln_1(residual)
    # Conv1D: weight [input, output]; the output is query, key, value, one after the other
    value = read @ block.attn.c_attn.weight[:, 2 * width :] + block.attn.c_attn.bias[2 * width :]
    matrix = block.attn.c_proj.weight  # [heads x head_dim, d]
    activation, values, mixed = [], [], []
    for head in range(heads):
        own = value[:, head * size : (head + 1) * size]
        activation.append(weight[head, at, : at + 1, None] * own[: at + 1])
        values.append(matrix[head * size : (head + 1) * size])
        mixed.append(weight[head] @ own)
    attention_output = torch.cat(mixed, dim=1) @ matrix + block.attn.c_proj.bias
    inner = block.ln_2(residual + attention_output)
    active = block.mlp.act(inner @ block.mlp.c_fc.weight + block.mlp.c_fc.bias)
    return _layer(
        activation,
        values,
        active[at],
        block.mlp.c_proj.weight,
        block.attn.c_proj.bias,
        block.mlp.c_proj.bias,
        attention_output,
        active @ block.mlp.c_proj.weight + block.mlp.c_proj.bias,
    )


def _layer(
    activation: list[Tensor],
    values: list[Tensor],
    ffn_activation: Tensor,
    ffn_values: Tensor,
    attention_bias: Tensor | None,
    ffn_bias: Tensor | None,
    attention_output: Tensor,
    ffn_output: Tensor,
) -> Layer:
    zero = torch.zeros(attention_output.shape[1])
    return Layer(
        attention_activation=torch.stack(activation).double(),
        attention_values=torch.stack(values).double(),
        ffn_activation=ffn_activation.double(),
        ffn_values=ffn_values.double(),
        attention_bias=(zero if attention_bias is None else attention_bias).double(),
        ffn_bias=(zero if ffn_bias is None else ffn_bias).double(),
        attention_output=attention_output.double(),
        ffn_output=ffn_output.double(),
    )


def attention_key(folder: Path, layer: int, head: int, index: int, *, centre: bool = True) -> Tensor:
    """[d]; what attention neuron (layer, head, index) reads with: value-projection row ⊙ the input norm's weight."""
    model = _model(folder)
    if model.config.model_type == "gpt2":
        block, width = model.transformer.h[layer], model.config.n_embd
        column = 2 * width + head * (width // model.config.n_head) + index
        key: Tensor = (block.attn.c_attn.weight[:, column] * block.ln_1.weight).detach().double()
        return key - key.mean() if centre else key
    block = model.model.layers[layer]
    group = head // (model.config.num_attention_heads // model.config.num_key_value_heads)
    width = block.self_attn.v_proj.weight.shape[0] // model.config.num_key_value_heads
    row = block.self_attn.v_proj.weight[group * width + index]
    read: Tensor = (row * block.input_layernorm.weight).detach().double()
    return read


def ffn_keys(folder: Path, layer: int, index: int, *, centre: bool = True) -> list[Tensor]:
    """[d] each; what FFN neuron (layer, index) reads with: its one key, or gate row and up row; ⊙ the norm's weight."""
    model = _model(folder)
    if model.config.model_type == "gpt2":
        block = model.transformer.h[layer]
        key = (block.mlp.c_fc.weight[:, index] * block.ln_2.weight).detach().double()
        return [key - key.mean() if centre else key]
    block = model.model.layers[layer]
    rows = (block.mlp.gate_proj.weight[index], block.mlp.up_proj.weight[index])
    return [(row * block.post_attention_layernorm.weight).detach().double() for row in rows]
