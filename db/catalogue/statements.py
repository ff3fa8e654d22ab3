"""Every statement that reads a build: SQLAlchemy Core, bound parameters, no dialect of one database.

A pair table is asked by what it is sorted by: ``token_neuron`` by token, ``neuron_token`` by neuron id. Ranges of ids
are repeated on both sides of a join, because zone maps prune only what a condition names.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    FromClause,
    Integer,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    union_all,
)
from sqlalchemy.types import UserDefinedType

from db.catalogue.schema import (
    SIGN_CODES,
    neuron,
    neuron_token,
    token,
    token_neighbour,
    token_neuron,
)
from db.catalogue.schema import z_score as z_of
from db.neuron import Sign
from db.questions import Filters, Order

Statement = Select[*tuple[Any, ...]]
Answer = Row[*tuple[Any, ...]]


class Within(NamedTuple):
    """Which neurons a search is among, and which of their ends."""

    spans: Sequence[tuple[int, int]] | None = None
    """First and last ids of runs of neurons; None for all."""
    ends: str | None = None
    """1 for each end that is wanted, else 0: of every neuron by id, the end it suppresses, then the one it promotes."""


class _Bits(UserDefinedType[str]):
    """Zeros and ones."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "BIT"


TOKEN_COLUMNS = (token.c.token_id, token.c.text, token.c.display, token.c.special)


BEGINNINGS = 8
"""Tokens that stand in for a word that is none."""
_OWN = 10  # neighbours whose mean cosine says how close a token is to others at all


def among(column: Column[int], ids: Sequence[int]) -> ColumnElement[bool]:
    """``column`` is one of ``ids``. Equality where there is one: twice as fast as a list of one."""
    return column == ids[0] if len(ids) == 1 else column.in_(ids)


def z_score(pairs: FromClause, neurons: FromClause) -> ColumnElement[float]:
    """z of a row of ``neuron_token``, which does not store it."""
    return z_of(pairs.c.logit, neurons.c.mean, neurons.c.std)


def stamp(table: Table) -> Statement:
    """One row: a table such as ``build``, with the columns that it has."""
    return select(text("*")).select_from(table)


def unused_rows() -> Statement:
    """One row: how many rows of the unembedding no token uses."""
    no_bytes = func.octet_length(token.c.bytes) == literal_column("0")
    return select(func.count()).select_from(token).where(token.c.special == literal_column("1"), no_bytes)


def blocks() -> Statement:
    """Columns: layer, kind, first id, count, largest index."""
    first, size, last = func.min(neuron.c.neuron_id), func.count(), func.max(neuron.c.index)
    return select(neuron.c.layer, neuron.c.kind, first, size, last).group_by(neuron.c.layer, neuron.c.kind)


# Tokens.


def tokens_by_id(ids: Sequence[int]) -> Statement:
    """Columns: TOKEN_COLUMNS. The ids are one parameter: of hundreds the planning would take longest."""
    wanted = select(func.unnest(bindparam("ids", list(ids), type_=ARRAY(Integer))))
    return select(*TOKEN_COLUMNS).where(token.c.token_id.in_(wanted))


def token_bytes(ids: Sequence[int]) -> Statement:
    """Columns: token_id, bytes."""
    return select(token.c.token_id, token.c.bytes).where(among(token.c.token_id, ids))


def tokens_by_text(texts: Sequence[str]) -> Statement:
    """Columns: TOKEN_COLUMNS."""
    return select(*TOKEN_COLUMNS).where(token.c.text.in_(texts))


def tokens_by_bytes(data: bytes) -> Statement:
    """Columns: TOKEN_COLUMNS."""
    return select(*TOKEN_COLUMNS).where(token.c.bytes == data).order_by(token.c.token_id)


def tokens_beginning(word: str) -> Statement:
    """Columns: TOKEN_COLUMNS; the shortest tokens that begin with the word, whatever the case."""
    lower = func.lower(token.c.text)
    begins = or_(*(lower.startswith(lead + word.lower(), autoescape=True) for lead in ("", " ")))
    ordered = (func.length(token.c.text), token.c.token_id)
    return select(*TOKEN_COLUMNS).where(begins, token.c.special == 0).order_by(*ordered).limit(BEGINNINGS)


def tokens_spelt_like(word: str, edits: int) -> Statement:
    """Columns: TOKEN_COLUMNS; those that some edits of single letters, or of two that changed places, make a word.

    The word is given in lower case; the tokens' own case and spaces do not count.
    """
    bare = func.lower(func.trim(token.c.text))
    as_long = func.length(bare).between(len(word) - edits, len(word) + edits)
    near = func.damerau_levenshtein(bare, word) <= edits
    return select(*TOKEN_COLUMNS).where(token.c.special == 0, as_long, near).order_by(token.c.token_id)


# Neurons by token.


def hits(token_ids: Sequence[int], filters: Filters, within: Within, limit: int, offset: int) -> Statement:
    """Columns: neuron_id, sign, rank, token_id, logit, z; best first."""
    pairs = token_neuron
    found = select(pairs.c.neuron_id, pairs.c.sign, pairs.c.rank, pairs.c.token_id, pairs.c.z)
    if filters.order is Order.LOGIT:
        found = found.join(neuron, pairs.c.neuron_id == neuron.c.neuron_id)
    found = found.where(*pair_conditions(token_ids, filters, within))
    page = found.order_by(*_ordering(filters, pairs)).limit(limit).offset(offset).subquery("page")
    logit = page.c.z * neuron.c.std + neuron.c.mean
    return (
        select(page.c.neuron_id, page.c.sign, page.c.rank, page.c.token_id, logit, page.c.z)
        .join(neuron, page.c.neuron_id == neuron.c.neuron_id)
        .order_by(*_ordering(filters, page))
    )


def hit_count(token_ids: Sequence[int], filters: Filters, within: Within) -> Statement:
    """One row: the number of rows that :func:`hits` has without a limit."""
    return select(func.count()).select_from(token_neuron).where(*pair_conditions(token_ids, filters, within))


def layer_counts(token_ids: Sequence[int], filters: Filters, within: Within) -> Statement:
    """Columns: layer, kind, sign, distinct neurons."""
    pairs = token_neuron
    groups = (neuron.c.layer, neuron.c.kind, pairs.c.sign)
    return (
        select(*groups, func.count(pairs.c.neuron_id.distinct()))
        .select_from(pairs.join(neuron, pairs.c.neuron_id == neuron.c.neuron_id))
        .where(*pair_conditions(token_ids, filters, within))
        .group_by(*groups)
        .order_by(neuron.c.layer, neuron.c.kind, pairs.c.sign.desc())
    )


def pair_conditions(token_ids: Sequence[int], filters: Filters, within: Within) -> list[ColumnElement[bool]]:
    """What a row of ``token_neuron`` must fulfil, without a look at its neuron: that is told by its id."""
    pairs = token_neuron
    found = [among(pairs.c.token_id, token_ids)]
    if filters.sign is not None:
        found.append(pairs.c.sign == SIGN_CODES[filters.sign])
    if filters.max_rank is not None:
        found.append(pairs.c.rank <= filters.max_rank)
    if filters.min_z is not None:
        found.append(pairs.c.z * pairs.c.sign >= filters.min_z)
    return found + _within(pairs.c.neuron_id, pairs.c.sign, within)


def _within(neuron_id: ColumnElement[int], sign: ColumnElement[int], within: Within) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if within.spans is not None:
        found.append(or_(false(), *(neuron_id.between(*span) for span in within.spans)))
    if within.ends is not None:
        place = 2 * neuron_id + case((sign > 0, 1), else_=0)
        found.append(func.get_bit(cast(within.ends, _Bits()), place) == 1)
    return found


def _ordering(filters: Filters, pairs: FromClause) -> list[ColumnElement[Any]]:
    """Best first, to the last tie: strength counts in the sign's own direction, so that both ends mix fairly."""
    strength = pairs.c.z * pairs.c.sign
    first: dict[Order, list[ColumnElement[Any]]] = {
        Order.Z: [strength.desc(), pairs.c.rank],
        Order.RANK: [pairs.c.rank, strength.desc()],
        Order.LOGIT: [((pairs.c.z * neuron.c.std + neuron.c.mean) * pairs.c.sign).desc(), pairs.c.rank],
    }
    return [*first[filters.order], pairs.c.neuron_id, pairs.c.token_id]


# Neurons, their tokens and layers.


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


# Neighbours of tokens.


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


# Concepts.


def concept_neurons(
    weights: Mapping[int, float], filters: Filters, within: Within, limit: int, offset: int
) -> Statement:
    """Columns: neuron_id, sign, score; the ends of neurons whose score is above 0, best first.

    The score of an end is the sum of weight · √|z| over the tokens it holds: the root, because two tokens of a concept
    say more than one that stands out twice as far. Weights hold each token's rarity.
    """
    pairs, score = token_neuron, _score(weights)
    return (
        select(pairs.c.neuron_id, pairs.c.sign, score)
        .where(*pair_conditions(list(weights), filters, within))
        .group_by(pairs.c.neuron_id, pairs.c.sign)
        .having(score > 0)
        .order_by(score.desc(), pairs.c.neuron_id, pairs.c.sign.desc())
        .limit(limit)
        .offset(offset)
    )


def tokens_of_neurons(neuron_ids: Sequence[int]) -> Statement:
    """Columns: neuron_id, sign, token_id, z, text, special; of both ends."""
    pairs = neuron_token
    return (
        select(pairs.c.neuron_id, pairs.c.sign, token.c.token_id, z_score(pairs, neuron), token.c.text, token.c.special)
        .select_from(pairs.join(neuron, pairs.c.neuron_id == neuron.c.neuron_id))
        .join(token, token.c.token_id == pairs.c.token_id)
        .where(among(pairs.c.neuron_id, neuron_ids), among(neuron.c.neuron_id, neuron_ids))
    )


def concept_count(weights: Mapping[int, float], filters: Filters, within: Within) -> Statement:
    """One row: how many rows :func:`concept_neurons` has without a limit."""
    pairs = token_neuron
    ends = (
        select(pairs.c.neuron_id)
        .where(*pair_conditions(list(weights), filters, within))
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
        .where(*pair_conditions(token_ids, filters, Within()), among(pairs.c.neuron_id, neuron_ids))
        .order_by(pairs.c.neuron_id, pairs.c.sign.desc(), pairs.c.rank)
    )


# Similar neurons.


def own_tokens(neuron_id: int, depth: int) -> Statement:
    """Columns: token_id, sign, rank; by rank."""
    pairs = neuron_token
    return (
        select(pairs.c.token_id, pairs.c.sign, pairs.c.rank)
        .where(pairs.c.neuron_id == neuron_id, pairs.c.rank <= depth)
        .order_by(pairs.c.rank, pairs.c.sign.desc())
    )


def ends_with(token_ids: Sequence[int]) -> Statement:
    """Columns: token_id, ends of neurons that hold it."""
    pairs = token_neuron
    return select(pairs.c.token_id, func.count()).where(among(pairs.c.token_id, token_ids)).group_by(pairs.c.token_id)


def similar(weights: Sequence[tuple[int, int, float]], neuron_id: int, depth: int, limit: int) -> Statement:
    """Columns: neuron_id, 1 for the same ends or −1 for opposite ones, similarity.

    Args:
        weights: token id, sign, rarity / √rank of every token of the neuron.
        neuron_id: the neuron itself, which is left out.
        depth: ranks that count.
        limit: rows.
    """
    pairs = token_neuron
    # A token may be at both ends of a neuron with few tokens: each end has its own weights.
    ends = {code: {token_id: weight for token_id, sign, weight in weights if sign == code} for code in (1, -1)}
    here = [(code, case(found, value=pairs.c.token_id, else_=0.0)) for code, found in ends.items() if found]
    parts_of_ends = [
        select(
            pairs.c.neuron_id,
            (pairs.c.sign * code).label("direction"),
            (weight / func.sqrt(pairs.c.rank)).label("part"),
        ).where(among(pairs.c.token_id, list(ends[code])), pairs.c.neuron_id != neuron_id, pairs.c.rank <= depth)
        for code, weight in here
    ]
    parts = union_all(*parts_of_ends).subquery("parts")
    score = func.sum(parts.c.part)
    return (
        select(parts.c.neuron_id, parts.c.direction, score)
        .group_by(parts.c.neuron_id, parts.c.direction)
        .having(score > 0)
        .order_by(score.desc(), parts.c.neuron_id, parts.c.direction.desc())
        .limit(limit)
    )


def shared_tokens(neuron_ids: Sequence[int], token_ids: Sequence[int], depth: int) -> Statement:
    """Columns: neuron_id, sign, token_id."""
    pairs = neuron_token
    return select(pairs.c.neuron_id, pairs.c.sign, pairs.c.token_id).where(
        among(pairs.c.neuron_id, neuron_ids), pairs.c.rank <= depth, pairs.c.token_id.in_(token_ids)
    )


# A build as a whole.


def overview(quantiles: Sequence[int]) -> Statement:
    """Columns: layer, kind, neurons, then quantiles, in percent, of the norm and of the larger |z| of both ends."""
    peak = case((neuron.c.top_z > -neuron.c.bottom_z, neuron.c.top_z), else_=-neuron.c.bottom_z)
    figures: list[ColumnElement[float]] = [
        func.percentile_cont(percent / 100).within_group(what)
        for what in (neuron.c.norm, peak)
        for percent in quantiles
    ]
    groups = (neuron.c.layer, neuron.c.kind)
    return select(*groups, func.count(), *figures).group_by(*groups).order_by(*groups)


def most_peaked(filters: Filters, within: Within, limit: int) -> Statement:
    """Columns: neuron_id, sign, z, TOKEN_COLUMNS; by falling |z|."""
    ends = []
    for sign, z in ((Sign.PROMOTES, neuron.c.top_z), (Sign.SUPPRESSES, neuron.c.bottom_z)):
        if filters.sign in (None, sign):
            code = SIGN_CODES[sign]
            least = [] if filters.min_z is None else [z * code >= filters.min_z]
            end = select(neuron.c.neuron_id, literal(code).label("sign"), z.label("z"))
            ends.append(end.where(*_within(neuron.c.neuron_id, literal(code), within), *least))
    found = union_all(*ends).subquery("found")
    ordering = (func.abs(found.c.z).desc(), found.c.neuron_id, found.c.sign.desc())
    best = select(found).order_by(*ordering).limit(limit).subquery("best")
    pairs = neuron_token
    first = and_(pairs.c.neuron_id == best.c.neuron_id, pairs.c.sign == best.c.sign, pairs.c.rank == 1)
    return (
        select(best.c.neuron_id, best.c.sign, best.c.z, *TOKEN_COLUMNS)
        .select_from(best.join(pairs, first).join(token, token.c.token_id == pairs.c.token_id))
        .order_by(func.abs(best.c.z).desc(), best.c.neuron_id, best.c.sign.desc())
    )


def favourites(limit: int) -> Statement:
    """Columns: token_id, sign, ends where it is first, ends where it is stored; reads the whole table."""
    pairs = token_neuron
    first = func.sum(case((pairs.c.rank == 1, 1), else_=0)).label("first")
    stored = func.count().label("stored")
    return (
        select(pairs.c.token_id, pairs.c.sign, first, stored)
        .group_by(pairs.c.token_id, pairs.c.sign)
        .order_by(first.desc(), stored.desc(), pairs.c.token_id, pairs.c.sign.desc())
        .limit(limit)
    )
