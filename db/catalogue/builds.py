"""The builds in a model's folder: ``build-<id>.duckdb`` files, never changed, and CURRENT, which names one of them.

Beside them lie the texts of the same model, ``texts-<id>.duckdb``, and TEXTS, which names one of those.
"""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from db.errors import AtlasError, NotFoundError
from db.files import State, atomic_write, locked, state_of, sync
from db.lazy import lazy_import
from db.neuron import Neuron
from db.records import Build, Generic
from db.settings import paths

if TYPE_CHECKING:
    from db.catalogue import reader
    from db.texts import store as texts_store
else:  # choosing a build needs no database
    reader, texts_store = lazy_import("db.catalogue.reader"), lazy_import("db.texts.store")

CURRENT, TEXTS = "CURRENT", "TEXTS"
GATHER = "Gather them with `python -m indexer texts MODEL --corpus TEXTS`."
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BUILD_FILE, _TEXTS_FILE = (re.compile(rf"{kind}-{_ID.pattern}\.duckdb") for kind in ("build", "texts"))


def build_path(directory: Path, build_id: str, kind: str = "build") -> Path:
    """The immutable file of a build, or of another `kind`, “texts”.

    Raises:
        AtlasError: an id that cannot be part of a file's name.
    """
    if _ID.fullmatch(build_id) is None:
        raise AtlasError(f"“{build_id[:60]}” cannot be a {kind}'s id: use letters, digits, dots, dashes, underscores.")
    return directory / f"{kind}-{build_id}.duckdb"


def current_build(directory: Path) -> Path:
    """The file that CURRENT names.

    Raises:
        AtlasError: there is no CURRENT, or it names a file that is missing or no build of this folder.
    """
    name = _current_name(directory)
    again = "publish a build again with `python -m indexer build MODEL`"
    if name is None:
        raise AtlasError(f"{directory} holds no published catalogue (no file CURRENT): {again}.")
    # Only a plain build name is followed: anything else could lead out of the folder.
    if _BUILD_FILE.fullmatch(name) is None:
        raise AtlasError(f"{directory / CURRENT} names “{name[:80]}”, which is no build of this folder: {again}.")
    path = directory / name
    if not path.is_file():
        raise AtlasError(f"{directory / CURRENT} names {name}, which is missing: {again}.")
    return path


def current_texts(build: Path) -> Path | None:
    """The file of the texts that TEXTS names beside a build's file; None where there is none.

    Raises:
        AtlasError: it names a file that is missing or no file of texts.
    """
    name = _current_name(build.parent, TEXTS)
    if name is None:
        return None
    path = build.parent / name
    if _TEXTS_FILE.fullmatch(name) is None or not path.is_file():
        raise AtlasError(f"{build.parent / TEXTS} names “{name[:80]}”, which is no file of texts here. {GATHER}")
    return path


def builds(directory: Path) -> list[Build]:
    """All builds of a model's folder, newest first, unreadable ones last."""
    current, model = _current_name(directory), directory.resolve().name
    found = []
    for path in build_files(directory):
        stamp, problem = None, None
        try:
            with reader.Tokens.open(path) as catalogue:
                stamp = catalogue.info
        except AtlasError as error:
            problem = str(error)
        found.append(Build(model, path.name == current, stamp, path.stat().st_size, path, problem))

    def age(build: Build) -> tuple[str, str]:
        return (build.stamp.created_at if build.stamp else "", build.path.name)

    return sorted(found, key=age, reverse=True)


def all_builds(root: Path, model: str | None) -> list[Build]:
    """All builds of all models, or of the one named.

    Raises:
        NotFoundError: there is none.
    """
    folders = [folder for folder in model_folders(root) if model in (None, folder.resolve().name)]
    found = [build for folder in folders for build in builds(folder)]
    if not found:
        raise NotFoundError(f"No catalogue in {root}: run `make index`, or `python -m indexer build MODEL`.")
    return found


def build_files(directory: Path) -> list[Path]:
    """The files that are builds by their name, sorted by it."""
    return sorted(path for path in directory.glob("build-*.duckdb") if _BUILD_FILE.fullmatch(path.name))


def texts_files(directory: Path) -> list[Path]:
    """The files that are texts by their name, sorted by it."""
    return sorted(path for path in directory.glob("texts-*.duckdb") if _TEXTS_FILE.fullmatch(path.name))


def _made(texts: Path) -> tuple[str, str]:
    """When texts were gathered, as they say themselves, and their file's name; unreadable ones come first."""
    try:
        with texts_store.Texts.open(texts) as found:
            return found.stamp.created_at, texts.name
    except AtlasError:
        return "", texts.name


def prune(directory: Path, keep: int = 1) -> list[Path]:
    """Delete all but the ``keep`` newest builds and files of texts; returns what went.

    The current ones count first and are never deleted.

    A process that has a deleted build open goes on reading it.

    Raises:
        AtlasError: ``keep`` is less than 1, or there is no valid CURRENT to protect.
    """
    if keep < 1:
        raise AtlasError(f"At least the current build is kept: keep must be 1 or more, not {keep}.")
    with exclusive(directory):
        current_build(directory)
        others = [build.path for build in builds(directory) if not build.current]
        texts = [path for path in texts_files(directory) if path.name != _current_name(directory, TEXTS)]
        doomed = others[keep - 1 :] + sorted(texts, key=_made, reverse=True)[keep - 1 :]
        for path in doomed:
            path.unlink()
        sync(directory)
    return doomed


def set_current(directory: Path, path: Path, pointer: str = CURRENT) -> None:
    """Make CURRENT, or TEXTS, name ``path``, in one step that no reader can see half done, and that survives a power
    cut.
    """
    with atomic_write(directory / pointer) as temporary:
        temporary.write_text(path.name + "\n", encoding="utf-8")


def exclusive(directory: Path) -> AbstractContextManager[None]:
    """Hold the folder for one writer; readers need no lock.

    Raises:
        AtlasError: on entering, another process holds it.
    """
    place = directory.resolve()  # the lock is outside the folder, which holds nothing but builds
    held = f"Another process is publishing to {directory}: wait until it has finished."
    return locked(place.with_name(f".{place.name}.lock"), held)


def _current_name(directory: Path, pointer: str = CURRENT) -> str | None:
    try:
        with (directory / pointer).open(encoding="utf-8", errors="replace") as file:
            return file.read(300).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AtlasError(f"{directory / pointer} cannot be read ({error.strerror}).") from error


# Which catalogues exist: ``catalogue/<model>/CURRENT``, and how one of them is chosen.

SOURCE = "SOURCE"


def find_catalogue(root: Path, model: str | None = None) -> Path:
    """The file of the current build of the one model there is, of the model named, or else of ``ATLAS_MODEL``.

    ``root`` holds one folder per model; it may also be a model's folder itself, or a ``.duckdb`` file.

    Raises:
        AtlasError: no catalogue, several and no model named, an unknown model, or a CURRENT that leads nowhere.
    """
    if root.is_file():
        return root
    if root.suffix == ".duckdb":
        raise AtlasError(f"There is no file {root}: give an existing build, or the folder of the catalogues.")
    if _is_model_folder(root):
        if model is not None and model != root.resolve().name:
            raise AtlasError(f"{root} is the catalogue of one model, not of {model!r}: leave out --model.")
        return current_build(root)
    found = models(root)
    if not found:
        raise AtlasError(f"No catalogue in {root}: run `make index`, or `python -m indexer build MODEL`.")
    names = ", ".join(found)
    if model is not None:
        if model not in found:
            raise AtlasError(f"No catalogue of {model!r} in {root}; there are: {names}.")
        return current_build(root / model)
    chosen = found[0] if len(found) == 1 else paths().model
    if chosen not in found:
        raise AtlasError(f"{root} holds several catalogues: {names}. Choose one with `--model NAME` or ATLAS_MODEL.")
    return current_build(root / chosen)


def find_build(current: Path, beginning: str) -> Path | None:
    """The file of the one build in the current one's folder whose id begins so; None where none or several do.

    The text is compared with the names of the files that are there and never made into a path, so that nothing outside
    the folder can be named.
    """
    if not beginning or not _is_model_folder(current.parent):
        return None
    ids = {path.stem.removeprefix("build-"): path for path in build_files(current.parent)}
    if beginning in ids:
        return ids[beginning]
    found = [path for build_id, path in ids.items() if build_id.startswith(beginning)]
    return found[0] if len(found) == 1 else None


def folders_called(root: Path, model: str) -> list[Path]:
    """The folders of the models of a name: those after the first have a part of their checkpoint's identity added."""
    if not root.is_dir():
        return []
    added = re.compile(re.escape(model) + r"-[0-9a-f]{8,64}")
    found = sorted(path for path in root.iterdir() if path.is_dir() and added.fullmatch(path.name))
    return [root / model, *found] if (root / model).is_dir() else found


def build_of(root: Path, model: str, is_own: Callable[[str], bool]) -> Path | None:
    """The file of a checkpoint's build, a current one where there is one; None where it has none.

    Args:
        root: as for `find_catalogue`.
        model: the checkpoint's name.
        is_own: whether an identity is the checkpoint's.
    """
    if root.is_file():
        return root if is_own(reader.checkpoint_of(root) or "") else None
    folders = [root] if _is_model_folder(root) else folders_called(root, model)
    files = [path for folder in folders for path in build_files(folder)]
    files.sort(key=lambda path: path.name != _current_name(path.parent))
    return next((path for path in files if is_own(reader.checkpoint_of(path) or "")), None)


def models(root: Path) -> list[str]:
    """The names of the models with a published catalogue, sorted; hidden folders are no models."""
    folders = [one for one in root.iterdir() if one.name[0] != "." and one.is_dir()] if root.is_dir() else []
    return sorted(folder.name for folder in folders if _is_model_folder(folder))


def model_folders(root: Path) -> list[Path]:
    """The folder of every model; ``root`` itself where it is one."""
    return [root] if _is_model_folder(root) else [root / name for name in models(root)]


def remember_source(directory: Path, source: str) -> None:
    """Note where the model of a catalogue came from on this machine, for who wants to load it. Whoever does compares
    the checkpoint's identity with the build's: it may have been trained on in its place.
    """
    if source != source_of(directory / CURRENT):
        (directory / SOURCE).write_text(source + "\n", encoding="utf-8")


def source_of(build: Path) -> str | None:
    """Where the model of a build came from: a folder, a hub id or “demo”; None where that is not noted."""
    note = build.parent / SOURCE
    return note.read_text(encoding="utf-8").strip() or None if note.is_file() else None


WORK = "work-"
"""How the folder begins in which a build's finished layers lie until it is published."""


def unfinished(root: Path) -> list[tuple[str, str]]:
    """The models of which a first build was begun and nothing is published: name and source of each, sorted."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    begun = (one for one in folders if not _is_model_folder(one) and any(one.glob(f"{WORK}*")))
    return [(one.name, source) for one in begun if (source := source_of(one / CURRENT))]


# What is known of a checkpoint's neurons beyond its weights lies beside its builds, and belongs to all of them.

GENERIC = "generic.json"


def remember_generic(directory: Path, found: Generic) -> None:
    """Keep which neurons of the folder's model are generic.

    Raises:
        AtlasError: it cannot be written.
    """
    with atomic_write(directory / GENERIC) as temporary:
        temporary.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")


def generic_of(build: Path, checkpoint: str) -> Generic:
    """Which neurons of a build's model are generic; none where that was not found out, or of another checkpoint."""
    path = build.parent / GENERIC
    found = _generic(path, state_of(path))
    return found if found.checkpoint == checkpoint else Generic()


@lru_cache(maxsize=16)
def _generic(path: Path, state: State | None) -> Generic:
    """As it stood when the file was in this state; what cannot be read says nothing."""
    if state is not None:
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, AtlasError):
            data = json.loads(path.read_text(encoding="utf-8"))
            neurons = {Neuron.parse(label).label: int(count) for label, count in data["neurons"].items()}
            return Generic(str(data["checkpoint"]), str(data["question"]), int(data["prompts"]), neurons)
    return Generic()


def _is_model_folder(folder: Path) -> bool:
    return (folder / CURRENT).is_file()
