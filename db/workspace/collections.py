"""Collections: named lists of saved analyses and neurons."""

import uuid
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import tables
from db.workspace.analyses import SAVED, require, saved_of
from db.workspace.base import Base
from db.workspace.values import MAX_NAME, Collection, Contents, line, now

_C, _A, _N = tables.collection, tables.collected_analysis, tables.collected_neuron


class Collections(Base):
    """The part of a workspace that keeps collections."""

    def collections(self) -> tuple[Collection, ...]:
        """All of them, by name."""
        with self.reading() as connection:
            rows = connection.execute(select(_C.c.id)).scalars().all()
            found = [_one(connection, collection_id) for collection_id in rows]
        return tuple(sorted(found, key=lambda one: (one.name.casefold(), one.name)))

    def new_collection(self, name: str) -> Collection:
        """An empty collection.

        Raises:
            AtlasError: the name is empty, too long, or taken.
        """
        name = line(name, "name", MAX_NAME)
        with self.writing() as connection:
            _require_free(connection, name)
            collection_id = uuid.uuid4().hex
            connection.execute(insert(_C).values(id=collection_id, name=name, created_at=now()))
            return _one(connection, collection_id)

    def rename_collection(self, collection_id: str, name: str) -> Collection:
        """Give a collection another name.

        Raises:
            AtlasError: there is none of this id, or the name is empty, too long, or another collection's.
        """
        name = line(name, "name", MAX_NAME)
        with self.writing() as connection:
            if _one(connection, collection_id).name != name:
                _require_free(connection, name)
                connection.execute(update(_C).where(_C.c.id == collection_id).values(name=name))
            return _one(connection, collection_id)

    def delete_collection(self, collection_id: str) -> None:
        """Forget a collection; what was in it stays.

        Raises:
            AtlasError: there is none of this id.
        """
        with self.writing() as connection:
            _one(connection, collection_id)
            connection.execute(delete(_C).where(_C.c.id == collection_id))

    def contents(self, collection_id: str) -> Contents:
        """What is in a collection.

        Raises:
            AtlasError: there is none of this id.
        """
        with self.reading() as connection:
            _one(connection, collection_id)
            return contents_of(connection, collection_id)

    def collect_analysis(self, collection_id: str, analysis_id: str) -> None:
        """Put a saved analysis into a collection, if it is not there.

        Raises:
            AtlasError: there is no such collection or analysis.
        """
        with self.writing() as connection:
            _one(connection, collection_id)
            require(connection, analysis_id)
            put(connection, _A, {"collection_id": collection_id, "analysis_id": analysis_id})

    def collect_neuron(self, collection_id: str, model: str, neuron: Neuron) -> None:
        """Put a neuron into a collection, if it is not there.

        Raises:
            AtlasError: there is no such collection.
        """
        with self.writing() as connection:
            _one(connection, collection_id)
            put(connection, _N, {"collection_id": collection_id, "model": model, "neuron": neuron.label})

    def uncollect_analysis(self, collection_id: str, analysis_id: str) -> None:
        """Take a saved analysis out of a collection."""
        with self.writing() as connection:
            one = (_A.c.collection_id == collection_id, _A.c.analysis_id == analysis_id)
            connection.execute(delete(_A).where(*one))

    def uncollect_neuron(self, collection_id: str, model: str, neuron: Neuron) -> None:
        """Take a neuron out of a collection."""
        with self.writing() as connection:
            one = (_N.c.collection_id == collection_id, _N.c.model == model, _N.c.neuron == neuron.label)
            connection.execute(delete(_N).where(*one))


def put(connection: Connection, into: Any, row: dict[str, str], added_at: str = "") -> bool:
    """Add a row to a collection's table where it is not there yet; whether it was new."""
    there = [into.c[name] == value for name, value in row.items()]
    if connection.execute(select(func.count()).select_from(into).where(*there)).scalar_one():
        return False
    connection.execute(insert(into).values(row | {"added_at": added_at or now()}))
    return True


def contents_of(connection: Connection, collection_id: str) -> Contents:
    """What is in a collection."""
    analyses = (
        select(*SAVED)
        .join(_A, _A.c.analysis_id == tables.analysis.c.id)
        .where(_A.c.collection_id == collection_id)
        .order_by(_A.c.added_at, _A.c.analysis_id)
    )
    neurons = (
        select(_N.c.model, _N.c.neuron)
        .where(_N.c.collection_id == collection_id)
        .order_by(_N.c.added_at, _N.c.model, _N.c.neuron)
    )
    rows = connection.execute(neurons).all()
    return Contents(
        saved_of(connection.execute(analyses).all()), tuple((row.model, Neuron.parse(row.neuron)) for row in rows)
    )


def _one(connection: Connection, collection_id: str) -> Collection:
    row = connection.execute(select(_C.c.id, _C.c.name, _C.c.created_at).where(_C.c.id == collection_id)).first()
    if row is None:
        raise AtlasError(f"There is no collection {collection_id[:40]!r}; it may have been deleted.")
    counts = (
        connection.execute(select(func.count()).select_from(into).where(into.c.collection_id == collection_id))
        for into in (_A, _N)
    )
    return Collection(row.id, row.name, row.created_at, *(int(count.scalar_one()) for count in counts))


def _require_free(connection: Connection, name: str) -> None:
    if connection.execute(select(_C.c.id).where(_C.c.name == name)).first() is not None:
        raise AtlasError(f"There is a collection “{name}” already. Choose another name.")
