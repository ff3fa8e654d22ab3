"""The workspace's database, SQLite or PostgreSQL: tables, connections, migrations, and errors in plain words.

SQLite: one connection per transaction, so that a file that vanished and came back is simply opened again; write-ahead
log, foreign keys on, writers wait for each other. Writes are on the disk when a transaction ends. Tables are made and
migrated under a lock, whole or not at all.
"""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    NullPool,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from db.errors import AtlasError
from db.files import locked
from db.lazy import lazy_import

if TYPE_CHECKING:
    from alembic import command as alembic_command
    from alembic import config as alembic_config
else:  # slow to import, and needed only where tables are made or migrated
    alembic_command = lazy_import("alembic.command")
    alembic_config = lazy_import("alembic.config")

VERSIONS = ("0001", "0002", "0003", "0004")
"""Of the schema, oldest first; each is a migration in `migrations/versions`."""
NEWEST = VERSIONS[-1]
VERSION_TABLE = "atlas_version"
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_KEY = 0x61746C6173  # "atlas"
_LOCK_SECONDS = 60
WAIT_SECONDS = 15
"""How long a writer waits for another one; then it says so."""
_READ_SECONDS = 2
"""How long a reader waits. Writers never hold one up; what locked the whole file may keep it for hours."""

metadata = MetaData()
"""The tables as the newest migration leaves them; a test compares."""

analysis = Table(
    "atlas_analysis",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("build_id", String(100), nullable=False),
    Column("unembedding_hash", String(100), nullable=False),
    Column("address", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("question_hash", String(64), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("result", Text, nullable=False),
    Column("searched", Text, nullable=False),
    Column("checkpoint", String(100), nullable=False, server_default=""),
    Column("page", String(20), nullable=False, server_default="prompt"),
    Index("atlas_analysis_question", "model", "question_hash"),
    Index("atlas_analysis_created", "created_at", "id"),
)

mention = Table(
    "atlas_mention",
    metadata,
    Column("analysis_id", String(32), ForeignKey("atlas_analysis.id", ondelete="CASCADE"), nullable=False),
    Column("role", String(30), nullable=False),
    Column("place", Integer, nullable=False),
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("position", Integer),
    Column("score", Float(53), nullable=False),
    Column("activation", Float(53)),
    PrimaryKeyConstraint("analysis_id", "role", "place", name="atlas_mention_pkey"),
    Index("atlas_mention_neuron", "model", "neuron"),
)

note = Table(
    "atlas_note",
    metadata,
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("text", Text, nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("searched", Text, nullable=False),
    Column("checkpoint", String(100), nullable=False, server_default=""),
    PrimaryKeyConstraint("model", "neuron", "checkpoint", name="atlas_note_pkey"),
)

tag = Table(
    "atlas_tag",
    metadata,
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("tag", String(40), nullable=False),
    Column("checkpoint", String(100), nullable=False, server_default=""),
    PrimaryKeyConstraint("model", "neuron", "checkpoint", "tag", name="atlas_tag_pkey"),
    ForeignKeyConstraint(
        ["model", "neuron", "checkpoint"],
        ["atlas_note.model", "atlas_note.neuron", "atlas_note.checkpoint"],
        ondelete="CASCADE",
    ),
    Index("atlas_tag_tag", "tag"),
)

collection = Table(
    "atlas_collection",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("name", name="atlas_collection_name"),
)

collected_analysis = Table(
    "atlas_collected_analysis",
    metadata,
    Column("collection_id", String(32), ForeignKey("atlas_collection.id", ondelete="CASCADE"), nullable=False),
    Column("analysis_id", String(32), ForeignKey("atlas_analysis.id", ondelete="CASCADE"), nullable=False),
    Column("added_at", String(32), nullable=False),
    PrimaryKeyConstraint("collection_id", "analysis_id", name="atlas_collected_analysis_pkey"),
)

collected_neuron = Table(
    "atlas_collected_neuron",
    metadata,
    Column("collection_id", String(32), ForeignKey("atlas_collection.id", ondelete="CASCADE"), nullable=False),
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("added_at", String(32), nullable=False),
    PrimaryKeyConstraint("collection_id", "model", "neuron", name="atlas_collected_neuron_pkey"),
)


_WHERE = re.compile(r"connection .* failed: +(FATAL: +)?|failed to resolve host .*?: (\[Errno -?\d+\] )?")
"""What a PostgreSQL client says before the reason: host and port, which the URL names and visitors are not told."""


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
        reason = _WHERE.sub("", (said.splitlines() or ["no reason given"])[0])[:160]
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
        # mode=rw: a file that has vanished must not come back empty. `prepare` makes a new one.
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


def prepare(database: Database, *, create: bool = True) -> None:
    """Bring the tables to the newest version; an empty database gets them all.

    Args:
        database: where.
        create: whether a file that is not there is made.

    Raises:
        AtlasError: the database cannot be used, is another program's, or was written by a newer version.
    """
    if database.file is not None and not database.file.exists():
        if not create:
            raise AtlasError(f"There is no workspace {database.shown} yet: it is made when something is saved.")
        _make_file(database.file)
    if _version(database) == NEWEST:
        return
    with _exclusive(database):
        if _version(database) != NEWEST:  # another process may have been quicker
            with database.transaction(write=True) as connection:
                upgrade(connection, NEWEST)


def _make_file(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise AtlasError(
            f"The workspace {file} cannot be made ({error.strerror}). Choose another place with ATLAS_WORKSPACE."
        ) from error


def _version(database: Database) -> str | None:
    """The version of the tables that are there; None where there are none."""
    with database.transaction() as connection:
        names = set(inspect(connection).get_table_names())
        if VERSION_TABLE not in names:
            if names and database.file is not None:
                raise AtlasError(f"{database.shown} is another program's database, and no workspace. Choose another.")
            return None
        version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if version is not None and version not in VERSIONS:
        raise AtlasError(
            f"The workspace {database.shown} was written by a newer Neuron Atlas (version {str(version)[:20]} of its "
            f"tables; this one knows {NEWEST}). Update the program, or choose another workspace."
        )
    return None if version is None else str(version)


def upgrade(connection: Connection, version: str) -> None:
    """Bring the tables to a version, within the connection's transaction."""
    config = alembic_config.Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    alembic_command.upgrade(config, version)


@contextmanager
def _exclusive(database: Database) -> Iterator[None]:
    """Hold the database for one migration."""
    held = f"Another process has been changing {database.shown} for a minute. Try again."
    if database.file is not None:
        with locked(Path(f"{database.file}.lock"), held, seconds=_LOCK_SECONDS):
            yield
        return
    with database.engine.connect() as connection:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}).scalar():
            if time.monotonic() > deadline:
                raise AtlasError(held)
            time.sleep(0.05)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
