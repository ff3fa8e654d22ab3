"""The value neurons that raise the target most, and those that lower it most: the certified top and bottom k
(METHOD.md).

Every neuron is bounded by one dot product, Imp(c) <= c · g. Walking down the bounds in batches and scoring exactly,
one may stop as soon as the k-th best exact score is at least the next bound: no neuron further down can do better.
The result is the exhaustive top k, proven, at some hundred exact scores instead of tens of thousands.

The neurons that lower the target most need a lower bound. By Hoeffding's lemma,

    c · g - (max z - min z)² / 8 <= Imp(c)
    max z - min z = |activation| / s x (highest - lowest logit of the value vector)

and both ends of a neuron's logits are the first rows of its two lists in the catalogue. Without a catalogue the range
is bounded by norms alone, max z - min z <= 2 |c| max|row| / s, which is sound but so loose that most neurons are
scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BATCH = 64
WINDOW = 2048  # bounds sorted at first; far more than a search usually visits


@dataclass(frozen=True)
class Certificate:
    """How a top or bottom k was found.

    Attributes:
        scored: entries whose exact score was computed.
        total: entries there are (neurons; for attention, neurons x source positions).
        proven: the k-th best score is at least the bound of every entry left out.
        bound: what the proof rests on: "concavity" (top k), "catalogue" (bottom k, with stored extreme logits),
            "norms" (bottom k
            without a catalogue), or "linear" (differences of logits, which need no bound).
    """

    scored: int
    total: int
    proven: bool
    bound: str = "concavity"


@dataclass(frozen=True, eq=False)
class Ranking:
    """Entries, the most extreme first.

    Attributes:
        entries: [k]; indices into the bounds.
        scores: [k]; nats.
        certificate: how they were found.
    """

    entries: Int[Tensor, " k"]
    scores: Float[Tensor, " k"]
    certificate: Certificate


Exact = Callable[[Int[Tensor, " m"]], Float[Tensor, " m"]]


def certified_top(bounds: Float[Tensor, " N"], exact: Exact, k: int) -> Ranking:
    """The k entries of highest exact score.

    Args:
        bounds: an upper bound of every entry's score.
        exact: exact scores of the entries asked for.
        k: how many.

    >>> certified_top(torch.tensor([3.0, 2.0, 9.0]), lambda i: torch.tensor([1.0, 2.0, 5.0])[i], k=1).entries
    tensor([2])
    """
    total = bounds.shape[0]
    k = min(k, total)
    if k == 0:
        return Ranking(torch.empty(0, dtype=torch.long), bounds.new_empty(0), Certificate(0, total, True))
    # Rounding may put a bound a hair below the score it bounds; the slack keeps the proof honest.
    slack = 1e-6 * (1 + bounds.abs().max())
    visited, scores = bounds.new_empty(0, dtype=torch.long), bounds.new_empty(0)
    for batch, bound in _descending(bounds, first=k):
        if scores.shape[0] and scores.topk(k).values[-1] >= bound + slack:
            break
        visited, scores = torch.cat([visited, batch]), torch.cat([scores, exact(batch)])
    best = scores.topk(k)
    return Ranking(visited[best.indices], best.values, Certificate(scores.shape[0], total, True))


def certified_bottom(lower_bounds: Float[Tensor, " N"], exact: Exact, k: int, bound: str) -> Ranking:
    """The k entries of lowest exact score, lowest first; `lower_bounds` bound every entry's score from below."""
    turned = certified_top(-lower_bounds, lambda entries: -exact(entries), k)
    proof = turned.certificate
    return Ranking(turned.entries, -turned.scores, Certificate(proof.scored, proof.total, proof.proven, bound))


def _descending(bounds: Tensor, first: int) -> Iterator[tuple[Tensor, float]]:
    """Entries in order of their bounds in batches, each with its largest bound. Sorts only as far as it is asked to go
    on.
    """
    total, done, size = bounds.shape[0], 0, first
    window = min(total, max(WINDOW, 2 * first))
    ordered = bounds.topk(window)
    while done < total:
        if done + size > window < total:
            window = min(total, 8 * window)
            ordered = bounds.topk(window)
        batch = ordered.indices[done : done + size]
        yield batch, float(ordered.values[done])
        done += batch.shape[0]
        size = BATCH
