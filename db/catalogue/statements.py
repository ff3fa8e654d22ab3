"""The statements behind the catalogue's questions: SQLAlchemy Core, bound parameters, no dialect of one database.

A pair table is asked by what it is sorted by: ``token_neuron`` by token, ``neuron_token`` by neuron id. Ranges of ids
are repeated on both sides of a join, because zone maps prune only what a condition names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Row, Select, and_, case, false, func, or_, select

from db.catalogue.filters import Filters, Order, z_score
from db.catalogue.schema import neuron, neuron_token, token, token_neighbour, token_neuron

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


# The statements behind concepts, neighbours and similar neurons. See :mod:`db.catalogue.statements` for the rules.

_OWN = 10  # neighbours whose mean cosine says how close a token is to others at all
BEGINNINGS = 8


def any_neighbour() -> Statement:
    """A row if the build holds neighbours."""
    return select(token_neighbour.c.token_id).limit(1)


def neighbours(token_id: int) -> Statement:
    """Columns: rank, cosine, TOKEN_COLUMNS; nearest first."""
    return (
        select(token_neighbour.c.rank, token_neighbour.c.cosine, *TOKEN_COLUMNS)
        .join(token, token.c.token_id == token_neighbour.c.neighbour_id)
        .where(token_neighbour.c.token_id == token_id)
        .order_by(token_neighbour.c.rank)
    )


def neighbour_of(token_id: int) -> Statement:
    """One row: of how many tokens it is a neighbour."""
    return select(func.count()).select_from(token_neighbour).where(token_neighbour.c.neighbour_id == token_id)


def mutual_neighbours(token_ids: Sequence[int]) -> Statement:
    """Columns: token_id, neighbour_id, cosine, the neighbour's text, whether it is special; in stored order."""
    there, back = token_neighbour, token_neighbour.alias("back")
    mutual = and_(back.c.token_id == there.c.neighbour_id, back.c.neighbour_id == there.c.token_id)
    return (
        select(there.c.token_id, there.c.neighbour_id, there.c.cosine, token.c.text, token.c.special)
        .select_from(there.join(back, mutual).join(token, token.c.token_id == there.c.neighbour_id))
        .where(among(there.c.token_id, token_ids), among(back.c.neighbour_id, token_ids))
        .order_by(there.c.token_id, there.c.rank)
    )


def closeness(token_ids: Sequence[int]) -> Statement:
    """Columns: token_id, mean cosine with its ten nearest."""
    near = token_neighbour
    return (
        select(near.c.token_id, func.avg(near.c.cosine))
        .where(among(near.c.token_id, token_ids), near.c.rank <= _OWN)
        .group_by(near.c.token_id)
    )


def tokens_beginning(word: str) -> Statement:
    """Columns: TOKEN_COLUMNS; the shortest tokens that begin with the word, whatever the case."""
    text = func.lower(token.c.text)
    begins = or_(*(text.startswith(lead + word.lower(), autoescape=True) for lead in ("", " ")))
    ordered = (func.length(token.c.text), token.c.token_id)
    return select(*TOKEN_COLUMNS).where(begins, token.c.special == 0).order_by(*ordered).limit(BEGINNINGS)


def concept_neurons(weights: Mapping[int, float], filters: Filters, spans: Spans, limit: int, offset: int) -> Statement:
    """Columns: neuron_id, sign, score; the ends of neurons whose score is above 0, best first.

    The score of an end is the sum of weight · √|z| over the tokens it holds: the root, because two tokens of a concept
    say more than one that stands out twice as far.
    """
    pairs, score = token_neuron, _score(weights)
    return (
        select(pairs.c.neuron_id, pairs.c.sign, score)
        .where(*pair_conditions(list(weights), filters, spans))
        .group_by(pairs.c.neuron_id, pairs.c.sign)
        .having(score > 0)
        .order_by(score.desc(), pairs.c.neuron_id, pairs.c.sign.desc())
        .limit(limit)
        .offset(offset)
    )


def concept_count(weights: Mapping[int, float], filters: Filters, spans: Spans) -> Statement:
    """One row: how many rows :func:`concept_neurons` has without a limit."""
    pairs = token_neuron
    ends = (
        select(pairs.c.neuron_id)
        .where(*pair_conditions(list(weights), filters, spans))
        .group_by(pairs.c.neuron_id, pairs.c.sign)
        .having(_score(weights) > 0)
    )
    return select(func.count()).select_from(ends.subquery("found"))


def _score(weights: Mapping[int, float]) -> ColumnElement[float]:
    strength = token_neuron.c.z * token_neuron.c.sign
    root = func.sqrt(case((strength > 0, strength), else_=0.0))
    return func.sum(case(dict(weights), value=token_neuron.c.token_id) * root)


def matched_tokens(neuron_ids: Sequence[int], token_ids: Sequence[int], filters: Filters) -> Statement:
    """Columns: neuron_id, sign, token_id, rank, z; by neuron, sign, rank."""
    pairs = token_neuron
    return (
        select(pairs.c.neuron_id, pairs.c.sign, pairs.c.token_id, pairs.c.rank, pairs.c.z)
        .where(*pair_conditions(token_ids, filters, None), among(pairs.c.neuron_id, neuron_ids))
        .order_by(pairs.c.neuron_id, pairs.c.sign.desc(), pairs.c.rank)
    )
