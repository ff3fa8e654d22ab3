"""Codes with scales, and adapters with their base, as models: quantised and merged here by hand, and read back."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from db.catalogue.store import Catalogue
from db.errors import AtlasError
from indexer import dequantised
from indexer.__main__ import main
from indexer.checkpoint import locate
from indexer.language_model import load_model
from tests import families, models

Tensors = dict[str, Tensor]
BLOCK = 8


def changed(name: str, to: Path, change: Callable[[Tensors], Tensors], **config: Any) -> Path:
    """A copy of a small model with other tensors."""
    source = families.language_model(name).checkpoint.folder if name in families.CASES else models.folder(name)
    folder = Path(shutil.copytree(source, to))
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | config))
    return folder


# FP8


def spread(scales: Tensor, block: tuple[int, int]) -> Tensor:
    """A scale for each number of the blocks."""
    return scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = weight.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).abs().amax(dim=(1, 3)) / 448
    codes = (weight / spread(scales, (BLOCK, BLOCK))).to(torch.float8_e4m3fn)
    return codes, scales


def whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale


def powers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in runs of eight, the scales as exponents of 2 in bytes."""
    exponents = (weight.unflatten(1, (-1, BLOCK)).abs().amax(dim=2) / 448).log2().ceil()
    codes = (weight / spread(exponents.exp2(), (1, BLOCK))).to(torch.float8_e4m3fn)
    return codes, (exponents + 127).to(torch.uint8)


def undone(codes: Tensor, scales: Tensor) -> Tensor:
    factors = (scales.float() - 127).exp2() if scales.dtype == torch.uint8 else scales
    if factors.ndim:
        rows, columns = (size // parts for size, parts in zip(codes.shape, factors.shape, strict=True))
        factors = spread(factors, (rows, columns))
    return codes.float() * factors


def quantised(tensors: Tensors, code: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensors:
    """Every matrix of the layers in codes, but for the routers of experts."""
    found = dict(tensors)
    for name, weight in tensors.items():
        if ".layers." in name and weight.ndim == 2 and not name.endswith("mlp.gate.weight"):
            found[name], found[f"{name}_scale_inv"] = code(weight)
            found[f"{name.removesuffix('weight')}activation_scale"] = torch.tensor(0.5)
    return found


FP8: dict[str, tuple[str, Callable[[Tensor], tuple[Tensor, Tensor]], dict[str, Any]]] = {
    # by name: model, how a matrix is coded, what its config says
    "blocks": ("qwen3", blocks, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}),
    "whole matrices": ("llama", whole, {"quant_method": "fp8", "weight_block_size": None}),
    "powers of two": ("qwen2", powers, {"quant_method": "mxfp8", "weight_block_size": [1, BLOCK]}),
    "experts": ("qwen3_moe", whole, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}),
}


@pytest.mark.parametrize("case", FP8)
def test_codes_are_multiplied_by_their_scales(case, tmp_path):
    name, code, config = FP8[case]
    folder = changed(name, tmp_path / "coded", partial(quantised, code=code), quantization_config=config)
    coded = load_file(folder / "model.safetensors")
    expected = {key: one for key, one in coded.items() if not dequantised.SCALE.search(key)}
    expected = {
        key: undone(one, coded[f"{key}_scale_inv"]) if f"{key}_scale_inv" in coded else one
        for key, one in expected.items()
    }
    assert_undone(folder, changed(name, tmp_path / "plain", lambda _own: expected), config["quant_method"].upper())


def assert_undone(folder: Path, plain: Path, kind: str) -> None:
    """The model of a folder of codes is, bit by bit, the one of what they stand for."""
    found = locate(str(folder), models=folder.parent / "models")
    assert found.folder.parent == folder.parent / "models"
    assert found.quantisation == kind
    stored = load_file(found.folder / "model.safetensors")
    assert {key: one.dtype for key, one in stored.items()} == dict.fromkeys(stored, torch.float32)
    reference, ours = load_model(locate(str(plain))), load_model(found)
    for key, tensor in reference.module.state_dict().items():
        assert torch.equal(ours.module.state_dict()[key], tensor), key
    ids = models.byte_level_tokenizer(bos=True)(models.PROMPT)["input_ids"]
    assert torch.equal(ours.forward(ids).logits, reference.forward(ids).logits)
    assert locate(str(folder), models=folder.parent / "models").identity == found.identity  # made once


# MXFP4

FOURS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def fours(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[E, read, written] -> codes, two to a byte, and exponents of 2 in bytes; and what the two stand for."""
    groups = weight.transpose(1, 2).unflatten(2, (-1, 32))
    exponents = (groups.abs().amax(dim=-1) / 6).log2().ceil()
    scaled = groups / exponents.exp2()[..., None]
    index = (scaled.abs()[..., None] - FOURS).abs().argmin(dim=-1)
    codes = (index + 8 * (scaled < 0)).to(torch.uint8)
    stand_for = FOURS[index] * torch.where(scaled < 0, -1.0, 1.0) * exponents.exp2()[..., None]
    return codes[..., ::2] + 16 * codes[..., 1::2], (exponents + 127).to(torch.uint8), stand_for.flatten(2).mT


def in_fours(tensors: Tensors, *, undone: bool = False) -> Tensors:
    """gpt-oss as it is published: its experts' matrices in codes, all else plain; or what those stand for."""
    found = dict(tensors)
    for name in [one for one in tensors if one.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        found[f"{name}_blocks"], found[f"{name}_scales"], stand_for = fours(found.pop(name))
        if undone:
            del found[f"{name}_blocks"], found[f"{name}_scales"]
            found[name] = stand_for.contiguous()
    return found


MXFP4: dict[str, Any] = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}


def test_codes_of_four_bits_are_multiplied_by_their_scales(tmp_path):
    folder = changed("gpt_oss", tmp_path / "coded", in_fours, **MXFP4)
    assert_undone(folder, changed("gpt_oss", tmp_path / "plain", partial(in_fours, undone=True)), "MXFP4")


def test_an_estimate_of_four_bits_knows_how_many_numbers_there_are(tmp_path, monkeypatch, capsys):
    folder = changed("gpt_oss", tmp_path / "coded", in_fours, **MXFP4)
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    assert main(["estimate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notices"] == ["A build first dequantises the files (MXFP4) into a folder of float32 weights, once."]
    assert found["weight_bytes"] == 4 * found["parameters"]
    module = families.language_model("gpt_oss").module
    assert found["parameters"] == sum(one.numel() for one in module.parameters())


# compressed-tensors


def packed(codes: Tensor) -> Tensor:
    """Signed codes of 4 bits, eight to a number of 32, the first in its lowest bits, 8 added to each."""
    shifted = (codes.long() + 8).unflatten(1, (-1, 8)) << torch.arange(0, 32, 4)
    found: Tensor = shifted.sum(dim=2).to(torch.int32)
    return found


def as_compressed(tensors: Tensors, *, bits: int, undone: bool = False) -> Tensors:
    """Every matrix of the layers in codes of 4 bits with a scale for eight, or of FP8 with one a row."""
    found = dict(tensors)
    for name, weight in tensors.items():
        if ".layers." not in name or weight.ndim != 2 or name.endswith(".gate.weight"):
            continue
        scales = weight.unflatten(1, (-1, 8 if bits == 4 else weight.shape[1])).abs().amax(dim=2) / (
            7 if bits == 4 else 448
        )
        wide = scales.repeat_interleave(weight.shape[1] // scales.shape[1], dim=1)
        codes = (weight / wide).round().clamp(-8, 7) if bits == 4 else (weight / wide).to(torch.float8_e4m3fn)
        if undone:
            found[name] = codes.float() * wide
            continue
        found[f"{name}_scale"] = scales
        if bits == 4:
            del found[name]
            found[f"{name}_packed"], found[f"{name}_shape"] = packed(codes), torch.tensor(weight.shape)
        else:
            found[name] = codes
    return found


def compressed_config(bits: int) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int" if bits == 4 else "float", "symmetric": True, "dynamic": False}
    weights |= {"strategy": "group", "group_size": 8} if bits == 4 else {"strategy": "channel"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if bits == 4 else "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["qwen3", "mixtral"])
def test_compressed_tensors_are_what_their_codes_stand_for(bits, name, tmp_path, compressed_tensors_is_installed):
    config = compressed_config(bits)
    folder = changed(name, tmp_path / "coded", partial(as_compressed, bits=bits), quantization_config=config)
    plain = changed(name, tmp_path / "plain", partial(as_compressed, bits=bits, undone=True))
    assert_undone(folder, plain, f"compressed-tensors {config['format']}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "nvfp4-pack-quantized"}, "is quantised .*compressed-tensors"),
        ({"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}, "is quantised .*compressed-tensors"),
        ({}, "pip install -r indexer/requirements-quantised.txt"),
    ],
)
def test_what_of_compressed_tensors_is_not_undone_is_refused(change, said, tmp_path, monkeypatch):
    monkeypatch.setattr(dequantised, "find_spec", lambda _name: None)
    config = compressed_config(4) | change
    folder = changed("qwen3", tmp_path / "coded", partial(as_compressed, bits=4), quantization_config=config)
    with pytest.raises(AtlasError, match=said):
        _ = locate(str(folder), models=tmp_path / "models", make=False).stored


def cut(tensors: Tensors, part: str) -> Tensors:
    """The same with one tensor's last part missing."""
    found = in_fours(tensors)
    return found | {f"model.layers.0.mlp.experts.{part}": found[f"model.layers.0.mlp.experts.{part}"][..., :-1].clone()}


@pytest.mark.parametrize(("part", "said"), [("down_proj_scales", "with one scale"), ("down_proj_blocks", "promises")])
def test_codes_and_scales_that_do_not_fit_are_refused(part, said, tmp_path):
    folder = changed("gpt_oss", tmp_path / "coded", partial(cut, part=part), **MXFP4)
    with pytest.raises(AtlasError, match=said):
        locate(str(folder), models=tmp_path / "models", make=False)


def test_estimate_build_and_what_they_say(tmp_path, monkeypatch, capsys):
    name, code, config = FP8["blocks"]
    folder = changed(name, tmp_path / "tiny-FP8", lambda own: quantised(own, code), quantization_config=config)
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    assert main(["estimate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notices"] == ["A build first dequantises the files (FP8) into a folder of float32 weights, once."]
    assert found["weight_bytes"] == 4 * found["parameters"]
    assert not (tmp_path / "models").exists()
    assert main(["build", str(folder), "--depth", "5", "--catalogue", str(tmp_path / "catalogue")]) == 0
    assert "Dequantising tiny-FP8 (FP8) into" in capsys.readouterr().err
    (path,) = (tmp_path / "catalogue" / "tiny-FP8").glob("build-*.duckdb")
    with Catalogue.open(path) as catalogue:
        assert catalogue.info.dequantised == "FP8"
        assert catalogue.info.neurons == found["neurons"]


# Adapters

R, ALPHA = 3, 7.0


def adapter(folder: Path, base: Path | str, targets: dict[str, tuple[int, int]], **config: Any) -> Tensors:
    """An adapter of some matrices, by name, with how many numbers they read and write."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(3)
    tensors: Tensors = {}
    for name, (reads, writes) in targets.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(R, reads, generator=generator)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(writes, R, generator=generator) / 10
    save_file(tensors, folder / "adapter_model.safetensors")
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": R,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.1,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in targets}),
        "use_rslora": False,
        "layer_replication": None,
        "loftq_config": {},
    }
    (folder / "adapter_config.json").write_text(json.dumps(content | config))
    return tensors


def product(tensors: Tensors, name: str) -> Tensor:
    return tensors[f"base_model.model.{name}.lora_B.weight"] @ tensors[f"base_model.model.{name}.lora_A.weight"]


LLAMA = {f"model.layers.{layer}.mlp.down_proj": (48, 32) for layer in range(3)} | {
    f"model.layers.{layer}.self_attn.q_proj": (32, 48) for layer in range(3)
}
GPT2 = {f"transformer.h.{layer}.mlp.c_proj": (128, 32) for layer in range(3)}
SCALES: dict[str, tuple[float, dict[str, Any]]] = {
    "plain": (ALPHA / R, {}),
    "by the rank's root": (ALPHA / R**0.5, {"use_rslora": True}),
}


@pytest.mark.parametrize("case", SCALES)
def test_an_adapter_is_added_to_its_base(case, tmp_path):
    scale, config = SCALES[case]
    base = models.folder("llama")
    tensors = adapter(tmp_path / "tuned", base, LLAMA, **config)
    found = locate(str(tmp_path / "tuned"), models=tmp_path / "models")
    own, merged = load_file(base / "model.safetensors"), load_file(found.folder / "model.safetensors")
    assert own.keys() == merged.keys()
    for name, weight in own.items():
        module = name.removesuffix(".weight")
        expected = weight + scale * product(tensors, module) if module in LLAMA else weight
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=1e-6)
    assert (found.name, found.family) == ("tuned", "llama, LoRA adapter tuned merged into llama")
    assert found.notices() == ["The weights are of two: LoRA adapter tuned merged into llama."]
    assert found.quantisation is None
    assert (
        load_model(found).tokenizer(models.PROMPT)["input_ids"]
        == models.language_model("llama").tokenizer(models.PROMPT)["input_ids"]
    )


def test_an_adapter_of_transposed_weights_with_a_head_of_its_own(tmp_path):
    base = models.folder("gpt2")
    tensors = adapter(
        tmp_path / "tuned", base, GPT2, target_modules=["mlp.c_proj"], fan_in_fan_out=True, modules_to_save=["lm_head"]
    )
    head = torch.randn(models.VOCABULARY, 32, generator=torch.Generator().manual_seed(5))
    save_file(tensors | {"base_model.model.lm_head.weight": head}, tmp_path / "tuned" / "adapter_model.safetensors")
    found = load_model(locate(str(tmp_path / "tuned"), models=tmp_path / "models"))
    own = AutoModelForCausalLM.from_pretrained(base).state_dict()
    for name in GPT2:
        expected = own[f"{name}.weight"] + ALPHA / R * product(tensors, name).T
        torch.testing.assert_close(found.weights.tensor(f"{name}.weight"), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(found.weights.tensor("lm_head.weight"), head)
    assert torch.equal(found.weights.tensor("transformer.wte.weight"), own["transformer.wte.weight"])


def test_an_adapter_that_changes_directions_and_lengths_apart(tmp_path):
    base, name = models.folder("llama"), "model.layers.1.mlp.down_proj"
    tensors = adapter(tmp_path / "tuned", base, {name: (48, 32)}, use_dora=True, layers_to_transform=[1])
    lengths = torch.rand(32, generator=torch.Generator().manual_seed(5)) + 0.5
    tensors[f"base_model.model.{name}.lora_magnitude_vector"] = lengths
    save_file(tensors, tmp_path / "tuned" / "adapter_model.safetensors")
    found = load_model(locate(str(tmp_path / "tuned"), models=tmp_path / "models"))
    moved = load_file(base / "model.safetensors")[f"{name}.weight"] + ALPHA / R * product(tensors, name)
    expected = lengths[:, None] * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.weights.tensor(f"{name}.weight"), expected, atol=1e-6, rtol=1e-5)


def test_another_base_is_another_model(tmp_path):
    first, second = models.fine_tunes(tmp_path)
    identities = set()
    for place, base in enumerate((first, second)):
        name = "model.layers.0.mlp.down_proj"
        adapter(tmp_path / f"{place}" / "tuned", base, {name: (32, 32)}, layers_to_transform=[0])
        identities.add(locate(str(tmp_path / f"{place}" / "tuned"), models=tmp_path / "models").identity)
    assert len(identities) == 2


def test_an_estimate_of_an_adapter_is_of_its_base(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    adapter(tmp_path / "tuned", models.folder("llama"), LLAMA)
    assert main(["estimate", str(tmp_path / "tuned"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["neurons"]) == ("tuned", 288)
    assert found["notices"] == ["A build first merges the adapter into llama into a folder of float32 weights, once."]
    assert not (tmp_path / "models").exists()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another type": ({"peft_type": "LOHA"}, "of type LOHA; merged here is LoRA alone"),
    "more layers": ({"layer_replication": [[0, 2], [1, 3]]}, "sets layer_replication, which is not merged here"),
    "the base changed too": ({"init_lora_weights": "pissa"}, "sets init_lora_weights pissa"),
    "no base": ({"base_model_name_or_path": None}, "does not say in adapter_config.json what its base is"),
    "a base elsewhere": ({"base_model_name_or_path": "owner/base"}, "holds an adapter for owner/base"),
    "other sizes": ({"r": 4}, "does not fit its base"),
    "fewer matrices": ({"target_modules": ["down_proj"]}, "does not fit its base: .*q_proj.lora_A"),
    "more matrices": (
        {"target_modules": ["down_proj", "q_proj", "up_proj"]},
        "does not fit its base: .*up_proj.lora_A",
    ),
    "another base": ({"base_model_name_or_path": "gpt2"}, "does not fit its base"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_merged_is_refused_by_name(case, tmp_path):
    config, said = WRONG[case]
    shutil.copytree(models.folder("gpt2"), tmp_path / "models" / "gpt2")
    adapter(tmp_path / "tuned", models.folder("llama"), LLAMA, **config)
    with pytest.raises(AtlasError, match=said):
        locate(str(tmp_path / "tuned"), models=tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models").iterdir() if path.suffix != ".lock") == ["gpt2"]


def test_pickled_adapters_are_never_loaded(tmp_path):
    adapter(tmp_path / "tuned", models.folder("llama"), LLAMA)
    (tmp_path / "tuned" / "adapter_model.safetensors").rename(tmp_path / "tuned" / "adapter_model.bin")
    with pytest.raises(AtlasError, match="pickled weights are never loaded"):
        locate(str(tmp_path / "tuned"), models=tmp_path / "models")
