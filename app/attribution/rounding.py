"""How far bf16 products can be off in a score: a proven bound (README, Method, "Why it is quick").

With y_j the change of a logit less its mean and φ(y) = e^y - 1 - y, a score needs sums Σ_j p_j φ(y_j). Where y_j is
off by δ_j, the sum is off by at most Σ p_j |δ_j| |φ'(y_j)| = Σ p_j |δ_j| |e^{y_j} - 1| and terms of second order in δ;
since |e^y - 1| is small where y is, the error is of second order itself. By Cauchy and Schwarz,

    Σ p_j |δ_j| |e^y - 1| <= sqrt(Σ p_j δ_j²) · sqrt(Σ p_j (e^y - 1)²),    Σ p_j (e^y - 1)² <= 2 e^{max y} Σ p_j φ(y_j).

δ_j = r_j · x' + u_j · ξ, with r_j what rounding took from row u_j, x' the rounded contribution and ξ what it lost. The
first root is bounded by the lengths of the rows, or by the largest p_j and quadratic forms prepared once a model,

    Σ p_j (r_j · x')² <= max p_j · x'ᵀ (Σ_j r_j r_jᵀ) x',

whichever is less. The product itself is rounded to bf16 too, relative to y_j + z̄.

Legend: N = contributions, b = base points, d = d_model, R = tokens. Scores are in nats.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.rounded import RoundedRows
from indexer.products import product

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
