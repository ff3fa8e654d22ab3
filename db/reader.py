"""One immutable build's file, opened and checked; runs statements and turns what goes wrong into AtlasError."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import false, select
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError

from db import tables
from db.engine import REBUILD, check_whole, read_only_engine, reason
from db.errors import AtlasError
from db.questions import Answer, Statement


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
            versions = self.rows(select(tables.build.c.schema_version))
            if len(versions) != 1 or versions[0][0] != tables.SCHEMA_VERSION:
                found = versions[0][0] if versions else "unknown"
                raise AtlasError(
                    f"{self.path} has schema version {found}, but this program reads version {tables.SCHEMA_VERSION}. "
                    f"{REBUILD}"
                )
            for table in tables.metadata.sorted_tables:
                # No bound parameter here: DuckDB imports pandas at the first one, which opening should not wait for.
                self.rows(select(table).where(false()))
        except DBAPIError as error:
            raise AtlasError(
                f"{self.path} is a database, but not a catalogue of neurons ({reason(error)}). {REBUILD}"
            ) from error
