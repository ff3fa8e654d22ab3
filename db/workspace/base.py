"""What the parts of the workspace share: transactions on tables that are known to be up to date."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, true

from db.errors import AtlasError
from db.workspace import schema
from db.workspace.database import Database
from db.workspace.values import MAX_PAGE, words_of

_WRITER = 0x77726974  # "writ"


class Base:
    """A database whose tables were prepared."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._checked = database.identity()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing."""
        self._check()
        with self.database.transaction() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that changes something: all of it or, on any error, nothing."""
        self._check()
        with self.database.transaction(write=True) as connection:
            if self.database.file is None:  # one writer at a time, as SQLite has it anyway
                connection.execute(select(func.pg_advisory_xact_lock(_WRITER)))
            yield connection

    def _check(self) -> None:
        """Another file under the same name may be an older workspace, or none."""
        found = self.database.identity()
        if found != self._checked:
            schema.prepare(self.database, create=False)
            self._checked = found


def check_page(limit: int, offset: int) -> None:
    """Refuse a page that cannot be.

    Raises:
        AtlasError: a negative number, or too long a page.
    """
    if not 0 <= limit <= MAX_PAGE or offset < 0:
        raise AtlasError(f"A page has 0 to {MAX_PAGE:,} rows and begins at 0 or later.")


def holds(column: ColumnElement[Any], words: str) -> ColumnElement[bool]:
    """Whether the column holds every word, as `values.searchable` wrote it."""
    return and_(true(), *(column.contains(word, autoescape=True) for word in words_of(words)))
