"""Notes and tags on neurons, by model and label."""

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import tables
from db.workspace.base import Base, check_page, holds
from db.workspace.values import MAX_NOTE, NeuronNote, now, paragraph, searchable, tags_of

_N, _G = tables.note, tables.tag


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
