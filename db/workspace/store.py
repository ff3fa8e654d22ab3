"""A workspace, open: one method for each thing that is asked of saved analyses, notes and collections."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Self

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    and_,
    delete,
    distinct,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import database as tables
from db.workspace.database import Database, prepare
from db.workspace.records import (
    MAX_NAME,
    MAX_NOTE,
    MAX_PAGE,
    MAX_TITLE,
    PROMPT,
    AnalysisEntry,
    Collection,
    Contents,
    Mention,
    NeuronNote,
    Saved,
    columns_of,
    line,
    mentions_of,
    new_id,
    now,
    paragraph,
    searchable,
    tags_of,
    words_of,
)

_WRITER = 0x77726974  # "writ"

_ANALYSIS, _MENTION, _NOTE, _TAG = tables.analysis, tables.mention, tables.note, tables.tag
_COLLECTION, _LISTED, _LISTED_NEURON = tables.collection, tables.collected_analysis, tables.collected_neuron
SAVED = tuple(_ANALYSIS.c[name] for name in Saved.model_fields)
"""The columns that make a `Saved`."""
_NEWEST_FIRST = (_ANALYSIS.c.created_at.desc(), _ANALYSIS.c.id)


class Workspace:
    """What people keep. Make one with :meth:`open`; it may be shared by threads.

    Every method raises AtlasError where the database cannot be used (it works again when the cause is gone), where
    nothing has the id that it is given, and where a text is empty or too long.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._checked = database.identity()

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Self:
        """The workspace at an SQLAlchemy URL, its tables brought up to date.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql://…``.
            create: whether an SQLite file that is not there is made.

        Raises:
            AtlasError: it cannot be opened, is another program's, or was written by a newer version.
        """
        database = Database(url)
        prepare(database, create=create)
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

    def __exit__(self, *_error: object) -> None:
        self.close()

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
            prepare(self.database, create=False)
            self._checked = found

    # Saved analyses

    def save(self, entry: AnalysisEntry) -> Saved:
        """Keep an analysis.

        Raises:
            AtlasError: the title is empty or too long, or the result is too large or is not an analysis.
        """
        with self.writing() as connection:
            write_analysis(connection, entry)
            return saved_analysis(connection, entry.id)

    def saved(self, analysis_id: str) -> Saved:
        """One saved analysis, without its result."""
        with self.reading() as connection:
            return saved_analysis(connection, analysis_id)

    def result(self, analysis_id: str) -> dict[str, Any]:
        """The JSON object of a saved analysis."""
        with self.reading() as connection:
            text = connection.execute(select(_ANALYSIS.c.result).where(_ANALYSIS.c.id == analysis_id)).scalar()
        if text is None:
            raise _no_analysis(analysis_id)
        return dict(json.loads(text))

    def rename(self, analysis_id: str, title: str) -> Saved:
        """Give a saved analysis another title."""
        title = line(title, "title", MAX_TITLE)
        with self.writing() as connection:
            old = saved_analysis(connection, analysis_id)
            changes = {"title": title, "updated_at": now(), "searched": searchable(title, old.prompt, old.target)}
            connection.execute(update(_ANALYSIS).where(_ANALYSIS.c.id == analysis_id).values(changes))
            return saved_analysis(connection, analysis_id)

    def delete(self, analysis_id: str) -> None:
        """Forget a saved analysis; collections lose it."""
        with self.writing() as connection:
            if not connection.execute(delete(_ANALYSIS).where(_ANALYSIS.c.id == analysis_id)).rowcount:
                raise _no_analysis(analysis_id)

    def analyses(self, words: str = "", *, limit: int = 50, offset: int = 0) -> tuple[Saved, ...]:
        """Those whose title, prompt or target hold all the words, newest first.

        Raises:
            AtlasError: too many words, or a page that cannot be.
        """
        _check_page(limit, offset)
        chosen = select(*SAVED).where(*_wanted(_ANALYSIS, words)).order_by(*_NEWEST_FIRST)
        with self.reading() as connection:
            return tuple(map(saved_of, connection.execute(chosen.limit(limit).offset(offset))))

    def count_analyses(self, words: str = "") -> int:
        """How many :meth:`analyses` has in all."""
        return self._count(_ANALYSIS, *_wanted(_ANALYSIS, words))

    def asked(self, model: str, question: str) -> tuple[Saved, ...]:
        """The saved answers to one question, newest first."""
        same = {"page": PROMPT, "model": model, "question_hash": _hash(question), "question": question}
        chosen = select(*SAVED).where(*_equal(_ANALYSIS, same)).order_by(*_NEWEST_FIRST).limit(50)
        with self.reading() as connection:
            return tuple(map(saved_of, connection.execute(chosen)))

    def mentions(
        self, model: str, neuron: Neuron, *, checkpoint: str | None = None, limit: int = 50, offset: int = 0
    ) -> tuple[Mention, ...]:
        """Where a neuron stands in the lists of saved analyses, the largest scores first.

        checkpoint: leaves out the analyses of other checkpoints of that name, as far as they say.

        Raises:
            AtlasError: a page that cannot be.
        """
        _check_page(limit, offset)
        chosen = (
            select(_MENTION.c.role, _MENTION.c.position, _MENTION.c.score, _MENTION.c.activation, *SAVED)
            .join(_ANALYSIS, _ANALYSIS.c.id == _MENTION.c.analysis_id)
            .where(_MENTION.c.model == model, _MENTION.c.neuron == neuron.label, *_of_checkpoint(checkpoint))
            .order_by(func.abs(_MENTION.c.score).desc(), *_NEWEST_FIRST, _MENTION.c.role, _MENTION.c.place)
        )
        with self.reading() as connection:
            rows = connection.execute(chosen.limit(limit).offset(offset)).all()
        return tuple(Mention(saved_of(row), row.role, neuron, row.position, row.score, row.activation) for row in rows)

    def count_mentions(self, model: str, neuron: Neuron, *, checkpoint: str | None = None) -> tuple[int, int]:
        """How many rows :meth:`mentions` has in all, and of how many analyses."""
        counted = select(func.count(), func.count(distinct(_MENTION.c.analysis_id)))
        counted = counted.join(_ANALYSIS, _ANALYSIS.c.id == _MENTION.c.analysis_id)
        counted = counted.where(
            *_equal(_MENTION, {"model": model, "neuron": neuron.label}), *_of_checkpoint(checkpoint)
        )
        with self.reading() as connection:
            rows, analyses = connection.execute(counted).one()
        return int(rows), int(analyses)

    # Notes and tags on neurons, by model, checkpoint and label. `among` are the identities whose notes are read, the
    # model's own first, by which is written; "" stands for notes of older versions, which name the model alone.

    def checkpoints(self, model: str) -> frozenset[str]:
        """The identities of the checkpoints of this name that something was saved or noted of."""
        with self.reading() as connection:
            return frozenset(
                checkpoint
                for table in (_ANALYSIS, _NOTE)
                for checkpoint in connection.scalars(
                    select(table.c.checkpoint).where(table.c.model == model).distinct()
                )
                if checkpoint
            )

    def note(self, model: str, neuron: Neuron, among: Sequence[str] = ("",)) -> NeuronNote | None:
        """What was noted of a neuron; None where nothing was."""
        with self.reading() as connection:
            return note_of(connection, model, neuron, among)

    def notes_on(self, model: str, neurons: Sequence[Neuron], among: Sequence[str] = ("",)) -> dict[Neuron, NeuronNote]:
        """What was noted of each of some neurons, in one statement; those of which nothing was are left out."""
        same = _NOTE.c.model == model, _NOTE.c.neuron.in_([one.label for one in neurons]), _NOTE.c.checkpoint.in_(among)
        with self.reading() as connection:
            found = sorted(notes_of(connection, *same), key=lambda one: among.index(one.checkpoint), reverse=True)
        return {one.neuron: one for one in found}  # of several of one neuron the first identity's

    def write_note(
        self,
        model: str,
        neuron: Neuron,
        text: str,
        tags: Iterable[str] = (),
        *,
        seen: str | None = None,
        among: Sequence[str] = ("",),
    ) -> NeuronNote | None:
        """Replace what was noted of a neuron; without text and tags the note is deleted.

        Args:
            model: the model's name.
            neuron: which.
            text: several lines at most, plain text.
            tags: in any order; capital letters do not count.
            seen: the `updated_at` of the note that is replaced, "" for none; None replaces whatever is there.
            among: the identities of the model.

        Raises:
            AtlasError: a text or tag is too long, or somebody else changed the note since it was seen.
        """
        text, kept = paragraph(text, "note", MAX_NOTE), tags_of(tags)
        with self.writing() as connection:
            old = note_of(connection, model, neuron, among)
            if seen is not None and seen != ("" if old is None else old.updated_at):
                raise AtlasError(f"Somebody changed the note on {neuron.label} meanwhile. Reload the page to see it.")
            if old is not None:
                _delete_note(connection, old)
            if not text and not kept:
                return None
            note = NeuronNote(model=model, neuron=neuron, note=text, tags=kept, updated_at=now(), checkpoint=among[0])
            put_note(connection, note)
        return note

    def notes(
        self,
        words: str = "",
        *,
        tag: str | None = None,
        model: str | None = None,
        among: Sequence[str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[NeuronNote, ...]:
        """Those whose text, tags or label hold all the words and that have the tag, last changed first.

        Raises:
            AtlasError: too many words, or a page that cannot be.
        """
        _check_page(limit, offset)
        with self.reading() as connection:
            return notes_of(connection, *_wanted_notes(words, tag, model, among), limit=limit, offset=offset)

    def count_notes(
        self, words: str = "", *, tag: str | None = None, model: str | None = None, among: Sequence[str] | None = None
    ) -> int:
        """How many :meth:`notes` has in all."""
        return self._count(_NOTE, *_wanted_notes(words, tag, model, among))

    def tags(self, model: str | None = None, among: Sequence[str] | None = None) -> tuple[tuple[str, int], ...]:
        """Every tag and on how many neurons it is, the commonest first."""
        counted = select(_TAG.c.tag, func.count()).group_by(_TAG.c.tag).order_by(func.count().desc(), _TAG.c.tag)
        if model is not None:
            counted = counted.where(_TAG.c.model == model)
        if among is not None:
            counted = counted.where(_first_among(_TAG, among))
        with self.reading() as connection:
            return tuple((tag, int(count)) for tag, count in connection.execute(counted))

    # Collections: named lists of saved analyses and neurons

    def collections(self) -> tuple[Collection, ...]:
        """All of them, by name."""
        with self.reading() as connection:
            found = [Collection(*row) for row in connection.execute(_collections())]
        return tuple(sorted(found, key=lambda one: (one.name.casefold(), one.name)))

    def new_collection(self, name: str) -> Collection:
        """An empty collection.

        Raises:
            AtlasError: the name is empty, too long, or taken.
        """
        name, collection_id = line(name, "name", MAX_NAME), new_id()
        with self.writing() as connection:
            _require_free(connection, name)
            connection.execute(insert(_COLLECTION).values(id=collection_id, name=name, created_at=now()))
            return _collection(connection, collection_id)

    def rename_collection(self, collection_id: str, name: str) -> Collection:
        """Give a collection another name.

        Raises:
            AtlasError: there is none of this id, or the name is empty, too long, or another collection's.
        """
        name = line(name, "name", MAX_NAME)
        with self.writing() as connection:
            if _collection(connection, collection_id).name != name:
                _require_free(connection, name)
                connection.execute(update(_COLLECTION).where(_COLLECTION.c.id == collection_id).values(name=name))
            return _collection(connection, collection_id)

    def delete_collection(self, collection_id: str) -> None:
        """Forget a collection; what was in it stays."""
        with self.writing() as connection:
            connection.execute(delete(_COLLECTION).where(_COLLECTION.c.id == _collection(connection, collection_id).id))

    def contents(self, collection_id: str, words: str = "") -> Contents:
        """What is in a collection; of that, what holds all the words: of a neuron, its label or the note on it."""
        with self.reading() as connection:
            _collection(connection, collection_id)
            return _contents(connection, collection_id, words).get(collection_id, Contents((), ()))

    def all_contents(self) -> dict[str, Contents]:
        """What is in every collection that is not empty, by the collection's id."""
        with self.reading() as connection:
            return _contents(connection)

    def collect_analysis(self, collection_id: str, analysis_id: str) -> None:
        """Put a saved analysis into a collection, if it is not there."""
        with self.writing() as connection:
            _collection(connection, collection_id)
            put_in_collection(connection, collection_id, saved_analysis(connection, analysis_id).id)

    def collect_neuron(self, collection_id: str, model: str, neuron: Neuron) -> None:
        """Put a neuron into a collection, if it is not there."""
        with self.writing() as connection:
            _collection(connection, collection_id)
            put_in_collection(connection, collection_id, (model, neuron))

    def uncollect_analysis(self, collection_id: str, analysis_id: str) -> None:
        """Take a saved analysis out of a collection."""
        self._uncollect(_LISTED, {"collection_id": collection_id, "analysis_id": analysis_id})

    def uncollect_neuron(self, collection_id: str, model: str, neuron: Neuron) -> None:
        """Take a neuron out of a collection."""
        self._uncollect(_LISTED_NEURON, {"collection_id": collection_id, "model": model, "neuron": neuron.label})

    def _uncollect(self, table: Table, row: dict[str, str]) -> None:
        with self.writing() as connection:
            connection.execute(delete(table).where(*_equal(table, row)))

    def _count(self, table: Table, *conditions: ColumnElement[bool]) -> int:
        with self.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one())


def _check_page(limit: int, offset: int) -> None:
    if not (0 <= limit <= MAX_PAGE and 0 <= offset < 2**62):
        raise AtlasError(f"A page has 0 to {MAX_PAGE:,} rows and begins at 0 or later.")


def _wanted(table: Table, words: str, model: str | None = None) -> list[ColumnElement[bool]]:
    """Rows whose searchable text holds every word, of one model or of all."""
    holds = and_(true(), *(table.c.searched.contains(word, autoescape=True) for word in words_of(words)))
    return [holds] if model is None else [holds, table.c.model == model]


def _equal(table: Table, row: dict[str, str]) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in row.items()]


def _of_checkpoint(checkpoint: str | None) -> list[ColumnElement[bool]]:
    """Analyses of no other checkpoint; those of older versions do not say."""
    return [] if checkpoint is None else [_ANALYSIS.c.checkpoint.in_(("", checkpoint))]


def write_analysis(connection: Connection, entry: AnalysisEntry, *, over: bool = False) -> None:
    """Write an analysis and its mentions; `over` the one of its id, which stays in its collections.

    Raises:
        AtlasError: as `Workspace.save` does.
    """
    columns, mentions = columns_of(entry), mentions_of(entry.result)
    columns["question_hash"] = _hash(entry.question)
    columns["searched"] = searchable(columns["title"], columns["prompt"], columns["target"])
    if over:
        connection.execute(update(_ANALYSIS).where(_ANALYSIS.c.id == entry.id).values(columns))
        connection.execute(delete(_MENTION).where(_MENTION.c.analysis_id == entry.id))
    else:
        connection.execute(insert(_ANALYSIS).values(columns))
    if mentions:
        shared = {"analysis_id": entry.id, "model": entry.model}
        connection.execute(insert(_MENTION), [shared | row for row in mentions])


def saved_of(row: Any) -> Saved:
    """A row that has the columns `SAVED`."""
    return Saved.model_construct(**{name: getattr(row, name) for name in Saved.model_fields})


def saved_analysis(connection: Connection, analysis_id: str) -> Saved:
    """A saved analysis that must be there; raises as `Workspace.saved` does."""
    row = connection.execute(select(*SAVED).where(_ANALYSIS.c.id == analysis_id)).first()
    if row is None:
        raise _no_analysis(analysis_id)
    return saved_of(row)


def _no_analysis(analysis_id: str) -> AtlasError:
    return AtlasError(f"There is no saved analysis {analysis_id[:40]!r}; it may have been deleted.")


def _hash(question: str) -> str:
    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()


def _wanted_notes(
    words: str, tag: str | None, model: str | None, among: Sequence[str] | None
) -> list[ColumnElement[bool]]:
    conditions = _wanted(_NOTE, words, model)
    if among is not None:
        conditions.append(_first_among(_NOTE, among))
    if tag is not None:
        conditions.append(select(_TAG.c.tag).where(*_tags_of(_NOTE), _TAG.c.tag == tag.lower()).exists())
    return conditions


def _first_among(table: Table, among: Sequence[str]) -> ColumnElement[bool]:
    """Of notes, or of their tags, under several of these identities on one neuron, those under the first."""
    other = _NOTE.alias()
    same = other.c.model == table.c.model, other.c.neuron == table.c.neuron
    earlier = [select(other.c.text).where(*same, other.c.checkpoint.in_(among[:place])) for place in range(len(among))]
    found = (and_(table.c.checkpoint == one, ~before.exists()) for one, before in zip(among, earlier, strict=True))
    return or_(*found)


def _tags_of(notes: FromClause) -> list[ColumnElement[bool]]:
    return [_TAG.c[name] == notes.c[name] for name in ("model", "neuron", "checkpoint")]


def notes_of(
    connection: Connection, *wanted: ColumnElement[bool], limit: int | None = None, offset: int = 0
) -> tuple[NeuronNote, ...]:
    """The notes that are wanted, last changed first, with their tags: one statement, however many they are."""
    some = select(_NOTE).where(*wanted).order_by(*_last_changed_first(_NOTE)).limit(limit).offset(offset).subquery()
    tagged = some.outerjoin(_TAG, and_(*_tags_of(some)))
    rows = connection.execute(select(some, _TAG.c.tag).select_from(tagged).order_by(*_last_changed_first(some)))
    found = []
    for (model, label, own), group in groupby(rows, key=lambda row: (row.model, row.neuron, row.checkpoint)):
        of_one = list(group)
        tags = sorted(row.tag for row in of_one if row.tag is not None)  # each database sorts text in its own way
        kept = {"model": model, "neuron": Neuron.parse(label), "checkpoint": own, "text": of_one[0].text}
        found.append(NeuronNote.model_construct(**kept, tags=tuple(tags), updated_at=of_one[0].updated_at))
    return tuple(found)


def _last_changed_first(table: FromClause) -> tuple[ColumnElement[Any], ...]:
    return table.c.updated_at.desc(), table.c.model, table.c.neuron, table.c.checkpoint


def note_of(connection: Connection, model: str, neuron: Neuron, among: Sequence[str] = ("",)) -> NeuronNote | None:
    """What was noted of a neuron under the first of these identities that has a note; None where nothing was."""
    same = _NOTE.c.model == model, _NOTE.c.neuron == neuron.label, _NOTE.c.checkpoint.in_(among)
    return min(notes_of(connection, *same), key=lambda one: among.index(one.checkpoint), default=None)


def put_note(connection: Connection, note: NeuronNote) -> None:
    """Write a note in place of the one that is there."""
    _delete_note(connection, note)
    key = {"model": note.model, "neuron": note.neuron.label, "checkpoint": note.checkpoint}
    searched = searchable(note.neuron.label, note.text, *note.tags)
    kept = {"text": note.text, "updated_at": note.updated_at, "searched": searched}
    connection.execute(insert(_NOTE).values(key | kept))
    if note.tags:
        connection.execute(insert(_TAG), [key | {"tag": tag} for tag in note.tags])


def _delete_note(connection: Connection, note: NeuronNote) -> None:
    key = {"model": note.model, "neuron": note.neuron.label, "checkpoint": note.checkpoint}
    connection.execute(delete(_NOTE).where(*_equal(_NOTE, key)))


def _collections() -> Select[Any]:
    """The columns of `Collection`."""
    counts = (
        select(func.count()).select_from(table).where(table.c.collection_id == _COLLECTION.c.id).scalar_subquery()
        for table in (_LISTED, _LISTED_NEURON)
    )
    return select(_COLLECTION.c.id, _COLLECTION.c.name, _COLLECTION.c.created_at, *counts)


def _collection(connection: Connection, collection_id: str) -> Collection:
    row = connection.execute(_collections().where(_COLLECTION.c.id == collection_id)).first()
    if row is None:
        raise AtlasError(f"There is no collection {collection_id[:40]!r}; it may have been deleted.")
    return Collection(*row)


def _require_free(connection: Connection, name: str) -> None:
    if connection.execute(select(_COLLECTION.c.id).where(_COLLECTION.c.name == name)).first() is not None:
        raise AtlasError(f"There is a collection “{name}” already. Choose another name.")


def _contents(connection: Connection, collection_id: str | None = None, words: str = "") -> dict[str, Contents]:
    """What is in one collection, or in every one, by the collection's id; empty ones are left out."""
    wanted = words_of(words)
    analyses = select(_LISTED.c.collection_id, *SAVED).join(_ANALYSIS, _LISTED.c.analysis_id == _ANALYSIS.c.id)
    analyses = analyses.order_by(_LISTED.c.added_at, _LISTED.c.analysis_id)
    added = _LISTED_NEURON.c
    neurons = select(_LISTED_NEURON).order_by(added.added_at, added.model, added.neuron)
    if wanted:
        analyses = analyses.where(*_wanted(_ANALYSIS, words))
        label = and_(*(func.lower(added.neuron).contains(word, autoescape=True) for word in wanted))
        same = _NOTE.c.model == added.model, _NOTE.c.neuron == added.neuron
        neurons = neurons.where(or_(label, select(_NOTE.c.text).where(*same, *_wanted(_NOTE, words)).exists()))
    if collection_id is not None:
        analyses = analyses.where(_LISTED.c.collection_id == collection_id)
        neurons = neurons.where(_LISTED_NEURON.c.collection_id == collection_id)
    kept: dict[str, tuple[list[Saved], list[tuple[str, Neuron]]]] = {}
    for row in connection.execute(analyses):
        kept.setdefault(row.collection_id, ([], []))[0].append(saved_of(row))
    for row in connection.execute(neurons):
        kept.setdefault(row.collection_id, ([], []))[1].append((row.model, Neuron.parse(row.neuron)))
    return {key: Contents(tuple(found), tuple(labelled)) for key, (found, labelled) in kept.items()}


def put_in_collection(
    connection: Connection, collection_id: str, what: str | tuple[str, Neuron], added_at: str = ""
) -> None:
    """Add an analysis (its id) or a neuron (model and neuron) to a collection, if it is not there."""
    if isinstance(what, str):
        table, row = _LISTED, {"collection_id": collection_id, "analysis_id": what}
    else:
        table, row = _LISTED_NEURON, {"collection_id": collection_id, "model": what[0], "neuron": what[1].label}
    if connection.execute(select(func.count()).select_from(table).where(*_equal(table, row))).scalar_one() == 0:
        connection.execute(insert(table).values(row | {"added_at": added_at or now()}))
