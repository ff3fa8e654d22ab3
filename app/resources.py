"""What all sessions share: the catalogue, the model and what was computed with them. All caches and locks are here.

Nothing of torch is imported before a page needs the model: that takes seconds.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.selection import PromptSelection
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.library import DEFAULT_ROOT, find_catalogue, models
from db.stamp import BuildStamp

if TYPE_CHECKING:
    from app.attribution.results import Analysis
    from indexer.language_model import LanguageModel

_ANALYSES = 64
_BUSY_SECONDS = 120

_analysing = threading.Lock()
"""One analysis at a time: each wants all cores and some hundred megabytes."""

_loaded: set[str] = set()
"""The models in memory."""


def catalogue_root() -> Path:
    """The folder of the catalogues: ``ATLAS_CATALOGUE``, or ``catalogue/``."""
    return Path(os.environ.get("ATLAS_CATALOGUE", DEFAULT_ROOT))


def catalogue_names() -> list[str]:
    """The models that have a catalogue."""
    return models(catalogue_root())


def catalogue(model: str | None = None) -> Catalogue:
    """The current build of the model named, else of ``ATLAS_MODEL``, else of the first there is.

    Raises:
        AtlasError: there is no catalogue, or it cannot be read.
    """
    names = catalogue_names()
    default = os.environ.get("ATLAS_MODEL")
    chosen = model or (default if default in names else names[0] if names else None)
    path = find_catalogue(catalogue_root(), chosen)
    return _open(str(path.resolve()))


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(path: str) -> Catalogue:
    """Builds are immutable, so the path is key enough. A build that drops out is closed with its last user."""
    return Catalogue.open(Path(path))


def is_loaded(stamp: BuildStamp) -> bool:
    """Whether the model is in memory already, so that an analysis takes no longer than the analysis."""
    return _source(stamp) in _loaded


def _source(stamp: BuildStamp) -> str:
    """Where a catalogue's model is: in ``ATLAS_MODELS``, or ``models/``, else wherever its name leads."""
    folder = Path(os.environ.get("ATLAS_MODELS", "models")) / stamp.model
    return str(folder) if folder.is_dir() else stamp.model


@st.cache_resource(max_entries=1, show_spinner=False)
def _load(source: str) -> "LanguageModel":
    from app.attribution import load

    model = load(source)
    _loaded.clear()
    _loaded.add(source)
    return model


def model_of(atlas: Catalogue) -> "LanguageModel":
    """The model that a catalogue was built from, loaded when first needed.

    Raises:
        AtlasError: the model is not here, or is another than the catalogue's.
    """
    from app.attribution.joining import require_same_model

    model = _load(_source(atlas.info))
    require_same_model(model, atlas)
    return model


def analysis(atlas: Catalogue, chosen: PromptSelection) -> "Analysis":
    """The analysis of a prompt, from the cache where it was made before.

    Raises:
        AtlasError: the prompt, the position or the target is unusable, or the model is not to be had.
    """
    return _analysis(atlas.info.build_id, chosen, atlas)


@st.cache_resource(max_entries=_ANALYSES, show_spinner=False)
def _analysis(build_id: str, chosen: PromptSelection, _atlas: Catalogue) -> "Analysis":
    from app.attribution import Conventions, Settings, analyse

    settings = Settings(
        top=chosen.top,
        query_top=0,  # not shown yet
        target=chosen.target,
        position=chosen.position,
        conventions=Conventions(chosen.rule.value),
    )
    model = model_of(_atlas)
    with _turn():
        return analyse(model, chosen.prompt, settings)


def target_id(atlas: Catalogue, text: str) -> int:
    """The token that a typed target stands for.

    Raises:
        AtlasError: it is not one token.
    """
    from app.attribution.prompt import target_of

    return target_of(model_of(atlas), text)


@contextmanager
def _turn() -> Iterator[None]:
    if not _analysing.acquire(timeout=_BUSY_SECONDS):
        raise AtlasError("Other prompts are being analysed and this one waited too long. Try again in a minute.")
    try:
        yield
    finally:
        _analysing.release()
