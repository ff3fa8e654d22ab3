"""The statements behind the catalogue's questions: SQLAlchemy Core, bound parameters, no dialect of one database.

A pair table is asked by what it is sorted by: ``token_neuron`` by token, ``neuron_token`` by neuron id. Ranges of ids
are repeated on both sides of a join, because zone maps prune only what a condition names.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Row, Select, and_, false, func, or_, select

from db.filters import Filters, Order, z_score
from db.tables import neuron, neuron_token, token, token_neuron

Statement = Select[*tuple[Any, ...]]
Answer = Row[*tuple[Any, ...]]

Spans = Sequence[tuple[int, int]] | None
"""First and last ids of runs of neurons; None for all."""

NEURON_COLUMNS = (neuron.c.kind, neuron.c.layer, neuron.c.head, neuron.c.index)
TOKEN_COLUMNS = (token.c.token_id, token.c.text, token.c.display, token.c.special)


def among(column: Column[int], ids: Sequence[int]) -> ColumnElement[bool]:
    """``column`` is one of ``ids``. Equality where there is one: twice as fast as a list of one."""
    return column == ids[0] if len(ids) == 1 else column.in_(ids)


def tokens_by_id(ids: Sequence[int]) -> Statement:
    """Columns: TOKEN_COLUMNS."""
    return select(*TOKEN_COLUMNS).where(among(token.c.token_id, ids))


def token_bytes(token_id: int) -> Statement:
    """One row: the bytes."""
    return select(token.c.bytes).where(token.c.token_id == token_id)


def tokens_by_text(texts: Sequence[str]) -> Statement:
    """Columns: TOKEN_COLUMNS."""
    return select(*TOKEN_COLUMNS).where(token.c.text.in_(texts))


def hits(token_ids: Sequence[int], filters: Filters, spans: Spans, limit: int, offset: int) -> Statement:
    """Columns: neuron_id, sign, rank, token_id, logit, z; best first."""
    pairs = token_neuron
    found = select(pairs.c.neuron_id, pairs.c.sign, pairs.c.rank, pairs.c.token_id, pairs.c.z)
    if filters.order is Order.LOGIT:
        found = found.join(neuron, pairs.c.neuron_id == neuron.c.neuron_id)
    found = found.where(*pair_conditions(token_ids, filters, spans))
    page = found.order_by(*filters.ordering(pairs, neuron)).limit(limit).offset(offset).subquery("page")
    logit = page.c.z * neuron.c.std + neuron.c.mean
    return (
        select(page.c.neuron_id, page.c.sign, page.c.rank, page.c.token_id, logit, page.c.z)
        .join(neuron, page.c.neuron_id == neuron.c.neuron_id)
        .order_by(*filters.ordering(page, neuron))
    )


def hit_count(token_ids: Sequence[int], filters: Filters, spans: Spans) -> Statement:
    """One row: the number of rows that :func:`hits` has without a limit."""
    return select(func.count()).select_from(token_neuron).where(*pair_conditions(token_ids, filters, spans))


def layer_counts(token_ids: Sequence[int], filters: Filters, spans: Spans) -> Statement:
    """Columns: layer, kind, sign, distinct neurons."""
    pairs = token_neuron
    groups = (neuron.c.layer, neuron.c.kind, pairs.c.sign)
    return (
        select(*groups, func.count(pairs.c.neuron_id.distinct()))
        .select_from(pairs.join(neuron, pairs.c.neuron_id == neuron.c.neuron_id))
        .where(*pair_conditions(token_ids, filters, spans))
        .group_by(*groups)
        .order_by(neuron.c.layer, neuron.c.kind, pairs.c.sign.desc())
    )


def pair_conditions(token_ids: Sequence[int], filters: Filters, spans: Spans) -> list[ColumnElement[bool]]:
    """What a row of ``token_neuron`` must fulfil, without a look at its neuron: that is in the spans of ids."""
    found = [among(token_neuron.c.token_id, token_ids), *filters.pair_conditions(token_neuron)]
    if spans is not None:
        found.append(or_(false(), *(token_neuron.c.neuron_id.between(*span) for span in spans)))
    return found


def card(neuron_id: int) -> Statement:
    """Columns: mean, std, norm, sign, logit, z, TOKEN_COLUMNS; the promoted end first, each by rank."""
    pairs = neuron_token
    figures = (neuron.c.mean, neuron.c.std, neuron.c.norm)
    return (
        select(*figures, pairs.c.sign, pairs.c.logit, z_score(pairs, neuron).label("z"), *TOKEN_COLUMNS)
        .select_from(pairs.join(neuron, pairs.c.neuron_id == neuron.c.neuron_id))
        .join(token, token.c.token_id == pairs.c.token_id)
        .where(pairs.c.neuron_id == neuron_id, neuron.c.neuron_id == neuron_id)
        .order_by(pairs.c.sign.desc(), pairs.c.rank)
    )


def strongest_tokens(neuron_ids: Sequence[int], depth: int) -> Statement:
    """Columns: neuron_id, sign, TOKEN_COLUMNS; by neuron, sign descending, rank."""
    pairs = neuron_token
    return (
        select(pairs.c.neuron_id, pairs.c.sign, *TOKEN_COLUMNS)
        .join(token, token.c.token_id == pairs.c.token_id)
        .where(among(pairs.c.neuron_id, neuron_ids), pairs.c.rank <= depth)
        .order_by(pairs.c.neuron_id, pairs.c.sign.desc(), pairs.c.rank)
    )


def layer_statistics(first: int, size: int) -> Statement:
    """Columns: index, head, mean, std, norm, top_logit, bottom_logit, top_z, bottom_z; in neuron order."""
    top, bottom = neuron_token.alias("top"), neuron_token.alias("bottom")
    joined: FromClause = neuron
    condition = _in_range(neuron.c.neuron_id, first, size)
    for pairs, sign in ((top, 1), (bottom, -1)):
        at_first = and_(pairs.c.neuron_id == neuron.c.neuron_id, pairs.c.sign == sign, pairs.c.rank == 1)
        joined = joined.join(pairs, at_first)
        condition = and_(condition, _in_range(pairs.c.neuron_id, first, size))
    figures = (neuron.c.mean, neuron.c.std, neuron.c.norm, top.c.logit.label("top_logit"))
    ends = (bottom.c.logit.label("bottom_logit"), z_score(top, neuron), z_score(bottom, neuron))
    return (
        select(neuron.c.index, neuron.c.head, *figures, *ends)
        .select_from(joined)
        .where(condition)
        .order_by(neuron.c.neuron_id)
    )


def extremes(first: int, size: int) -> Statement:
    """Columns: sign, logit of rank 1; all highest logits in neuron order, then all lowest."""
    pairs = neuron_token
    return (
        select(pairs.c.sign, pairs.c.logit)
        .where(_in_range(pairs.c.neuron_id, first, size), pairs.c.rank == 1)
        .order_by(pairs.c.sign.desc(), pairs.c.neuron_id)
    )


def _in_range(column: ColumnElement[int], first: int, size: int) -> ColumnElement[bool]:
    return column.between(first, first + size - 1)
