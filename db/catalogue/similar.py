"""Neurons alike by the tokens they share, each weighing by its rank in both and by how rare it is in the build.

    similarity = Σ over shared tokens rarity / √(rank here · rank there)  /  Σ over own tokens rarity / rank

over both ends, with rarity = ln(ends of neurons / ends that hold the token)²: some tokens stand in a tenth of all lists
and say nothing. A neuron and itself have 1. Cosine of the value vectors needs the model: ``indexer.directions``.
"""

import math
from typing import TYPE_CHECKING

from sqlalchemy import Select, case, func, select, union_all

from db.catalogue.schema import neuron_token, token_neuron
from db.catalogue.statements import Statement, among
from db.neuron import Neuron
from db.records import SimilarNeuron, Token

if TYPE_CHECKING:
    from db.catalogue.store import Lookups


DEPTH = 30
"""Tokens of each end that are compared."""

_Own = list[tuple[int, int, int]]  # token id, sign, rank
_Weights = list[tuple[int, int, float]]  # token id, sign, rarity / √rank


def similar(catalogue: "Lookups", neuron: Neuron, limit: int) -> tuple[SimilarNeuron, ...]:
    """The most similar neurons, most alike first."""
    neuron_id = catalogue.layout.neuron_id(neuron)
    depth = min(DEPTH, catalogue.info.depth)
    own: _Own = [(row[0], row[1], row[2]) for row in catalogue.rows(_own_tokens(neuron_id, depth))]
    ends = 2 * catalogue.info.neurons
    counts = catalogue.rows(_counts([row[0] for row in own]))
    rarity = {token_id: math.log(ends / count) ** 2 for token_id, count in counts}
    whole = sum(rarity[token_id] / rank for token_id, _, rank in own)
    if not whole:  # every neuron has all of these tokens
        return ()
    weights = [(token_id, sign, rarity[token_id] / math.sqrt(rank) / whole) for token_id, sign, rank in own]
    rows = catalogue.rows(_alike(weights, neuron_id, depth, limit))
    shared = _shared(catalogue, own, [row[0] for row in rows], depth)
    return tuple(
        SimilarNeuron(catalogue.layout.neuron(other), min(1.0, score), direction < 0, shared[other, direction])
        for other, direction, score in rows
    )


def _own_tokens(neuron_id: int, depth: int) -> Statement:
    pairs = neuron_token
    return (
        select(pairs.c.token_id, pairs.c.sign, pairs.c.rank)
        .where(pairs.c.neuron_id == neuron_id, pairs.c.rank <= depth)
        .order_by(pairs.c.rank, pairs.c.sign.desc())
    )


def _counts(token_ids: list[int]) -> Statement:
    """Columns: token_id, ends of neurons that hold it."""
    pairs = token_neuron
    return select(pairs.c.token_id, func.count()).where(among(pairs.c.token_id, token_ids)).group_by(pairs.c.token_id)


def _alike(weights: _Weights, neuron_id: int, depth: int, limit: int) -> Statement:
    """Columns: neuron_id, 1 for the same ends or −1 for opposite ones, similarity."""
    pairs = token_neuron
    # A token may stand at both ends of a neuron with few tokens: each end has its own weights.
    ends = {code: {token_id: weight for token_id, sign, weight in weights if sign == code} for code in (1, -1)}
    here = [(code, case(found, value=pairs.c.token_id, else_=0.0)) for code, found in ends.items() if found]
    alike = [
        select(
            pairs.c.neuron_id,
            (pairs.c.sign * code).label("direction"),
            (weight / func.sqrt(pairs.c.rank)).label("part"),
        ).where(among(pairs.c.token_id, list(ends[code])), pairs.c.neuron_id != neuron_id, pairs.c.rank <= depth)
        for code, weight in here
    ]
    parts = union_all(*alike).subquery("parts")
    score = func.sum(parts.c.part)
    return (
        select(parts.c.neuron_id, parts.c.direction, score)
        .group_by(parts.c.neuron_id, parts.c.direction)
        .having(score > 0)
        .order_by(score.desc(), parts.c.neuron_id, parts.c.direction.desc())
        .limit(limit)
    )


def _shared(
    catalogue: "Lookups", own: _Own, neuron_ids: list[int], depth: int
) -> dict[tuple[int, int], tuple[Token, ...]]:
    """By neuron and direction, the tokens in common."""
    if not neuron_ids:
        return {}
    there: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for neuron_id, sign, token_id in catalogue.rows(_tokens_of(sorted(set(neuron_ids)), own, depth)):
        for direction in (1, -1):
            there.setdefault((neuron_id, direction), set()).add((token_id, sign * direction))
    tokens = catalogue.tokens(dict.fromkeys(token_id for token_id, _, _ in own))
    return {
        key: tuple(tokens[token_id] for token_id, sign, _ in own if (token_id, sign) in found)
        for key, found in there.items()
    }


def _tokens_of(neuron_ids: list[int], own: _Own, depth: int) -> Select[tuple[int, int, int]]:
    pairs = neuron_token
    return select(pairs.c.neuron_id, pairs.c.sign, pairs.c.token_id).where(
        among(pairs.c.neuron_id, neuron_ids),
        pairs.c.rank <= depth,
        pairs.c.token_id.in_(sorted({token_id for token_id, _, _ in own})),
    )
