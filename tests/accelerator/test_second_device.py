"""No tensors of two devices meet: all that is asked runs on a pretended second device, and gives the CPU's figures."""

import pytest
import torch

from app.attribution import measured
from app.attribution.run import StoredRanges
from db.catalogue.store import Catalogue
from indexer import device, language_model, work
from indexer.build import build
from indexer.device import Placement
from indexer.language_model import load_model
from tests import families, models
from tests.accelerator.questions import ASKED, assert_close
from tests.accelerator.second_device import DEVICE, MixedError, second_device

QUESTIONS = {
    "llama": tuple(ASKED),
    "gpt2": ("analysis", "without a catalogue", "contrast", "drill-downs", "steering", "effects"),
    "gemma2": ("removed", "comparison", "steering", "effects"),
    "qwen2_moe": ("analysis", "steering", "effects"),
}
"""All of one model; of the others what their biases, LayerNorm, caps, experts and norms behind are part of."""


def checkpoint_of(name):
    return models.checkpoint(name) if name in models.VARIANTS else families.language_model(name).checkpoint


@pytest.fixture(scope="module", params=QUESTIONS)
def asked(request, tmp_path_factory):
    """A model on the CPU, what its catalogue knows, and the model once more on the second device."""
    folder = tmp_path_factory.mktemp("second device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "bf16_is_faster", lambda _width: False)
        patch.setattr(device, "onednn_is_faster", lambda: False)
        patch.setattr(measured, "kept_folder", lambda: None)
        checkpoint = checkpoint_of(request.param)
        path = build(checkpoint, folder).path
        here = load_model(checkpoint)
        module = language_model._load_module(checkpoint, checkpoint.config, torch.float32)
        patch.setattr(language_model, "_load_module", lambda *_: module)
        patch.setattr(language_model, "chosen_device", lambda: DEVICE)
        patch.setattr(language_model, "chosen_dtype", lambda *_: torch.float32)
        with second_device():
            there = load_model(checkpoint)
        with Catalogue.open(path) as catalogue:
            yield here, there, StoredRanges(catalogue)


def test_the_model_is_there(asked):
    here, there, _ = asked
    assert there.placement == Placement(DEVICE, torch.float32)
    assert {one.device for one in there.module.parameters()} == {DEVICE}
    assert there.unembedding.folded.device == DEVICE
    assert there.unembedding.hash == here.unembedding.hash


@pytest.mark.parametrize(
    ("asked", "what"), [(name, what) for name, found in QUESTIONS.items() for what in found], indirect=["asked"]
)
def test_nothing_is_mixed(asked, what):
    here, there, ranges = asked
    with second_device():
        found = ASKED[what](there, ranges)
    assert_close(found, ASKED[what](here, ranges))


def test_the_second_device_refuses_what_a_real_one_would():
    with second_device() as there:
        away, home = torch.arange(6.0, device=there), torch.arange(6.0)
        assert (away + 1).sum().item() == 21
        assert away[torch.tensor([1, 2])].cpu().tolist() == [1.0, 2.0]
        for mixed in (
            lambda: away + home,
            lambda: home[away.long()],
            lambda: torch.where(home > 2, away, 0.0),
            lambda: away.index_select(0, torch.tensor([1])),
            lambda: torch.cat([away, home]),
            lambda: away.numpy(),
        ):
            with pytest.raises(MixedError):
                mixed()
