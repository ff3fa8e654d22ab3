"""Every family that has a row, on small random models: the table in indexer/README.md is what comes out."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from app.attribution.heads import source_positions, strongest_tokens
from app.attribution.query import key_sides
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from indexer.architecture import Fusion, Mixture
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.families import ARCHITECTURES, WRAPPERS, architecture_of
from indexer.language_model import check_row, load_model
from indexer.refusals import REFUSED
from tests import families


@pytest.mark.parametrize("family", sorted({*ARCHITECTURES, *families.BY_RULE}))
def test_a_family_s_line_of_the_table_is_what_comes_out(family):
    """If only the table is old: `python -m tests.families` writes it anew."""
    assert families.line_of(family) in families.written_table().splitlines()


def test_the_table_has_every_family_and_every_refusal():
    lines = families.written_table().splitlines()
    named = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    types = [one for cell in named for one in cell.split(", ") if cell not in ("model type", "model types", "---")]
    assert sorted(types) == sorted([*ARCHITECTURES, *families.BY_RULE, *WRAPPERS, *REFUSED])
    assert len(ARCHITECTURES) >= 34


def test_real_weights(demo_model_dir):
    """The tier of what is verified on real weights, as closely as the others."""
    model = load_model(Checkpoint("demo", demo_model_dir))
    assert model.family in families.REAL
    ids = model.tokenizer("The capital of France is Paris, and the capital of Italy is")["input_ids"]
    check_row(model, ids, tolerance=1e-4)


_UNGATED = Mixture(shared="mlp.shared_expert", shared_width="shared_expert_intermediate_size")
_SHARED = cast(Mixture, ARCHITECTURES["granitemoeshared"].mixture)

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "in turn for parallel": ("gpt_neox", {"parallel": False, "variants": ()}, "reading"),
    "parallel for in turn": ("gpt_neo", {"parallel": True}, "reading"),
    "queries, keys and values in another order": ("gpt_neox", {"fused_qkv": Fusion.CONCATENATED}, "attention identity"),
    "and the other way round": ("phi3", {"fused_qkv": Fusion.GROUPED}, "attention identity"),
    "gate and up as one": ("glm", {"fused_gate": False}, "was expected"),
    "another norm": ("falcon, new", {"variants": ARCHITECTURES["falcon"].variants[:2]}, "layer 0"),
    "no 1 + γ": ("nemotron", {"unit_offset": False}, "identity"),
    "1 + γ": ("llama", {"unit_offset": True}, "identity"),
    "residual multiplier": ("granite", {"residual_multiplier": ""}, "residual identity"),
    "logit divisor": ("granite", {"logit_divisor": ""}, "final norm identity"),
    "logit multiplier": ("cohere", {"logit_multiplier": ""}, "final norm identity"),
    "residual inside": ("bloom", {"residual_inside": False}, "identity fails at layer 0"),
    "no norm behind the FFN": ("olmo2", {"ffn_post_norm": None}, "identity fails at layer 0"),
    "a norm in front": ("olmo2", {"attention_norm": "post_attention_layernorm"}, "reading"),
    "no shared expert": ("qwen2_moe", {"mixture": Mixture()}, "FFN identity"),
    "no gate of the shared expert": ("qwen2_moe", {"mixture": _UNGATED}, "FFN identity"),
    "experts as wide as other layers": ("qwen3_moe", {"mixture": Mixture(width="intermediate_size")}, "was expected"),
    "no residual multiplier of experts": ("granitemoe", {"residual_multiplier": ""}, "residual identity"),
    "gate and up one behind the other": (
        "gpt_oss",
        {"mixture": Mixture(width="intermediate_size", transposed=True)},
        "reading",
    ),
    "not transposed": ("gpt_oss", {"mixture": Mixture(width="intermediate_size", in_turn=True)}, "was expected"),
    "a shared expert within": ("granitemoeshared", {"mixture": replace(_SHARED, beside=False)}, "residual identity"),
    "another ε in the latent": ("deepseek_v3", {"latent_epsilon": 0.5}, "reading"),
    "the latent's last rows": ("deepseek_v2", {"key_dim": "v_head_dim"}, "layer 0"),
    "the norm of another place": ("gemma3_text", {"ffn_norm": "post_feedforward_layernorm"}, "reading"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_quirk_is_refused(case, monkeypatch):
    name, changes, said = WRONG[case]
    family = families.CASES[name].family
    folder = families.language_model(name).checkpoint.folder
    monkeypatch.setitem(ARCHITECTURES, family, replace(ARCHITECTURES[family], **changes))
    with pytest.raises(AtlasError, match=said):
        load_model(Checkpoint(name, folder))


@pytest.mark.parametrize("family", REFUSED)
def test_what_has_no_row_is_refused_with_the_reason(family):
    assert family not in ARCHITECTURES
    with pytest.raises(AtlasError, match="not supported yet: ") as refusal:
        architecture_of(SimpleNamespace(model_type=family))
    assert REFUSED[family] in str(refusal.value)


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("deepseek_v2", {"attention_bias": True}, "has a bias"),
        ("cohere2_moe", {"shared_expert_combination_strategy": "average"}, "halves"),
        ("granitemoehybrid", {"layer_types": ["full_attention", "linear_attention"]}, "layers without attention"),
        ("opt", {"do_layer_norm_before": False}, "no residual stream"),
        ("olmo", {"clip_qkv": 8.0}, "clipped"),
        ("mpt", {"clip_qkv": 6}, "clipped"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "passes through its norms"),
    ],
)
def test_options_that_the_method_cannot_do_are_refused(family, options, said):
    with pytest.raises(AtlasError, match=said) as refusal:
        architecture_of(SimpleNamespace(model_type=family, **options))
    assert next(iter(options)) in str(refusal.value)


def test_a_demand_on_the_shared_expert_is_none_where_there_is_none():
    config = SimpleNamespace(
        model_type="cohere2_moe", num_shared_experts=0, shared_expert_combination_strategy="average"
    )
    assert architecture_of(config).mixture is not None


def test_a_catalogue_holds_what_reaches_the_logits(tmp_path: Path):
    """Granite's multipliers and OLMo 2's norms are in the value vectors; the files alone are the oracle."""
    for name, factor, gamma in (
        ("granite", 0.6 / 1.7, None),
        ("olmo2", 1.0, "model.layers.2.post_feedforward_layernorm.weight"),
    ):
        checkpoint = families.language_model(name).checkpoint
        path = build(checkpoint, tmp_path / name, depth=5).path
        tensors = {key: one.double() for key, one in load_file(checkpoint.folder / "model.safetensors").items()}
        value = tensors["model.layers.2.mlp.down_proj.weight"][:, 7] * (1.0 if gamma is None else tensors[gamma])
        logits = (tensors["lm_head.weight"] * tensors["model.norm.weight"]) @ value * factor
        with Catalogue.open(path) as catalogue:
            card = catalogue.neuron(Neuron.ffn(2, 7))
            assert [one.token.token_id for one in card.top] == logits[:300].topk(5).indices.tolist()
            assert card.top[0].logit == pytest.approx(float(logits[:300].max()), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "label", "tensor", "place", "factor"),
    [
        ("gpt_oss", "L2.E3.F7", "mlp.experts.down_proj", (3, 7), 1.0),
        ("granitemoeshared", "L2.F7", "shared_mlp.output_linear.weight", (slice(None), 7), 0.6 / 1.7),
    ],
)
def test_a_catalogue_holds_experts_as_their_files_keep_them(name, label, tensor, place, factor, tmp_path):
    """Transposed, or beside the other experts' module; the files alone are the oracle."""
    checkpoint = families.language_model(name).checkpoint
    tensors = {key: one.double() for key, one in load_file(checkpoint.folder / "model.safetensors").items()}
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]) * tensors["model.norm.weight"]
    logits = head @ tensors[f"model.layers.2.{tensor}"][place] * factor
    with Catalogue.open(build(checkpoint, tmp_path / name, depth=5).path) as catalogue:
        card = catalogue.neuron(Neuron.parse(label))
    assert [one.token.token_id for one in card.top] == logits[:300].topk(5).indices.tolist()
    assert card.top[0].logit == pytest.approx(float(logits[:300].max()), abs=1e-5)


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_keys_that_are_read_through_a_compressed_copy(name):
    """Readings of tokens, and a head's keys mapped back, by the model's own modules."""
    model, layer, head = families.language_model(name), 1, 2
    size, block = model.dimensions, cast(Any, model.module.get_submodule(f"model.layers.{layer}"))
    attention, shown = block.self_attn, 5

    def copy(stream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a head: its keys without positions, the part that all share, and its values."""
        narrow = attention.kv_a_proj_with_mqa(block.input_layernorm(stream))
        both = attention.kv_b_proj(attention.kv_a_layernorm(narrow[:, :16])).view(len(stream), size.heads, -1)[:, head]
        return both[:, :10], narrow[:, 16:], both[:, 10:]

    with torch.no_grad():
        readings = copy(cast(Any, model.module).get_input_embeddings().weight)[2][:, 3]
        (side,) = key_sides(model, Neuron.attention(layer, head, 3), shown)
        of_tokens = readings[model.unembedding.used]
        assert [one.reading for one in side.highest] == pytest.approx(of_tokens.topk(shown).values.tolist(), rel=1e-4)
        assert side.std == pytest.approx(float(of_tokens.std(correction=0)), rel=1e-4)

        run = families.run_of(name)
        own, shared, _ = copy(run.stream.layer_input[layer])
        narrow, gamma = attention.kv_a_proj_with_mqa.weight, block.input_layernorm.weight
        wide = attention.kv_b_proj.weight.view(size.heads, -1, 16)[head, :10] * attention.kv_a_layernorm.weight
        back = own @ wide @ narrow[:16] * gamma + shared @ narrow[16:] * gamma
        tokens = strongest_tokens(model, back, 3)
        assert [one.key_tokens for one in source_positions(run, layer, head, shown=3)] == tokens
