"""Files that are written whole or not at all, and folders that one process holds at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from db.errors import AtlasError


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
