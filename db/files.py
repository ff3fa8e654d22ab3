"""Files that are written whole or not at all, folders that one process holds at a time, and hashes of large files."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from db import settings
from db.errors import AtlasError


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_ending(path: Path, endings: Sequence[str]) -> None:
    """Refuse a file in whose form nothing can be written.

    Raises:
        AtlasError: the ending, in lower case, is none of these.
    """
    if path.suffix.lower() not in endings:
        raise AtlasError(f"{path}: the ending chooses the form, and must be one of {', '.join(endings)}.")


@contextmanager
def atomic_write(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Write a file under a temporary name; it appears under its own when the block ends without an error.

    Args:
        path: the file.
        replace: whether a file that is already there may be replaced.

    Yields:
        The temporary file beside it, empty, with the same ending as `path`.

    Raises:
        AtlasError: it cannot be written, or it is already there and may not be replaced.
    """
    if not replace and path.exists():
        raise AtlasError(f"{path} already exists. Give another name, or delete it.")
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem[:100]}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())  # as any new file; a temporary file is private
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise AtlasError(f"{path} cannot be written ({error.strerror or error}).") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, held: str, *, seconds: float = 0) -> Iterator[None]:
    """Hold a lock file. The system lets go of it when the process ends, however it ends.

    Args:
        path: the lock file; it stays behind.
        held: what to say where another process holds it.
        seconds: how long to wait for it.

    Raises:
        AtlasError: another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise AtlasError(held) from None
    try:
        yield
    finally:
        lock.release()


# The hash of a large file is remembered, since reading some gigabytes takes long: for as long as the system says the
# same of it, in this process and in the user's cache folder.

State = tuple[int, int, int, int, int]
_LARGE = 32 * 2**20  # bytes; smaller files are read sooner than looked up
_SETTLED = 2_000_000_000  # nanoseconds since a file's last change: a second one within the clock's grain must show
_MOST = 500
_hashes: dict[str, tuple[State, str]] = {}


def state_of(path: Path) -> State | None:
    """Changes when the file is written to, cut or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    # The time of the last change of its entry cannot be set: it betrays a copy that kept the time of its content.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    Raises:
        AtlasError: it cannot be read, or is being written to.
    """
    name, state = str(path.resolve()), state_of(path)
    is_large = state is not None and state[2] >= _LARGE
    for known in (_hashes.get(name), _stored_hashes().get(name) if is_large else None):
        if known is not None and known[0] == state:
            return known[1]
    settled = state is not None and time.time_ns() - max(state[3:]) > _SETTLED
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AtlasError(f"{path} cannot be read ({error.strerror or error}).") from error
    if state is None or state_of(path) != state:
        raise AtlasError(f"{path} is being written to. Wait until it is complete, then try again.")
    if settled:
        _hashes[name] = state, digest
        if is_large:
            _store_hash(name)
    return digest


def _hash_file() -> Path:
    return settings.cache_folder() / "hashes.json"


def _stored_hashes() -> dict[str, tuple[State, str]]:
    """What was remembered by other processes; nothing where that cannot be read."""
    with suppress(OSError, ValueError, TypeError, AttributeError, RuntimeError):  # the last where there is no home
        found: dict[str, Any] = json.loads(_hash_file().read_text(encoding="utf-8"))
        return {name: (tuple(state), str(digest)) for name, (state, digest) in found.items()}
    return {}


def _store_hash(name: str) -> None:
    """Remember it for other processes, the last few hundred; where that cannot be, each reads for itself."""
    with suppress(OSError, RuntimeError, AtlasError):
        kept = {known: found for known, found in _stored_hashes().items() if known != name} | {name: _hashes[name]}
        path = _hash_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(dict(list(kept.items())[-_MOST:])), encoding="utf-8")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
