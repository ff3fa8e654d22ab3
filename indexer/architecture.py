"""What a row of facts about a family says: where its models keep their neurons, and what is odd about it.

Knows no torch, so that stored results can be read without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from db.neuron import Experts


class Conventions(StrEnum):
    """Which terms of the final norm and of the key side count.

    EXACT agrees with the model's own probabilities; NOTEBOOK drops β, as the paper's GPT-2 notebook does.
    """

    EXACT = "exact"
    NOTEBOOK = "notebook"


class NormKind(StrEnum):
    """LAYER centres its input and may have a bias; RMS does neither."""

    LAYER = "LayerNorm"
    RMS = "RMSNorm"


class Fusion(StrEnum):
    """How one matrix holds queries, keys and values."""

    CONCATENATED = "all queries, then all keys, then all values"
    GROUPED = "for each key-value head, its queries, its key and its value"
    LATENT = "for each head, its key and its value, from a compressed copy of what was read"


@dataclass(frozen=True, slots=True)
class Mixture:
    """Where a layer keeps its experts. What it is told of the rest, all families call alike (`experts_of`).

    Attributes:
        module: the experts; holds `gate_up_proj` [E, 2w, d] and `down_proj` [E, d, w], and perhaps a bias of each.
        transposed: the two are [E, d, 2w] and [E, w, d].
        in_turn: gate and up take turns, row by row, instead of one standing behind the other.
        width: the config's name for the neurons of an expert.
        shared: the expert that every token passes, built like the FFN of a layer without experts.
        shared_width: the config's name for its neurons.
        shared_count: or for how many experts it is as wide as.
        shared_gate: what computes the logit of what its output is multiplied by.
        beside: it stands beside the FFN's module, and its output is added to that one's.
    """

    module: str = "mlp.experts"
    transposed: bool = False
    in_turn: bool = False
    width: str = "moe_intermediate_size"
    shared: str | None = None
    shared_width: str = ""
    shared_count: str = ""
    shared_gate: str | None = None
    beside: bool = False

    @property
    def active(self) -> str:
        """What the activations of the experts' neurons pass through (:mod:`indexer.experts`)."""
        return f"{self.module}.active"

    @property
    def biases(self) -> str:
        """What the experts' output biases pass through, each as often as its expert's router says."""
        return f"{self.module}.biases"

    def of_shared(self, ffn: str, part: str) -> str:
        """The shared expert's counterpart of a module of the FFN, such as its output matrix."""
        return f"{self.shared}{part.removeprefix(ffn)}"


@dataclass(frozen=True, slots=True)
class Where:
    """Where a config's `option` is `value`, these fields of the row differ."""

    option: str
    value: Any
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Demand:
    """A config's `option` must be `value`, of a list each entry, or lack; what it would mean otherwise."""

    option: str
    value: Any
    otherwise: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts about one family. Modules of a layer are named relative to ``{layers}.{l}``.

    What follows `head` are quirks, which most families lack. “The config's name for” gives a name that a config may
    lack; the quirk is then not there. In place of a name the number itself may stand.

    Attributes:
        layers: the list of layers.
        embedding: the token embedding; the unembedding too, where the model has no head of its own.
        final_norm: the norm in front of the head.
        norm: which kind all norms are.
        attention: the attention sub-layer.
        attention_norm: the norm that it reads through; None where it reads the residual stream as it stands.
        attention_output: its output projection, which holds the attention neurons' value vectors.
        key: what computes its keys.
        value: what computes its values.
        ffn: the FFN sub-layer.
        ffn_norm: the norm that it reads through; None likewise.
        ffn_output: its output matrix, which holds the FFN neurons' value vectors.
        ffn_keys: what reads the residual stream: one matrix, or gate and up.
        epsilon: the config's name for the norms' ε, or ε itself.
        head: the unembedding.
        old_head: what older files call it.
        conv1d: weights are stored [input, output], as GPT-2's Conv1D does.
        fused_qkv: one matrix, named as both `key` and `value`, computes queries, keys and values; how.
        fused_gate: one matrix, named twice in `ffn_keys`, is the gate's rows and then the up rows.
        latent: where `value` reads no norm but a compressed copy of what attention reads, the matrix that makes it;
            its last rows are the keys' part with positions, which all heads share.
        latent_norm: the norm in between (RMSNorm).
        latent_epsilon: its ε.
        head_dim: the config's name for the width of a head's values; without it they share d_model among them.
        key_dim: the same of its keys, less their part with positions; without it they are as wide as the values.
        kv_heads: the config's name for the number of key-value heads; None: as many as heads.
        ffn_width: the config's name for the FFN neurons of a layer; without it they are 4 x d_model.
        max_positions: the config's name for the longest prompt; without it there is no limit.
        parallel: attention and FFN both read the layer's input, and are added together.
        residual_inside: `attention` or `ffn` return their output with the residual stream added to it.
        attention_post_norm: the norm that attention's output passes before it is added (RMSNorm).
        ffn_post_norm: the same of the FFN's.
        unit_offset: norms multiply by 1 + their weight.
        bare_norms: norms have no weights.
        embedding_norm: the norm that embeddings pass before the first layer.
        embedding_root: embeddings are multiplied by the root of d_model.
        embedding_multiplier: the config's name for what embeddings are multiplied by.
        residual_multiplier: the config's name for what both sub-layers' outputs are multiplied by on the way there.
        logit_multiplier: the config's name for what logits are multiplied by.
        logit_divisor: the config's name for what they are divided by.
        soft_cap: the config's name for c, where logits u become c · tanh(u / c).
        mixture: where layers keep their experts. `ffn_output` and `ffn_keys` are then those of layers without any.
        whole_batch: the model's code counts on as many rows in each layer as in the first.
        variants: what differs by the config's options.
        demands: what the options must be.
    """

    layers: str
    embedding: str
    final_norm: str
    norm: NormKind
    attention: str
    attention_norm: str | None
    attention_output: str
    key: str
    value: str
    ffn: str
    ffn_norm: str | None
    ffn_output: str
    ffn_keys: tuple[str, ...]
    epsilon: str | float
    head: str = "lm_head"
    old_head: str = ""
    conv1d: bool = False
    fused_qkv: Fusion | None = None
    fused_gate: bool = False
    latent: str | None = None
    latent_norm: str | None = None
    latent_epsilon: float = 1e-6
    head_dim: str | int = "head_dim"
    key_dim: str = ""
    kv_heads: str | int | None = "num_key_value_heads"
    ffn_width: str | int = "intermediate_size"
    max_positions: str = "max_position_embeddings"
    parallel: bool = False
    residual_inside: bool = False
    attention_post_norm: str | None = None
    ffn_post_norm: str | None = None
    unit_offset: bool = False
    bare_norms: bool = False
    embedding_norm: str | None = None
    embedding_root: bool = False
    embedding_multiplier: str | float = ""
    residual_multiplier: str | float = ""
    logit_multiplier: str | float = ""
    logit_divisor: str | float = ""
    soft_cap: str | float = ""
    mixture: Mixture | None = None
    whole_batch: bool = False
    variants: tuple[Where, ...] = ()
    demands: tuple[Demand, ...] = ()

    @property
    def has_post_norms(self) -> bool:
        """Whether what attention or the FFN adds is divided by something that depends on it."""
        return self.attention_post_norm is not None or self.ffn_post_norm is not None

    @property
    def adds(self) -> tuple[str, str]:
        """The modules whose output, but for the multiplier, attention and the FFN add to the residual stream; that of a
        shared expert may stand beside (`ffn_adds`).
        """
        if self.residual_inside:
            return self.attention_output, self.ffn_output
        return self.attention_post_norm or self.attention, self.ffn_post_norm or self.ffn

    def ffn_adds(self, size: "Dimensions", layer: int) -> list[str]:
        """The modules whose outputs together, but for the multiplier, the FFN of a layer adds."""
        mixture, experts = self.mixture, size.experts
        if mixture is None or experts is None or not (mixture.beside and experts.shared and size.has_experts(layer)):
            return [self.adds[1]]
        return [self.adds[1], str(mixture.shared)]

    @property
    def attention_writes(self) -> str:
        """The last of attention's modules, whose output is a tensor; the same, but that `adds` names the whole."""
        return self.attention_post_norm or self.attention_output

    @property
    def ffn_writes(self) -> str:
        """The same of the FFN."""
        return self.ffn_post_norm or (self.ffn_output if self.mixture is None else self.ffn)

    def ffn_inputs(self, size: "Dimensions", layer: int) -> list[tuple[str, slice]]:
        """The modules of a layer that are given its FFN neurons' activations, and which neurons' each is given."""
        whole = size.ffn_neurons(layer)
        if self.mixture is None or size.experts is None or not size.has_experts(layer):
            return [(self.ffn_output, slice(0, whole))]
        shared = size.experts.shared
        found = [(self.mixture.active, slice(shared, whole))]
        return [(self.mixture.of_shared(self.ffn, self.ffn_output), slice(0, shared)), *found] if shared else found


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of one model, as its config gives them, and what it multiplies by."""

    layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int  # FFN neurons per layer; where layers differ, of the widest
    vocabulary: int  # rows of the unembedding, which may exceed the tokenizer's tokens
    max_positions: int
    key_dim: int = 0  # width of a head's keys, without what is a position's alone; 0: as wide as its values
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logit_multiplier: float = 1.0
    soft_cap: float | None = None
    experts: Experts | None = None

    def ffn_neurons(self, layer: int) -> int:
        """FFN neurons of a layer."""
        return self.ffn_width if self.experts is None else self.experts.neurons(layer)

    def has_experts(self, layer: int) -> bool:
        return self.experts is not None and layer in self.experts.layers

    @property
    def all_ffn_neurons(self) -> int:
        return sum(map(self.ffn_neurons, range(self.layers)))

    def neurons_before(self, layer: int) -> int:
        """All neurons of the layers before one; of the number of layers, all."""
        return sum(map(self.ffn_neurons, range(layer))) + layer * self.attention_width

    @property
    def telling(self) -> int:
        """How many of the first layers have one of every kind."""
        kinds = [self.has_experts(layer) for layer in range(self.layers)]
        return max(min(2, self.layers), *(kinds.index(one) + 1 for one in set(kinds)))

    @property
    def attention_width(self) -> int:
        """Attention neurons per layer."""
        return self.heads * self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share one key-value head: kv(h) = h // group."""
        return self.heads // self.kv_heads
