"""Exact scores at bf16 speed: float32 where the probability is, bf16 for the tail, and the tail's error bounded.

With z = folded · c / s and p the base's probabilities, Imp = z_w - log(1 + Σ_j p_j z_j + Σ_j p_j φ(z_j)) where
φ(z) = e^z - 1 - z. The first sum is linear in c, so the base's gradient gives it exactly. The second is small for a
single neuron, and its terms count only as far as their tokens have probability. So it is summed in float32 over the
tokens that are probable at any base, and over all others with y from a bf16 product. By the mean value theorem, with
e_j >= |y_j - z_j|,

    |Σ p_j φ(y_j) - Σ p_j φ(z_j)| <= Σ p_j e_j (|exp(y_j) - 1| + e_j exp(|y_j| + e_j))
    e_j = |c - c'| max|row| + |c'| max|row - row'| + 2⁻⁸ |y_j|

(primes: rounded to bf16; the last term: rounding of the product).
A score whose error this does not prove to be below TOLERANCE is computed again in float32.

Legend: B = base points, N = contributions, K = probable tokens, d = d_model, V = vocabulary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from indexer.unembedding import Unembedding

TOLERANCE = 3e-5
"""Nats; a third of what scores may differ from exhaustive float32 scoring."""

PROBABLE = 2048
"""Tokens summed in float32. More make the tail smaller and the sum slower."""

LARGEST_CHANGE = 8.0
"""Changes of logits beyond this are not worth screening: the bound grows with e^z."""


@dataclass(frozen=True, eq=False)
class Tail:
    """The split of the vocabulary for some bases.

    Attributes:
        probable_rows: [K, d]; folded rows of the tokens summed in float32.
        probable_mass: [B, K]; their probabilities.
        mass: [B, V]; the probabilities of all others, 0 for the probable ones.
        total: [B]; sums of `mass`.
        unembedding: of the model.
    """

    probable_rows: Float[Tensor, "K d"]
    probable_mass: Float[Tensor, "B K"]
    mass: Float[Tensor, "B V"]
    total: Float[Tensor, " B"]
    unembedding: Unembedding

    @classmethod
    def of(cls, probabilities: Float[Tensor, "B V"], unembedding: Unembedding) -> "Tail":
        """Split by the largest probability that a token has at any base."""
        count = min(PROBABLE, probabilities.shape[1])
        probable = probabilities.amax(dim=0).topk(count).indices
        mass = probabilities.index_fill(1, probable, 0.0)
        return cls(
            unembedding.folded[probable], probabilities[:, probable].contiguous(), mass, mass.sum(dim=1), unembedding
        )

    def curvature(
        self, contributions: Float[Tensor, "N d"], base: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Σ p φ(z) and a bound of its error; `contributions` divided by the scale, `base` sorted."""
        rounded = contributions.bfloat16()
        product = rounded @ self.unembedding.rounded.T
        largest = torch.maximum(product.amax(dim=1), -product.amin(dim=1)).float()
        change = product.float()
        row_error = (contributions - rounded.float()).norm(dim=1) * self.unembedding.longest_row
        row_error += rounded.float().norm(dim=1) * self.unembedding.longest_rounding
        error = row_error + 2**-8 * largest

        linear = weighted_sums(change, self.mass, base)
        growth = change.exp_().sub_(1)
        tail = weighted_sums(growth, self.mass, base) - linear
        slope = weighted_sums(growth.abs_(), self.mass, base)
        bound = error * slope + error.square() * (largest + error).exp() * self.total[base]

        near = contributions @ self.probable_rows.T
        largest = torch.maximum(largest, torch.maximum(near.amax(dim=1), -near.amin(dim=1)))
        probable = weighted_sums(torch.expm1(near) - near, self.probable_mass, base)
        return probable + tail, torch.where(largest < LARGEST_CHANGE, bound, torch.inf)


def weighted_sums(
    numbers: Float[Tensor, "N m"], weights: Float[Tensor, "B m"], base: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """numbers[i] · weights[base[i]]; `base` sorted, so that each row of weights is read once."""
    found, counts = base.unique_consecutive(return_counts=True)
    parts = zip(found.tolist(), numbers.split(counts.tolist()), strict=True)
    return torch.cat([rows @ weights[one] for one, rows in parts])
