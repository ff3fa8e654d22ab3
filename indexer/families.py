"""Where each family of models keeps its neurons: facts as data, one row per family, and what is refused.

A row is checked against the model itself (:mod:`indexer.language_model`); `indexer/README.md` tells how to add one.
Knows no torch, so that stored results can be read without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from db.errors import AtlasError


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


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts about one family. Modules of a layer are named relative to ``{layers}.{l}``.

    Attributes:
        layers: the list of layers.
        embedding: the token embedding; the unembedding too, where the model has no head of its own.
        final_norm: the norm in front of the head.
        norm: which kind all norms are.
        attention: the attention sub-layer.
        attention_norm: the norm that it reads through.
        attention_output: its output projection, which holds the attention neurons' value vectors.
        key: what computes its keys.
        value: what computes its values.
        ffn: the FFN sub-layer.
        ffn_norm: the norm that it reads through.
        ffn_output: its output matrix, which holds the FFN neurons' value vectors.
        ffn_keys: what reads the residual stream: one matrix, or gate and up.
        epsilon: the config's name for the norms' ε.
        head: the unembedding.
        conv1d: quirk: weights are stored [input, output], as GPT-2's Conv1D does.
        fused_qkv: quirk: one matrix, named as both `key` and `value`, computes queries, keys and values, in this order,
            each of d_model.
    """

    layers: str
    embedding: str
    final_norm: str
    norm: NormKind
    attention: str
    attention_norm: str
    attention_output: str
    key: str
    value: str
    ffn: str
    ffn_norm: str
    ffn_output: str
    ffn_keys: tuple[str, ...]
    epsilon: str
    head: str = "lm_head"
    conv1d: bool = False
    fused_qkv: bool = False


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
    fused_qkv=True,
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": _GPT2,
}
"""The config's ``model_type`` → the family's row."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of one model, as its config gives them."""

    layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int  # FFN neurons per layer
    vocabulary: int  # rows of the unembedding, which may exceed the tokenizer's tokens
    max_positions: int

    @property
    def attention_width(self) -> int:
        """Attention neurons per layer."""
        return self.heads * self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share one key-value head: kv(h) = h // group."""
        return self.heads // self.kv_heads


_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
"""How transformers' classes of language models end. A base model's ends with “Model” alone."""


def require_language_model(config: Mapping[str, Any], folder: Path) -> None:
    """Is the content of a config.json that of a language model in plain numbers?

    Raises:
        AtlasError: it is not; the message says what it is of instead, and what to do.
    """
    if config.get("is_encoder_decoder"):
        raise as_other_task(folder, "its config is an encoder-decoder's")
    if config.get("is_causal") is False:
        raise as_other_task(folder, "by its config it reads texts in both directions, as embedding models do")
    if any((folder / name).is_file() for name in ("modules.json", "config_sentence_transformers.json")):
        raise as_other_task(folder, "it is an embedding model of sentence-transformers")
    names = names_of_classes(config)
    if names and not is_named_language_model(config):
        if names[0].lower() == f"{config.get('model_type')}model":
            ending = _LANGUAGE_MODELS[config["model_type"] == "gpt2"]
            raise as_base_model(folder, f"its config, “{names[0]}”,", names[0].removesuffix("Model") + ending)
        raise as_other_task(folder, f"its config names {names[0]}")
    for key in ("quantization_config", "compression_config", "quantization"):
        if given := config.get(key):
            method = given.get("quant_method") or given.get("bits") if isinstance(given, Mapping) else None
            raise as_quantised(folder, f"{key} in its config{f': {method}' if method else ''}")


def names_of_classes(config: Mapping[str, Any]) -> list[str]:
    """Of the model classes that a config names."""
    given = config.get("architectures") or []
    return [str(name) for name in given] if isinstance(given, list) else [str(given)]


def is_named_language_model(config: Mapping[str, Any]) -> bool:
    """Whether one of them is a language model's."""
    return any(name.endswith(_LANGUAGE_MODELS) for name in names_of_classes(config))


def as_quantised(folder: Path, sign: str) -> AtlasError:
    """The refusal of a quantised model, and what it shows by."""
    return AtlasError(
        f"The model in {folder} is quantised ({sign}): what its files hold are codes, not weights. Give the model that "
        "it was made from, in float32, float16 or bfloat16; or dequantise it and save that."
    )


def as_other_task(folder: Path, sign: str) -> AtlasError:
    """The refusal of a model that was trained for something else than next tokens."""
    return AtlasError(
        f"{folder} is no language model: {sign}. Its neurons say nothing about next tokens. Give a language model, "
        "such as the one that it was made from."
    )


def as_base_model(folder: Path, sign: str, loader: str) -> AtlasError:
    """The refusal of a model that was saved without a head, which may be an embedding model."""
    return AtlasError(
        f"{folder} may be no language model: by {sign} it was saved without a head, as embedding models are. If its "
        f'head is its embedding, say so in config.json, "architectures": ["{loader}"]; else save it with its head.'
    )


def architecture_of(config: Any) -> Architecture:
    """The row for a transformers config.

    Raises:
        AtlasError: the family has no row.
    """
    family = getattr(config, "model_type", None)
    row = ARCHITECTURES.get(str(family))
    if row is None:
        raise AtlasError(
            f"Models of the family “{family}” are not supported yet; supported are {', '.join(sorted(ARCHITECTURES))}. "
            "indexer/README.md tells how to add one."
        )
    return row


def dimensions_of(config: Any) -> Dimensions:
    """Sizes from a transformers config, whatever its family calls them.

    Raises:
        AtlasError: the heads do not divide into groups.
    """
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    d_model = int(config.hidden_size)
    if heads % kv_heads:
        raise AtlasError(
            f"The config gives {heads} heads and {kv_heads} key-value heads; the first must be a multiple."
        )
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * d_model
    return Dimensions(
        layers=int(config.num_hidden_layers),
        d_model=d_model,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(getattr(config, "head_dim", None) or d_model // heads),
        ffn_width=int(inner),
        vocabulary=int(config.vocab_size),
        max_positions=int(getattr(config, "max_position_embeddings", 0) or 2**31),
    )
