"""Everything in a workspace as one JSON document, and back. The same form serves for back-ups, for handing a collection
to a colleague, and for the views that are shipped with the app.

    {"format": "neuron-atlas-workspace", "version": 1,
     "analyses": [{"id", "title", "model", "build_id", "unembedding_hash", "address", "question", "created_at",
                   "updated_at", "result": {as `python -m app.attribution --json` writes it}}],
     "neurons": [{"model", "neuron", "note", "tags": [...], "updated_at"}],
     "collections": [{"id", "name", "created_at", "analyses": [{"id", "added_at"}],
                      "neurons": [{"model", "neuron", "added_at"}]}]}

Importing merges: what is there already (by id; a note by model and neuron) stays as it is unless the document's is
newer; tags and collections are united. Importing the same document again changes nothing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import Connection, select

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import analyses as saved_analyses
from db.workspace import schema, store
from db.workspace import store as lists
from db.workspace.records import MAX_NAME, MAX_NOTE, Draft, NeuronNote, line, paragraph, tags_of
from db.workspace.store import Workspace

FORMAT: Final = "neuron-atlas-workspace"
VERSION: Final = 1
MAX_BYTES = 256 * 2**20

_Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_Time = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AnalysisEntry(_Strict):
    """A saved analysis with its result."""

    id: _Id
    title: _Name
    model: _Name
    build_id: _Name
    unembedding_hash: _Name
    address: str
    question: str
    created_at: _Time
    updated_at: _Time
    result: dict[str, Any]

    def draft(self) -> Draft:
        """What is kept of it, besides its id and times."""
        return Draft(
            self.title, self.model, self.build_id, self.unembedding_hash, self.address, self.question, self.result
        )


class NeuronEntry(_Strict):
    """What was noted of a neuron."""

    model: _Name
    neuron: _Name
    note: str
    tags: list[str]
    updated_at: _Time


class _Listed(_Strict):
    id: _Id
    added_at: _Time


class _ListedNeuron(_Strict):
    model: _Name
    neuron: _Name
    added_at: _Time


class CollectionEntry(_Strict):
    """A collection; its analyses are those of the document, or are there already."""

    id: _Id
    name: _Name
    created_at: _Time
    analyses: list[_Listed]
    neurons: list[_ListedNeuron]


class Document(_Strict):
    """The whole."""

    format: Literal["neuron-atlas-workspace"] = "neuron-atlas-workspace"
    version: Literal[1] = 1
    analyses: list[AnalysisEntry] = Field(default_factory=list)
    neurons: list[NeuronEntry] = Field(default_factory=list)
    collections: list[CollectionEntry] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import changed: how many are new, and how many were replaced by newer ones."""

    analyses: int
    neurons: int
    collections: int
    replaced: int

    def __str__(self) -> str:
        new = f"{self.analyses} analyses, {self.neurons} notes and {self.collections} collections are new"
        return f"{new}; {self.replaced} were replaced by newer ones."


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
        raise AtlasError(f"The file is damaged at {where[:120]}: {first['msg']}.") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def export(workspace: Workspace, analysis_ids: tuple[str, ...] | None = None) -> Document:
    """Everything; or only some analyses, without notes and collections.

    Raises:
        AtlasError: there is no analysis of such an id.
    """
    with workspace.reading() as connection:
        if analysis_ids is None:
            found = connection.execute(select(schema.analysis.c.id)).scalars().all()
            entries = [_analysis(connection, one) for one in found]
            return Document(
                analyses=sorted(entries, key=lambda one: (one.created_at, one.id)),
                neurons=_neurons(connection),
                collections=_collections(connection),
            )
        return Document(analyses=[_analysis(connection, one) for one in analysis_ids])


def to_text(document: Document) -> str:
    """The document as a file's content."""
    return json.dumps(document.model_dump(), ensure_ascii=True, allow_nan=False)


def merge(workspace: Workspace, document: Document) -> Imported:
    """Put a document into a workspace: all of it, or on any error nothing.

    Raises:
        AtlasError: something in it cannot be kept; the message says what.
    """
    with workspace.writing() as connection:
        places = [_merge_analysis(connection, one, place) for place, one in enumerate(document.analyses)]
        noted = [_merge_neuron(connection, one, place) for place, one in enumerate(document.neurons)]
        listed = [_merge_collection(connection, one, place) for place, one in enumerate(document.collections)]
    return Imported(places.count("new"), noted.count("new"), listed.count("new"), (places + noted).count("replaced"))


def _analysis(connection: Connection, analysis_id: str) -> AnalysisEntry:
    saved = saved_analyses.require(connection, analysis_id)
    table = schema.analysis
    result = connection.execute(select(table.c.result).where(table.c.id == analysis_id)).scalar_one()
    kept = {name: getattr(saved, name) for name in AnalysisEntry.model_fields if name != "result"}
    return AnalysisEntry(**kept, result=json.loads(result))


def _neurons(connection: Connection) -> list[NeuronEntry]:
    rows = connection.execute(select(schema.note.c.model, schema.note.c.neuron)).all()
    found = []
    for model, label in sorted(map(tuple, rows)):
        one = store.find(connection, model, label)
        if one is not None:
            entry = NeuronEntry(
                model=model, neuron=label, note=one.text, tags=list(one.tags), updated_at=one.updated_at
            )
            found.append(entry)
    return found


def _collections(connection: Connection) -> list[CollectionEntry]:
    collection, of_analyses, of_neurons = schema.collection, schema.collected_analysis, schema.collected_neuron
    found = []
    for one in connection.execute(select(collection.c.id, collection.c.name, collection.c.created_at)).all():
        analyses = select(of_analyses).where(of_analyses.c.collection_id == one.id)
        neurons = select(of_neurons).where(of_neurons.c.collection_id == one.id)
        listed = [_Listed(id=row.analysis_id, added_at=row.added_at) for row in connection.execute(analyses).all()]
        labelled = [
            _ListedNeuron(model=row.model, neuron=row.neuron, added_at=row.added_at)
            for row in connection.execute(neurons).all()
        ]
        found.append(
            CollectionEntry(
                id=one.id,
                name=one.name,
                created_at=one.created_at,
                analyses=sorted(listed, key=lambda row: (row.added_at, row.id)),
                neurons=sorted(labelled, key=lambda row: (row.added_at, row.model, row.neuron)),
            )
        )
    return sorted(found, key=lambda one: one.name)


def _merge_analysis(connection: Connection, entry: AnalysisEntry, place: int) -> str:
    table = schema.analysis
    known = connection.execute(select(table.c.updated_at).where(table.c.id == entry.id)).scalar()
    if known is not None and known >= entry.updated_at:
        return "known"
    with _named(f"analyses.{place}"):
        if known is None:
            saved_analyses.add(connection, entry.id, entry.draft(), entry.created_at, entry.updated_at)
            return "new"
        saved_analyses.replace(connection, entry.id, entry.draft(), entry.created_at, entry.updated_at)
    return "replaced"


def _merge_neuron(connection: Connection, entry: NeuronEntry, place: int) -> str:
    with _named(f"neurons.{place}"):
        neuron = Neuron.parse(entry.neuron)
        note = NeuronNote(
            entry.model, neuron, paragraph(entry.note, "note", MAX_NOTE), tags_of(entry.tags), entry.updated_at
        )
        known = store.find(connection, entry.model, neuron.label)
        if known is None:
            store.put(connection, note)
            return "new"
        newer = note if note.updated_at > known.updated_at else known
        united = NeuronNote(note.model, neuron, newer.text, tags_of((*known.tags, *note.tags)), newer.updated_at)
        if united == known:
            return "known"
        store.put(connection, united)
    return "replaced"


def _merge_collection(connection: Connection, entry: CollectionEntry, place: int) -> str:
    table = schema.collection
    with _named(f"collections.{place}"):
        name = line(entry.name, "name", MAX_NAME)
        by_name = connection.execute(select(table.c.id).where(table.c.name == name)).scalar()
        by_id = connection.execute(select(table.c.id).where(table.c.id == entry.id)).scalar()
        collection_id = by_id or by_name or entry.id
        if by_id is None and by_name is None:
            connection.execute(table.insert().values(id=entry.id, name=name, created_at=entry.created_at))
        for listed in entry.analyses:
            saved_analyses.require(connection, listed.id)
            row = {"collection_id": collection_id, "analysis_id": listed.id}
            lists.put_in_collection(connection, schema.collected_analysis, row, listed.added_at)
        for one in entry.neurons:
            label = Neuron.parse(one.neuron).label
            row = {"collection_id": collection_id, "model": one.model, "neuron": label}
            lists.put_in_collection(connection, schema.collected_neuron, row, one.added_at)
    return "known" if by_id or by_name else "new"


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say in an error which part of the document it is about."""
    try:
        yield
    except AtlasError as error:
        raise AtlasError(f"The file cannot be imported; at {where}: {error}") from error
