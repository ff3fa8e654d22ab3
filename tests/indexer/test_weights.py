"""Weights and checkpoints: the file and the loaded model say the same, whatever the names; damage is said in words."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from db.errors import AtlasError
from indexer.checkpoint import Checkpoint, locate
from indexer.language_model import load_model
from indexer.stored import safetensors_files
from indexer.weights import Unembedding
from tests import models, oracle

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(tmp_path):
    """copy(name): a checkpoint folder that a test may change."""
    return lambda name: Path(shutil.copytree(models.folder(name), tmp_path / name))


def rewrite(folder: Path, change) -> None:
    """`change(tensors)` edits the folder's weights."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def everything(weights, layers: int) -> dict[str, torch.Tensor | None]:
    """Every matrix that the method reads."""
    row = weights.architecture
    found: dict[str, torch.Tensor | None] = {}
    for layer in range(layers):
        found |= {
            f"{layer} FFN values": weights.ffn_values(layer),
            f"{layer} attention values": weights.attention_values(layer),
            f"{layer} FFN bias": weights.ffn_bias(layer),
            f"{layer} attention bias": weights.attention_bias(layer),
            f"{layer} value projection": weights.value_projection_rows(layer),
            f"{layer} attention norm": weights.norm_weight(layer, row.attention_norm),
            f"{layer} FFN norm": weights.norm_weight(layer, row.ffn_norm),
        }
        found |= {f"{layer} FFN keys {place}": weights.ffn_keys(layer, place) for place in range(len(row.ffn_keys))}
    found["γ"], found["β"] = weights.final_norm()
    found["head"], found["head bias"] = weights.head()
    return found


def assert_equal(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        partner = other[name]
        if value is None or partner is None:
            assert value is partner, name
        else:
            assert torch.equal(value, partner), name
            assert value.dtype == torch.float32


@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_file_and_the_loaded_model_hold_the_same(name):
    file, live = models.checkpoint(name).weights(), models.language_model(name).weights
    assert_equal(everything(file, models.LAYERS), everything(live, models.LAYERS))


@pytest.mark.parametrize("name", models.FAMILIES)
def test_value_vectors_and_keys_are_the_modules_own(name):
    weights = models.checkpoint(name).weights()
    for layer in range(models.LAYERS):
        ffn, attention = oracle.value_vectors(models.folder(name), layer)
        assert torch.equal(weights.ffn_values(layer).double(), ffn)
        assert torch.equal(weights.attention_values(layer).double(), attention)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_biases_are_there_where_the_family_has_them(name):
    weights = models.checkpoint(name).weights()
    has = name in ("llama-square", *models.LAYER_NORM_FAMILIES)
    assert (weights.ffn_bias(1) is not None) == has
    assert (weights.attention_bias(1) is not None) == has
    assert (weights.final_norm()[1] is not None) == (name in models.LAYER_NORM_FAMILIES)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_unembedding_s_hash_ties_file_and_model(name):
    checkpoint = models.checkpoint(name)
    own = Unembedding.from_weights(checkpoint.weights(), checkpoint.epsilon()).hash
    assert own == models.language_model(name).unembedding.hash
    others = {models.language_model(other).unembedding.hash for other in models.FAMILIES if other != name}
    assert len(others) == len(models.FAMILIES) - 1
    assert own not in others


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_files_of_a_bare_base_model_read_the_same(name, copy):
    """The hub's GPT-2 has no “transformer.” in front of its names, and no key for tying in its config."""
    folder = copy(name)
    prefix = "transformer." if name == "gpt2" else "model."

    def strip(tensors):
        for key in list(tensors):
            tensors[key.removeprefix(prefix)] = tensors.pop(key)

    rewrite(folder, strip)
    config = json.loads((folder / "config.json").read_text())
    if name == "gpt2":
        del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint(name, folder)
    expected = everything(models.checkpoint(name).weights(), models.LAYERS)
    assert_equal(everything(checkpoint.weights(), models.LAYERS), expected)
    assert_equal(everything(load_model(checkpoint).weights, models.LAYERS), expected)


@pytest.mark.parametrize("factor", [1.0, 1.5])
@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_tied_model_whose_file_holds_a_head_all_the_same(name, factor, copy):
    """Whether it is the embedding or another: the catalogue's unembedding is the one that the model runs with."""
    folder = copy(name)
    embedding = "transformer.wte.weight" if name == "gpt2" else "model.embed_tokens.weight"

    def add_head(tensors):
        assert "lm_head.weight" not in tensors
        tensors["lm_head.weight"] = factor * tensors[embedding]

    rewrite(folder, add_head)
    checkpoint = Checkpoint(name, folder)
    live = load_model(checkpoint)
    assert torch.equal(checkpoint.weights().head()[0], live.module.get_parameter("lm_head.weight"))
    assert torch.equal(checkpoint.weights().head()[0], live.weights.head()[0])


@pytest.mark.parametrize("name", ["llama", "gpt2-narrow"])
def test_an_untied_head_is_its_own(name):
    matrix, _ = models.checkpoint(name).weights().head()
    tensors = load_file(models.folder(name) / WEIGHTS)
    assert torch.equal(matrix, tensors["lm_head.weight"])
    embedding = next(tensors[key] for key in tensors if key.endswith(("embed_tokens.weight", "wte.weight")))
    assert not torch.equal(matrix, embedding)


def test_weights_in_several_files(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(models.folder("qwen3"), dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(safetensors_files(tmp_path)) > 2
    found = Checkpoint("qwen3", tmp_path).weights()
    assert_equal(everything(found, models.LAYERS), everything(models.checkpoint("qwen3").weights(), models.LAYERS))


def test_weights_in_half_precision_are_read_in_float32(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(models.folder("llama"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models.folder("llama") / file, tmp_path)
    checkpoint = Checkpoint("half", tmp_path)
    found = everything(checkpoint.weights(), models.LAYERS)
    assert_equal(found, everything(load_model(checkpoint).weights, models.LAYERS))
    original = models.checkpoint("llama").weights().ffn_values(1)
    assert torch.equal(checkpoint.weights().ffn_values(1), original.bfloat16().float())


@pytest.mark.parametrize("missing", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_missing_tensors_are_refused_by_name(missing, copy):
    folder = copy("llama")
    rewrite(folder, lambda tensors: tensors.pop(missing))
    with pytest.raises(AtlasError, match=r"1 tensors? (are|is) missing") as refusal:
        load_model(Checkpoint("llama", folder))
    assert missing in str(refusal.value)


def test_a_missing_tensor_is_missed_without_loading_the_model(copy):
    folder = copy("llama")
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"))
    with pytest.raises(AtlasError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        Checkpoint("llama", folder).weights()


@pytest.mark.parametrize("kept", [0, 5, 200, 20_000, -1])
def test_a_damaged_file_is_refused(kept, copy):
    folder = copy("gpt2")
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    for read in (Checkpoint("gpt2", folder).weights, lambda: load_model(Checkpoint("gpt2", folder))):
        with pytest.raises(AtlasError) as refusal:
            read()
        assert str(folder) in str(refusal.value)
        assert "again" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metadata": {}}', '{"weight_map": {"a": "absent.safetensors"}}'])
def test_a_damaged_index_is_refused(text, copy):
    folder = copy("gpt2")
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(AtlasError) as refusal:
        locate(str(folder))
    assert str(folder) in str(refusal.value)


def test_pickled_weights_are_not_read(copy):
    folder = copy("gpt2")
    (folder / WEIGHTS).unlink()
    torch.save({"transformer.wte.weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(AtlasError, match="no safetensors file"):
        locate(str(folder))
    with pytest.raises(AtlasError):
        load_model(Checkpoint("gpt2", folder))


def test_code_of_a_checkpoint_is_not_run(copy, tmp_path):
    folder = copy("llama")
    witness = tmp_path / "witness"
    (folder / "mine.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AtlasError):
        load_model(Checkpoint("mine", folder))
    assert not witness.exists()


def test_a_folder_is_found_by_path_and_by_name(tmp_path):
    shutil.copytree(models.folder("gpt2"), tmp_path / "models" / "mine")
    by_path = locate(str(tmp_path / "models" / "mine"))
    by_name = locate("mine", models=tmp_path / "models")
    assert by_path.name == by_name.name == "mine"
    assert by_path.identity == by_name.identity
    assert by_path.identity == replace(models.checkpoint("gpt2")).identity  # the weights, not the folder


def test_other_weights_are_another_identity(tmp_path):
    models.save("gpt2", tmp_path, seed=1)
    assert Checkpoint("gpt2", tmp_path).identity != models.checkpoint("gpt2").identity
    assert Checkpoint("gpt2", tmp_path).tokenizer_hash == models.checkpoint("gpt2").tokenizer_hash


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("demo", "The demo model is not here yet"),
        ("gemma-3-270m", "Gemma 3 270M is not here yet"),
        ("no/such/folder", "no folder"),
        ("../escape", "no folder"),
        ("name with spaces", "no folder"),
        ("file.gguf", "is no GGUF file, or is damaged or cut short"),
        ("missing.gguf", "There is no file"),
    ],
)
def test_what_is_no_model_is_refused(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    with pytest.raises(AtlasError) as refusal:
        locate(given, models=tmp_path / "models")
    assert said in str(refusal.value)
