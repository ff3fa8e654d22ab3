"""One database, SQLite or PostgreSQL: connections, transactions, and what to say when it cannot be used.

SQLite: a connection a transaction, so that a file that vanished and came back is simply opened again; write-ahead log,
foreign keys on, writers wait for each other. Writes are on the disk when a transaction ends.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from db.errors import AtlasError

WAIT_SECONDS = 15
"""So long a writer waits for another; then it says so."""
_READ_SECONDS = 2
"""So long a reader waits. Writers never hold one up; what locked the whole file may keep it for hours."""


class Database:
    """Where a workspace lies.

    Args:
        url: an SQLAlchemy URL, such as ``sqlite:///workspace/atlas.sqlite`` or ``postgresql://user@host/name``.

    Raises:
        AtlasError: it is no such URL.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            backend = parsed.get_backend_name()
        except (ArgumentError, ValueError) as error:
            raise AtlasError("The workspace's URL cannot be read. Write sqlite:///FILE or postgresql://…") from error
        self.file: Path | None = None
        if backend == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise AtlasError("The workspace must be a file: write sqlite:///FILE.")
            self.file = Path(parsed.database)
            self.shown = str(self.file)
            self.engine = _sqlite(self.file)
        elif backend == "postgresql":
            self.shown = parsed.render_as_string(hide_password=True)
            self.engine = _postgresql(parsed.set(drivername="postgresql+psycopg"))
        else:
            raise AtlasError(f"The workspace cannot lie in {backend}: write sqlite:///FILE or postgresql://…")

    def identity(self) -> tuple[int, int] | None:
        """Which file it is; None for a server.

        Raises:
            AtlasError: it is not there.
        """
        if self.file is None:
            return None
        try:
            found = self.file.stat()
        except OSError as error:
            raise AtlasError(
                f"The workspace {self.shown} is not there ({error.strerror}). Put it back, or start again with an "
                "empty one."
            ) from error
        return found.st_dev, found.st_ino

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """A transaction, undone by any error.

        Raises:
            AtlasError: the database cannot be used; the message says why.
        """
        try:
            with self.engine.connect() as connection:
                connection = connection.execution_options(atlas_write=write)
                with connection.begin():
                    yield connection
        except (DBAPIError, NoConnection, sqlite3.Error) as error:
            raise AtlasError(self._unusable(error)) from error
        except SQLAlchemyError as error:
            raise AtlasError(f"The workspace {self.shown} answered with nonsense ({type(error).__name__}).") from error

    def _unusable(self, error: Exception) -> str:
        said = str(getattr(error, "orig", None) or error).strip()
        reason = (said.splitlines() or ["no reason given"])[0][:160]
        if "locked" in reason:
            return (
                f"The workspace {self.shown} is being written by another process for too long. Try again in a minute."
            )
        if "readonly" in reason or "read-only" in reason:
            return f"The workspace {self.shown} may not be written to here ({reason})."
        return f"The workspace {self.shown} cannot be used just now ({reason}). It works again once that is mended."

    def close(self) -> None:
        """Let go of connections."""
        self.engine.dispose()


def _sqlite(file: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        # mode=rw: a file that has vanished must not come back empty. `schema.prepare` makes a new one.
        uri = f"file:{quote(str(file.absolute()))}?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, timeout=_READ_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL", "trusted_schema=OFF"):
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error) and "read-only" not in str(error):  # such a file can still be read
                connection.close()
                raise
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes its turn at once: having read first, it would be refused and not wait.
        writes = connection.get_execution_options().get("atlas_write")
        if writes:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={round(WAIT_SECONDS * 1000)}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    return create_engine(
        url,
        pool_size=4,
        pool_pre_ping=True,  # after a restart of the server the next question works
        pool_timeout=WAIT_SECONDS,
        connect_args={"connect_timeout": 5, "options": f"-c statement_timeout={WAIT_SECONDS}s"},
    )
