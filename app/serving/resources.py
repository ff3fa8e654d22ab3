"""What all sessions share: the catalogues, the models, and the workshop in which they work.

Torch is not imported before a page needs the model: that takes seconds.
"""

import re
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import streamlit as st
from cachetools import Cache, LRUCache

from app.serving import access, logs
from app.serving.access import require_model
from app.serving.settings import configuration
from app.serving.worker import Asker, Finished, Piece, Report, Workshop
from app.state.address import Limits
from db.catalogue.builds import (
    CURRENT,
    all_builds,
    build_files,
    find_build,
    find_catalogue,
    folders_called,
    model_folders,
    models,
    source_of,
)
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.files import State, state_of
from db.lazy import lazy_import
from db.records import Build, short_identity

if TYPE_CHECKING:
    from app.attribution import run as prompt_run
    from app.attribution.run import PromptRun, Ranges
    from indexer import checkpoint, device, language_model
    from indexer.checkpoint import Checkpoint
    from indexer.device import Placement
    from indexer.language_model import LanguageModel
else:
    prompt_run = lazy_import("app.attribution.run")
    checkpoint, device = lazy_import("indexer.checkpoint"), lazy_import("indexer.device")
    language_model = lazy_import("indexer.language_model")

_ADDED = re.compile(r"-[0-9a-f]{8,64}$")
"""What the name of a checkpoint's folder has more than the checkpoint's, where another has that; see `home_of`."""


K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Loaded(Generic[K, T]):
    """What is large and slow to load: loaded once, when first asked for, and only so many of it kept.

    Args:
        room: how many. What was used least recently makes room before the next is loaded, so that there are never more.
        load: loads one by its key.
        dropped: called after one had to go and before the next is loaded, so that whoever else keeps it lets it go too.
    """

    def __init__(self, room: int, load: Callable[[K], T], dropped: Callable[[], None] = lambda: None) -> None:
        self._load, self._dropped = load, dropped
        self._kept: LRUCache[K, T] = LRUCache(room)
        self._loading = Lock()

    def get(self, key: K, *, usable: Callable[[T], bool] = lambda _kept: True) -> T:
        """The thing; two who ask at once wait for one loading.

        usable: whether one that is kept may go on; else it is loaded anew.
        """
        with self._loading:
            if key in self._kept and not usable(self._kept[key]):
                del self._kept[key]
                self._dropped()
            if key not in self._kept:
                if len(self._kept) >= self._kept.maxsize:
                    self._kept.popitem()
                    self._dropped()
                self._kept[key] = self._load(key)
            return self._kept[key]

    def peek(self, key: K) -> T | None:
        """What is in memory; does not count as a use."""
        return Cache.__getitem__(self._kept, key) if key in self._kept else None


class OpenBuilds:
    """Opens each build's file once and keeps it open. A build never changes, so a file that did was harmed or put back:
    it is opened anew.

    Args:
        room: how many; one that drops out is closed with its last user.
    """

    def __init__(self, room: int) -> None:
        self._open: LRUCache[Path, tuple[State, Catalogue]] = LRUCache(room)
        self._lock = Lock()

    def get(self, path: Path) -> Catalogue:
        """The build in a file.

        Raises:
            AtlasError: it cannot be read.
        """
        with self._lock:
            state = state_of(path)
            known = self._open.get(path)
            if known is not None:
                if known[0] == state:
                    return known[1]
                del self._open[path]
                known[1].close()  # within a process DuckDB goes on reading the old file as long as one has it open
            opened = Catalogue.open(path)
            if state is not None:
                self._open[path] = (state, opened)
            return opened


_ROOM = {
    "analysis": 1.0,
    "effects": 1.0,
    "detail": 2.0,
    "row": 2.0,
    "figures": 2.0,
    "aggregate": 0.125,
    "direction": 0.5,
    "preview": 1.0,
}
"""How many results of each kind are kept, as a share of the setting; of rows and figures at least what one page needs.
"""

_BUILDS = 4

_RUNS = 8
"""A run holds the prompt's whole residual stream and the base distributions: some 50 MB on a small model."""

_ANSWERS = 24
"""Whole results, and what the overview shows; a result of a hundred thousand rows takes some 30 MB."""


def catalogue_root() -> Path:
    """The folder of the catalogues."""
    return configuration().catalogue


def catalogue_names() -> list[str]:
    """The models that have a catalogue."""
    return models(catalogue_root())


def every_build() -> list[Build]:
    """All builds of all models; their files are opened again only when one has changed.

    Raises:
        NotFoundError: there is none.
    """
    root = catalogue_root()
    seen = tuple(
        (str(path), state_of(path))
        for folder in model_folders(root)
        for path in (folder / CURRENT, *build_files(folder))
    )
    return remembered(("every build", seen), lambda: all_builds(root, None))


def weights_lie_here(build: Build) -> bool:
    """Whether the model of a build may be loaded: it is on this machine, or on the hub."""
    source = source_of(build.path)
    found = source is not None and (not Path(source).is_absolute() or Path(source).exists())
    return found or (configuration().models / build.model).is_dir()


def catalogue(model: str | None = None) -> Catalogue:
    """The current build of the model named, else of ``ATLAS_MODEL``, else of the model with the oldest build: one that
    is added must not take the place of what people see.

    Raises:
        AtlasError: there is no catalogue, or it cannot be read.
    """
    chosen = model or _default()
    path = find_catalogue(catalogue_root(), chosen)
    found = _builds().get(path.resolve())
    logs.note(build=found.info.build_id)
    return found


def _default() -> str | None:
    names, wanted = catalogue_names(), configuration().model
    if wanted in names or len(names) < 2:
        return next((one for one in (wanted, *names) if one in names), None)

    # By what each build says of itself: copied files have other times.
    made = [(build.stamp.created_at, build.path.parent.name) for build in every_build() if build.stamp is not None]
    return min(made, default=("", names[0]))[1]


def limits(atlas: Catalogue) -> Limits:
    """What the states of pages are checked against."""
    info = atlas.info
    return Limits(info.vocabulary, info.layers, info.heads, configuration().max_top, info.expert_count)


def catalogue_of_build(current: Catalogue, beginning: str) -> Catalogue | None:
    """The build of the same model whose id begins so: the current one, an older one, or one of a checkpoint of the same
    name, which has a folder of its own; None where it is gone.

    Raises:
        AtlasError: it is there, but cannot be read.
    """
    if current.info.build_id.startswith(beginning):
        return current
    name = _ADDED.sub("", current.info.model)
    folders = [current.path.parent, *(folders_called(catalogue_root(), name) if len(beginning) > 7 else [])]
    path = next(filter(None, (find_build(folder / CURRENT, beginning) for folder in folders)), None)
    return None if path is None else _builds().get(path.resolve())


@st.cache_resource(show_spinner=False)
def _builds() -> OpenBuilds:
    return OpenBuilds(_BUILDS)


def remembered(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returns; the last few are kept by key. For what the catalogue answers in a moment: two sessions may
    make it at once.
    """
    answers, lock = _answers()
    with lock:
        found: T | None = answers.get(key)
    if found is None:
        found = make()
        with lock:
            answers[key] = found
    return found


@st.cache_resource(show_spinner=False)
def _answers() -> tuple[LRUCache[Hashable, Any], Lock]:
    return LRUCache(_ANSWERS), Lock()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A catalogue's model: the identity of its checkpoint, and where that may lie."""

    checkpoint: str
    name: str = field(compare=False)
    sources: tuple[str, ...] = field(compare=False)

    @classmethod
    def of(cls, atlas: Catalogue) -> "Wanted":
        """Looked for in the folder of models, and where the catalogue was built from."""
        info, folder = atlas.info, configuration().models / atlas.info.model
        found = [str(folder)] if folder.is_dir() else []
        found += filter(None, [source_of(atlas.path)])
        return cls(info.checkpoint, info.model, tuple(dict.fromkeys(found)) or (info.model,))


def is_here(atlas: Catalogue) -> bool:
    """Whether the model's files are on this machine, without a look into them."""
    return any(Path(source).exists() for source in Wanted.of(atlas).sources)


def is_loaded(atlas: Catalogue) -> bool:
    """Whether the model is in memory already."""
    return _models().peek(Wanted.of(atlas)) is not None


def placement(atlas: Catalogue) -> "Placement | None":
    """Where the model is, and in which type of numbers; None where it is not in memory."""
    loaded = _models().peek(Wanted.of(atlas))
    return None if loaded is None else loaded.placement


@st.cache_resource(show_spinner=False)
def _models() -> "Loaded[Wanted, LanguageModel]":
    return Loaded(configuration().keep_models, _load, lambda: runs().clear())  # runs hold their model


def _load(wanted: Wanted) -> "LanguageModel":
    with _shop().untimed():
        return language_model.load_model(_located(wanted))


def _located(wanted: Wanted) -> "Checkpoint":
    """The checkpoint that a catalogue was made from.

    Raises:
        AtlasError: there is none, or only another one; the message names both.
    """
    found, problem = [], None
    for source in wanted.sources:
        try:
            found.append(checkpoint.locate(source))
        except AtlasError as error:
            problem = problem or error
    own = next((one for one in found if one.has(wanted.checkpoint)), None)
    if own is not None:
        return own
    if not found:
        raise AtlasError(
            f"The weights of {wanted.name} are not here, only its catalogue: its neurons can be searched, and no new "
            f"prompt explained. {problem}"
        )
    first = found[0]
    if not _is_whole(first):
        return first  # loading it says what is wrong
    raise AtlasError(
        f"The catalogue of {wanted.name} was made from {short_identity(wanted.checkpoint)}, and the weights in "
        f"{first.folder} are {short_identity(first.identity)}: the model was trained on since, or is another of the "
        f"same name. Index it with `python -m indexer build {first.folder}`, or put the old weights back."
    )


def _is_whole(one: "Checkpoint") -> bool:
    with suppress(AtlasError, OSError):
        one.weights()
        return True
    return False


def _may_go_on(model: "LanguageModel") -> bool:
    """Whether a loaded model's files are as they were, or were harmed: then it still is what it was."""
    loaded = model.checkpoint
    return loaded.is_unchanged or not _is_whole(replace(loaded))


def model_of(atlas: Catalogue) -> "LanguageModel":
    """The model that a catalogue was built from, loaded when first needed, and anew after its files were replaced.

    Raises:
        RefusedError: this server has no model.
        AtlasError: the model is not here, or is another than the catalogue's.
    """
    require_model()
    model = _models().get(Wanted.of(atlas), usable=_may_go_on)
    prompt_run.require_same_model(model, atlas)
    return model


def ready(atlas: Catalogue, report: Report) -> "LanguageModel":
    """The same, saying so where it has to be loaded first."""
    if not is_loaded(atlas):
        report(f"Loading {atlas.info.model}, once …")
    return model_of(atlas)


@st.cache_resource(max_entries=2, show_spinner=False)
def ranges_of(build_id: str, _atlas: Catalogue) -> "Ranges":
    """What a build knows of its neurons' extreme logits."""
    return prompt_run.StoredRanges(_atlas)


@dataclass(frozen=True, slots=True)
class Desk:
    """Where one session asks the workshop; a key begins with the build's id."""

    shop: Workshop
    asker: Asker

    def result(self, kind: str, key: Hashable, make: Callable[[Report], T], watch: Report | None = None) -> T:
        """What `make` returns; see `Workshop.result`.

        Raises:
            RefusedError: this server has no model, too much work is waiting, or this took too long.
            AtlasError: what `make` raised.
        """
        require_model()
        return self.shop.result(kind, key, make, watch, self.asker)

    def begun(self, kind: str, key: Hashable, make: Callable[[Report], Any]) -> Piece:
        """Work that nobody waits for; see `Workshop.begun`.

        Raises:
            RefusedError: this server has no model, or too much work is waiting.
        """
        require_model()
        return self.shop.begun(kind, key, make, self.asker)

    def known(self, kind: str, key: Hashable) -> Any:
        """A result that was made before; None where it was not. Raises what failed for good; see `begun`."""
        return self.shop.known(kind, key)


def workshop() -> Desk:
    """Where the models work, one piece at a time, for whoever's page is being drawn."""
    return Desk(_shop(), access.asker())


@st.cache_resource(show_spinner=False)
def _shop() -> Workshop:
    settings = configuration()
    room = {kind: ceil(share * settings.keep_results) for kind, share in _ROOM.items()}
    for kind in ("row", "figures"):
        room[kind] = max(room[kind], 2 * settings.max_prompts)
    return Workshop(
        room,
        waiting=settings.max_waiting,
        limit=settings.max_seconds,
        on_end=_log_end,
        watched=lambda look: device.Watched(look),
    )


def _log_end(ended: Finished) -> None:
    build = ended.key[0] if isinstance(ended.key, tuple) and ended.key else ""
    logs.event(
        "work",
        kind=ended.kind,
        outcome=ended.outcome,
        waited=round(ended.waited, 3),
        seconds=round(ended.seconds, 3),
        build=str(build),
    )


@st.cache_resource(show_spinner=False)
def runs() -> "LRUCache[Hashable, PromptRun]":
    """The last prompts that were run, for the questions that are asked one at a time. Only the workshop's thread may
    touch it.
    """
    return LRUCache(_RUNS)
