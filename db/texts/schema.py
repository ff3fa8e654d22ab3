"""The tables of a file of texts, and every statement that reads them, in SQLAlchemy Core as those of a build.

There are no keys and no indexes: rows lie in the order of their ids, which zone maps use. Means and deviations over
millions of tokens are DOUBLE, as they are counted; single activations REAL. What no question looks into is one value:
a neuron's histogram, the activations around its peaks, the tokens of a window (`db.texts.store` says how). Tokens
stand in ``text_window`` alone, and excerpts refer to them.
"""

from collections.abc import Sequence
from types import UnionType
from typing import Any, get_args, get_type_hints

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    and_,
    func,
    select,
)
from sqlalchemy.ext.compiler import compiles

from db.catalogue.statements import Statement, among
from db.texts.records import TextsStamp

SCHEMA_VERSION = 2

metadata = MetaData()

_TYPES: dict[type, Any] = {int: BigInteger, str: Text, bool: SmallInteger, float: Double}


def _stamp_column(name: str, hint: Any) -> Column[Any]:
    optional = isinstance(hint, UnionType)
    return Column(name, _TYPES[get_args(hint)[0] if optional else hint], nullable=optional)


class _Uncompressed(LargeBinary):
    """Bytes of which DuckDB finds a few rows without decompressing thousands."""


@compiles(_Uncompressed, "duckdb")
def _uncompressed(*_told: Any, **_more: Any) -> str:
    return "BLOB USING COMPRESSION uncompressed"


texts = Table("texts", metadata, *(_stamp_column(*one) for one in get_type_hints(TextsStamp).items()))

text_window = Table(  # those that an excerpt refers to
    "text_window",
    metadata,
    Column("window_id", Integer, nullable=False),
    Column("document", Integer, nullable=False),
    Column("first", Integer, nullable=False),  # position in the document of its first token
    Column("token_ids", _Uncompressed, nullable=False),  # see `db.texts.store.deflated`
    Column("folded", Text, nullable=False),  # its text as it is searched: see db.texts.store.folded
)

CASES = ("pp", "pn", "np", "nn")
"""Signs of gate and up, in the names of columns."""


def _case_columns(case: str) -> tuple[Column[Any], ...]:
    """The tokens with these signs; NULL where FFNs are not gated, the last two where there are no such tokens."""
    return Column(f"count_{case}", BigInteger), Column(f"mean_{case}", Double), Column(f"strongest_{case}", REAL)


neuron_text = Table(
    "neuron_text",
    metadata,
    Column("neuron_id", Integer, nullable=False),  # as in the builds of the checkpoint
    Column("mean", Double, nullable=False),
    Column("std", Double, nullable=False),
    Column("positive", BigInteger, nullable=False),  # tokens with an activation above 0
    Column("negative", BigInteger, nullable=False),
    Column("active_positive", BigInteger, nullable=False),
    Column("active_negative", BigInteger, nullable=False),
    Column("active_above", REAL, nullable=False),
    Column("highest", REAL, nullable=False),
    Column("lowest", REAL, nullable=False),
    *(column for case in CASES for column in _case_columns(case)),
    Column("histogram", _Uncompressed, nullable=False),  # see `db.texts.store.deflated`: a count for each bin
    Column("name", Text),
    Column("name_rule", Text),
    Column("name_confidence", REAL),
)

excerpt = Table(  # sorted by neuron_id, sign descending, rank
    "excerpt",
    metadata,
    Column("neuron_id", Integer, nullable=False),
    Column("sign", SmallInteger, nullable=False),
    Column("rank", SmallInteger, nullable=False),  # from 1, strongest first
    Column("window_id", Integer, nullable=False),
    Column("position", SmallInteger, nullable=False),  # of the peak in its window
    Column("gate", SmallInteger, nullable=False),  # sign of the gate at the peak; 0 without one
    Column("peak", REAL, nullable=False),
)

neuron_excerpts = Table(  # a row of each of neuron_text
    "neuron_excerpts",
    metadata,
    Column("neuron_id", Integer, nullable=False),
    Column("activations", _Uncompressed, nullable=False),  # see `db.texts.store.packed_excerpts`
)

histogram_edge = Table(
    "histogram_edge",
    metadata,
    Column("bin", SmallInteger, nullable=False),
    Column("low", REAL, nullable=False),
    Column("high", REAL, nullable=False),
)

neuron_sketch = Table(  # sorted by neuron_id; of FFN neurons
    "neuron_sketch",
    metadata,
    Column("neuron_id", Integer, nullable=False),
    Column("sketch", LargeBinary, nullable=False),  # see `db.texts.store.packed`
)

# Statements.


def sketches() -> Statement:
    """Columns: neuron_id, sketch; in neuron order."""
    return select(*neuron_sketch.columns).order_by(neuron_sketch.c.neuron_id)


def figures(neuron_id: int) -> Statement:
    """Columns: those of ``neuron_text``, activations; no row for a neuron that was not looked at."""
    return (
        select(*neuron_text.columns, neuron_excerpts.c.activations)
        .join(neuron_excerpts, neuron_excerpts.c.neuron_id == neuron_text.c.neuron_id)
        .where(neuron_text.c.neuron_id == neuron_id)
    )


def edges() -> Statement:
    """Columns: bin, low, high; from the lowest."""
    return select(*histogram_edge.columns).order_by(histogram_edge.c.low)


_EXCERPT = (*excerpt.columns, text_window.c.document, text_window.c.token_ids)


def excerpts(neuron_id: int) -> Statement:
    """Columns: those of ``excerpt``, document, token_ids; the positive ones first, each sign strongest first.

    Without a limit of the rank: DuckDB then takes the excerpts for many, and reads every window.
    """
    return (
        select(*_EXCERPT)
        .join(text_window, text_window.c.window_id == excerpt.c.window_id)
        .where(excerpt.c.neuron_id == neuron_id)
        .order_by(excerpt.c.sign.desc(), excerpt.c.rank)
    )


def peaks(count: int) -> Statement:
    """Columns: neuron_id, sign, window_id, position; of the first excerpts of every neuron."""
    found = excerpt.c
    return select(found.neuron_id, found.sign, found.window_id, found.position).where(found.rank <= count)


def windows() -> Statement:
    """Columns: window_id, token_ids; of all that are stored."""
    return select(text_window.c.window_id, text_window.c.token_ids)


def window(window_id: int) -> Statement:
    """Columns: document, first, token_ids."""
    found = text_window.c
    return select(found.document, found.first, found.token_ids).where(found.window_id == window_id)


_MARK = (
    neuron_text.c.neuron_id,
    neuron_text.c.active_positive,
    neuron_text.c.active_negative,
    neuron_text.c.name,
    neuron_text.c.name_rule,
    neuron_text.c.name_confidence,
)


def marks(neuron_ids: Sequence[int]) -> Statement:
    """Columns: neuron_id, active_positive, active_negative, name, name_rule, name_confidence."""
    return select(*_MARK).where(among(neuron_text.c.neuron_id, neuron_ids))


def usual_ends() -> Statement:
    """Columns: neuron_id, active_positive, active_negative."""
    found = neuron_text.c
    return select(found.neuron_id, found.active_positive, found.active_negative)


def statistics(first: int, size: int) -> Statement:
    """Columns: neuron_id, mean, std, highest, lowest; in neuron order."""
    found = neuron_text.c
    return (
        select(found.neuron_id, found.mean, found.std, found.highest, found.lowest)
        .where(found.neuron_id.between(first, first + size - 1))
        .order_by(found.neuron_id)
    )


def holding(pieces: Sequence[str], limit: int, offset: int) -> Statement:
    """Columns: neuron_id, sign, rank, z, position, window_id, token_ids; the excerpts of windows whose text holds all
    pieces, by falling |z|.
    """
    z = func.coalesce((excerpt.c.peak - neuron_text.c.mean) / func.nullif(neuron_text.c.std, 0.0), 0.0)
    at = (excerpt.c.neuron_id, excerpt.c.sign, excerpt.c.rank)
    place = (excerpt.c.position, excerpt.c.window_id)
    return (
        select(*at, z.label("z"), *place, text_window.c.token_ids)
        .select_from(excerpt)
        .join(text_window, text_window.c.window_id == excerpt.c.window_id)
        .join(neuron_text, neuron_text.c.neuron_id == excerpt.c.neuron_id)
        .where(*(text_window.c.folded.contains(piece, autoescape=True) for piece in pieces))
        .order_by(func.abs(z).desc(), *at)
        .limit(limit)
        .offset(offset)
    )


def these_excerpts(neuron_ids: Sequence[int], window_ids: Sequence[int]) -> Statement:
    """Columns: those of ``excerpt``, document, token_ids, activations."""
    return (
        select(*_EXCERPT, neuron_excerpts.c.activations)
        .join(text_window, text_window.c.window_id == excerpt.c.window_id)
        .join(neuron_excerpts, neuron_excerpts.c.neuron_id == excerpt.c.neuron_id)
        .where(among(excerpt.c.neuron_id, neuron_ids), among(excerpt.c.window_id, window_ids))
    )


def _named(words: Sequence[str]) -> ColumnElement[bool]:
    lower = func.lower(neuron_text.c.name)
    return and_(*(lower.contains(word, autoescape=True) for word in words))


def named(words: Sequence[str], limit: int, offset: int) -> Statement:
    """Columns: as of `marks`; the neurons whose name holds all words, surest first."""
    found = neuron_text.c
    order = (found.name_confidence.desc(), found.neuron_id)
    return select(*_MARK).where(_named(words)).order_by(*order).limit(limit).offset(offset)
