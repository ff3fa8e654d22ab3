"""Which files of a folder are the model, by what transformers loads from it; and which folders hold no language model.

Every folder here is a small model, changed as people and programs leave them.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from db.errors import AtlasError
from indexer import stored
from indexer.__main__ import main
from indexer.build import build
from indexer.checkpoint import Checkpoint, locate
from indexer.dequantised import quietly
from indexer.language_model import load_model
from indexer.verify import verify
from tests import models

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Change = Callable[[Path], object]


def copy(name: str, into: Path) -> Path:
    return Path(shutil.copytree(models.folder(name), into))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shards_of(folder: Path, seed: int, count: str = "80KB") -> Path:
    """Another model of the same sizes, saved in shards beside what is there."""
    model = models.random_model("llama", seed)
    aside = folder.parent / "sharded"
    model.save_pretrained(aside, max_shard_size=count)
    for path in aside.glob("model*"):
        shutil.copy(path, folder)
    return folder


def only_shards(folder: Path) -> None:
    shards_of(folder, seed=1)
    (folder / WEIGHTS).unlink()


def index_left_over(folder: Path) -> None:
    shards_of(folder, seed=1)
    for path in folder.glob("model-*.safetensors"):
        path.unlink()


def strays(folder: Path) -> None:
    other = models.random_model("llama", 1).state_dict()
    for name in ("ema.safetensors", "consolidated.safetensors", "a-backup.safetensors", "z.safetensors"):
        save_file(other, folder / name)
    torch.save(other, folder / "pytorch_model.bin")


def shards_of_another_save(folder: Path) -> None:
    only_shards(folder)
    for path in folder.glob("model-*.safetensors"):
        number = path.stem.split("-")[1]
        save_file(models.random_model("llama", 2).state_dict(), folder / f"model-{number}-of-00099.safetensors")


def shards_within_a_folder(folder: Path) -> None:
    only_shards(folder)
    (folder / "parts").mkdir()
    index = json.loads((folder / INDEX).read_text())
    for path in folder.glob("model-*.safetensors"):
        path.rename(folder / "parts" / path.name)
    index["weight_map"] = {name: f"parts/{file}" for name, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


def the_same_name_in_two_shards(folder: Path) -> None:
    only_shards(folder)
    name = "model.layers.1.mlp.down_proj.weight"
    for place, path in enumerate(sorted(folder.glob("model-*.safetensors"))):
        tensors = load_file(path)
        save_file({**tensors, name: torch.full((32, 48), 1.0 + place)}, path, metadata={"format": "pt"})


def named_by_the_config(folder: Path) -> None:
    save_file(models.random_model("llama", 1).state_dict(), folder / "mine.safetensors", metadata={"format": "pt"})
    change_config(folder, transformers_weights="mine.safetensors")


def names_without_the_prefix(folder: Path) -> None:
    def rename(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change_tensors(folder, rename)


def a_head_within_the_model(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({"model.lm_head.weight": tensors.pop("lm_head.weight")}))


def a_head_in_place_of_the_embedding(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    change_config(folder, tie_word_embeddings=True)
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}))


def buffers_of_older_releases(folder: Path) -> None:
    change_tensors(
        folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)})
    )


LOADED: dict[str, Change] = {
    "an older save in shards beside a newer single file": lambda folder: shards_of(folder, seed=1),
    "shards": only_shards,
    "an index whose shards a later save removed": index_left_over,
    "averages, backups and copies": strays,
    "shards of another save": shards_of_another_save,
    "shards within a folder": shards_within_a_folder,
    "one name in two shards": the_same_name_in_two_shards,
    "a file that the config names": named_by_the_config,
    "names without the prefix": names_without_the_prefix,
    "a head named within the model": a_head_within_the_model,
    "a head in place of the embedding": a_head_in_place_of_the_embedding,
    "buffers of older releases": buffers_of_older_releases,
}


@pytest.mark.parametrize("case", LOADED)
def test_the_files_are_those_that_transformers_loads(case, tmp_path):
    folder = copy("llama", tmp_path / "model")
    LOADED[case](folder)
    with quietly():
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    checkpoint = Checkpoint("model", folder)
    found = checkpoint.weights()
    for layer, block in enumerate(module.model.layers):
        assert torch.equal(found.ffn_values(layer), block.mlp.down_proj.weight.T)
        assert torch.equal(found.attention_values(layer), block.self_attn.o_proj.weight.T)
        assert torch.equal(found.value_projection_rows(layer), block.self_attn.v_proj.weight)
    assert torch.equal(found.head()[0], module.lm_head.weight)
    assert torch.equal(found.final_norm()[0], module.model.norm.weight)

    built = build(checkpoint, tmp_path / "catalogue", depth=5)
    assert verify(built.path, checkpoint, sample=20).sampled == 20


@pytest.mark.parametrize("case", LOADED)
def test_the_identity_is_that_of_the_model_s_files_alone(case, tmp_path):
    """A copy with nothing but what transformers reads has it too; a change of what it does not read leaves it."""
    folder = copy("llama", tmp_path / "model")
    LOADED[case](folder)
    before = Checkpoint("model", folder).identity
    files = stored.safetensors_files(folder)
    for path in folder.rglob("*"):
        if path not in files and path.suffix in {".safetensors", ".bin"}:
            path.write_bytes(b"other")
    assert Checkpoint("model", folder).identity == before
    files[-1].write_bytes(files[-1].read_bytes() + b"\0")
    assert Checkpoint("model", folder).identity != before


def test_what_is_not_read_is_named(tmp_path, capsys):
    folder = shards_of(copy("llama", tmp_path / "model"), seed=1)
    strays(folder)
    assert main(["estimate", str(folder)]) == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "not read" in one)
    assert line.startswith("The model is model.safetensors")
    assert "a-backup.safetensors" in line
    assert main(["build", str(folder), "--catalogue", str(tmp_path / "catalogue"), "--depth", "4"]) == 0
    assert line in capsys.readouterr().err.splitlines()
    assert Checkpoint("llama", models.folder("llama")).notices() == []


@pytest.mark.parametrize("tensor", ["model.layers.2.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_weights_that_are_not_the_loaded_model_s_are_neither_published_nor_verified(tensor, tmp_path, monkeypatch):
    """Whatever is read in place of the model's files: here one tensor of another file."""
    built = build(models.checkpoint("llama"), tmp_path / "right", depth=5)
    other = copy("llama", tmp_path / "other")
    change_tensors(other, lambda tensors: tensors[tensor].view(-1)[5:6].add_(1))
    headers = stored.headers

    def mistaken(files):
        return headers(files) | {tensor: headers([other / WEIGHTS])[tensor]}

    monkeypatch.setattr(stored, "headers", mistaken)
    checkpoint = Checkpoint("llama", models.folder("llama"))
    with pytest.raises(AtlasError, match="is not that of the model which transformers loads") as refusal:
        build(checkpoint, tmp_path / "wrong", depth=5)
    assert tensor in str(refusal.value)
    assert list((tmp_path / "wrong").rglob("*.duckdb")) == []
    with pytest.raises(AtlasError, match=r"is not that of the model|unembedding_hash"):
        verify(built.path, checkpoint, sample=1)


# What is no language model in plain numbers


def quantise(names: dict[str, torch.Tensor], dtype: torch.dtype = torch.int8, suffix: str = "weight") -> Change:
    """`names` come beside every down_proj, whose weight gets another type and name."""

    def change(folder: Path) -> None:
        def in_place(tensors):
            for key in [key for key in tensors if key.endswith("down_proj.weight")]:
                stem = key.removesuffix("weight")
                tensors[stem + suffix] = tensors.pop(key).to(dtype)
                tensors.update({stem + name: tensor.clone() for name, tensor in names.items()})

        change_tensors(folder, in_place)

    return change


def with_config(change: Change, **config: object) -> Change:
    def both(folder: Path) -> None:
        change(folder)
        change_config(folder, **config)

    return both


def add(**tensors: torch.Tensor) -> Change:
    return lambda folder: change_tensors(
        folder, lambda own: own.update({k.replace("__", "."): v for k, v in tensors.items()})
    )


def adapter(folder: Path) -> None:
    save_file(
        {"base_model.model.model.layers.0.mlp.down_proj.lora_A.weight": torch.ones(2, 48)},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "owner/base", "peft_type": "LORA"})
    )


def adapter_alone(folder: Path) -> None:
    adapter(folder)
    (folder / WEIGHTS).unlink()


def adapter_without_config(folder: Path) -> None:
    adapter_alone(folder)
    (folder / "config.json").unlink()


def unmerged(folder: Path) -> None:
    def change(tensors):
        stem = "model.layers.0.mlp.down_proj"
        tensors[f"{stem}.base_layer.weight"] = tensors.pop(f"{stem}.weight")
        tensors[f"{stem}.lora_A.default.weight"] = torch.ones(2, 48)
        tensors[f"{stem}.lora_B.default.weight"] = torch.ones(32, 2)

    change_tensors(folder, change)


def saved_as(auto: Any) -> Change:
    def change(folder: Path) -> None:
        with quietly():
            auto.from_pretrained(folder).save_pretrained(folder)

    return change


def prefixed(prefix: str) -> Change:
    def rename(tensors):
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return lambda folder: change_tensors(folder, rename)


def renamed(name: str) -> Change:
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def in_their_place(name: str, *, config: bool = True) -> Change:
    """The weights as another kind of file."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(b"GGUF or pickle")
        if not config:
            (folder / "config.json").unlink()

    return change


def link_to_nothing(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / "gone")


def index_without_metadata(folder: Path) -> None:
    only_shards(folder)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def index_of(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": name}}))

    return change


def nothing(_folder: Path) -> None:
    pass


SCALES = torch.ones(1, 1)
CODES = torch.ones(4, 4, dtype=torch.int32)
FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32]}
REFUSED: dict[str, tuple[str, Change, str]] = {
    # the variant, what is done to it, what is said
    "FP8 with block scales": (
        "qwen3",
        quantise({"weight_scale_inv": SCALES}, torch.float8_e4m3fn),
        "quantised .*_scale_inv",
    ),
    "FP8 that lacks its scales": (
        "qwen3",
        with_config(quantise({}, torch.float8_e4m3fn), quantization_config=FP8),
        "quantised .*down_proj.weight is of type F8_E4M3 without a scale",
    ),
    "FP8 in blocks that stand out": (
        "qwen3",
        with_config(quantise({"weight_scale_inv": torch.ones(1, 2)}, torch.float8_e4m3fn), quantization_config=FP8),
        "quantised .*blocks of .*down_proj.weight do not divide it",
    ),
    "bytes with the scales of FP8": (
        "qwen3",
        with_config(quantise({"weight_scale_inv": SCALES}), quantization_config=FP8),
        "quantised .*down_proj.weight is of type I8 without a scale that transformers undoes",
    ),
    "FP8 in a way of its own": (
        "llama",
        with_config(nothing, quantization_config={"quant_method": "fbgemm_fp8"}),
        "quantised .*fbgemm_fp8",
    ),
    "FP8 without scales": ("llama", quantise({}, torch.float8_e5m2), "quantised .*F8_E5M2"),
    "plain numbers beside scales": (
        "llama",
        quantise({"weight_scale": SCALES}, torch.bfloat16),
        "quantised .*weight_scale",
    ),
    "GPTQ": (
        "llama",
        quantise({"qzeros": CODES, "g_idx": CODES, "scales": SCALES}, torch.int32, "qweight"),
        "quantised .*GPTQ or AWQ",
    ),
    "GPTQ as its config says": (
        "llama",
        with_config(
            quantise({"qzeros": CODES, "scales": SCALES}, torch.int32, "qweight"),
            quantization_config={"quant_method": "gptq", "bits": 4},
        ),
        "quantised .*gptq",
    ),
    "AWQ": ("qwen2", quantise({"qzeros": CODES, "scales": SCALES}, torch.int32, "qweight"), "quantised"),
    "bitsandbytes in 8 bits": ("llama", quantise({"SCB": torch.ones(32)}, torch.int8), "quantised .*bitsandbytes"),
    "bitsandbytes in 4 bits": (
        "llama",
        quantise(
            {"absmax": torch.ones(4), "quant_map": torch.ones(16), "quant_state.bitsandbytes__nf4": torch.ones(8)},
            torch.uint8,
        ),
        "quantised .*bitsandbytes",
    ),
    "compressed tensors": (
        "llama",
        quantise({"weight_scale": SCALES, "weight_shape": CODES}, torch.int32, "weight_packed"),
        "quantised",
    ),
    "MLX": ("llama", with_config(nothing, quantization={"group_size": 64, "bits": 4}), "quantised"),
    "codes alone": ("llama", quantise({}, torch.int8), "quantised .*I8"),
    "a classifier": (
        "llama-square",
        saved_as(AutoModelForSequenceClassification),
        "no language model: its config names LlamaForSequenceClassification",
    ),
    "a tied classifier": ("qwen2", saved_as(AutoModelForSequenceClassification), "no language model"),
    "a classifier under another name": (
        "qwen2",
        with_config(saved_as(AutoModelForSequenceClassification), architectures=["Qwen2ForCausalLM"]),
        "no language model: .*score.weight",
    ),
    "a model for tokens": ("qwen3", with_config(nothing, architectures=["Qwen3ForTokenClassification"]), "no language"),
    "a reward model": ("llama", with_config(nothing, architectures=["LlamaForRewardModel"]), "no language model"),
    "a value head": ("llama", add(v_head__summary__weight=torch.ones(1, 32)), "no language model: .*v_head"),
    "a base model with a tied head": ("qwen2", saved_as(AutoModel), "saved without a head.*Qwen2ForCausalLM"),
    "a base model of GPT-2": ("gpt2", saved_as(AutoModel), "saved without a head.*GPT2LMHeadModel"),
    "a base model that names no class": (
        "qwen2",
        with_config(saved_as(AutoModel), architectures=None),
        "saved without a head.*Qwen2ForCausalLM",
    ),
    "a base model with a head of its own": (
        "llama",
        with_config(saved_as(AutoModel), architectures=["LlamaForCausalLM"]),
        "1 tensor is missing .lm_head.weight.*base or embedding model",
    ),
    "sentence-transformers": ("qwen2", lambda folder: (folder / "modules.json").write_text("[]"), "embedding model"),
    "an encoder that reads both ways": ("qwen2", with_config(nothing, is_causal=False), "both directions"),
    "an encoder-decoder": ("llama", with_config(nothing, is_encoder_decoder=True), "encoder-decoder"),
    "pictures": ("llama", add(vision_tower__patch__weight=torch.ones(2)), "pictures or sound"),
    "an adapter beside the model": ("llama", adapter, "a model and an adapter .*merge_and_unload"),
    "an adapter with a config": ("llama", adapter_alone, "an adapter for owner/base .*merge_and_unload"),
    "an adapter alone": ("llama", adapter_without_config, "an adapter for owner/base .*merge_and_unload"),
    "an adapter within": ("llama", unmerged, "adapter that is not merged"),
    "a bias that is not read": ("llama", add(model__layers__1__mlp__down_proj__bias=torch.ones(32)), "does not read"),
    "a layer too many": ("llama", with_config(nothing, num_hidden_layers=2), "does not read .model.layers.2"),
    "a layer too few": ("llama", with_config(nothing, num_hidden_layers=4), "9 tensors are missing"),
    "a wrapper's names": ("llama", prefixed("module."), "begin with “module.”"),
    "a compiler's names": ("gpt2", prefixed("_orig_mod."), "begin with “_orig_mod.”"),
    "one tensor twice": ("llama", add(norm__weight=torch.ones(32)), "twice"),
    "another name": ("llama", renamed("pytorch.safetensors"), "no model.safetensors.*pytorch.safetensors"),
    "a variant": ("llama", renamed("model.fp16.safetensors"), "no model.safetensors.*model.fp16.safetensors"),
    "its maker's own form": ("mistral", renamed("consolidated.safetensors"), "in their maker's own form"),
    "a shard without its index": ("llama", renamed("model-00001-of-00002.safetensors"), "shards .* without"),
    "a distributed checkpoint": ("llama", renamed("shard-00001-model-00001-of-00001.safetensors"), "distributed"),
    "GGUF": ("llama", in_their_place("model-q4.gguf"), "GGUF"),
    "GGUF without a config": ("llama", in_their_place("model-q4.gguf", config=False), "GGUF"),
    "pickled": ("llama", in_their_place("pytorch_model.bin"), "only pickled ones .pytorch_model.bin"),
    "pickled by its maker": ("llama", in_their_place("consolidated.00.pth", config=False), "only pickled ones"),
    "a classifier whose config gives one name": (
        "qwen2",
        with_config(nothing, architectures="Qwen2ForSequenceClassification"),
        "no language model: its config names Qwen2ForSequenceClassification",
    ),
    "a model with a second head": ("gpt2", with_config(nothing, architectures=["GPT2DoubleHeadsModel"]), "no language"),
    "a pointer in place of the file": (
        "llama",
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "git lfs pull",
    ),
    "a link to nothing": ("llama", link_to_nothing, "links to weights that are no longer there .model.safetensors"),
    "an index without metadata": ("llama", index_without_metadata, 'lacks "metadata"'),
    "an index that leads out of the folder": (
        "llama",
        index_of("../model.safetensors"),
        "must be a safetensors file within",
    ),
    "a config that names no safetensors": (
        "llama",
        with_config(nothing, transformers_weights="adapter_model.bin"),
        "names adapter_model.bin as weights",
    ),
    "a position code that nobody knows": (
        "llama",
        with_config(nothing, rope_scaling={"type": "new"}),
        "makes no model of",
    ),
    "an activation that nobody knows": ("llama", with_config(nothing, hidden_act="new"), "makes no model of"),
    "another family, in codes": (
        "llama",
        with_config(nothing, model_type="diffllama", quantization_config={"quant_method": "mxfp4"}),
        "“diffllama” are not supported.*its heads subtract",
    ),
    "another family": ("llama", with_config(nothing, model_type="mamba"), "family “mamba” are not supported"),
    "no family": ("llama", with_config(nothing, model_type=None), "gives no model_type"),
    "a config of nonsense": (
        "llama",
        with_config(nothing, num_attention_heads="many"),
        "no config of the family “llama”.*num_attention_heads.*many",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_language_model_in_plain_numbers_is_refused_before_anything_is_read(case, tmp_path, capfd):
    """In the estimate already, with one line that says why and what to do; and by whoever loads it."""
    variant, change, said = REFUSED[case]
    folder = copy(variant, tmp_path / "model")
    change(folder)
    capfd.readouterr()
    for command in (["estimate"], ["build", "--catalogue", str(tmp_path / "catalogue")]):
        assert main([*command[:1], str(folder), *command[1:]]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert "etch" not in line or "shard" in line or "links" in line  # only where that would help
        assert re.search(said, line), line
    assert list(tmp_path.rglob("*.duckdb")) == []
    with pytest.raises(AtlasError, match=said):
        load_model(locate(str(folder)))
    assert capfd.readouterr() == ("", "")


# What the hub's cache holds, where the hub cannot be reached


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """cached(*without): the hub's cache with a snapshot of a model, but for the files of these names; offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def make(*without: str) -> Path:
        home = tmp_path / "hub" / "models--owner--name"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("abc")
        snapshot = copy("llama", home / "snapshots" / "abc")
        for name in without:
            (snapshot / name).unlink()
        return snapshot

    return make


def test_a_cached_model_needs_no_hub(cached):
    cached("generation_config.json")  # which is not needed
    checkpoint = locate("owner/name")
    assert (checkpoint.name, checkpoint.identity) == ("name", "revision abc")
    assert checkpoint.weights().ffn_values(0).shape == (48, 32)


@pytest.mark.parametrize("lacking", ["model.safetensors", "config.json"])
def test_a_model_that_is_partly_in_the_cache(lacking, cached, capfd):
    cached(lacking)
    assert main(["estimate", "owner/name"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "only partly in the hub's cache" in line
    assert "offline (HF_HUB_OFFLINE is set)" in line
    assert lacking in line


@pytest.mark.parametrize("lacking", ["model.safetensors", "config.json"])
def test_a_model_that_is_partly_in_the_cache_and_no_connection(lacking, cached, monkeypatch, capfd):
    cached(lacking)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    nothing_listens = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nothing_listens)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", nothing_listens)
    assert main(["estimate", "owner/name"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "only partly in the hub's cache" in line
    assert "there is no connection" in line


def test_shards_that_are_not_in_the_cache(cached, tmp_path, capfd):
    snapshot = cached()
    only_shards(snapshot)
    lost = sorted(snapshot.glob("model-*.safetensors"))[1]
    lost.unlink()
    lost.symlink_to(tmp_path / "hub" / "blobs" / "gone")  # as an interrupted download leaves it
    capfd.readouterr()
    assert main(["estimate", "owner/name"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "only partly" in line
    assert lost.name in line


def test_a_model_that_is_not_in_the_cache(cached, capfd):
    cached()
    assert main(["estimate", "owner/other"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "“owner/other” is neither a folder here nor to be had from the hub: this process is offline" in line


# The words


def test_lines_of_transformers_are_kept_back_and_its_settings_restored():
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with quietly():
        with quietly():
            assert transformers_logging.get_verbosity() > level
        assert transformers_logging.get_verbosity() > level
        assert not transformers_logging.is_progress_bar_enabled()
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == (level, bars)


def test_a_folder_of_runs_names_the_one_that_may_be_meant(tmp_path):
    copy("gpt2", tmp_path / "run" / "checkpoint-500")
    with pytest.raises(AtlasError, match=r"no config\.json\. Do you mean .*checkpoint-500"):
        locate(str(tmp_path / "run"))


def test_a_loaded_model_whose_folder_is_gone_has_changed(tmp_path):
    checkpoint = locate(str(copy("llama", tmp_path / "model")))
    before, changed = checkpoint.files, not checkpoint.is_unchanged
    assert before
    assert not changed
    (tmp_path / "model").rename(tmp_path / "away")
    assert not checkpoint.is_unchanged
    with pytest.raises(AtlasError, match="no folder"):
        stored.safetensors_files(checkpoint.folder)
