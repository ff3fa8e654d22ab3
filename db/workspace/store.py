"""A workspace, open: one named method a question."""

from types import TracebackType
from typing import Self

from db.workspace import schema
from db.workspace.analyses import Analyses
from db.workspace.collections import Collections
from db.workspace.database import Database
from db.workspace.notes import Notes

DEFAULT_URL = "sqlite:///workspace/atlas.sqlite"


class Workspace(Analyses, Notes, Collections):
    """What people keep. Make one with :meth:`open`; it may be shared by threads.

    Every method raises AtlasError where the database cannot be used; it works again when the cause is gone.
    """

    @classmethod
    def open(cls, url: str = DEFAULT_URL, *, create: bool = True) -> Self:
        """The workspace at an SQLAlchemy URL, its tables brought up to date.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql://…``.
            create: whether an SQLite file that is not there is made.

        Raises:
            AtlasError: it cannot be opened, is another program's, or was written by a newer version.
        """
        database = Database(url)
        schema.prepare(database, create=create)
        return cls(database)

    @property
    def shown(self) -> str:
        """Where it lies, without a password."""
        return self.database.shown

    def close(self) -> None:
        """Let go of connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
