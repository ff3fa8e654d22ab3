"""Scores from bf16 products, each with a proven error: for processors that multiply bf16 matrices faster.

With y = z - z̄ the change of the logits less its mean under the base's probabilities p,

    Imp = c · g - log(1 + S),   S = Σ p φ(y),   φ(y) = e^y - 1 - y

The README says what bounds the error, and which tokens are taken in float32 or left out. In order: memory for rows of
logits, the unembedding's rounded rows, the bound of the rounding, shortlists of tokens.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from app.attribution.results import SCORE_TOLERANCE
from indexer.device import product, tiled
from indexer.projection import bf16_is_faster
from indexer.weights import Unembedding

KEPT = 4
"""Buffers kept for the next product; one analysis uses up to three at a time."""

_free: list[Tensor] = []
_lock = threading.Lock()


@contextmanager
def room(rows: int, columns: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """[rows, columns] of uninitialised memory on the device of `like`, to be written within the block and not kept."""
    needed = rows * columns * dtype.itemsize
    with _lock:
        fitting = [buffer for buffer in _free if buffer.numel() >= needed and buffer.device == like.device]
        buffer = min(fitting, key=Tensor.numel) if fitting else None
        if buffer is not None:
            _free[:] = [other for other in _free if other is not buffer]
    if buffer is None:
        buffer = torch.empty(needed, dtype=torch.uint8, device=like.device)
    try:
        yield buffer[:needed].view(dtype).view(rows, columns)
    finally:
        with _lock:
            _free.append(buffer)
            _free.sort(key=Tensor.numel, reverse=True)
            del _free[KEPT:]


# The unembedding's rows rounded to bf16, and what is known of the rounding: prepared once a model.

FEWEST_TOKENS = 2048
"""With a smaller vocabulary there is nothing to gain."""

_SLICE = 8192


@dataclass(frozen=True, eq=False)
class RoundedRows:
    """Rows of the unembedding, less their mean, rounded to bf16.

    The mean changes all logits alike, and so no score.

    Attributes:
        mean: [d]; the mean row, float32.
        high: [V, d]; the rows less their mean, rounded to bf16.
        lengths: [V]; of the rows less their mean.
        rounding: largest |rounding| / |row|.
        spread: [d, d]; Σ_j u_j u_jᵀ over the rows less their mean.
        lost: [d, d]; Σ_j r_j r_jᵀ over what rounding took from them.
    """

    mean: Float[Tensor, " d"]
    high: Float[Tensor, "V d"]
    lengths: Float[Tensor, " V"]
    rounding: float
    spread: Float[Tensor, "d d"]
    lost: Float[Tensor, "d d"]

    @classmethod
    def of(cls, rows: Float[Tensor, "V d"]) -> "RoundedRows":
        """Round in slices, so that no second copy of the rows is held."""
        width = rows.shape[1]
        mean = rows.mean(dim=0)
        high = torch.empty_like(rows, dtype=torch.bfloat16)
        spread, lost = rows.new_zeros(width, width), rows.new_zeros(width, width)
        lengths, rounding = [], 0.0
        for start in range(0, rows.shape[0], _SLICE):
            here = slice(start, start + _SLICE)
            part = rows[here] - mean
            high[here] = part
            left = part - high[here]
            length = part.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
            lengths.append(length)
            rounding = max(rounding, float((left.norm(dim=1) / length).max()))
            spread.addmm_(part.T, part)
            lost.addmm_(left.T, left)
        return cls(mean, high, torch.cat(lengths), rounding, spread, lost)

    @functools.cached_property
    def longest(self) -> float:
        """The largest length of a row."""
        return float(self.lengths.max())


_rounded: "WeakKeyDictionary[Unembedding, RoundedRows]" = WeakKeyDictionary()


def rounded_rows(unembedding: Unembedding, megabytes: int) -> RoundedRows | None:
    """The rows of an unembedding, rounded once; None where that does not pay here, or memory lacks."""
    folded = unembedding.folded
    if folded.device.type != "cpu" or folded.shape[0] < FEWEST_TOKENS or not bf16_is_faster(folded.shape[1]):
        return None
    if memory_needed(unembedding) > megabytes / 2:
        return None
    with _lock:
        if unembedding not in _rounded:
            _rounded[unembedding] = RoundedRows.of(folded)
        return _rounded[unembedding]


def memory_needed(unembedding: Unembedding) -> int:
    """Of the rounded rows and of the shortlists' copies of some of them, 10^6 bytes."""
    return -(-4 * unembedding.folded.numel() // 10**6)


# How far bf16 products can be off in a score: a proven bound.

UNIT = 2.0**-8
"""Largest relative rounding of a bf16 number."""

SLACK = 1 + 1e-3
"""For the rounding of the quadratic forms themselves."""


@dataclass(frozen=True, eq=False)
class Changes:
    """Contributions as changes of the logits.

    Attributes:
        x: [N, d]; c / s.
        linear: [N]; c · g, nats.
        mean: [N]; z̄, of rows less their mean.
        shift: [N]; z̄ of the rows themselves.
    """

    x: Float[Tensor, "N d"]
    linear: Float[Tensor, " N"]
    mean: Float[Tensor, " N"]
    shift: Float[Tensor, " N"]

    def __getitem__(self, some: Int[Tensor, " n"]) -> "Changes":
        return Changes(self.x[some], self.linear[some], self.mean[some], self.shift[some])

    def __len__(self) -> int:
        return len(self.linear)

    def largest(self, rows: RoundedRows) -> Float[Tensor, " N"]:
        """At least any |y|."""
        by_length: Tensor = self.x.norm(dim=1) * rows.longest
        return by_length + self.mean.abs()


@dataclass(frozen=True, eq=False)
class Tokens:
    """Some tokens at each of some bases.

    Attributes:
        probabilities: [b, R]; 0 for tokens that are not meant.
        mass: [b]; Σ p_j.
        squares: [b]; Σ p_j |u_j|².
        most: [b]; the largest p_j.
    """

    probabilities: Float[Tensor, "b R"]
    mass: Float[Tensor, " b"]
    squares: Float[Tensor, " b"]
    most: Float[Tensor, " b"]

    @classmethod
    def of(cls, probabilities: Float[Tensor, "b R"], lengths: Float[Tensor, " R"]) -> "Tokens":
        return cls(probabilities, probabilities.sum(dim=1), probabilities @ lengths.square(), probabilities.amax(dim=1))


def quadratic(x: Float[Tensor, "N d"], form: Float[Tensor, "d d"]) -> Float[Tensor, " N"]:
    """xᵀ form x; the form is symmetric."""
    return (product(x, form) * x).sum(dim=1).clamp_min(0.0)


def by_base(base: Int[Tensor, " N"]) -> tuple[Int[Tensor, " N"], list[tuple[int, slice]]]:
    """Entries in the order of their bases, and where those of each base stand in it.

    >>> by_base(torch.tensor([7, 2, 7]))
    (tensor([1, 0, 2]), [(2, slice(0, 1, None)), (7, slice(1, 3, None))])
    """
    order = base.argsort(stable=True)
    used, counts = base[order].unique_consecutive(return_counts=True)
    ends = counts.cumsum(dim=0)
    runs = zip((ends - counts).tolist(), ends.tolist(), strict=True)
    return order, [(one, slice(*run)) for one, run in zip(used.tolist(), runs, strict=True)]


class RoundingError:
    """The bound for some contributions, whatever the tokens.

    Args:
        change: the contributions.
        rows: the unembedding's.
        most: [N]; at least the largest y found, 0 or more.
        enough: nats; what is within is not bounded more closely.
    """

    def __init__(self, change: Changes, rows: RoundedRows, most: Float[Tensor, " N"], enough: float) -> None:
        self._rows, self._enough = rows, enough
        self._rounded = change.x.bfloat16().float()
        self._left = change.x - self._rounded
        self._length = change.x.norm(dim=1)
        lost = self._left.norm(dim=1) / self._length.clamp_min(torch.finfo(torch.float32).tiny)
        self._relative = lost + rows.rounding + lost * rows.rounding
        self._summed = change.x.shape[1] * 2.0**-23  # float32 sums
        self._size = change.mean.abs()
        self._largest = change.largest(rows)
        self._slip = (self._relative + self._summed + UNIT) * self._largest  # of any |δ|
        self._growth = (most + self._slip).clamp_max(80.0).exp()

    def of(self, sums: Float[Tensor, " N"], tokens: Tokens, place: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Of Σ p φ(y) over `tokens` at the bases `place`, found to be `sums`."""
        by_length = self._length * tokens.squares[place].sqrt()  # |x| sqrt(Σ p |u|²)
        summed = self._summed * by_length
        deviation = self._relative * by_length  # sqrt(Σ p δ²), but for the rounding of sums
        error = self._error(sums, tokens.mass[place], deviation + summed)
        left = (~(error <= self._enough)).nonzero().flatten()
        if len(left):
            form = quadratic(self._rounded[left], self._rows.lost).sqrt()
            form += quadratic(self._left[left], self._rows.spread).sqrt()
            by_form = tokens.most[place[left]].sqrt() * form * SLACK
            deviation[left] = torch.minimum(deviation[left], by_form)
            error = self._error(sums, tokens.mass[place], deviation + summed)
        return error

    def _error(
        self, sums: Float[Tensor, " N"], mass: Float[Tensor, " N"], deviation: Float[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        slope = (2 * self._growth * sums).sqrt()  # at least sqrt(Σ p (e^y - 1)²)
        first = deviation * slope + UNIT * (2 * self._growth * sums + self._size * slope * mass.sqrt())
        squares = (2 + self._largest) * sums  # at least Σ p y²
        second = deviation.square() + 2 * UNIT**2 * (squares + self._size.square() * mass)
        error = first + 2 * self._growth * second + 1e-6 * (1 + sums)
        return torch.where(self._slip < 0.5, error, torch.inf)


# Log-probability increases from the tokens that matter.

TOLERANCE = SCORE_TOLERANCE
"""Nats of proven error that a score may have."""

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
        # φ(y) / y² rises with y, so that Σ p φ(y) <= φ(m) / m² Σ p y² for any m of at least all y.
        largest = change.largest(rows).clamp_min(0.05)  # below, the difference would be lost to rounding
        growth = (torch.expm1(largest) - largest) / largest.square()
        return (growth * root.square() * SLACK / 2).nan_to_num(torch.inf)

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
