"""Saved analyses: what was asked, the whole result, and which neurons stand in it."""

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, distinct, func, insert, select, update

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import tables
from db.workspace.base import Base, check_page, holds
from db.workspace.mentions import as_text, mentions_of, named
from db.workspace.values import (
    MAX_ADDRESS,
    MAX_TITLE,
    Draft,
    Mention,
    Saved,
    line,
    now,
    searchable,
)

_T = tables.analysis
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
        found = tables.mention
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
        found = tables.mention
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
        connection.execute(insert(tables.mention), mentions)
    return saved


def replace(connection: Connection, analysis_id: str, draft: Draft, created_at: str, updated_at: str) -> None:
    """Write an analysis over the one of its id, which stays in its collections; raises as `Analyses.save` does."""
    _, columns, mentions = _checked(analysis_id, draft, created_at, updated_at)
    connection.execute(update(_T).where(_T.c.id == analysis_id).values(columns))
    connection.execute(delete(tables.mention).where(tables.mention.c.analysis_id == analysis_id))
    if mentions:
        connection.execute(insert(tables.mention), mentions)


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
