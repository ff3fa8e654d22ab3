"""Where each family of models keeps its neurons: facts as data, one row per family, and what is refused.

A row is checked against the model itself (:mod:`indexer.language_model`); `indexer/README.md` tells how to add one.
Knows no torch, so that stored results can be read without it.
"""

from dataclasses import dataclass
from enum import StrEnum
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
