"""Models that read pictures too: of each kind the language trunk alone, against the whole of it on a text."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from app.attribution.prompt import Settings
from app.attribution.run import run_prompt
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.estimate import estimate
from indexer.families import ARCHITECTURES, WRAPPERS
from indexer.generic import row_of
from indexer.language_model import check_row, load_model
from indexer.verify import verify
from tests import families, models

TEXT = families.SIZES | families.RMS
PICTURES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIGHT = PICTURES | {"image_size": 8, "patch_size": 4, "head_dim": 8}
QWEN = {"depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 4, "hidden_size": 16, "intermediate_size": 16}
IMAGE = {"image_token_index": 290, "image_token_id": 290, "video_token_id": 291}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
OUT = {"out_hidden_size": models.D_MODEL}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": (
        families.CASES["gemma3_text"].options | {"model_type": "gemma3_text"},
        SIGHT,
        {"boi_token_index": 288, "eoi_token_index": 289, "mm_tokens_per_image": 4},
    ),
    "idefics3": ({"model_type": "llama"}, SIGHT, {"scale_factor": 1}),
    "internvl": ({"model_type": "qwen2"}, SIGHT, {"downsample_ratio": 0.5}),
    "llava": ({"model_type": "llama"}, SIGHT | {"model_type": "clip_vision_model"}, {}),
    "llava_next": ({"model_type": "mistral"}, SIGHT | {"model_type": "clip_vision_model"}, {}),
    "llava_onevision": ({"model_type": "qwen2"}, SIGHT | {"model_type": "siglip_vision_model"}, {}),
    "mistral3": ({"model_type": "mistral"} | families.WINDOW, SIGHT | {"model_type": "pixtral"}, {}),
    "qwen2_vl": (MROPE, QWEN | {"hidden_size": models.D_MODEL}, {}),
    "qwen2_5_vl": (MROPE, QWEN | OUT | {"fullatt_block_indexes": [0]}, {}),
    "qwen3_vl": ({"head_dim": 8} | MROPE, QWEN | OUT | {"deepstack_visual_indexes": [0]}, {}),
    "smolvlm": ({"model_type": "llama"}, SIGHT, {"scale_factor": 1}),
}
"""The trunk's options, those of what sees, and those of the whole."""


@cache
def whole(name: str) -> Any:
    text, pictures, others = CASES[name]
    config = CONFIG_MAPPING[name](
        text_config=TEXT | text, vision_config=pictures, tie_word_embeddings=False, **IMAGE | others
    )
    module = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    families.draw(module, unit_offset=name == "gemma3")
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of the cases, each written once."""

    @cache
    def folder(name: str) -> Path:
        into = Path(tmp_path_factory.mktemp("wrappers")) / name
        whole(name).save_pretrained(into)
        models.byte_level_tokenizer(bos=True).save_pretrained(into)
        return into

    return folder


def test_every_kind_is_tried():
    assert CASES.keys() == WRAPPERS


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_the_trunk_alone_is_the_whole_on_a_text(name, saved):
    model = load_model(Checkpoint(name, saved(name)))
    ids = [0, *model.tokenizer(families.PROMPT, add_special_tokens=False)["input_ids"]]
    check_row(model, ids, tolerance=1e-4)
    with torch.inference_mode():
        expected = whole(name)(torch.tensor([ids]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(model.forward(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.5, "flat logits would prove nothing"
    names = [key for key, _ in model.module.named_parameters()]
    assert not any(part in key for key in names for part in ("vision", "visual", "projector", "connector"))
    assert model.family in ARCHITECTURES
    notices = run_prompt(model, models.PROMPT, Settings(top=3)).notices
    assert any(f"“{name}”" in one and "language trunk" in one for one in notices)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_older_and_newer_names_are_read_and_the_rest_is_named(prefix, saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved("gemma3"), folder)
    file = folder / "model.safetensors"
    tensors = {
        key.replace("model.language_model.", "language_model.model."): one for key, one in load_file(file).items()
    }
    tensors = {key.replace("language_model.model.", prefix): one for key, one in tensors.items()}
    head = "language_model.lm_head.weight" if prefix.startswith("language") else "lm_head.weight"
    tensors = {head if key.endswith("lm_head.weight") else key: one for key, one in tensors.items()}
    save_file(tensors, file, {"format": "pt"})
    checkpoint = Checkpoint("gemma3", folder)
    built = build(checkpoint, tmp_path / "catalogue", depth=5)
    verify(built.path, checkpoint, sample=20, seed=0)
    value = tensors[f"{prefix}layers.2.mlp.down_proj.weight"][:, 7]
    value = value * (1 + tensors[f"{prefix}layers.2.post_feedforward_layernorm.weight"])
    logits = (tensors[head] * (1 + tensors[f"{prefix}norm.weight"])) @ value
    with Catalogue.open(built.path) as catalogue:
        card = catalogue.neuron(Neuron.ffn(2, 7))
    assert [one.token.token_id for one in card.top] == logits[:300].topk(5).indices.tolist()
    others = sum(not key.startswith(prefix) and key != head for key in tensors)
    assert others > 5
    notices = " ".join(estimate(checkpoint, depth=5).notices)
    assert f"{others} tensors outside the trunk are not read" in notices
    assert "reads pictures too" in notices


def test_a_trunk_without_all_its_tensors_and_one_with_others_are_refused(saved, tmp_path):
    for place, (change, said) in enumerate(
        (
            (
                lambda found: found.pop(next(key for key in found if key.endswith("layers.1.mlp.up_proj.weight"))),
                "missing",
            ),
            (lambda found: found.update({"model.language_model.extra.weight": torch.ones(2)}), "does not read"),
        )
    ):
        folder = tmp_path / str(place)
        shutil.copytree(saved("gemma3"), folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(AtlasError, match=said):
            _ = Checkpoint("gemma3", folder).stored


def test_a_trunk_whose_logits_the_whole_does_not_change_is_refused(saved, tmp_path):
    """Transformers' LLaVA leaves out what Granite divides its logits by."""
    folder = tmp_path / "model"
    shutil.copytree(saved("llava"), folder)
    config = folder / "config.json"
    text = json.loads(config.read_text())
    text["text_config"] |= {"model_type": "granite", "logits_scaling": 1.7}
    config.write_text(json.dumps(text))
    with pytest.raises(AtlasError, match="does not change its logits as its language trunk"):
        _ = Checkpoint("llava", folder).dimensions


def test_a_wrapper_that_nobody_has_compared_is_refused():
    text = TEXT | {"model_type": "llama"}
    with pytest.raises(AtlasError, match=r"“vipllava” are not supported.*it reads more than text"):
        row_of(CONFIG_MAPPING["vipllava"](text_config=text, vision_config=SIGHT | {"model_type": "clip_vision_model"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["Gemma3ForSequenceClassification"]}, "names Gemma3ForSequenceClassification"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    ],
)
def test_wrappers_of_other_tasks_and_quantised_ones_are_refused(change, said, saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved("gemma3"), folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(AtlasError, match=said):
        _ = Checkpoint("gemma3", folder).config
