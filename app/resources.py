"""What all sessions share: the catalogues, the model, and the workshop in which it works (:mod:`app.explaining`).

Nothing of torch is imported before a page needs the model: that takes seconds.
"""

import os
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from app.work import Report, Shelf, Workshop
from db.catalogue import Catalogue
from db.library import DEFAULT_ROOT, find_catalogue, models, source_of

T = TypeVar("T")

if TYPE_CHECKING:
    from app.attribution.run import PromptRun, Ranges
    from indexer.language_model import LanguageModel

_ROOM = {"analysis": 64, "detail": 128, "row": 120, "aggregate": 8, "direction": 32}
_RUNS = 8
"""A run holds the prompt's whole residual stream and the base distributions: some 50 MB on a small model."""

_ANSWERS = 24
"""Whole results, and what the overview shows; one of a hundred thousand rows takes some 30 MB."""

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


def remembered(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returns; the last few are kept by key. For what the catalogue answers in a moment: two sessions may
    make it at once.
    """
    shelf, lock = _answers()
    with lock:
        found = shelf.get(key)
    if found is None:
        found = make()
        with lock:
            shelf.put(key, found)
    answer: T = found
    return answer


@st.cache_resource(show_spinner=False)
def _answers() -> "tuple[Shelf[Any], Lock]":
    return Shelf(_ANSWERS), Lock()


def is_loaded(atlas: Catalogue) -> bool:
    """Whether the model is in memory already."""
    return _source(atlas) in _loaded


def _source(atlas: Catalogue) -> str:
    """Where a catalogue's model is: in ``ATLAS_MODELS`` or ``models/``, else where it was built from."""
    folder = Path(os.environ.get("ATLAS_MODELS", "models")) / atlas.info.model
    return str(folder) if folder.is_dir() else source_of(atlas.path) or atlas.info.model


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

    model = _load(_source(atlas))
    require_same_model(model, atlas)
    return model


def ready(atlas: Catalogue, report: Report) -> "LanguageModel":
    """The same, saying so where it has to be loaded first."""
    if _source(atlas) not in _loaded:
        report(f"Loading {atlas.info.model}, once …")
    return model_of(atlas)


@st.cache_resource(max_entries=2, show_spinner=False)
def ranges_of(build_id: str, _atlas: Catalogue) -> "Ranges":
    """What a build knows of its neurons' extreme logits."""
    from app.attribution.joining import stored_ranges

    return stored_ranges(_atlas)


@st.cache_resource(show_spinner=False)
def workshop() -> Workshop:
    """Where the model works, one prompt at a time."""
    return Workshop(_ROOM)


@st.cache_resource(show_spinner=False)
def runs() -> "Shelf[PromptRun]":
    """The last prompts that were run, for the questions that are asked one at a time. Only the workshop's thread may
    touch it.
    """
    return Shelf(_RUNS)
