"""Attribution, effects, interventions and indexing on the accelerator that is here, against the CPU's results."""

import pytest
import torch

from app.attribution import measured
from app.attribution.run import StoredRanges
from db.catalogue.store import Catalogue
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.device import chosen_device
from indexer.language_model import load_model
from indexer.verify import verify
from tests import models
from tests.accelerator.questions import ASKED, assert_close

NAMES = ("llama", "gpt2", "llama-square")
ACCELERATORS = (
    *(f"cuda:{number}" for number in range(torch.cuda.device_count())),
    *(["mps"] if torch.backends.mps.is_available() else []),
)
pytestmark = pytest.mark.skipif(not ACCELERATORS, reason="torch finds no accelerator here (CUDA or MPS)")


@pytest.fixture(scope="module", params=ACCELERATORS)
def accelerator(request):
    return request.param


@pytest.fixture(scope="module", params=NAMES)
def built(request, tmp_path_factory):
    """A model on the CPU, and its catalogue from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_DEVICE", "cpu")
        checkpoint = models.checkpoint(request.param)
        return load_model(checkpoint), build(checkpoint, tmp_path_factory.mktemp("cpu")).path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ASKED)
def test_the_accelerator_gives_the_cpu_s_answers(built, accelerator, dtype, what, monkeypatch):
    here, path = built
    monkeypatch.setattr(measured, "kept_folder", lambda: None)
    monkeypatch.setenv("ATLAS_DEVICE", accelerator)
    monkeypatch.setenv("ATLAS_DTYPE", dtype)
    there = load_model(here.checkpoint)
    assert there.placement.device == chosen_device() != here.placement.device
    assert there.unembedding.hash == here.unembedding.hash
    with Catalogue.open(path) as catalogue:
        ranges = StoredRanges(catalogue)
        assert_close(ASKED[what](there, ranges), ASKED[what](here, ranges))


def test_a_catalogue_made_there_is_right(built, accelerator, monkeypatch, tmp_path):
    """`verify` derives neurons again in float64 on the CPU, and the build's identity is the CPU's."""
    here, path = built
    monkeypatch.setenv("ATLAS_DEVICE", accelerator)
    again = build(here.checkpoint, tmp_path).path
    assert again.name == path.name
    assert verify(again, here.checkpoint, sample=100, seed=0).sampled == 100


@pytest.mark.slow
def test_the_demo_model(demo_model_dir, accelerator, monkeypatch):
    monkeypatch.setattr(measured, "kept_folder", lambda: None)
    answers = []
    for device in ("cpu", accelerator):
        monkeypatch.setenv("ATLAS_DEVICE", device)
        model = load_model(Checkpoint("demo", demo_model_dir))
        answers.append(ASKED["gradient"](model, None))
    assert_close(answers[1], answers[0])
