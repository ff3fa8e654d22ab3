"""Everything in a workspace as one JSON document, and back. The same form serves for back-ups, for handing a collection
to a colleague, and for the views that are shipped with the app.

    {"format": "neuron-atlas-workspace", "version": 1,
     "analyses": [{"id", "page", "title", "model", "build_id", "unembedding_hash", "checkpoint", "address", "question",
                   "created_at", "updated_at", "result": {as `python -m app.attribution --json` writes it}}],
     "neurons": [{"model", "checkpoint", "neuron", "note", "tags": [...], "updated_at"}],
     "collections": [{"id", "name", "created_at", "analyses": [{"id", "added_at"}],
                      "neurons": [{"model", "neuron", "added_at"}]}]}

Views of other pages than the prompt page have a "result" that says what they are about.

Importing merges: what is there already (by id; a note by model, checkpoint and neuron) stays as it is unless the
document's is newer; tags and collections are united. Importing the same document again changes
nothing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import Field, ValidationError
from sqlalchemy import Connection, select

from db.errors import AtlasError
from db.workspace import database as tables
from db.workspace.records import MAX_NAME, AnalysisEntry, Id, Labelled, Name, NeuronNote, Record, Time, line, tags_of
from db.workspace.store import (
    SAVED,
    Workspace,
    note_of,
    notes_of,
    put_in_collection,
    put_note,
    saved_analysis,
    write_analysis,
)

FORMAT: Final = "neuron-atlas-workspace"
VERSION: Final = 1
MAX_BYTES = 256 * 2**20


class ListedAnalysis(Record):
    """An analysis in a collection."""

    id: Id
    added_at: Time


class ListedNeuron(Record):
    """A neuron in a collection."""

    model: Name
    neuron: Labelled
    added_at: Time


class CollectionEntry(Record):
    """A collection; its analyses are those of the document, or are there already."""

    id: Id
    name: Name
    created_at: Time
    analyses: list[ListedAnalysis]
    neurons: list[ListedNeuron]


class Document(Record):
    """The whole."""

    format: Literal["neuron-atlas-workspace"] = FORMAT
    version: Literal[1] = VERSION
    analyses: list[AnalysisEntry] = Field(default_factory=list)
    neurons: list[NeuronNote] = Field(default_factory=list)
    collections: list[CollectionEntry] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import changed: how many are new, and how many were replaced by newer ones."""

    analyses: int
    neurons: int
    collections: int
    replaced: int

    def __str__(self) -> str:
        new = f"New views: {self.analyses}, notes: {self.neurons}, collections: {self.collections}"
        return f"{new}; replaced by newer ones: {self.replaced}."


def parse(data: bytes | str) -> Document:
    """The document in a file.

    Raises:
        AtlasError: it is none, or is damaged; the message says where.
    """
    if len(data) > MAX_BYTES:
        raise AtlasError(f"The file is larger than {MAX_BYTES >> 20} MB.")
    try:
        given = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise AtlasError(f"The file is no JSON ({str(error)[:100]}).") from error
    if not isinstance(given, dict) or given.get("format") != FORMAT:
        raise AtlasError("The file is no export of a workspace: `python -m db.workspace export` writes one.")
    if given.get("version") != VERSION:
        raise AtlasError(
            f"The file has version {str(given.get('version'))[:20]} of the form; this program reads version {VERSION}."
        )
    try:
        return Document.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
        raise AtlasError(f"The file is damaged at {where[:120]}: {said}.") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def export(workspace: Workspace) -> Document:
    """Everything in it."""
    table = tables.analysis
    with workspace.reading() as connection:
        rows = connection.execute(select(*SAVED, table.c.result).order_by(table.c.created_at, table.c.id))
        document = Document(analyses=[_entry(row) for row in rows])
        notes = sorted(notes_of(connection), key=lambda note: (note.model, note.neuron.label, note.checkpoint))
        return document.model_copy(update={"neurons": notes, "collections": _collections(connection)})


def _entry(row: Any) -> AnalysisEntry:
    kept = {name: getattr(row, name) for name in AnalysisEntry.model_fields}
    return AnalysisEntry(**kept | {"result": json.loads(row.result)})


def _collections(connection: Connection) -> list[CollectionEntry]:
    analyses: dict[str, list[ListedAnalysis]] = {}
    for row in connection.execute(select(tables.collected_analysis)):
        listed = ListedAnalysis(id=row.analysis_id, added_at=row.added_at)
        analyses.setdefault(row.collection_id, []).append(listed)
    neurons: dict[str, list[ListedNeuron]] = {}
    for row in connection.execute(select(tables.collected_neuron)):
        labelled = ListedNeuron(model=row.model, neuron=row.neuron, added_at=row.added_at)
        neurons.setdefault(row.collection_id, []).append(labelled)
    found = [
        CollectionEntry(
            id=row.id,
            name=row.name,
            created_at=row.created_at,
            analyses=sorted(analyses.get(row.id, []), key=lambda one: (one.added_at, one.id)),
            neurons=sorted(neurons.get(row.id, []), key=lambda one: (one.added_at, one.model, one.neuron.label)),
        )
        for row in connection.execute(select(tables.collection))
    ]
    return sorted(found, key=lambda one: one.name)


def to_text(document: Document) -> str:
    """The document as a file's content."""
    return json.dumps(document.to_json(), ensure_ascii=True, allow_nan=False)


def merge(workspace: Workspace, document: Document) -> Imported:
    """Put a document into a workspace: all of it, or on any error nothing.

    Raises:
        AtlasError: something in it cannot be kept; the message says what.
    """
    with workspace.writing() as connection:
        places = [_merge_analysis(connection, one, place) for place, one in enumerate(document.analyses)]
        noted = [_merge_note(connection, one, place) for place, one in enumerate(document.neurons)]
        listed = [_merge_collection(connection, one, place) for place, one in enumerate(document.collections)]
    return Imported(places.count("new"), noted.count("new"), listed.count("new"), (places + noted).count("replaced"))


def _merge_analysis(connection: Connection, entry: AnalysisEntry, place: int) -> str:
    table = tables.analysis
    known = connection.execute(select(table.c.updated_at).where(table.c.id == entry.id)).scalar()
    if known is not None and known >= entry.updated_at:
        return "known"
    with _named(f"analyses.{place}"):
        write_analysis(connection, entry, over=known is not None)
    return "new" if known is None else "replaced"


def _merge_note(connection: Connection, note: NeuronNote, place: int) -> str:
    known = note_of(connection, note.model, note.neuron, (note.checkpoint,))
    if known is None:
        put_note(connection, note)
        return "new"
    newer = note if note.updated_at > known.updated_at else known
    with _named(f"neurons.{place}"):
        united = newer.model_copy(update={"tags": tags_of((*known.tags, *note.tags))})
    if united == known:
        return "known"
    put_note(connection, united)
    return "replaced"


def _merge_collection(connection: Connection, entry: CollectionEntry, place: int) -> str:
    table = tables.collection
    with _named(f"collections.{place}"):
        name = line(entry.name, "name", MAX_NAME)
        by_id, by_name = (
            connection.execute(select(table.c.id).where(same)).scalar()
            for same in (table.c.id == entry.id, table.c.name == name)
        )
        known = by_id or by_name
        if known is None:
            connection.execute(table.insert().values(id=entry.id, name=name, created_at=entry.created_at))
        for listed in entry.analyses:
            saved_analysis(connection, listed.id)
            put_in_collection(connection, known or entry.id, listed.id, listed.added_at)
        for one in entry.neurons:
            put_in_collection(connection, known or entry.id, (one.model, one.neuron), one.added_at)
    return "known" if known else "new"


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say in an error which part of the document it is about."""
    try:
        yield
    except AtlasError as error:
        raise AtlasError(f"The file cannot be imported; at {where}: {error}") from error
