"""One immutable build's file, opened and checked; runs statements and turns what goes wrong into AtlasError."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
from duckdb_sqlalchemy import ConnectionWrapper
from sqlalchemy import URL, Engine, create_engine, false, select
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError

from db.catalogue import schema
from db.catalogue.statements import Answer, Statement
from db.errors import AtlasError

# Opening a build's file: read-only, shut off from other files and the network, bounded in memory.

_HEADER = 3 * 4096  # bytes before the first block
REBUILD = "Build it again with `python -m indexer build MODEL`."

# One configuration for every reader: within a process DuckDB refuses to open a file twice with different ones.
READ_ONLY_CONFIG: dict[str, Any] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
    "threads": 2,
    "memory_limit": "1GB",
    "allocator_flush_threshold": "8MB",  # of what queries freed, before the system gets it back; else 128 MB
}


def read_only_engine(path: Path) -> Engine:
    """An engine on one immutable file. Connects lazily: a bad file shows at the first statement."""
    url = URL.create("duckdb", database=str(path))
    # Left to itself the dialect would add its name to the configuration, and so exclude read_only_connection.
    return create_engine(url, creator=lambda: ConnectionWrapper(read_only_connection(path)))


def read_only_connection(path: Path) -> duckdb.DuckDBPyConnection:
    """A bare DuckDB connection with the same restrictions, for bulk reading as arrays."""
    return duckdb.connect(str(path), read_only=True, config=READ_ONLY_CONFIG)


def check_whole(engine: Engine, path: Path) -> None:
    """Refuse a file that is missing, no DuckDB file or shorter than the blocks it says it uses.

    DuckDB opens some truncated files and fails only when a query reaches the missing part.

    Raises:
        AtlasError: names the file and what is wrong.
    """
    if not path.is_file():
        raise AtlasError(f"{path} is not a file, so no catalogue can be read from it. {REBUILD}")
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(
                f"SELECT block_size * used_blocks + {_HEADER} FROM pragma_database_size()"
            ).scalar_one()
    except DBAPIError as error:
        raise AtlasError(f"{path} is not a readable catalogue ({reason(error)}). {REBUILD}") from error
    size = path.stat().st_size
    if size < found:
        raise AtlasError(f"{path} is cut short: {size:,} of {found:,} bytes are there. {REBUILD}")


def reason(error: DBAPIError) -> str:
    """What the database said, in one line."""
    return (str(error.orig).strip().splitlines() or ["no reason given"])[0][:160]


class Reader:
    """A read-only file. May be shared by threads: each statement takes a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = read_only_engine(path)
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a build's file.

        Raises:
            AtlasError: the file is missing, truncated, not a catalogue, or of another schema version.
        """
        reader = cls(path)
        try:
            check_whole(reader._engine, path)
            reader._check_schema()
        except BaseException:
            reader.close()
            raise
        return reader

    def close(self) -> None:
        """Let go of the file; further questions raise AtlasError."""
        self._closed = True
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def rows(self, statement: Statement) -> Sequence[Answer]:
        """All rows at once: a result left half read would hold its connection."""
        if self._closed:
            raise AtlasError(f"The catalogue {self.path.name} was closed: open it, or its successor, again.")
        try:
            with self._engine.connect() as connection:
                return connection.execute(statement).all()
        except (OperationalError, InternalError) as error:
            raise AtlasError(
                f"{self.path} cannot be read ({reason(error)}): the file is damaged, or the disk fails. {REBUILD}"
            ) from error

    def _check_schema(self) -> None:
        try:
            versions = self.rows(select(schema.build.c.schema_version))
            if len(versions) != 1 or versions[0][0] != schema.SCHEMA_VERSION:
                found = versions[0][0] if versions else "unknown"
                raise AtlasError(
                    f"{self.path} has schema version {found}, but this program reads version {schema.SCHEMA_VERSION}. "
                    f"{REBUILD}"
                )
            for table in schema.metadata.sorted_tables:
                # No bound parameter here: DuckDB imports pandas at the first one, which opening should not wait for.
                self.rows(select(table).where(false()))
        except DBAPIError as error:
            raise AtlasError(
                f"{self.path} is a database, but not a catalogue of neurons ({reason(error)}). {REBUILD}"
            ) from error
