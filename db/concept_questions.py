"""The statements behind concepts, neighbours and similar neurons. See :mod:`db.questions` for the rules."""

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from db.filters import Filters
from db.questions import TOKEN_COLUMNS, Spans, Statement, among, pair_conditions
from db.tables import token, token_neighbour, token_neuron

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
