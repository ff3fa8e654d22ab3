"""Where each family of models keeps its neurons: facts as data, one row per family, and what is refused.

A row is checked against the model itself (:mod:`indexer.language_model`); `indexer/README.md` tells how to add one.
Knows no torch, so that stored results can be read without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from db.errors import AtlasError
from db.neuron import Experts
from indexer.mixtures import Mixture, experts_of
from indexer.refusals import REFUSED


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


@dataclass(frozen=True, slots=True)
class Where:
    """Where a config's `option` is `value`, these fields of the row differ."""

    option: str
    value: Any
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Demand:
    """A config's `option` must be `value`, or lack; what it would mean otherwise."""

    option: str
    value: Any
    otherwise: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts about one family. Modules of a layer are named relative to ``{layers}.{l}``.

    What follows `head` are quirks, which most families lack. “The config's name for” gives a name that a config may
    lack; the quirk is then not there.

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
        kv_heads: the config's name for the number of key-value heads, or the number; None: as many as heads.
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
    kv_heads: str | int | None = "num_key_value_heads"
    ffn_width: str = "intermediate_size"
    max_positions: str = "max_position_embeddings"
    parallel: bool = False
    residual_inside: bool = False
    attention_post_norm: str | None = None
    ffn_post_norm: str | None = None
    unit_offset: bool = False
    bare_norms: bool = False
    embedding_norm: str | None = None
    embedding_root: bool = False
    embedding_multiplier: str = ""
    residual_multiplier: str = ""
    logit_multiplier: str = ""
    logit_divisor: str = ""
    soft_cap: str = ""
    mixture: Mixture | None = None
    whole_batch: bool = False
    variants: tuple[Where, ...] = ()
    demands: tuple[Demand, ...] = ()

    @property
    def adds(self) -> tuple[str, str]:
        """The modules whose output, but for the multiplier, attention and the FFN add to the residual stream."""
        if self.residual_inside:
            return self.attention_output, self.ffn_output
        return self.attention_post_norm or self.attention, self.ffn_post_norm or self.ffn

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


_LLAMA = Architecture(
    layers="model.layers",
    embedding="model.embed_tokens",
    final_norm="model.norm",
    norm=NormKind.RMS,
    attention="self_attn",
    attention_norm="input_layernorm",
    attention_output="self_attn.o_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    ffn="mlp",
    ffn_norm="post_attention_layernorm",
    ffn_output="mlp.down_proj",
    ffn_keys=("mlp.gate_proj", "mlp.up_proj"),
    epsilon="rms_norm_eps",
)

_GPT2 = Architecture(
    layers="transformer.h",
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
    norm=NormKind.LAYER,
    attention="attn",
    attention_norm="ln_1",
    attention_output="attn.c_proj",
    key="attn.c_attn",
    value="attn.c_attn",
    ffn="mlp",
    ffn_norm="ln_2",
    ffn_output="mlp.c_proj",
    ffn_keys=("mlp.c_fc",),
    epsilon="layer_norm_epsilon",
    conv1d=True,
    fused_qkv=Fusion.CONCATENATED,
    kv_heads=None,
    ffn_width="n_inner",
)

_GPT_NEOX = Architecture(
    layers="gpt_neox.layers",
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    norm=NormKind.LAYER,
    attention="attention",
    attention_norm="input_layernorm",
    attention_output="attention.dense",
    key="attention.query_key_value",
    value="attention.query_key_value",
    ffn="mlp",
    ffn_norm="post_attention_layernorm",
    ffn_output="mlp.dense_4h_to_h",
    ffn_keys=("mlp.dense_h_to_4h",),
    epsilon="layer_norm_eps",
    old_head="embed_out",
    fused_qkv=Fusion.GROUPED,
    kv_heads=None,
    variants=(Where("use_parallel_residual", True, {"parallel": True}),),
)

_BLOOM = replace(
    _GPT_NEOX,
    layers="transformer.h",
    embedding="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    attention="self_attention",
    attention_output="self_attention.dense",
    key="self_attention.query_key_value",
    value="self_attention.query_key_value",
    epsilon="layer_norm_epsilon",
    old_head="",
    ffn_width="",
    max_positions="",
    residual_inside=True,
    embedding_norm="transformer.word_embeddings_layernorm",
    whole_batch=True,
    variants=(),
    demands=(
        Demand("apply_residual_connection_post_layernorm", False, "its residual stream passes through its norms"),
    ),
)

_CLIPPED = Demand("clip_qkv", None, "its attention values are clipped, so that they are no sums of what was read")

_STABLELM = replace(
    _LLAMA,
    norm=NormKind.LAYER,
    epsilon="layer_norm_eps",
    variants=(Where("use_parallel_residual", True, {"parallel": True, "ffn_norm": "input_layernorm"}),),
)

_NEMOTRON = replace(_LLAMA, norm=NormKind.LAYER, ffn_keys=("mlp.up_proj",), epsilon="norm_eps", unit_offset=True)

_COHERE = replace(
    _LLAMA,
    norm=NormKind.LAYER,
    ffn_norm="input_layernorm",
    epsilon="layer_norm_eps",
    parallel=True,
    logit_multiplier="logit_scale",
)

_GEMMA = replace(_LLAMA, unit_offset=True, embedding_root=True)

_OLMO2 = replace(
    _LLAMA,
    attention_norm=None,
    attention_post_norm="post_attention_layernorm",
    ffn_norm=None,
    ffn_post_norm="post_feedforward_layernorm",
)

_GEMMA2 = replace(
    _GEMMA,
    attention_post_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
    soft_cap="final_logit_softcapping",
)

_MIXTRAL = replace(_LLAMA, mixture=Mixture(width="intermediate_size"))

_DOTS = replace(_LLAMA, mixture=Mixture(shared="mlp.shared_experts", shared_count="n_shared_experts"))

_GRANITE = replace(
    _LLAMA,
    embedding_multiplier="embedding_multiplier",
    residual_multiplier="residual_multiplier",
    logit_divisor="logits_scaling",
)

_GLM = replace(_LLAMA, ffn_keys=("mlp.gate_up_proj", "mlp.gate_up_proj"), fused_gate=True)

_FUSED = "self_attn.qkv_proj"

ARCHITECTURES: dict[str, Architecture] = {
    "apertus": replace(
        _LLAMA, attention_norm="attention_layernorm", ffn_norm="feedforward_layernorm", ffn_keys=("mlp.up_proj",)
    ),
    "arcee": replace(_LLAMA, ffn_keys=("mlp.up_proj",)),
    "bloom": _BLOOM,
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "cwm": _LLAMA,
    "dots1": _DOTS,
    "ernie4_5": _LLAMA,
    "ernie4_5_moe": replace(
        _LLAMA, mixture=Mixture(shared="mlp.shared_experts", shared_count="moe_num_shared_experts")
    ),
    "exaone4": _OLMO2,
    "exaone_moe": replace(_DOTS, mixture=Mixture(shared="mlp.shared_experts", shared_count="num_shared_experts")),
    "falcon": replace(
        _BLOOM,
        ffn_width="ffn_hidden_size",
        max_positions="max_position_embeddings",
        residual_inside=False,
        embedding_norm=None,
        kv_heads="num_kv_heads",
        variants=(
            Where("parallel_attn", True, {"parallel": True, "ffn_norm": "input_layernorm"}),
            Where("multi_query", True, {"kv_heads": 1}),
            Where(
                "new_decoder_architecture",
                True,
                {"parallel": True, "kv_heads": "num_kv_heads", "attention_norm": "ln_attn", "ffn_norm": "ln_mlp"},
            ),
            Where("num_ln_in_parallel_attn", 1, {"attention_norm": "input_layernorm", "ffn_norm": "input_layernorm"}),
        ),
        demands=(),
    ),
    "flex_olmo": replace(_OLMO2, mixture=_MIXTRAL.mixture),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "glm": _GLM,
    "glm4": replace(_GLM, attention_post_norm="post_self_attn_layernorm", ffn_post_norm="post_mlp_layernorm"),
    "glm4_moe": _DOTS,
    "gpt2": _GPT2,
    "gpt_bigcode": replace(
        _GPT2,
        conv1d=False,
        fused_qkv=Fusion.GROUPED,
        whole_batch=True,
        variants=(Where("multi_query", True, {"kv_heads": 1}),),
    ),
    "gpt_neo": replace(
        _GPT2,
        attention_output="attn.attention.out_proj",
        key="attn.attention.k_proj",
        value="attn.attention.v_proj",
        conv1d=False,
        fused_qkv=None,
        ffn_width="intermediate_size",
    ),
    "gpt_neox": _GPT_NEOX,
    "gptj": replace(
        _GPT2,
        ffn_norm="ln_1",
        attention_output="attn.out_proj",
        key="attn.k_proj",
        value="attn.v_proj",
        ffn_output="mlp.fc_out",
        ffn_keys=("mlp.fc_in",),
        conv1d=False,
        fused_qkv=None,
        parallel=True,
    ),
    "granite": _GRANITE,
    "granitemoe": replace(
        _GRANITE,
        ffn="block_sparse_moe",
        mixture=Mixture(module="block_sparse_moe.experts", width="intermediate_size"),
    ),
    "helium": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "jais2": replace(_LLAMA, norm=NormKind.LAYER, ffn_keys=("mlp.up_proj",), epsilon="layer_norm_eps"),
    "llama": _LLAMA,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "minimax_m2": _MIXTRAL,
    "mistral": _LLAMA,
    "mixtral": _MIXTRAL,
    "mpt": replace(
        _GPT2,
        layers="transformer.blocks",
        final_norm="transformer.norm_f",
        attention_norm="norm_1",
        attention_output="attn.out_proj",
        key="attn.Wqkv",
        value="attn.Wqkv",
        ffn="ffn",
        ffn_norm="norm_2",
        ffn_output="ffn.down_proj",
        ffn_keys=("ffn.up_proj",),
        conv1d=False,
        ffn_width="",
        max_positions="max_seq_len",
        residual_inside=True,
        demands=(_CLIPPED,),
    ),
    "nemotron": _NEMOTRON,
    "olmo": replace(_LLAMA, norm=NormKind.LAYER, epsilon=1e-5, bare_norms=True, demands=(_CLIPPED,)),
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "olmoe": replace(_MIXTRAL, demands=(_CLIPPED,)),
    "opt": replace(
        _LLAMA,
        layers="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        final_norm="model.decoder.final_layer_norm",
        norm=NormKind.LAYER,
        attention_norm="self_attn_layer_norm",
        attention_output="self_attn.out_proj",
        ffn="fc2",
        ffn_norm="final_layer_norm",
        ffn_output="fc2",
        ffn_keys=("fc1",),
        epsilon=1e-5,
        kv_heads=None,
        ffn_width="ffn_dim",
        demands=(
            Demand("do_layer_norm_before", True, "its norms stand behind the sums, so that it has no residual stream"),
            Demand("_remove_final_layer_norm", False, "it has no final norm"),
        ),
    ),
    "persimmon": replace(
        _GPT_NEOX,
        layers="model.layers",
        embedding="model.embed_tokens",
        final_norm="model.final_layernorm",
        attention="self_attn",
        attention_output="self_attn.dense",
        key="self_attn.query_key_value",
        value="self_attn.query_key_value",
        old_head="",
        variants=(),
    ),
    "phi": replace(
        _LLAMA,
        final_norm="model.final_layernorm",
        norm=NormKind.LAYER,
        attention_output="self_attn.dense",
        ffn_norm="input_layernorm",
        ffn_output="mlp.fc2",
        ffn_keys=("mlp.fc1",),
        epsilon="layer_norm_eps",
        parallel=True,
    ),
    "phimoe": replace(_MIXTRAL, norm=NormKind.LAYER),
    "phi3": replace(_GLM, key=_FUSED, value=_FUSED, fused_qkv=Fusion.CONCATENATED),
    "qwen2": _LLAMA,
    "qwen2_moe": replace(
        _LLAMA,
        mixture=Mixture(
            shared="mlp.shared_expert",
            shared_width="shared_expert_intermediate_size",
            shared_gate="mlp.shared_expert_gate",
        ),
    ),
    "qwen3": _LLAMA,
    "qwen3_moe": replace(_LLAMA, mixture=Mixture()),
    "seed_oss": _LLAMA,
    "smollm3": _LLAMA,
    "solar_open": _DOTS,
    "stablelm": _STABLELM,
    "starcoder2": replace(
        _LLAMA, norm=NormKind.LAYER, ffn_output="mlp.c_proj", ffn_keys=("mlp.c_fc",), epsilon="norm_epsilon"
    ),
    "vaultgemma": replace(_GEMMA2, attention_post_norm=None, ffn_post_norm=None),
}
"""The config's ``model_type`` → the family's row."""


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


def architecture_of(config: Any) -> Architecture:
    """The row for a transformers config, with what its options change.

    Raises:
        AtlasError: the family has no row, or an option is one that the method cannot do.
    """
    family = getattr(config, "model_type", None)
    row = ARCHITECTURES.get(str(family))
    if row is None:
        why = f": {REFUSED[str(family)]}" if family in REFUSED else ""
        raise AtlasError(
            f"Models of the family “{family}” are not supported yet{why}. Supported are "
            f"{', '.join(sorted(ARCHITECTURES))}. indexer/README.md tells how to add one."
        )
    for demand in row.demands:
        if getattr(config, demand.option, demand.value) != demand.value:
            raise AtlasError(
                f"This model of the family “{family}” is not supported: {demand.otherwise} ({demand.option} in its "
                "config)."
            )
    for variant in row.variants:
        if getattr(config, variant.option, None) == variant.value:
            row = replace(row, **variant.changes)
    return row


def dimensions_of(config: Any) -> Dimensions:
    """Sizes from a transformers config, whatever its family calls them.

    Raises:
        AtlasError: the heads do not divide into groups.
    """
    row = architecture_of(config)

    def given(name: str | int | None) -> Any:
        """What the config says under a name; None where it says nothing."""
        return name if isinstance(name, int) else getattr(config, name, None) if name else None

    heads, d_model = int(config.num_attention_heads), int(config.hidden_size)
    kv_heads = int(given(row.kv_heads) or heads)
    if heads % kv_heads:
        raise AtlasError(
            f"The config gives {heads} heads and {kv_heads} key-value heads; the first must be a multiple."
        )
    layers, dense = int(config.num_hidden_layers), int(given(row.ffn_width) or 4 * d_model)
    experts = None if row.mixture is None else experts_of(config, row.mixture, layers, dense)
    widths = [dense] if experts is None else [experts.neurons(layer) for layer in range(layers)]
    embedding = given(row.embedding_multiplier) or (d_model**0.5 if row.embedding_root else 1.0)
    return Dimensions(
        layers=layers,
        d_model=d_model,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(getattr(config, "head_dim", None) or d_model // heads),
        ffn_width=max(widths),
        vocabulary=int(config.vocab_size),
        max_positions=int(given(row.max_positions) or 2**31),
        embedding_multiplier=float(embedding),
        residual_multiplier=float(given(row.residual_multiplier) or 1.0),
        logit_multiplier=float(given(row.logit_multiplier) or 1.0) / float(given(row.logit_divisor) or 1.0),
        soft_cap=given(row.soft_cap),
        experts=experts,
    )
