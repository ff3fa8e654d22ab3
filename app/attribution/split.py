"""Log-probability increases by bf16 products, with a proven error (README, Method, "Why it is quick").

A CPU that multiplies bf16 matrices takes a fraction of the time of a float32 product, and a bf16 product is too rough
for a score. But a score needs it for its smallest part only. With z̄ = Σ p_j z_j, the mean change of the logits, and
φ(y) = e^y - 1 - y,

    Imp = z_w - log Σ_j p_j e^{z_j} = c · g - log(1 + S),    S = Σ_j p_j φ(z_j - z̄) >= 0,

where c · g, the neuron's bound, is one float32 dot product. An error δ_j of z_j enters S multiplied by
|φ'| = |e^y - 1|: it is of second order. The tokens of highest p_j, which carry most of the sum, are taken in float32;
the others from the bf16 product, and the error of their part is bounded by Cauchy and Schwarz,

    Σ p_j |δ_j| |e^y - 1| <= a |x| sqrt(Σ p_j |u_j|²) sqrt(2 e^m S')  +  the product's rounding, relative to z,

with x = c / s, u_j the row of token j, a the relative rounding of x and of the rows, m the largest y, and S' their
part of S. Rows whose error is not proven to be small enough are done again with both operands split into two bf16
numbers, which leaves the rounding of the product; and the few that are left, in float32.

Legend: B = base points, N = contributions, d = d_model, V = vocabulary, K = tokens in float32. Scores are in nats.
"""

import functools
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.workspace import room
from indexer.projection import bf16_is_faster
from indexer.unembedding import Unembedding

TOLERANCE = 5e-5
"""Nats of proven error that a score may have; float32 log-probabilities differ by as much with the order of a sum."""

KNOWN = 256
"""K: tokens of each base whose logits are computed in float32."""

BLOCK = 2**18
"""Changes of logits at a time: what is computed of them stays in the processor's cache."""

TILE = 32
"""Columns of a product: a multiple of this."""

UNIT = 2.0**-8
"""Largest relative rounding of a bf16 number."""


@dataclass(frozen=True, eq=False)
class SplitRows:
    """Rows of the unembedding, less their mean, as the sum of two bf16 matrices.

    The mean changes all logits alike, and so no score.

    Attributes:
        mean: [d]; the mean row, float32.
        high: [V, d]; the rows rounded to bf16.
        low: [V, d]; what that lost, rounded again.
        lengths: [V]; of the rows.
        rough, fine: largest |rounding| / |row| of the first half alone, and of both.
    """

    mean: Float[Tensor, " d"]
    high: Float[Tensor, "V d"]
    low: Float[Tensor, "V d"]
    lengths: Float[Tensor, " V"]
    rough: float
    fine: float

    @classmethod
    def of(cls, rows: Float[Tensor, "V d"]) -> "SplitRows":
        """Split in slices, so that no second copy of the rows is held."""
        mean = rows.mean(dim=0)
        high, low = (torch.empty_like(rows, dtype=torch.bfloat16) for _ in range(2))
        lengths, rough, fine = [], 0.0, 0.0
        for start in range(0, rows.shape[0], 8192):
            here = slice(start, start + 8192)
            part = rows[here] - mean
            high[here] = part
            left = part - high[here]
            low[here] = left
            length = part.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
            lengths.append(length)
            rough = max(rough, float((left.norm(dim=1) / length).max()))
            fine = max(fine, float(((left - low[here]).norm(dim=1) / length).max()))
        return cls(mean, high, low, torch.cat(lengths), rough, fine)

    @property
    def megabytes(self) -> int:
        """Memory in use, 10^6 bytes."""
        return 4 * self.high.numel() // 10**6

    @functools.cached_property
    def longest(self) -> float:
        """The largest length of a row."""
        return float(self.lengths.max())


_split: "WeakKeyDictionary[Unembedding, SplitRows]" = WeakKeyDictionary()
_lock = threading.Lock()


@functools.cache
def _pays(d_model: int) -> bool:
    return bf16_is_faster(d_model)


def split_rows(unembedding: Unembedding, megabytes: int) -> SplitRows | None:
    """The rows of an unembedding, split once; None where that does not pay here, or takes more memory than allowed."""
    folded = unembedding.folded
    if folded.device.type != "cpu" or folded.shape[0] < 8 * KNOWN or not _pays(folded.shape[1]):
        return None
    if 4 * folded.numel() > megabytes * 10**6 / 2:
        return None
    with _lock:
        if unembedding not in _split:
            _split[unembedding] = SplitRows.of(folded)
        return _split[unembedding]


@dataclass(frozen=True, eq=False)
class SplitBases:
    """The distributions of some base points, as the split products need them.

    Attributes:
        unembedding: of the model.
        rows: its rows, split.
        probabilities: [B, V].
        gradient: [B, d]; ∇ log p(w | base), nats a unit of residual stream.
        target: w.
        scale: s.
    """

    unembedding: Unembedding
    rows: SplitRows
    probabilities: Float[Tensor, "B V"]
    gradient: Float[Tensor, "B d"]
    target: int
    scale: float

    @functools.cached_property
    def known(self) -> Int[Tensor, "B K"]:
        """The most probable tokens of each base."""
        return self.probabilities.topk(KNOWN, dim=1, sorted=False).indices

    def scores(
        self, contributions: Float[Tensor, "N d"], base: Int[Tensor, " N"], both: bool
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Imp(contributions[i] | point base[i]), and a proven bound of its error.

        Args:
            contributions: c.
            base: numbers of base points.
            both: split both operands; about three times the time.
        """
        x = contributions / self.scale
        linear = (contributions * self.gradient[base]).sum(dim=1)
        mean_change = x @ (self.unembedding.folded[self.target] - self.rows.mean) - linear
        known = self._of_known(x, base, mean_change)
        others = self._of_others(x, base, mean_change, both)
        return linear - torch.log1p(known + others.sum), self._error(x, base, mean_change, others)

    @functools.cached_property
    def _others(self) -> Float[Tensor, "B V"]:
        """The probabilities, but for those of the known tokens."""
        return self.probabilities.scatter(1, self.known, 0.0)

    @functools.cached_property
    def _others_squared(self) -> Float[Tensor, " B"]:
        """Σ p_j |u_j|² over the tokens that are not known."""
        return self._others @ self.rows.lengths.square()

    @functools.cached_property
    def _mass(self) -> Float[Tensor, " B"]:
        """Σ p_j over the tokens that are not known, summed in the same order as what it is taken from."""
        return self._others @ torch.ones(self._others.shape[1])

    def _of_known(
        self, x: Float[Tensor, "N d"], base: Int[Tensor, " N"], mean_change: Float[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """The part of S of each base's most probable tokens, in float32."""
        shift = mean_change + x @ self.rows.mean  # the rows below are not centred
        found = torch.empty(x.shape[0])
        for one in base.unique().tolist():
            here = (base == one).nonzero().flatten()
            rows = self.unembedding.folded[self.known[one]]
            change = x[here] @ rows.T - shift[here, None]
            found[here] = (torch.expm1(change) - change) @ self.probabilities[one, self.known[one]]
        return found

    def _of_others(self, x: Tensor, base: Tensor, mean_change: Tensor, both: bool) -> "_Others":
        """What the tokens add that are not known in float32."""
        tokens, count, width = self.rows.high.shape[0], x.shape[0], x.shape[1]
        # The product of a number of columns that the processor's tiles do not divide takes half as long again.
        padded = -(-count // TILE) * TILE
        high = torch.zeros(padded, width, dtype=torch.bfloat16)
        high[:count] = x
        left = x - high[:count]
        length = x.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        lost = left.norm(dim=1) / length
        rounding = lost + self.rows.rough + lost * self.rows.rough + width * 2.0**-23  # the last: float32 sums
        if both:
            low = torch.zeros_like(high)
            low[:count] = left
            # The two crossed products are rounded twice each; low times low is left out.
            rounding = 2.02 * UNIT * rounding + lost * self.rows.rough + self.rows.fine
            rounding += (left - low[:count]).norm(dim=1) / length + width * 2.0**-23
        used, place = base.unique(return_inverse=True)
        all_used = 2 * len(used) > self._others.shape[0]  # then a copy of those used costs more than it saves
        probabilities, place = (self._others, base) if all_used else (self._others[used], place)
        sums = torch.zeros(probabilities.shape[0], count)
        size = max(1024, BLOCK // count)
        y_room, e_room, most_room = (torch.empty(size, count) for _ in range(3))
        most_room.zero_()
        # One product of all tokens is quicker than one a block; what follows is quicker in the cache.
        with ExitStack() as rooms:
            product = rooms.enter_context(room(tokens, padded, x, torch.bfloat16))
            torch.mm(self.rows.high, high.T, out=product)
            if both:
                crossed = rooms.enter_context(room(tokens, padded, x, torch.bfloat16))
                torch.mm(self.rows.high, low.T, out=crossed)
                crossed.addmm_(self.rows.low, high.T)
            for start in range(0, tokens, size):
                here = slice(start, min(start + size, tokens))
                y, e, largest = (part[: here.stop - start] for part in (y_room, e_room, most_room))
                y.copy_(product[here, :count])
                if both:
                    y += crossed[here, :count]
                y -= mean_change
                torch.maximum(largest, y, out=largest)
                torch.exp(y, out=e)
                e.sub_(y)
                sums.addmm_(probabilities[:, here], e)
        most = most_room.amax(dim=0)
        found = sums.gather(0, place[None]).squeeze(0) - self._mass[base]
        return _Others(found.clamp_min(0.0), most, rounding)

    def _error(self, x: Tensor, base: Tensor, mean_change: Tensor, others: "_Others") -> Float[Tensor, " N"]:
        """The bound of the module's docstring, with the terms of second order."""
        length, size, found = x.norm(dim=1), mean_change.abs(), others.sum
        spread = length * self._others_squared[base].sqrt()  # |x| sqrt(Σ p |u|²)
        mass = self._mass[base]
        largest = length * self.rows.longest + size  # of any |y|
        slip = (others.rounding + UNIT) * largest  # of any |δ|
        growth = (others.most + slip).clamp_max(80.0).exp()
        slope = (2 * growth * found).sqrt()  # at least sqrt(Σ p (e^y - 1)²)
        first = others.rounding * spread * slope + UNIT * (2 * growth * found + size * slope * mass.sqrt())
        squares = (2 + largest) * found  # at least Σ p y²
        second = (others.rounding * spread).square() + 2 * UNIT**2 * (squares + size.square() * mass)
        error = first + 2 * growth * second + 1e-6 * (1 + found)
        return torch.where(slip < 0.5, error, torch.inf)


@dataclass(frozen=True, eq=False)
class _Others:
    """What tokens add that are not known in float32.

    Attributes:
        sum: [N]; S'.
        most: [N]; the largest y, or 0.
        rounding: [N]; relative rounding of the operands.
    """

    sum: Float[Tensor, " N"]
    most: Float[Tensor, " N"]
    rounding: Float[Tensor, " N"]
