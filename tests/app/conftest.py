"""Pages run in the test's own process, on a small random model and its real catalogue, or on a toy catalogue."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.serving.settings import configuration
from indexer.build import build
from tests import models
from tests.app.running import run_page
from tests.catalogues import make_catalogue

RunPage = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """Settings are read once a process; a test that sets variables wants its own read."""
    configuration.cache_clear()
    yield
    configuration.cache_clear()


@pytest.fixture(scope="session")
def small_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of models and one of catalogues, with a random Llama in each."""
    root = tmp_path_factory.mktemp("small")
    models.save("llama", root / "models" / "llama")
    build(models.checkpoint("llama"), root / "catalogue", depth=10)
    return root / "models", root / "catalogue"


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with the nastiest tokens and no model."""
    root = tmp_path_factory.mktemp("toy")
    make_catalogue(root)
    return root


@pytest.fixture
def small_page(small_folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPage]:
    """``small_page("prompt", p="The river")`` runs a page with these parameters; nothing is saved yet."""
    monkeypatch.setenv("ATLAS_WORKSPACE", f"sqlite:///{tmp_path / 'atlas.sqlite'}")
    monkeypatch.setenv("ATLAS_MODELS", str(small_folders[0]))
    monkeypatch.setenv("ATLAS_CATALOGUE", str(small_folders[1]))
    yield run_page
    st.cache_resource.clear()


@pytest.fixture
def toy_page(toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPage]:
    """The same on the toy catalogue, whose model is not to be had."""
    monkeypatch.setenv("ATLAS_WORKSPACE", f"sqlite:///{tmp_path / 'atlas.sqlite'}")
    monkeypatch.setenv("ATLAS_MODELS", str(toy_root / "none"))
    monkeypatch.setenv("ATLAS_CATALOGUE", str(toy_root))
    yield run_page
    st.cache_resource.clear()
