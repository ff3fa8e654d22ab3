"""The builds in a model's folder: ``build-<id>.duckdb`` files, never changed, and CURRENT, which names one of them."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from db.errors import AtlasError
from db.stamp import BuildStamp

CURRENT = "CURRENT"
_BUILD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BUILD_FILE = re.compile(rf"build-{_BUILD_ID.pattern}\.duckdb")


@dataclass(frozen=True, slots=True)
class BuildFile:
    """One build in a model's folder."""

    path: Path
    current: bool
    size: int
    """Bytes."""
    stamp: BuildStamp | None
    """None where the file cannot be read."""
    problem: str | None = None
    """Why it cannot."""


def build_path(directory: Path, build_id: str) -> Path:
    """The immutable file of a build.

    Raises:
        AtlasError: an id that cannot be part of a file's name.
    """
    if _BUILD_ID.fullmatch(build_id) is None:
        raise AtlasError(f"“{build_id[:60]}” cannot be a build's id: use letters, digits, dots, dashes, underscores.")
    return directory / f"build-{build_id}.duckdb"


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


def builds(directory: Path) -> list[BuildFile]:
    """All builds of a model's folder, newest first, unreadable ones last."""
    from db.catalogue import Catalogue

    current = _current_name(directory)
    found = []
    for path in build_files(directory):
        stamp, problem = None, None
        try:
            with Catalogue.open(path) as catalogue:
                stamp = catalogue.info
        except AtlasError as error:
            problem = str(error)
        found.append(BuildFile(path, path.name == current, path.stat().st_size, stamp, problem))

    def age(build: BuildFile) -> tuple[str, str]:
        return (build.stamp.created_at if build.stamp else "", build.path.name)

    return sorted(found, key=age, reverse=True)


def build_files(directory: Path) -> list[Path]:
    """The files that are builds by their name, sorted by it."""
    return sorted(path for path in directory.glob("build-*.duckdb") if _BUILD_FILE.fullmatch(path.name))


def prune(directory: Path, keep: int = 1) -> list[Path]:
    """Delete all but the ``keep`` newest builds, the current one counted first and never deleted; returns what went.

    A process that has a deleted build open goes on reading it.

    Raises:
        AtlasError: ``keep`` is less than 1, or there is no valid CURRENT to protect.
    """
    if keep < 1:
        raise AtlasError(f"At least the current build is kept: keep must be 1 or more, not {keep}.")
    with exclusive(directory):
        current_build(directory)
        others = [build.path for build in builds(directory) if not build.current]
        doomed = others[keep - 1 :]
        for path in doomed:
            path.unlink()
        sync(directory)
    return doomed


def set_current(directory: Path, path: Path) -> None:
    """Make CURRENT name ``path``, in one step that no reader can see half done, and that survives a power cut."""
    temporary = directory / f".{CURRENT}.tmp"
    temporary.write_text(path.name + "\n", encoding="utf-8")
    sync(temporary)
    temporary.replace(directory / CURRENT)
    sync(directory)


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the folder for one writer; readers need no lock.

    Raises:
        AtlasError: another process holds it.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AtlasError(f"Another process is publishing to {directory}: wait until it has finished.") from None
        yield
    finally:
        os.close(descriptor)


def _current_name(directory: Path) -> str | None:
    try:
        with (directory / CURRENT).open(encoding="utf-8", errors="replace") as file:
            return file.read(300).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AtlasError(f"{directory / CURRENT} cannot be read ({error.strerror}).") from error
