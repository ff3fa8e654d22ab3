"""The matrices of the method, read from a safetensors folder slice by slice, or from a live model; and final norm and
head, folded into one.

Legend of dimensions: d = d_model, n = FFN neurons of a layer, a = heads x head_dim, kv_a = key-value heads x head_dim,
V = vocabulary, R = its rows that are tokens.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db.errors import AtlasError
from indexer.architecture import Architecture, Conventions, Dimensions, Fusion, NormKind
from indexer.device import product
from indexer.experts import expert_rows
from indexer.stored import Stored, opened
from indexer.tokens import TokenBytes

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Weights:
    """Named access to one model's matrices, always in float32.

    ``read(name)`` returns the tensor of that name, or None where the model has none (a bias, an untied head). Value
    vectors and output biases are what is added to the residual stream: with the weight of a norm behind the sub-layer,
    and what the family multiplies by, folded in. Only the scale of such a norm is left to the prompt.

    Attributes:
        keep: whether what is folded is kept for the next time.
        device: where the tensors are.
    """

    architecture: Architecture
    dimensions: Dimensions
    read: Callable[[str], Tensor | None]
    keep: bool = False
    device: torch.device = CPU
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def tensor(self, name: str, rows: slice = slice(None)) -> Tensor:
        """The tensor called `name`, or some of its rows, in float32; AtlasError if there is none."""
        found = self.read(name)
        if found is None:
            raise AtlasError(
                f"The checkpoint has no tensor “{name}”. Is the folder complete, and the family's row right?"
            )
        return found[rows].float()

    def optional(self, name: str) -> Tensor | None:
        found = self.read(name)
        return None if found is None else found.float()

    def _name(self, layer: int, part: str, leaf: str) -> str:
        return f"{self.architecture.layers}.{layer}.{part}.{leaf}"

    def _input_major(self, layer: int, part: str) -> Float[Tensor, "input output"]:
        matrix = self.tensor(self._name(layer, part, "weight"))
        return matrix if self.architecture.conv1d else matrix.T

    def ffn_values(self, layer: int, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, "n d"]:
        """Row k is the value vector of FFN neuron (layer, k); only some rows, where these are given.

        For the order in a layer with experts see `db.neuron.Experts`; all rows of it are a copy.
        """
        row = self.architecture
        if not self.dimensions.has_experts(layer):
            found = self._added(layer, row.ffn_output, row.ffn_post_norm)
            return found if rows is None else found[rows]
        shared, module = self._shared(layer, row.ffn_output)
        found = expert_rows(shared, self._of_experts(f"{module}.down_proj").transpose(1, 2), rows)
        factor = self._factor(layer, row.ffn_post_norm)
        return found if factor is None else found * factor

    def _shared(self, layer: int, part: str) -> tuple[Float[Tensor, "shared d"] | None, str]:
        """The shared expert's rows in its counterpart of the FFN's module, and the name of the other experts."""
        row, experts = self.architecture, self.dimensions.experts
        assert row.mixture is not None
        assert experts is not None
        shared = self._input_major(layer, row.mixture.of_shared(row.ffn, part)) if experts.shared else None
        return shared, f"{row.layers}.{layer}.{row.mixture.module}"

    def _of_experts(self, name: str) -> Float[Tensor, "E output input"]:
        mixture, found = self.architecture.mixture, self.tensor(name)
        return found.transpose(1, 2) if mixture is not None and mixture.transposed else found

    def attention_values(self, layer: int) -> Float[Tensor, "a d"]:
        """Row h·head_dim + n is the value vector of attention neuron (layer, h, n)."""
        return self._added(layer, self.architecture.attention_output, self.architecture.attention_post_norm)

    def _added(self, layer: int, part: str, post_norm: str | None) -> Float[Tensor, "input d"]:
        """The output matrix as it reaches the residual stream."""
        name = self._name(layer, part, "weight")
        if name in self._kept:
            return self._kept[name]
        matrix, factor = self._input_major(layer, part), self._factor(layer, post_norm)
        if factor is None:
            return matrix
        if self.keep:
            return self._kept.setdefault(name, matrix * factor)
        return matrix * factor

    def _factor(self, layer: int, post_norm: str | None) -> Tensor | float | None:
        """What an output is multiplied by on its way to the residual stream; None: by nothing."""
        multiplier = self.dimensions.residual_multiplier
        if post_norm is None:
            return None if multiplier == 1 else multiplier
        return self.norm_weight(layer, post_norm) * multiplier

    def _added_bias(self, layer: int, part: str, post_norm: str | None) -> Float[Tensor, " d"] | None:
        bias, factor = self.optional(self._name(layer, part, "bias")), self._factor(layer, post_norm)
        return bias if bias is None or factor is None else bias * factor

    def catalogued(self) -> list[str]:
        """The names of the tensors that a catalogue is made of."""
        row, values = self.architecture, []
        parts = [part for part in (row.attention_output, row.ffn_post_norm, row.attention_post_norm) if part]
        for layer in range(self.dimensions.layers):
            values += [self._name(layer, part, "weight") for part in (*parts, *self._ffn_outputs(layer))]
            if row.mixture is not None and self.dimensions.has_experts(layer):
                values.append(self._name(layer, row.mixture.module, "down_proj"))
        return [*values, *(f"{part}.{leaf}" for part in (row.final_norm, row.head) for leaf in ("weight", "bias"))]

    def _ffn_outputs(self, layer: int) -> list[str]:
        """The layer's FFN output matrix, or its shared expert's, where it has one."""
        inputs = self.architecture.ffn_inputs(self.dimensions, layer)
        mixture = self.architecture.mixture
        return [part for part, _ in inputs if mixture is None or part != mixture.active]

    def ffn_bias(self, layer: int, routing: Float[Tensor, "T E"] | None = None) -> Float[Tensor, "*T d"] | None:
        """The output bias; of experts at every token, by their router's weights there."""
        norm, mixture = self.architecture.ffn_post_norm, self.architecture.mixture
        found = [self._added_bias(layer, part, norm) for part in self._ffn_outputs(layer)]
        bias = found[0] if found else None
        if mixture is None or routing is None or not self.dimensions.has_experts(layer):
            return bias
        own, factor = self.optional(self._name(layer, mixture.module, "down_proj_bias")), self._factor(layer, norm)
        if own is None:
            return bias
        own = routing @ own * (1.0 if factor is None else factor)
        return own if bias is None else own + bias

    def attention_bias(self, layer: int) -> Float[Tensor, " d"] | None:
        return self._added_bias(layer, self.architecture.attention_output, self.architecture.attention_post_norm)

    def ffn_keys(self, layer: int, place: int, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, "n d"]:
        """What reads the residual stream: row k is a key vector of FFN neuron k, norm not folded in.

        Args:
            layer: of the neurons.
            place: 0 for the only one or the gate's, 1 for the up row.
            rows: only of these neurons.
        """
        part = self.architecture.ffn_keys[place]
        if not self.dimensions.has_experts(layer):
            found = self._input_major(layer, part).T[self.key_rows(place)]
            return found if rows is None else found[rows]
        shared, module = self._shared(layer, part)
        own = self._gate_or_up(self._of_experts(f"{module}.gate_up_proj"), place)
        return expert_rows(None if shared is None else self._of_fused(shared.T, place), own, rows)

    def _gate_or_up(self, both: Float[Tensor, "E 2w ..."], place: int) -> Float[Tensor, "E w ..."]:
        if self.architecture.mixture is not None and self.architecture.mixture.in_turn:
            return both[:, place::2]
        half = both.shape[1] // 2
        return both[:, place * half : (place + 1) * half]

    def _of_fused(self, shared: Tensor, place: int) -> Tensor:
        """Gate or up of the shared expert, where one matrix is both."""
        return shared[place * len(shared) // 2 :][: len(shared) // 2] if self.architecture.fused_gate else shared

    def ffn_key_bias(self, layer: int, place: int) -> Float[Tensor, " n"] | None:
        """What is added to their products with it."""
        part, experts, mixture = self.architecture.ffn_keys[place], self.dimensions.experts, self.architecture.mixture
        if experts is not None and mixture is not None and layer in experts.layers:
            own = self.optional(self._name(layer, mixture.module, "gate_up_proj_bias"))
            name = self._name(layer, mixture.of_shared(self.architecture.ffn, part), "bias")
            bias = self.optional(name) if experts.shared else None
            if own is None:
                return None if bias is None else torch.cat([bias, bias.new_zeros(experts.count * experts.width)])
            own = self._gate_or_up(own, place).flatten()
            return torch.cat([own.new_zeros(experts.shared) if bias is None else bias, own])
        bias = self.optional(self._name(layer, part, "bias"))
        return None if bias is None else bias[self.key_rows(place)]

    def key_rows(self, place: int) -> slice:
        """The rows of one of an FFN's key vectors in the matrix that computes them."""
        width = self.dimensions.ffn_width
        return slice(place * width, (place + 1) * width) if self.architecture.fused_gate else slice(None)

    def value_projection_rows(self, layer: int) -> Float[Tensor, "kv_a d"]:
        """What an attention neuron reads: row kv·head_dim + n is that of (kv, n), norm not folded in; through a latent,
        without what its norm divides by (`latent_scale`).
        """
        rows = self._input_major(layer, self.architecture.value).T[fused_rows(self.architecture, self.dimensions, 1)]
        return self._through_latent(layer, rows)

    def _through_latent(self, layer: int, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n d"]:
        row = self.architecture
        if row.latent is None:
            return rows
        return (rows * self.norm_weight(layer, row.latent_norm)) @ self._latent(layer)[: rows.shape[1]]

    def _latent(self, layer: int) -> Float[Tensor, "width d"]:
        return self._input_major(layer, str(self.architecture.latent)).T

    def latent_scale(
        self, layer: int, seen: Float[Tensor, "T d"], scale: Float[Tensor, "T 1"] | float
    ) -> Float[Tensor, "T 1"] | float:
        """What the norm of the compressed copy divides by, of the residual stream in front of attention and its norm's
        scale there; 1 where a family has none.
        """
        row = self.architecture
        if row.latent is None:
            return 1.0
        width = len(self.norm_weight(layer, row.latent_norm))
        folded, constant = self.reading(layer, row.attention_norm, self._latent(layer)[:width])
        copy = seen @ folded.T / scale + constant
        return torch.sqrt(copy.square().mean(dim=-1, keepdim=True) + row.latent_epsilon)

    def value_projection_bias(self, layer: int) -> Float[Tensor, " kv_a"] | None:
        """What is added to their products with it."""
        bias = self.optional(self._name(layer, self.architecture.value, "bias"))
        return None if bias is None else bias[fused_rows(self.architecture, self.dimensions, 1)]

    def key_projection_rows(self, layer: int) -> Float[Tensor, "kv_k d"]:
        """What the heads' keys are computed with, in the same order, norm not folded in. Through a latent this is their
        part without positions.
        """
        rows = self._input_major(layer, self.architecture.key).T[fused_rows(self.architecture, self.dimensions, 0)]
        return self._through_latent(layer, rows)

    def shared_key_rows(self, layer: int) -> Float[Tensor, "r d"]:
        """What the keys' part with positions is computed with, which all heads share; no rows without a latent."""
        row = self.architecture
        if row.latent is None:
            return torch.empty(0, self.dimensions.d_model, device=self.device)
        return self._latent(layer)[len(self.norm_weight(layer, row.latent_norm)) :]

    def norm_weight(self, layer: int, part: str | None) -> Float[Tensor, " d"]:
        """γ of the layer's norm called `part`, such as ``architecture.attention_norm``; ones where there is no norm."""
        return self._gamma(part and f"{self.architecture.layers}.{layer}.{part}")

    def norm_bias(self, layer: int, part: str | None) -> Float[Tensor, " d"] | None:
        """β of that norm; None where it has none."""
        return self._beta(part and f"{self.architecture.layers}.{layer}.{part}")

    def reading(
        self, layer: int, norm: str | None, rows: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"] | float]:
        """Rows that read through that norm, with its weight folded in and centred as it centres, and what its β adds.
        Their products with the residual stream are still to be divided by the norm's scale.
        """
        folded, beta = rows * self.norm_weight(layer, norm), self.norm_bias(layer, norm)
        if norm is not None and self.architecture.norm is NormKind.LAYER:
            folded -= folded.mean(dim=1, keepdim=True)
        return folded, 0.0 if beta is None else rows @ beta

    def final_norm(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"] | None]:
        """γ of the final norm, and β where it has one."""
        return self._gamma(self.architecture.final_norm), self._beta(self.architecture.final_norm)

    def _gamma(self, norm: str | None) -> Float[Tensor, " d"]:
        if norm is None or self.architecture.bare_norms:
            return torch.ones(self.dimensions.d_model, device=self.device)
        weight = self.tensor(f"{norm}.weight")
        return 1 + weight if self.architecture.unit_offset else weight

    def _beta(self, norm: str | None) -> Float[Tensor, " d"] | None:
        return self.optional(f"{norm}.bias") if norm and self.architecture.norm is NormKind.LAYER else None

    def head(self) -> tuple[Float[Tensor, "V d"], Float[Tensor, " V"] | None]:
        """The unembedding matrix (the embedding, where they are tied), and the head's bias where it has one."""
        matrix = self.optional(f"{self.architecture.head}.weight")
        if matrix is None:
            matrix = self.tensor(f"{self.architecture.embedding}.weight")
        bias, factor = self.optional(f"{self.architecture.head}.bias"), self.dimensions.logit_multiplier
        return (matrix, bias) if factor == 1 else (matrix * factor, None if bias is None else bias * factor)

    def embeddings(self, rows: slice = slice(None), epsilon: float = 0.0) -> Float[Tensor, "V d"]:
        """Tokens' embeddings as they enter the first layer, but for positions; `epsilon` is of a norm behind them."""
        row = self.architecture
        found = self.tensor(f"{row.embedding}.weight", rows)
        if row.embedding_norm is not None:
            gamma, beta = self._gamma(row.embedding_norm), self._beta(row.embedding_norm)
            found = torch.nn.functional.layer_norm(found, found.shape[1:], gamma, beta, epsilon)
        factor = self.dimensions.embedding_multiplier
        return found if factor == 1 else found * factor


def fused_rows(row: Architecture, size: Dimensions, which: int) -> slice | Int[Tensor, " kv_a"]:
    """The rows of keys (0) or values (1), in the order of heads, in the matrix that computes them."""
    if row.fused_qkv is Fusion.GROUPED:
        every = torch.arange((size.heads + 2 * size.kv_heads) * size.head_dim)
        return every.view(size.kv_heads, size.group + 2, size.head_dim)[:, size.group + which].flatten()
    if row.fused_qkv is Fusion.LATENT:
        every = torch.arange(size.heads * (size.key_dim + size.head_dim)).view(size.heads, -1)
        return (every[:, size.key_dim :] if which else every[:, : size.key_dim]).flatten()
    if row.fused_qkv is Fusion.CONCATENATED:
        start = (size.heads + which * size.kv_heads) * size.head_dim
        return slice(start, start + size.kv_heads * size.head_dim)
    return slice(None)


def live_weights(model: torch.nn.Module, architecture: Architecture, dimensions: Dimensions) -> Weights:
    """The weights of a loaded model, without copying them; what is folded into some is kept."""
    state = dict(model.named_parameters(remove_duplicate=False))

    def read(name: str) -> Tensor | None:
        found = state.get(name)
        return None if found is None else found.detach()

    return Weights(architecture, dimensions, read, keep=True, device=next(model.parameters()).device)


def file_weights(stored: Mapping[str, Stored], architecture: Architecture, dimensions: Dimensions) -> Weights:
    """Weights read from their files one tensor at a time; nothing is kept."""

    def read(name: str) -> Tensor | None:
        found = stored.get(name)
        if found is None:
            return None
        if found.parts:  # of every expert, gate and up or the output matrix
            return torch.stack([torch.cat([tensor_of(one) for one in expert]) for expert in found.parts])
        return tensor_of(found)

    def tensor_of(place: Stored) -> Tensor:
        with opened(place.file) as file:
            tensor: Tensor = file.get_tensor(place.name)
            return tensor

    return Weights(architecture, dimensions, read)


# Final norm and head as one object, residual vector -> logits. The norm is folded into the head once: with s the norm's
# frozen scale, logits(x) = folded · x / s + constant, where folded = U·diag(γ), its rows mean-centred for LayerNorm
# (which is the same as centring x), and constant = U·β + head bias (README, Method). Nothing else holds the two.


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The folded unembedding of one model, float32.

    Attributes:
        folded: [V, d]; the rows that a residual vector is multiplied with.
        shift: [V] or None; U·β, logits that the final norm's bias adds (exact convention only).
        bias: [V] or None; the head's own bias.
        norm: which norm the scale is that of.
        epsilon: the norm's ε.
        padding: [P] or None; ids of the rows that are no token. The model gives them probability, so they are part of
            every softmax; of lists and statistics of tokens they are not.
        soft_cap: c, where the model's logits are c · tanh(u / c), u those of the frozen norm; None: they are u.
    """

    folded: Float[Tensor, "V d"]
    shift: Float[Tensor, " V"] | None
    bias: Float[Tensor, " V"] | None
    norm: NormKind
    epsilon: float
    padding: Int[Tensor, " P"] | None = None
    soft_cap: float | None = None

    @classmethod
    def from_weights(cls, weights: Weights, epsilon: float, tokens: TokenBytes | None = None) -> "Unembedding":
        """The rows that `tokens` has no token for are padding; without it none is. Wherever the weights are, they are
        folded on the CPU: another device rounds otherwise, and the hash would not be that of the catalogue.
        """
        gamma, beta = (None if one is None else one.cpu() for one in weights.final_norm())
        matrix, bias = (None if one is None else one.cpu() for one in weights.head())
        assert gamma is not None
        assert matrix is not None
        folded = matrix * gamma
        norm = weights.architecture.norm
        if norm is NormKind.LAYER:
            folded -= folded.mean(dim=1, keepdim=True)
        shift = None if beta is None else matrix @ beta
        unused = tokens.unused(len(folded)) if tokens is not None else []
        if len(unused) == len(folded):
            raise AtlasError("The tokenizer has no token for any row of the unembedding: they do not belong together.")
        padding = torch.tensor(unused) if unused else None
        found = cls(folded.contiguous(), shift, bias, norm, epsilon, padding, weights.dimensions.soft_cap)
        return found.on(weights.device)

    def on(self, device: torch.device) -> "Unembedding":
        """The same on another device."""
        shift, bias, padding = (
            None if one is None else one.to(device) for one in (self.shift, self.bias, self.padding)
        )
        return replace(self, folded=self.folded.to(device), shift=shift, bias=bias, padding=padding)

    @cached_property
    def used(self) -> Int[Tensor, " R"] | None:
        """The ids of the rows that are tokens, rising; None where all are."""
        if self.padding is None:
            return None
        every = torch.ones(len(self.folded), dtype=torch.bool, device=self.folded.device)
        return every.index_fill_(0, self.padding, False).nonzero().flatten()

    @cached_property
    def padding_ball(self) -> tuple[Float[Tensor, " d"], float]:
        """The mean of the rows that are no token, and the distance of the furthest of them from it."""
        rows = self.folded[self.padding]
        middle = rows.mean(dim=0)
        return middle, float((rows - middle).norm(dim=1).max())

    @property
    def rows(self) -> Float[Tensor, "R d"]:
        """The folded rows of tokens; a copy where there are others."""
        return self.folded if self.used is None else self.folded[self.used]

    def extremes(
        self, numbers: Float[Tensor, "*batch V"], count: int, *, largest: bool = True
    ) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
        """The `count` largest (or smallest) numbers of tokens, the most extreme first, and the tokens' ids."""
        of_tokens = numbers if self.used is None else numbers[..., self.used]
        found = of_tokens.topk(min(count, of_tokens.shape[-1]), largest=largest)
        return found.values, found.indices if self.used is None else self.used[found.indices]

    def scale(self, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """The norm's scale at `hidden`: sqrt(var + ε) for LayerNorm, sqrt(mean square + ε) for RMSNorm."""
        if self.norm is NormKind.LAYER:
            return torch.sqrt(hidden.var(dim=-1, correction=0, keepdim=True) + self.epsilon)
        return torch.sqrt(hidden.square().mean(dim=-1, keepdim=True) + self.epsilon)

    def constant(self, conventions: Conventions = Conventions.EXACT) -> Float[Tensor, " V"] | None:
        """The part of the logits that does not depend on the residual vector; None where it is zero."""
        shift = self.shift if conventions is Conventions.EXACT else None
        parts = [part for part in (shift, self.bias) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None

    def logits(
        self,
        residual: Float[Tensor, "*batch d"],
        scale: Float[Tensor, "*batch 1"] | float = 1.0,
        conventions: Conventions = Conventions.EXACT,
        *,
        capped: bool = True,
    ) -> Float[Tensor, "*batch V"]:
        """Logits of a whole residual vector, the norm frozen at `scale`; `capped` as the model's own are."""
        scaled = residual / scale
        logits = product(scaled.reshape(-1, scaled.shape[-1]), self.folded).view(*scaled.shape[:-1], -1)
        constant = self.constant(conventions)
        logits = logits if constant is None else logits + constant
        return self.capped(logits) if capped else logits

    def capped(self, logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        """What the model makes of them."""
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    @cached_property
    def longest_row(self) -> float:
        """The largest norm of a folded row: |v · row| <= |v| x this, for every token."""
        return float(self.folded.norm(dim=1).max())

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the folded rows' bytes, in float32."""
        return hashlib.sha256(self.folded.cpu().contiguous().numpy().data).hexdigest()
