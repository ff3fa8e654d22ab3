"""Where each family of models keeps its neurons: facts as data, one row per family, and what is refused.

A row is checked against the model itself (:mod:`indexer.language_model`); `indexer/README.md` tells how to add one.
Knows no torch, so that stored results can be read without it.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from db.errors import AtlasError
from db.neuron import Experts
from indexer.architecture import Architecture, Demand, Dimensions, Fusion, Mixture, NormKind, Where
from indexer.refusals import REFUSED

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

_GRANITE_SHARED = replace(
    _GRANITE,
    ffn="block_sparse_moe",
    ffn_output="block_sparse_moe.output_linear",
    ffn_keys=("block_sparse_moe.input_linear", "block_sparse_moe.input_linear"),
    fused_gate=True,
    mixture=Mixture(
        module="block_sparse_moe.experts",
        width="intermediate_size",
        shared="shared_mlp",
        shared_width="shared_intermediate_size",
        beside=True,
    ),
)

_GLM = replace(_LLAMA, ffn_keys=("mlp.gate_up_proj", "mlp.gate_up_proj"), fused_gate=True)

_FUSED = "self_attn.qkv_proj"

_DEEPSEEK = replace(
    _LLAMA,
    key="self_attn.kv_b_proj",
    value="self_attn.kv_b_proj",
    fused_qkv=Fusion.LATENT,
    latent="self_attn.kv_a_proj_with_mqa",
    latent_norm="self_attn.kv_a_layernorm",
    head_dim="v_head_dim",
    key_dim="qk_nope_head_dim",
    kv_heads=None,
    mixture=Mixture(shared="mlp.shared_experts", shared_count="n_shared_experts"),
    demands=(Demand("attention_bias", False, "the compressed copy that its attention reads has a bias"),),
)

ARCHITECTURES: dict[str, Architecture] = {
    "apertus": replace(
        _LLAMA, attention_norm="attention_layernorm", ffn_norm="feedforward_layernorm", ffn_keys=("mlp.up_proj",)
    ),
    "arcee": replace(_LLAMA, ffn_keys=("mlp.up_proj",)),
    "bloom": _BLOOM,
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "cohere2_moe": replace(
        _COHERE,
        ffn_width="prefix_dense_intermediate_size",
        mixture=Mixture(width="intermediate_size", shared="mlp.shared_experts", shared_count="num_shared_experts"),
        variants=(Where("num_shared_experts", 0, {"demands": ()}),),
        demands=(
            Demand("shared_expert_combination_strategy", "sum", "it halves what its experts and the shared one add"),
        ),
    ),
    "cwm": _LLAMA,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": replace(_DEEPSEEK, whole_batch=True),
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
    "flint": replace(
        _LLAMA, mixture=Mixture(shared="mlp.shared_expert", shared_width="shared_expert_intermediate_size")
    ),
    "flex_olmo": replace(_OLMO2, mixture=_MIXTRAL.mixture),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "glm": _GLM,
    "glm4": replace(_GLM, attention_post_norm="post_self_attn_layernorm", ffn_post_norm="post_mlp_layernorm"),
    "glm4_moe": _DOTS,
    "glm4_moe_lite": _DEEPSEEK,
    "glm_moe_dsa": replace(_DEEPSEEK, whole_batch=True),
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
    "gpt_oss": replace(_MIXTRAL, mixture=Mixture(width="intermediate_size", transposed=True, in_turn=True)),
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
    "granitemoehybrid": replace(
        _GRANITE_SHARED,
        variants=(
            Where(
                "num_local_experts",
                0,
                {
                    "ffn": "shared_mlp",
                    "ffn_output": "shared_mlp.output_linear",
                    "ffn_keys": ("shared_mlp.input_linear", "shared_mlp.input_linear"),
                    "ffn_width": "shared_intermediate_size",
                    "mixture": None,
                },
            ),
        ),
        demands=(Demand("layer_types", "full_attention", "it has layers without attention"),),
    ),
    "granitemoeshared": _GRANITE_SHARED,
    "helium": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "hunyuan_v1_moe": replace(
        _LLAMA,
        mixture=Mixture(width="intermediate_size", shared="mlp.shared_mlp", shared_width="intermediate_size"),
    ),
    "hy_v3": replace(_DOTS, mixture=Mixture(shared="mlp.shared_experts", shared_count="num_shared_experts")),
    "jais2": replace(_LLAMA, norm=NormKind.LAYER, ffn_keys=("mlp.up_proj",), epsilon="layer_norm_eps"),
    "llama": _LLAMA,
    "mellum": replace(_LLAMA, mixture=Mixture()),
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
    "youtu": replace(_DEEPSEEK, mixture=None),
}
"""The config's ``model_type`` → the family's row."""


WRAPPERS = {
    *("gemma3", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3", "qwen2_vl", "qwen2_5_vl"),
    *("qwen3_vl", "smolvlm"),
}
"""Models that read pictures too, and whose language trunk, loaded without the rest, does with a text what they do."""

TRUNKS = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""The family that a trunk is loaded as, where transformers has no language model of its own type: on a text, which has
one row of positions, it computes the same.
"""


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
    for variant in row.variants:
        if getattr(config, variant.option, None) == variant.value:
            row = replace(row, **variant.changes)
    for demand in row.demands:
        given = getattr(config, demand.option, demand.value)
        if any(one != demand.value for one in (given if isinstance(given, list) else [given])):
            raise AtlasError(
                f"This model of the family “{family}” is not supported: {demand.otherwise} ({demand.option} in its "
                "config)."
            )
    return row


def given_by(config: Any, name: str | float | None) -> Any:
    """What a config says under a name; None where it says nothing, and the number itself where that is given."""
    return name if isinstance(name, int | float) else getattr(config, name, None) if name else None


def epsilon_of(config: Any, row: Architecture) -> float:
    """ε of all norms."""
    return float(given_by(config, row.epsilon))


def dimensions_of(config: Any, row: Architecture | None = None) -> Dimensions:
    """Sizes from a transformers config, whatever its family calls them; `row` is the family's unless given.

    Raises:
        AtlasError: the heads do not divide into groups.
    """
    row = row or architecture_of(config)
    given = partial(given_by, config)
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
        head_dim=int(given(row.head_dim) or d_model // heads),
        ffn_width=max(widths),
        vocabulary=int(config.vocab_size),
        max_positions=int(given(row.max_positions) or 2**31),
        key_dim=int(given(row.key_dim) or 0),
        embedding_multiplier=float(embedding),
        residual_multiplier=float(given(row.residual_multiplier) or 1.0),
        logit_multiplier=float(given(row.logit_multiplier) or 1.0) / float(given(row.logit_divisor) or 1.0),
        soft_cap=given(row.soft_cap),
        experts=experts,
    )


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
