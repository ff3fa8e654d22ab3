"""A family is its row and a test configuration; a wrong row, or a wrong reading of the forward pass, is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Starcoder2Config

from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from indexer import families as table
from indexer.architecture import Architecture, NormKind
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.families import ARCHITECTURES, architecture_of, dimensions_of
from indexer.forward import ResidualStream
from indexer.language_model import LanguageModel, check_identities, load_model, probe_tokens
from tests import models


def check(model: LanguageModel) -> None:
    stream = model.forward(probe_tokens(model.dimensions.vocabulary).tolist())
    check_identities(stream, model.weights, model.unembedding, model.family)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_sizes_are_the_model_s(name):
    size = dimensions_of(models.CONFIGS[name])
    kv_heads, head_dim, ffn_neurons = models.SIZES[name]
    assert (size.layers, size.d_model, size.heads) == (models.LAYERS, models.D_MODEL, models.HEADS)
    assert (size.kv_heads, size.head_dim, size.ffn_width) == (kv_heads, head_dim, ffn_neurons)
    assert (size.vocabulary, size.max_positions) == (models.VOCABULARY, models.MAX_POSITIONS)
    assert size.attention_width == models.HEADS * head_dim
    assert size.group == models.HEADS // kv_heads


def test_heads_that_do_not_divide_are_refused():
    config = models.CONFIGS["llama"].to_dict() | {"num_key_value_heads": 3}
    with pytest.raises(AtlasError, match="4 heads and 3 key-value heads"):
        dimensions_of(type(models.CONFIGS["llama"]).from_dict(config))


def test_an_unknown_family_is_named_with_those_that_are_known():
    class Config:
        model_type = "t5"

    with pytest.raises(AtlasError) as refusal:
        architecture_of(Config())
    for name in ("“t5”", *ARCHITECTURES):
        assert name in str(refusal.value)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_every_right_row_is_accepted(name):
    check(models.language_model(name))


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_few_layers_are_enough_to_check_a_row(name):
    model = load_model(models.checkpoint(name), layers=2)
    assert model.dimensions.layers == 2
    assert model.forward([1, 2]).ffn_output.shape[0] == 2
    # the first two layers are those of the whole model
    whole = models.language_model(name).forward([1, 2, 3])
    torch.testing.assert_close(model.forward([1, 2, 3]).layer_input[:2], whole.layer_input[:2])


WRONG_ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    # the shapes do not fit
    "transposed, partly square": ("llama-square", {"conv1d": True}, "layer 0"),
    "transposed, not square": ("llama", {"conv1d": True}, "layer 0"),
    "not transposed": ("gpt2", {"conv1d": False}, "layer 0"),
    "wrong norm": ("llama", {"norm": NormKind.LAYER}, "final norm identity fails"),
    "wrong norm, GPT-2": ("gpt2", {"norm": NormKind.RMS}, "final norm identity fails"),
    "values not in the last third": (
        "gpt2",
        {"key": "attn.c_proj", "value": "attn.c_proj", "fused_qkv": False},
        "attention identity fails",
    ),
    "FFN output and attention output exchanged": (
        "llama-square",
        {"ffn_output": "self_attn.o_proj", "attention_output": "mlp.down_proj"},
        "FFN identity fails at layer 0",
    ),
    "queries for values": ("llama-square", {"value": "self_attn.k_proj"}, "attention identity fails at layer 0"),
    "another input": ("llama", {"ffn_output": "mlp.up_proj"}, "layer 0"),
    "no such module": ("llama", {"ffn_output": "mlp.dense_4h_to_h"}, "mlp.dense_4h_to_h"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_a_wrong_row_is_refused_by_name_and_layer(case, monkeypatch):
    name, changes, said = WRONG_ROWS[case]
    family = models.CONFIGS[name].model_type
    monkeypatch.setitem(table.ARCHITECTURES, family, replace(ARCHITECTURES[family], **changes))
    checkpoint = replace(models.checkpoint(name))  # a new one, which has not looked up its row
    with pytest.raises(AtlasError) as refusal:
        load_model(checkpoint)
    assert said in str(refusal.value)
    assert family in str(refusal.value)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_wrong_group_mapping_is_refused(name, monkeypatch):
    def interleaved(stream: ResidualStream, layer: int) -> torch.Tensor:
        # head h on key-value head h % 2 in place of h // 2
        group = stream.attention_weight.shape[1] // stream.value.shape[2]
        value = stream.value[layer].permute(1, 0, 2).repeat(group, 1, 1)
        return stream.attention_weight[layer, :, :, None] * value

    model = load_model(models.checkpoint(name))
    monkeypatch.setattr(ResidualStream, "attention_activation", interleaved)
    with pytest.raises(AtlasError, match="attention identity fails at layer 0"):
        check(model)


@pytest.mark.parametrize(
    ("part", "identity"),
    [
        ("model.layers.1.mlp.down_proj", "FFN identity fails at layer 1"),
        ("model.layers.2.self_attn.o_proj", "attention identity fails at layer 2"),
        ("model.layers.1", "residual identity fails at layer 1"),
        ("model.norm", "final norm identity fails"),
        ("lm_head", "final norm identity fails"),
    ],
)
def test_a_module_that_does_more_than_its_row_says_is_refused(part, identity):
    """As a family with multipliers or norms of its own would."""
    model = load_model(models.checkpoint("llama"))

    def scaled(_module, _args, output):
        return tuple(1.01 * one for one in output) if isinstance(output, tuple) else 1.01 * output

    model.module.get_submodule(part).register_forward_hook(scaled)
    with pytest.raises(AtlasError) as refusal:
        check(model)
    assert identity in str(refusal.value)
    assert "llama" in str(refusal.value)


@pytest.mark.parametrize("field", ["ffn_bias", "attention_bias"])
@pytest.mark.parametrize("name", ["llama-square", "gpt2"])
def test_a_forgotten_output_bias_is_refused(name, field):
    model = load_model(models.checkpoint(name))
    hidden = {"ffn_bias": model.architecture.ffn_output, "attention_bias": model.architecture.attention_output}[field]
    whole = model.weights.read

    def without(tensor_name: str):
        return None if tensor_name.endswith(f".1.{hidden}.bias") else whole(tensor_name)

    forgetful = replace(model, weights=replace(model.weights, read=without))
    with pytest.raises(AtlasError, match=f"{'FFN' if field == 'ffn_bias' else 'attention'} identity fails at layer 1"):
        check(forgetful)


def test_what_is_not_a_number_is_refused():
    model = load_model(models.checkpoint("gpt2"))
    model.module.get_parameter("transformer.h.2.mlp.c_proj.weight")[5, 6] = torch.nan
    with pytest.raises(AtlasError, match="at layer 2"):
        check(model)


STARCODER2 = Architecture(
    layers="model.layers",
    embedding="model.embed_tokens",
    final_norm="model.norm",
    norm=NormKind.LAYER,
    attention="self_attn",
    attention_norm="input_layernorm",
    attention_output="self_attn.o_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    ffn="mlp",
    ffn_norm="post_attention_layernorm",
    ffn_output="mlp.c_proj",
    ffn_keys=("mlp.c_fc",),
    epsilon="norm_epsilon",
)
SMALL = Starcoder2Config(
    vocab_size=models.VOCABULARY,
    hidden_size=models.D_MODEL,
    num_hidden_layers=models.LAYERS,
    num_attention_heads=models.HEADS,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=models.MAX_POSITIONS,
    norm_epsilon=0.02,
    sliding_window=None,
)


def test_a_family_is_added_by_its_row_and_a_configuration(monkeypatch, tmp_path):
    """LayerNorm and biases as in GPT-2, grouped heads as in Llama: no other line of the indexer knows of it."""
    monkeypatch.setitem(ARCHITECTURES, "starcoder2", STARCODER2)
    biases = ("q_proj", "v_proj", "o_proj", "c_fc", "c_proj", "norm")
    monkeypatch.setitem(models.VARIANTS, "starcoder2", models.Variant(SMALL, 2, 8, 48, biases))
    folder = models.save("starcoder2", tmp_path / "starcoder2")
    checkpoint = Checkpoint("starcoder2", folder)
    check(load_model(checkpoint))

    tensors = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    rows = tensors["model.embed_tokens.weight"] * tensors["model.norm.weight"]
    rows -= rows.mean(dim=1, keepdim=True)
    with Catalogue.open(build(checkpoint, tmp_path / "catalogue", depth=5).path) as catalogue:
        for neuron, name, column in (
            (Neuron.ffn(2, 7), "model.layers.2.mlp.c_proj.weight", 7),
            (Neuron.attention(1, 3, 5), "model.layers.1.self_attn.o_proj.weight", 3 * 8 + 5),
        ):
            logits = rows @ tensors[name][:, column]
            card = catalogue.neuron(neuron)
            assert [one.token.token_id for one in card.top] == logits.topk(5).indices.tolist()
            assert [one.token.token_id for one in card.bottom] == logits.topk(5, largest=False).indices.tolist()
            assert card.top[0].logit == pytest.approx(float(logits.max()), abs=1e-5)
