"""Which terms of the final norm and of the keys count. Knows no torch, so that stored results can be read without."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from db.errors import AtlasError


class Conventions(StrEnum):
    """EXACT agrees with the model's own probabilities; NOTEBOOK drops β, as the paper's GPT-2 notebook does."""

    EXACT = "exact"
    NOTEBOOK = "notebook"


# Where each family keeps its neurons: one table, checked against the model by `indexer.identities`.


class NormKind(StrEnum):
    """LAYER centres its input and may have a bias; RMS does neither."""

    LAYER = "LayerNorm"
    RMS = "RMSNorm"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Module names of one family. Those of a layer's parts are relative to ``{layers}.{l}``."""

    layers: str
    embedding: str
    final_norm: str
    norm: NormKind
    attention: str
    attention_norm: str
    attention_output: str  # the output projection; its rows or columns are the attention value vectors
    key: str  # computes the keys; the middle third of its output if `fused_value`
    value: str  # computes the values; the last third of its output if `fused_value`
    ffn: str
    ffn_norm: str
    ffn_output: str  # the output matrix; its rows or columns are the FFN value vectors
    ffn_keys: tuple[str, ...]  # what reads the residual stream: one matrix, or gate and up
    epsilon: str  # the config's name for the norms' ε
    head: str = "lm_head"
    conv1d: bool = False  # weights stored [input, output], as GPT-2's Conv1D does
    fused_value: bool = False  # one matrix computes query, key and value, each of d_model


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
    fused_value=True,
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": _GPT2,
}
"""The config's ``model_type`` → where its neurons are."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of one model, as its config gives them."""

    layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_neurons: int  # a layer
    vocabulary: int  # rows of the unembedding, which may exceed the tokenizer's tokens
    max_positions: int

    @property
    def ffn_width(self) -> int:
        """FFN neurons a layer, as `db.neuron.Sizes` calls them."""
        return self.ffn_neurons

    @property
    def attention_neurons(self) -> int:
        """Attention neurons a layer."""
        return self.heads * self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share one key-value head: kv(h) = h // group."""
        return self.heads // self.kv_heads


def architecture_of(config: Any) -> Architecture:
    """The row for a transformers config.

    Raises:
        AtlasError: the family has no row, or the config asks for something under which the method's identities fail.
    """
    family = getattr(config, "model_type", None)
    row = ARCHITECTURES.get(str(family))
    if row is None:
        raise AtlasError(
            f"Models of the family “{family}” are not supported yet; supported are {', '.join(sorted(ARCHITECTURES))}. "
            "A family is added by one row in indexer/architecture.py."
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
        ffn_neurons=int(inner),
        vocabulary=int(config.vocab_size),
        max_positions=int(getattr(config, "max_position_embeddings", 0) or 2**31),
    )
