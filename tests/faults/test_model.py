"""The model's files are harmed under a running server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.build import build
from indexer.checkpoint import Checkpoint
from tests import models
from tests.faults.onlooker import Onlooker, looking
from tests.server_process import serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model, with its catalogue beside it."""
    models.save("llama", tmp_path / "models" / "llama")
    folder = tmp_path / "models" / "llama"
    build(Checkpoint("llama", folder), tmp_path / "catalogue", depth=10)
    return folder


@pytest.fixture
def onlooker(folder: Path, tmp_path: Path) -> Iterator[Onlooker]:
    """A session of a server that has not loaded the model yet."""
    environment = {
        "ATLAS_CATALOGUE": str(tmp_path / "catalogue"),
        "ATLAS_MODELS": str(folder.parent),
        "ATLAS_WORKSPACE": "off",
        "HF_HUB_OFFLINE": "1",  # a model that is gone is not looked for elsewhere
    }
    with serving(tmp_path / "log", **environment) as server, looking(server) as onlooker:
        yield onlooker


def explains(onlooker: Onlooker, prompt: str) -> bool:
    """Whether a prompt is explained."""
    shown = onlooker.page("prompt", {"p": prompt})
    return shown.notices == [] and "value neurons" in shown.text.lower()


def test_harm_before_it_is_loaded_is_told_of_and_mended(onlooker: Onlooker, folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    folder.rename(folder.parent.parent / "away")
    (notice,) = onlooker.page("prompt", {"p": "The river"}).notices
    assert "There is no folder “models/llama”" in notice
    assert str(folder) not in notice, "visitors are told no folder of the server"
    assert onlooker.page().notices == [], "what needs no model goes on"
    assert onlooker.part("catalogue")["model_loaded"] is False
    (folder.parent.parent / "away").rename(folder)
    os.truncate(weights, len(whole) // 2)
    (notice,) = onlooker.page("prompt", {"p": "The river"}).notices
    assert "is damaged or cut short" in notice
    weights.write_bytes(whole)
    assert explains(onlooker, "The river")
    catalogue = onlooker.part("catalogue")
    assert [catalogue[name] for name in ("model_loaded", "device", "dtype")] == [True, "cpu", "float32"]


def test_harm_after_it_was_loaded_changes_nothing(onlooker: Onlooker, folder: Path) -> None:
    assert explains(onlooker, "The river")
    os.truncate(folder / "model.safetensors", 4096)
    assert explains(onlooker, "The sea")
    os.truncate(folder / "model.safetensors", 0)
    assert explains(onlooker, "The hill")
    folder.rename(folder.parent.parent / "away")
    assert explains(onlooker, "The road")
    assert onlooker.server.process.poll() is None
