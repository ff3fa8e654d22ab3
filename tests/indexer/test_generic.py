"""The generic rule: for how many of the known families it finds the row that is written down, and what it refuses."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from app.attribution.ablation import Effects
from app.attribution.prompt import Settings
from app.attribution.run import run_prompt
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from indexer import generic, probe
from indexer.architecture import Architecture
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.estimate import estimate
from indexer.families import ARCHITECTURES, architecture_of, dimensions_of, epsilon_of
from indexer.generic import infer
from indexer.language_model import load_model
from indexer.verify import verify
from indexer.weights import fused_rows
from tests import families

EXPERTS = (
    *("exaone_moe", "flex_olmo", "gpt_oss", "granitemoe", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe"),
    *("mellum", "minimax_m2", "mixtral", "olmoe", "olmoe, normalised", "phimoe"),
)
LATENT = (
    *("deepseek_v2", "deepseek_v2, experts", "deepseek_v3", "deepseek_v3, experts", "deepseek_v32", "glm4_moe_lite"),
    *("glm_moe_dsa", "youtu"),
)
ALTERNATING = (
    "cohere2_moe",
    "dots1",
    "ernie4_5_moe",
    "flint",
    "glm4_moe",
    "hy_v3",
    "qwen2_moe",
    "qwen2_moe, normalised",
)
NOT_FOUND = (
    dict.fromkeys((*EXPERTS, "qwen3_moe", "qwen3_moe, normalised", "solar_open"), r"FFN identity at layer 0.*experts")
    | dict.fromkeys(LATENT, "attention identity at layer 0")
    | dict.fromkeys(ALTERNATING, "layer [12] (is built otherwise|has no “mlp.down_proj”)")
)
"""The cases for which the rule finds no row, and what the refusal says."""


def config_of(name: str) -> Any:
    case = families.CASES[name]
    return CONFIG_MAPPING[case.family](**families.SIZES | case.options)


ONE_WAY = {
    "layers",
    "embedding",
    "final_norm",
    "norm",
    "attention_norm",
    "attention_output",
    "key",
    "value",
    "ffn_norm",
}
ONE_WAY |= {
    "ffn_output",
    "ffn_keys",
    "head",
    "conv1d",
    "fused_gate",
    "parallel",
    "attention_post_norm",
    "ffn_post_norm",
}
ONE_WAY |= {"unit_offset", "bare_norms", "embedding_norm", "adds"}
"""Of a row. The rest can be written in several ways, and what it comes to is compared."""


def facts(row: Architecture, config: Any) -> dict[str, Any]:
    """What a row says of a config, however it is written."""
    size = dimensions_of(config, row)
    every = torch.arange(size.heads * size.head_dim * 3)
    rows = {f"rows {which}": every[fused_rows(row, size, which)].tolist() for which in (0, 1) if row.fused_qkv}
    sizes = {one.name: getattr(size, one.name) for one in fields(size)}
    numbers = {name: pytest.approx(one, rel=1e-5) if isinstance(one, float) else one for name, one in sizes.items()}
    own = {name: getattr(row, name) for name in ONE_WAY}
    if config.model_type == "bloom":  # its code reads no limit, though the config gives one here
        del numbers["max_positions"]
    return own | numbers | rows | {"epsilon": pytest.approx(epsilon_of(config, row), rel=1e-2)}


@pytest.mark.parametrize("name", [name for name, case in families.CASES.items() if case.family in ARCHITECTURES])
def test_the_rule_finds_the_row_that_is_written_down(name, monkeypatch):
    config = config_of(name)
    known = architecture_of(config)
    monkeypatch.delitem(ARCHITECTURES, config.model_type)
    if name in NOT_FOUND:
        with pytest.raises(AtlasError, match=NOT_FOUND[name]):
            infer(config)
    else:
        assert facts(infer(config), config) == facts(known, config)


def test_for_how_many_it_finds_the_row():
    """Of all without experts and compressed copies. A new case is found, or its refusal is named."""
    assert not NOT_FOUND.keys() - families.CASES.keys()
    assert len(families.CASES.keys() - families.BY_RULE.keys() - NOT_FOUND.keys()) == 49


def test_a_family_whose_last_layer_does_otherwise_is_refused():
    """Its attention's bias is added in the last layer alone; no row says that."""
    config = CONFIG_MAPPING["gpt_neox_japanese"](**families.SIZES)
    with pytest.raises(AtlasError, match="the residual identity fails at layer 1"):
        infer(config)


@pytest.mark.parametrize("name", ["gemma2", "granite", "falcon, new"])
def test_what_follows_from_the_rule_is_what_follows_from_the_row(name, monkeypatch, tmp_path):
    """Catalogue, lists and effects; and all of them say how they came about."""
    known = families.language_model(name)
    monkeypatch.delitem(ARCHITECTURES, known.family)
    checkpoint = Checkpoint(name, known.checkpoint.folder)
    assert "read by the generic rule" in " ".join(estimate(checkpoint, depth=5).notices)
    path = build(checkpoint, tmp_path, depth=5).path
    verify(path, checkpoint, sample=20, seed=0)
    with Catalogue.open(path) as catalogue:
        assert catalogue.info.family == f"{known.family}, read by the generic rule"
    runs = [run_prompt(model, families.PROMPT, Settings(top=5)) for model in (known, load_model(checkpoint))]
    assert "read by the generic rule" in " ".join(runs[1].notices)
    for kind in NeuronKind:
        expected, found = (run.raising(kind, 5)[0] for run in runs)
        assert [one.neuron for one in found] == [one.neuron for one in expected]
        measured = [Effects.of(run).neurons(run.raising(kind, 5)[0]) for run in runs]
        assert measured[1] == pytest.approx(measured[0], abs=1e-5)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("model.layers.1.mlp.down_proj", "FFN identity fails at layer 1"),
        ("model.layers.1.self_attn.o_proj", "attention identity fails at layer 1"),
        ("model.layers.1.self_attn.v_proj", "reading .* identity fails at layer 1"),
        ("model.layers.1", "residual identity fails at layer 1"),
        ("model.layers.0", "residual identity at layer 0"),
        ("model.layers.0.mlp.down_proj", "FFN identity fails at layer 0"),
        ("model.layers.0.input_layernorm", "multiplies by neither"),
        ("model.embed_tokens", "embeddings"),
        ("lm_head", "final norm identity"),
    ],
)
def test_a_module_that_does_more_is_refused_with_identity_and_layer(part, said, monkeypatch):
    """As a family would that does with one layer, or one place, what the rule does not know."""
    whole = probe.random_model

    def more(config: Any, layers: int) -> Any:
        module = whole(config, layers)
        module.get_submodule(part).register_forward_hook(_bent)
        return module

    monkeypatch.setattr(generic, "random_model", more)
    with pytest.raises(AtlasError, match=said) as refusal:
        infer(config_of("llama"))
    assert "add a row" in str(refusal.value)


def _bent(_module: Any, _args: Any, output: Any) -> Any:
    def bend(one: torch.Tensor) -> torch.Tensor:
        return one * torch.linspace(0.9, 1.1, one.shape[-1])

    return tuple(map(bend, output)) if isinstance(output, tuple) else bend(output)
