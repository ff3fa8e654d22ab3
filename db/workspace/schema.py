"""Making and migrating the tables: under a lock, whole or not at all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    text,
)

from db.errors import AtlasError
from db.workspace.database import Database

# The tables, as the newest migration leaves them (a test compares), and the schema's versions.

VERSIONS = ("0001", "0002")
"""Of the schema, oldest first; each is a migration in `migrations/versions`."""
NEWEST = VERSIONS[-1]
VERSION_TABLE = "atlas_version"

metadata = MetaData()

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
    PrimaryKeyConstraint("model", "neuron", name="atlas_note_pkey"),
)

tag = Table(
    "atlas_tag",
    metadata,
    Column("model", String(200), nullable=False),
    Column("neuron", String(30), nullable=False),
    Column("tag", String(40), nullable=False),
    PrimaryKeyConstraint("model", "neuron", "tag", name="atlas_tag_pkey"),
    ForeignKeyConstraint(["model", "neuron"], ["atlas_note.model", "atlas_note.neuron"], ondelete="CASCADE"),
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


_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_KEY = 0x61746C6173  # "atlas"
_LOCK_SECONDS = 60


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
            raise AtlasError(f"There is no workspace {database.shown}.")
        _make_file(database.file)
    if _version(database) == NEWEST:
        return
    with _exclusive(database):
        version = _version(database)  # another process may have been quicker
        if version != NEWEST:
            _migrate(database)


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


def _migrate(database: Database) -> None:
    """Alembic takes a moment to import, and is needed once."""
    with database.transaction(write=True) as connection:
        upgrade(connection, NEWEST)


def upgrade(connection: Connection, version: str) -> None:
    """Bring the tables to a version, within the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, version)


@contextmanager
def _exclusive(database: Database) -> Iterator[None]:
    """Hold the database for one migration."""
    if database.file is not None:
        try:
            with FileLock(f"{database.file}.lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise AtlasError(f"Another process has been changing {database.shown} for a minute. Try again.") from None
        return
    with database.engine.connect() as connection:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}).scalar():
            if time.monotonic() > deadline:
                raise AtlasError(f"Another process has been changing {database.shown} for a minute. Try again.")
            time.sleep(0.05)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
