"""A workspace, open: one named method a question."""

import uuid
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import schema
from db.workspace.analyses import SAVED, Analyses, Base, check_page, holds, require, saved_of
from db.workspace.database import Database
from db.workspace.records import (
    MAX_NAME,
    MAX_NOTE,
    Collection,
    Contents,
    NeuronNote,
    line,
    now,
    paragraph,
    searchable,
    tags_of,
)

# Notes and tags on neurons, by model and label.

_N, _G = schema.note, schema.tag


class Notes(Base):
    """The part of a workspace that keeps notes."""

    def note(self, model: str, neuron: Neuron) -> NeuronNote | None:
        """What was noted of a neuron; None where nothing was."""
        with self.reading() as connection:
            return _note(connection, model, neuron.label)

    def write_note(
        self, model: str, neuron: Neuron, text: str, tags: Iterable[str] = (), *, seen: str | None = None
    ) -> NeuronNote | None:
        """Put this in place of what was noted of a neuron; neither text nor tags forget it.

        Args:
            model: the model's name.
            neuron: which.
            text: several lines at most, plain text.
            tags: in any order; capital letters do not count.
            seen: the `updated_at` of the note that is replaced, "" for none; None replaces whatever is there.

        Raises:
            AtlasError: a text or tag is too long, or somebody else changed the note since it was seen.
        """
        text, kept = paragraph(text, "note", MAX_NOTE), tags_of(tags)
        with self.writing() as connection:
            old = _note(connection, model, neuron.label)
            if seen is not None and seen != ("" if old is None else old.updated_at):
                raise AtlasError(f"Somebody changed the note on {neuron.label} meanwhile. Reload the page to see it.")
            if not text and not kept:
                forget(connection, model, neuron.label)
                return None
            note = NeuronNote(model, neuron, text, kept, now())
            put(connection, note)
        return note

    def notes(
        self,
        words: str = "",
        *,
        tag: str | None = None,
        model: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[NeuronNote, ...]:
        """Those whose text, tags or label hold all the words and that have the tag, last changed first.

        Raises:
            AtlasError: too many words, or a page that cannot be.
        """
        check_page(limit, offset)
        chosen = (
            select(_N.c.model, _N.c.neuron, _N.c.text, _N.c.updated_at)
            .where(*_wanted(words, tag, model))
            .order_by(_N.c.updated_at.desc(), _N.c.model, _N.c.neuron)
            .limit(limit)
            .offset(offset)
        )
        with self.reading() as connection:
            rows = connection.execute(chosen).all()
            return tuple(
                NeuronNote(row.model, Neuron.parse(row.neuron), row.text, _tags(connection, *row[:2]), row.updated_at)
                for row in rows
            )

    def count_notes(self, words: str = "", *, tag: str | None = None, model: str | None = None) -> int:
        """How many :meth:`notes` has in all."""
        with self.reading() as connection:
            counted = select(func.count()).select_from(_N).where(*_wanted(words, tag, model))
            return int(connection.execute(counted).scalar_one())

    def tags(self, model: str | None = None) -> tuple[tuple[str, int], ...]:
        """Every tag and on how many neurons it is, the commonest first."""
        counted = select(_G.c.tag, func.count()).group_by(_G.c.tag).order_by(func.count().desc(), _G.c.tag)
        if model is not None:
            counted = counted.where(_G.c.model == model)
        with self.reading() as connection:
            return tuple((tag, int(count)) for tag, count in connection.execute(counted).all())


def put(connection: Connection, note: NeuronNote) -> None:
    """Write a note in place of the one that is there."""
    label = note.neuron.label
    forget(connection, note.model, label)
    searched = searchable(label, note.text, *note.tags)
    values = {"model": note.model, "neuron": label, "text": note.text, "updated_at": note.updated_at}
    connection.execute(insert(_N).values(values | {"searched": searched}))
    if note.tags:
        connection.execute(insert(_G), [{"model": note.model, "neuron": label, "tag": tag} for tag in note.tags])


def forget(connection: Connection, model: str, label: str) -> None:
    """Delete a note and its tags."""
    connection.execute(delete(_N).where(_N.c.model == model, _N.c.neuron == label))


def find(connection: Connection, model: str, label: str) -> NeuronNote | None:
    """What was noted of a neuron."""
    return _note(connection, model, label)


def _note(connection: Connection, model: str, label: str) -> NeuronNote | None:
    one = select(_N.c.text, _N.c.updated_at).where(_N.c.model == model, _N.c.neuron == label)
    row = connection.execute(one).first()
    if row is None:
        return None
    return NeuronNote(model, Neuron.parse(label), row.text, _tags(connection, model, label), row.updated_at)


def _tags(connection: Connection, model: str, label: str) -> tuple[str, ...]:
    chosen = select(_G.c.tag).where(_G.c.model == model, _G.c.neuron == label)
    found: Sequence[str] = connection.execute(chosen).scalars().all()
    return tuple(sorted(found))  # by code point: databases sort text each in its own way


def _wanted(words: str, tag: str | None, model: str | None) -> list[ColumnElement[bool]]:
    conditions = [holds(_N.c.searched, words)]
    if model is not None:
        conditions.append(_N.c.model == model)
    if tag is not None:
        with_tag = select(_G.c.tag).where(_G.c.model == _N.c.model, _G.c.neuron == _N.c.neuron, _G.c.tag == tag.lower())
        conditions.append(with_tag.exists())
    return conditions


# Collections: named lists of saved analyses and neurons.

_C, _A, _M = schema.collection, schema.collected_analysis, schema.collected_neuron


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
            put_in_collection(connection, _A, {"collection_id": collection_id, "analysis_id": analysis_id})

    def collect_neuron(self, collection_id: str, model: str, neuron: Neuron) -> None:
        """Put a neuron into a collection, if it is not there.

        Raises:
            AtlasError: there is no such collection.
        """
        with self.writing() as connection:
            _one(connection, collection_id)
            put_in_collection(connection, _M, {"collection_id": collection_id, "model": model, "neuron": neuron.label})

    def uncollect_analysis(self, collection_id: str, analysis_id: str) -> None:
        """Take a saved analysis out of a collection."""
        with self.writing() as connection:
            one = (_A.c.collection_id == collection_id, _A.c.analysis_id == analysis_id)
            connection.execute(delete(_A).where(*one))

    def uncollect_neuron(self, collection_id: str, model: str, neuron: Neuron) -> None:
        """Take a neuron out of a collection."""
        with self.writing() as connection:
            one = (_M.c.collection_id == collection_id, _M.c.model == model, _M.c.neuron == neuron.label)
            connection.execute(delete(_M).where(*one))


def put_in_collection(connection: Connection, into: Any, row: dict[str, str], added_at: str = "") -> bool:
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
        .join(_A, _A.c.analysis_id == schema.analysis.c.id)
        .where(_A.c.collection_id == collection_id)
        .order_by(_A.c.added_at, _A.c.analysis_id)
    )
    neurons = (
        select(_M.c.model, _M.c.neuron)
        .where(_M.c.collection_id == collection_id)
        .order_by(_M.c.added_at, _M.c.model, _M.c.neuron)
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
        for into in (_A, _M)
    )
    return Collection(row.id, row.name, row.created_at, *(int(count.scalar_one()) for count in counts))


def _require_free(connection: Connection, name: str) -> None:
    if connection.execute(select(_C.c.id).where(_C.c.name == name)).first() is not None:
        raise AtlasError(f"There is a collection “{name}” already. Choose another name.")


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
