"""Making room: old builds, and the shards of builds that were never finished."""

import shutil
from pathlib import Path

from db.builds import prune
from db.errors import AtlasError
from db.library import model_folders
from indexer.shards import only_indexer, work_folders


def prunable_folders(catalogue: Path, model: str | None) -> list[Path]:
    """The folder of each model with builds or unfinished work; of one model, if it is named.

    Raises:
        AtlasError: nothing of that name, or nothing at all.
    """
    folders = [path for path in sorted(catalogue.iterdir()) if path.is_dir()] if catalogue.is_dir() else []
    known = set(model_folders(catalogue))
    found = [path for path in folders if path in known or work_folders(path)]
    if model is not None:
        found = [path for path in found if path.name == model]
    if not found:
        raise AtlasError(f"{catalogue} holds no catalogue{'' if model is None else f' of {model!r}'}.")
    return found


def prune_model(directory: Path, keep: int = 1) -> list[tuple[Path, int]]:
    """Delete all unfinished work, and all but the `keep` newest builds; returns what went, and its size in bytes.

    The current build is never deleted.

    Raises:
        AtlasError: `keep` is less than 1, or an indexer is at work here.
    """
    if keep < 1:
        raise AtlasError(f"At least the current build is kept: --keep must be 1 or more, not {keep}.")
    gone = []
    with only_indexer(directory):
        for work in work_folders(directory):
            gone.append((work, sum(path.stat().st_size for path in work.rglob("*") if path.is_file())))
            shutil.rmtree(work)
        sizes = {path: path.stat().st_size for path in directory.glob("build-*.duckdb")}
        if sizes:
            gone += [(path, sizes[path]) for path in prune(directory, keep)]
    return gone
