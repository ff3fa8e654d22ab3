"""Which models and builds there are, without where they lie on this machine."""

from pathlib import Path
from typing import Any

from app.api.problems import UnavailableError, public
from app.serving.resources import catalogue, catalogue_root, remembered
from db import asking
from db.builds import CURRENT, BuildFile, build_files
from db.errors import AtlasError, NotFoundError
from db.library import model_folders
from db.terminal import builds_json

_STAMPED = (
    "build_id",
    "created_at",
    "family",
    "layers",
    "heads",
    "d_model",
    "vocabulary",
    "ffn_neurons",
    "attention_neurons",
    "depth",
)


def builds(model: str | None) -> list[dict[str, Any]]:
    """As ``python -m db builds --json``, with paths that begin at the folder of the catalogues.

    Raises:
        NotFoundError: no such model.
        UnavailableError: there is no build at all.
    """
    entries = builds_json(_found(model))
    for entry in entries:
        entry["path"] = f"{entry['model']}/{Path(entry['path']).name}"
        entry["problem"] = entry["problem"] and public(entry["problem"])
    return entries


def models(model: str | None) -> list[dict[str, Any]]:
    """Each model with what its current build says of it; raises as `builds` does."""
    current: dict[str, BuildFile | None] = {}
    for name, build in _found(model):
        current.setdefault(name, None)
        if build.current:
            current[name] = build
    return [_model(name, build) for name, build in current.items()]


def _model(name: str, build: BuildFile | None) -> dict[str, Any]:
    problem = "No build of it is current." if build is None else build.problem and public(build.problem)
    stamp = None if build is None else build.stamp
    told = {field: None if stamp is None else getattr(stamp, field) for field in _STAMPED}
    return {"model": name, **told, "problem": problem, "first": _is_first(name)}


def _is_first(name: str) -> bool:
    try:
        return catalogue().path.parent.name == name
    except AtlasError:
        return False


def _found(model: str | None) -> list[tuple[str, BuildFile]]:
    """The builds, opened again only when a file has changed."""
    root = catalogue_root()
    seen = tuple(
        (str(path), state.st_mtime_ns, state.st_size)
        for folder in model_folders(root)
        for path in (folder / CURRENT, *build_files(folder))
        for state in (path.stat(),)
    )

    def look() -> list[tuple[str, BuildFile]]:
        return asking.builds(root, None)

    try:
        everything = remembered(("api", "builds", seen), look)
    except NotFoundError as error:
        raise UnavailableError(str(error)) from error
    found = [(name, build) for name, build in everything if model in (None, name)]
    if not found:
        names = ", ".join(dict.fromkeys(name for name, _ in everything))
        raise NotFoundError(f"There is no model of that name; there are: {names}.")
    return found
