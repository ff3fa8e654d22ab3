"""Which catalogues exist: ``catalogue/<model>/CURRENT``, and how one of them is chosen."""

from pathlib import Path

from db.builds import CURRENT, build_files, current_build
from db.errors import AtlasError

DEFAULT_ROOT = Path("catalogue")
SOURCE = "SOURCE"


def find_catalogue(root: Path = DEFAULT_ROOT, model: str | None = None) -> Path:
    """The file of the current build of the one model there is, or of the model named.

    ``root`` holds a folder a model; it may also be a model's folder itself, or a ``.duckdb`` file.

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
    if len(found) > 1:
        raise AtlasError(f"{root} holds several catalogues: {names}. Choose one with `--model NAME`.")
    return current_build(root / found[0])


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


def models(root: Path = DEFAULT_ROOT) -> list[str]:
    """The names of the models with a published catalogue, sorted."""
    if not root.is_dir():
        return []
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir() and _is_model_folder(folder))


def model_folders(root: Path = DEFAULT_ROOT) -> list[Path]:
    """The folder of every model; ``root`` itself where it is one."""
    return [root] if _is_model_folder(root) else [root / name for name in models(root)]


def remember_source(directory: Path, source: str) -> None:
    """Note where the model of a catalogue came from on this machine, for who wants to load it."""
    (directory / SOURCE).write_text(source + "\n", encoding="utf-8")


def source_of(build: Path) -> str | None:
    """Where the model of a build came from: a folder, a hub id or “demo”; None where that is not noted."""
    note = build.parent / SOURCE
    return note.read_text(encoding="utf-8").strip() or None if note.is_file() else None


def _is_model_folder(folder: Path) -> bool:
    return (folder / CURRENT).is_file()
