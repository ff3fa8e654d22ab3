"""Saved analyses: what was asked, the whole result, and which neurons stand in it."""

import hashlib
import json
import math
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, distinct, func, insert, select, true, update

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import schema
from db.workspace.database import Database
from db.workspace.records import (
    MAX_ADDRESS,
    MAX_PAGE,
    MAX_RESULT,
    MAX_TITLE,
    Draft,
    Mention,
    Saved,
    line,
    now,
    searchable,
    words_of,
)

# What the parts of the workspace share: transactions on tables that are known to be up to date.

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


# The neurons in an analysis' lists: what is indexed of a result, and what a result must be like to be kept.

ROLES = {
    "FFN value": "ffn_value_neurons",
    "attention value": "attention_value_neurons",
    "FFN query": "query_ffn_neurons",
    "FFN suppressing": "ffn_suppressing_neurons",
    "attention suppressing": "attention_suppressing_neurons",
}
"""Role -> the list's key in the JSON of an analysis."""

_MAX_LISTED = 5000
_MAX_POSITION = 2**31 - 1


def mentions_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every neuron in every list: role, place (from 0), neuron, position, score, activation.

    Raises:
        AtlasError: a list holds something that is no neuron with a finite score.
    """
    rows = []
    for role, name in ROLES.items():
        listed = result.get(name) or []
        if not isinstance(listed, list) or len(listed) > _MAX_LISTED:
            raise AtlasError(f"The result's {name} is no list of at most {_MAX_LISTED:,} neurons.")
        rows += [{"role": role, "place": place, **_row(one, name)} for place, one in enumerate(listed)]
    return rows


def _row(one: Any, name: str) -> dict[str, Any]:
    try:
        neuron = Neuron.parse(str(one["neuron"])[:40]).label
        score, activation, position = float(one["score"]), one.get("activation"), one.get("position")
        activation = None if activation is None else float(activation)
    except (AtlasError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise AtlasError(f"The result's {name} holds something that is no neuron with a score.") from error
    finite = math.isfinite(score) and (activation is None or math.isfinite(activation))
    if not finite or not (position is None or (type(position) is int and 0 <= position <= _MAX_POSITION)):
        raise AtlasError(f"The result's {name} has for {neuron} a score, activation or position that cannot be.")
    return {"neuron": neuron, "position": position, "score": score, "activation": activation}


def as_text(result: dict[str, Any]) -> str:
    """The result as it is stored: JSON in plain ASCII, so that every database can hold every prompt.

    Raises:
        AtlasError: it is too large, or holds what JSON has no word for.
    """
    try:
        text = json.dumps(result, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise AtlasError(f"The result cannot be written as JSON: {error}.") from error
    if len(text) > MAX_RESULT:
        raise AtlasError(
            f"The result has {len(text):,} characters of JSON; at most {MAX_RESULT:,} are kept. "
            "Ask for fewer neurons, or shorten the prompt."
        )
    return text


def named(result: dict[str, Any]) -> tuple[str, str]:
    """The prompt and the target's text of a result.

    Raises:
        AtlasError: it has none, and is no analysis.
    """
    try:
        prompt, target = result["prompt"], result["target"]["text"]
    except (KeyError, TypeError):
        prompt = target = None
    if not isinstance(prompt, str) or not isinstance(target, str):
        raise AtlasError("The result is no analysis: it has no prompt, or no target.")
    return prompt, target


_T = schema.analysis
_SAVED = (
    _T.c.id,
    _T.c.title,
    _T.c.model,
    _T.c.build_id,
    _T.c.unembedding_hash,
    _T.c.address,
    _T.c.question,
    _T.c.prompt,
    _T.c.target,
    _T.c.created_at,
    _T.c.updated_at,
)
_NEWEST_FIRST = (_T.c.created_at.desc(), _T.c.id)


class Analyses(Base):
    """The part of a workspace that keeps analyses."""

    def save(self, draft: Draft) -> Saved:
        """Keep an analysis.

        Raises:
            AtlasError: the title is empty or too long, or the result is too large or is none.
        """
        with self.writing() as connection:
            return add(connection, uuid.uuid4().hex, draft, now())

    def saved(self, analysis_id: str) -> Saved:
        """One saved analysis, without its result.

        Raises:
            AtlasError: there is none of this id.
        """
        with self.reading() as connection:
            return _one(connection, analysis_id)

    def result(self, analysis_id: str) -> dict[str, Any]:
        """The JSON object of a saved analysis.

        Raises:
            AtlasError: there is none of this id.
        """
        with self.reading() as connection:
            text = connection.execute(select(_T.c.result).where(_T.c.id == analysis_id)).scalar()
        if text is None:
            raise _unknown(analysis_id)
        result: dict[str, Any] = json.loads(text)
        return result

    def rename(self, analysis_id: str, title: str) -> Saved:
        """Give a saved analysis another title.

        Raises:
            AtlasError: there is none of this id, or the title is empty or too long.
        """
        title = line(title, "title", MAX_TITLE)
        with self.writing() as connection:
            old = _one(connection, analysis_id)
            changes = {"title": title, "updated_at": now(), "searched": _searched(title, old.prompt, old.target)}
            connection.execute(update(_T).where(_T.c.id == analysis_id).values(changes))
            return _one(connection, analysis_id)

    def delete(self, analysis_id: str) -> None:
        """Forget a saved analysis; collections lose it.

        Raises:
            AtlasError: there is none of this id.
        """
        with self.writing() as connection:
            if not connection.execute(delete(_T).where(_T.c.id == analysis_id)).rowcount:
                raise _unknown(analysis_id)

    def analyses(
        self, words: str = "", *, model: str | None = None, limit: int = 50, offset: int = 0
    ) -> tuple[Saved, ...]:
        """Those whose title, prompt or target hold all the words, newest first.

        Raises:
            AtlasError: too many words, or a page that cannot be.
        """
        check_page(limit, offset)
        chosen = select(*_SAVED).where(*_wanted(words, model)).order_by(*_NEWEST_FIRST).limit(limit).offset(offset)
        with self.reading() as connection:
            return saved_of(connection.execute(chosen).all())

    def count_analyses(self, words: str = "", *, model: str | None = None) -> int:
        """How many :meth:`analyses` has in all."""
        with self.reading() as connection:
            counted = select(func.count()).select_from(_T).where(*_wanted(words, model))
            return int(connection.execute(counted).scalar_one())

    def asked(self, model: str, question: str) -> tuple[Saved, ...]:
        """The saved answers to one question, newest first."""
        chosen = (
            select(*_SAVED)
            .where(_T.c.model == model, _T.c.question_hash == _hash(question), _T.c.question == question)
            .order_by(*_NEWEST_FIRST)
            .limit(50)
        )
        with self.reading() as connection:
            return saved_of(connection.execute(chosen).all())

    def mentions(self, model: str, neuron: Neuron, *, limit: int = 50, offset: int = 0) -> tuple[Mention, ...]:
        """Where a neuron stands in the lists of saved analyses, the largest scores first.

        Raises:
            AtlasError: a page that cannot be.
        """
        check_page(limit, offset)
        found = schema.mention
        chosen = (
            select(found.c.role, found.c.position, found.c.score, found.c.activation, *_SAVED)
            .join(_T, _T.c.id == found.c.analysis_id)
            .where(found.c.model == model, found.c.neuron == neuron.label)
            .order_by(func.abs(found.c.score).desc(), *_NEWEST_FIRST, found.c.role, found.c.place)
            .limit(limit)
            .offset(offset)
        )
        with self.reading() as connection:
            rows = connection.execute(chosen).all()
        pairs = zip(rows, saved_of(row[4:] for row in rows), strict=True)
        return tuple(Mention(saved, row[0], neuron, *row[1:4]) for row, saved in pairs)

    def count_mentions(self, model: str, neuron: Neuron) -> tuple[int, int]:
        """How many rows :meth:`mentions` has in all, and of how many analyses."""
        found = schema.mention
        counted = select(func.count(), func.count(distinct(found.c.analysis_id))).where(
            found.c.model == model, found.c.neuron == neuron.label
        )
        with self.reading() as connection:
            rows, analyses = connection.execute(counted).one()
        return int(rows), int(analyses)


def add(connection: Connection, analysis_id: str, draft: Draft, created_at: str, updated_at: str = "") -> Saved:
    """Write an analysis and its mentions; raises as `Analyses.save` does."""
    saved, columns, mentions = _checked(analysis_id, draft, created_at, updated_at)
    connection.execute(insert(_T).values(columns))
    if mentions:
        connection.execute(insert(schema.mention), mentions)
    return saved


def replace(connection: Connection, analysis_id: str, draft: Draft, created_at: str, updated_at: str) -> None:
    """Write an analysis over the one of its id, which stays in its collections; raises as `Analyses.save` does."""
    _, columns, mentions = _checked(analysis_id, draft, created_at, updated_at)
    connection.execute(update(_T).where(_T.c.id == analysis_id).values(columns))
    connection.execute(delete(schema.mention).where(schema.mention.c.analysis_id == analysis_id))
    if mentions:
        connection.execute(insert(schema.mention), mentions)


def _checked(
    analysis_id: str, draft: Draft, created_at: str, updated_at: str
) -> tuple[Saved, dict[str, Any], list[dict[str, Any]]]:
    """What is written of an analysis: its row, and those of its mentions."""
    title = line(draft.title, "title", MAX_TITLE)
    prompt, target = (_storable(text) for text in named(draft.result))
    mentions = mentions_of(draft.result)
    for name, text, longest in (
        ("address", draft.address, MAX_ADDRESS),
        ("question", draft.question, MAX_ADDRESS),
        ("model", draft.model, 200),
        ("build", draft.build_id, 100),
        ("unembedding's hash", draft.unembedding_hash, 100),
    ):
        if len(text) > longest or not text.isprintable():
            raise AtlasError(f"The {name} of the analysis is longer than {longest:,} characters, or cannot be shown.")
    saved = Saved(
        analysis_id,
        title,
        draft.model,
        draft.build_id,
        draft.unembedding_hash,
        draft.address,
        draft.question,
        prompt,
        target,
        created_at,
        updated_at or created_at,
    )
    columns = {name: getattr(saved, name) for name in Saved.__slots__}
    columns["question_hash"] = _hash(draft.question)
    columns["result"] = as_text(draft.result)
    columns["searched"] = _searched(title, prompt, target)
    shared = {"analysis_id": analysis_id, "model": draft.model}
    return saved, columns, [shared | row for row in mentions]


def saved_of(rows: Iterable[Any]) -> tuple[Saved, ...]:
    """Rows of the columns `SAVED`."""
    return tuple(Saved(*row) for row in rows)


SAVED = _SAVED


def require(connection: Connection, analysis_id: str) -> Saved:
    """A saved analysis that must be there; raises as `Analyses.saved` does."""
    return _one(connection, analysis_id)


def _one(connection: Connection, analysis_id: str) -> Saved:
    row = connection.execute(select(*_SAVED).where(_T.c.id == analysis_id)).first()
    if row is None:
        raise _unknown(analysis_id)
    return saved_of([row])[0]


def _unknown(analysis_id: str) -> AtlasError:
    return AtlasError(f"There is no saved analysis {analysis_id[:40]!r}; it may have been deleted.")


def _wanted(words: str, model: str | None) -> list[ColumnElement[bool]]:
    conditions = [holds(_T.c.searched, words)]
    return conditions if model is None else [*conditions, _T.c.model == model]


def _searched(title: str, prompt: str, target: str) -> str:
    return searchable(title, prompt, target)


def _storable(text: str) -> str:
    """Text for a column: what no database need hold becomes the replacement character. The result has it exactly."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _hash(question: str) -> str:
    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()
