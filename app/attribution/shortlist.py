"""Log-probability increases from the tokens that matter, by bf16 products, with a proven error (README, Method, "Why
it is quick").

A score needs a product with the whole unembedding for its smallest part only. With z̄ = Σ p_j z_j, the mean change of
the logits, y_j = z_j - z̄ and φ(y) = e^y - 1 - y,

    Imp = z_w - log Σ_j p_j e^{z_j} = c · g - log(1 + S),    S = Σ_j p_j φ(y_j) >= 0,

where c · g, the neuron's bound, is one float32 dot product. S is small, and what is needed of it is nats, not digits.

*Rounding.* An error of z_j enters S in second order (`app.attribution.rounding`), so a bf16 product is enough for all
but the largest contributions. Each base's most probable tokens are taken in float32 always.

*Tokens that carry no probability.* Late in a model some thousand tokens of 50,000 carry nearly all. Of the others T,
with p_T the largest probability among them, x = c / s and |y_j| <= r for all j,

    0 <= Σ_T p_j φ(y_j) <= e^r / 2 · Σ_T p_j y_j²,    Σ_T p_j (u_j · x)² <= p_T · xᵀ (Σ_j u_j u_jᵀ) x,

a quadratic form prepared once a model. Where the upper end is small, half of it is added to S, that half is the error,
and the product with T is saved.

What is not proven to `TOLERANCE` is done again with the tokens that matter in float32; what is then left is scored in
float32 with all tokens (`app.attribution.importance`).

Legend: B = base points, b = those of one shortlist, N = contributions, d = d_model, V = vocabulary, M = tokens of a
    shortlist, K = those of them taken in float32 always. Scores are in nats.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from app.attribution.rounded import RoundedRows
from app.attribution.rounding import SLACK, Changes, RoundingError, Tokens, by_base, quadratic
from app.attribution.workspace import room
from indexer.products import product, tiled
from indexer.unembedding import Unembedding

TOLERANCE = 5e-5
"""Nats of proven error that a score may have; float32 log-probabilities differ by as much with the order of a sum."""

NEGLIGIBLE = 0.01
"""A token of less than so many times the mean probability, 1 / V, is left out of a shortlist."""

SHARP = 6
"""Where at most one token in so many is left, a base's distribution is sharp."""

FEW = 24
"""Of fewer contributions a float32 product with all tokens takes no longer."""

KNOWN = 24
"""One token in so many is taken in float32 always."""

GATHERED = 2048
"""Rows of float32 at a time, which stay in the cache."""

BLOCK = 2**19
"""Changes of logits at a time: what is computed of them stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Distributions:
    """What the shortlists of some bases share.

    Attributes:
        unembedding: of the model.
        rows: its rows, rounded.
        probabilities: [B, V].
        gradient: [B, d]; ∇ log p(w | base), nats a unit of residual stream.
        target: w.
        scale: s.
    """

    unembedding: Unembedding
    rows: RoundedRows
    probabilities: Float[Tensor, "B V"]
    gradient: Float[Tensor, "B d"]
    target: int
    scale: float

    def shortlists(self) -> list["Shortlist"]:
        """Every base in one of them: the sharp ones, whose distributions leave most tokens out, and the others."""
        vocabulary = self.probabilities.shape[1]
        sharp = (self.probabilities > NEGLIGIBLE / vocabulary).count_nonzero(dim=1) <= vocabulary // SHARP
        return [self._shortlist(chosen, chosen is sharp) for chosen in (sharp, ~sharp) if chosen.any()]

    def _shortlist(self, chosen: Bool[Tensor, " B"], sharp: bool) -> "Shortlist":
        highest = self.probabilities[chosen].amax(dim=0)
        known = len(highest) // KNOWN
        if not sharp:
            return Shortlist(self, chosen, None, highest.topk(known).indices)
        count = max(known, int((highest > NEGLIGIBLE / len(highest)).sum()))
        whole = min(-(-count // GATHERED) * GATHERED, len(highest))  # so that products of few different shapes are met
        tokens = highest.topk(whole).indices
        return Shortlist(self, chosen, tokens, tokens[:known])

    def changes(self, contributions: Float[Tensor, "N d"], base: Int[Tensor, " N"]) -> Changes:
        """The contributions as changes of the logits."""
        x = contributions / self.scale
        linear = (contributions * self.gradient[base]).sum(dim=1)
        mean = x @ (self.unembedding.folded[self.target] - self.rows.mean) - linear
        return Changes(x, linear, mean, mean + x @ self.rows.mean)


@dataclass(frozen=True, eq=False)
class Shortlist:
    """The tokens that matter at some of the bases, and the scores that they give.

    Attributes:
        whole: what all bases share.
        chosen: [B]; the bases whose shortlist this is.
        tokens: [M], the most probable first; None for all.
        known: [K]; the first of them.
    """

    whole: Distributions
    chosen: Bool[Tensor, " B"]
    tokens: Int[Tensor, " M"] | None
    known: Int[Tensor, " K"]

    def scores(
        self, contributions: Float[Tensor, "N d"], base: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Imp(contributions[i] | point base[i]), all bases of this shortlist, and proven bounds of their errors;
        infinite ones where it does not pay.
        """
        change, place = self.whole.changes(contributions, base), self._place[base]
        inside, outside = self._parts(change, place)
        total, error = inside + outside
        total += self._in_float32(change, place, self.known)
        if self.tokens is not None:
            again = (~(error <= TOLERANCE) & (outside[1] <= 0.9 * TOLERANCE)).nonzero().flatten()
            if len(again):
                total[again] = self._in_float32(change[again], place[again], self.tokens) + outside[0, again]
                error[again] = outside[1, again] + 1e-6 * (1 + total[again])
        return change.linear - torch.log1p(total), error

    def _parts(self, change: Changes, place: Int[Tensor, " N"]) -> tuple[Float[Tensor, "2 N"], Float[Tensor, "2 N"]]:
        """The parts of S of the shortlist's tokens but for the known ones, and of the tokens outside, with bounds of
        their errors; infinite where a product does not pay.
        """
        inside, outside = (torch.full((2, len(change)), torch.inf) for _ in range(2))
        rows = self.whole.rows.high
        if self.tokens is None:
            if len(change) >= FEW:
                (inside,) = self._products(change, place, rows, self._everywhere)
            return inside, torch.zeros_like(outside)
        half = self._left_out(change, place)
        alone = (half <= TOLERANCE / 2).nonzero().flatten()
        if len(alone) >= FEW:
            (inside[:, alone],) = self._products(change[alone], place[alone], self._high, [self._others])
            outside[:, alone] = half[alone]
        rest = inside[0].isinf().nonzero().flatten()
        if len(rest) >= FEW:
            inside[:, rest], outside[:, rest] = self._products(change[rest], place[rest], rows, self._everywhere)
        return inside, outside

    @functools.cached_property
    def _place(self) -> Int[Tensor, " B"]:
        """Each base's place among those of this shortlist."""
        return self.chosen.cumsum(dim=0) - 1

    @functools.cached_property
    def _probabilities(self) -> Float[Tensor, "b V"]:
        return self.whole.probabilities[self.chosen]

    @functools.cached_property
    def _high(self) -> Float[Tensor, "M d"]:
        """The rounded rows of the shortlist."""
        assert self.tokens is not None
        return self.whole.rows.high.index_select(0, self.tokens)

    @functools.cached_property
    def _everywhere(self) -> list[Tokens]:
        """Among all tokens: those of the shortlist but for the known ones, and those outside of it."""
        every, lengths = self._probabilities, self.whole.rows.lengths
        inside = every.index_fill(1, self.known, 0.0)
        if self.tokens is None:
            return [Tokens.of(inside, lengths)]
        outside = every.index_fill(1, self.tokens, 0.0)
        return [Tokens.of(inside.sub_(outside), lengths), Tokens.of(outside, lengths)]

    @functools.cached_property
    def _others(self) -> Tokens:
        """The tokens of the shortlist but for the known ones."""
        assert self.tokens is not None
        inside = self._everywhere[0].probabilities
        return Tokens.of(inside.index_select(1, self.tokens), self.whole.rows.lengths[self.tokens])

    def _left_out(self, change: Changes, place: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Half of all that the tokens outside can add to S; infinite where nothing bounds it."""
        rows = self.whole.rows
        outside = self._everywhere[1]
        spread = quadratic(change.x, rows.spread)
        root = (outside.most[place] * spread).sqrt() + change.mean.abs() * outside.mass[place].sqrt()
        growth = change.largest(rows).exp()
        return (growth * root.square() * SLACK / 4).nan_to_num(torch.inf)

    def _in_float32(self, change: Changes, place: Int[Tensor, " N"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " N"]:
        """The part of S of some tokens, in float32."""
        order, runs = by_base(place)
        x, shift, sums = change.x[order], change.shift[order, None], torch.zeros(len(change))
        for some in tokens.split(GATHERED):
            y = product(x, self.whole.unembedding.folded.index_select(0, some)).sub_(shift)
            growth, probabilities = torch.expm1(y).sub_(y), self._probabilities.index_select(1, some)
            for one, here in runs:
                sums[here] += growth[here] @ probabilities[one]
        return sums[order.argsort()]

    def _products(
        self, change: Changes, place: Int[Tensor, " N"], rows: Float[Tensor, "R d"], sets: Sequence[Tokens]
    ) -> Float[Tensor, "set 2 N"]:
        """The parts of S of sets of tokens, and bounds of their errors, by one bf16 product with their rows."""
        tokens, count = rows.shape[0], len(change)
        found, most = torch.empty(len(sets), count), torch.empty(count)
        size = max(1, BLOCK // tokens)
        y_room, e_room = (torch.empty(min(size, count), tokens) for _ in range(2))
        order, runs = by_base(place)
        x, mean = tiled(change.x.bfloat16()[order]), change.mean[order, None]
        with room(len(x), tokens, rows, torch.bfloat16) as changes:
            torch.mm(x, rows.T, out=changes)
            for one, run in runs:
                for start in range(run.start, run.stop, size):
                    here = slice(start, min(start + size, run.stop))
                    y, e = y_room[: here.stop - start], e_room[: here.stop - start]
                    y.copy_(changes[here])
                    y.sub_(mean[here])
                    torch.amax(y, dim=1, out=most[here])
                    torch.expm1(y, out=e)
                    e.sub_(y)
                    for sums, some in zip(found, sets, strict=True):
                        torch.mv(e, some.probabilities[one], out=sums[here])
        back = order.argsort()
        found, most = found[:, back], most[back]
        proof = RoundingError(change, self.whole.rows, most.clamp_min(0.0), TOLERANCE / 2)
        errors = [proof.of(sums, some, place) for sums, some in zip(found, sets, strict=True)]
        return torch.stack([found, torch.stack(errors)], dim=1)
