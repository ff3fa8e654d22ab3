"""Final norm and head as one object: residual vector -> logits, log-probabilities.

The norm is folded into the head once: with s the norm's frozen scale, logits(x) = folded · x / s + constant, where
folded = U·diag(γ), its rows mean-centred for LayerNorm (which is the same as centring x), and constant = U·β + head
bias (README, Method). This is the only holder of final norm and head, and its hash ties a catalogue to
its model.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from indexer.families import Conventions, NormKind
from indexer.products import product
from indexer.weights import Weights


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The folded unembedding of one model, float32.

    Attributes:
        folded: [V, d]; the rows that a residual vector is multiplied with.
        shift: [V] or None; U·β, logits that the final norm's bias adds (exact convention only).
        bias: [V] or None; the head's own bias.
        norm: which norm the scale is that of.
        epsilon: the norm's ε.
    """

    folded: Float[Tensor, "V d"]
    shift: Float[Tensor, " V"] | None
    bias: Float[Tensor, " V"] | None
    norm: NormKind
    epsilon: float

    @classmethod
    def from_weights(cls, weights: Weights, epsilon: float) -> "Unembedding":
        gamma, beta = weights.final_norm()
        matrix, bias = weights.head()
        folded = matrix * gamma
        norm = weights.architecture.norm
        if norm is NormKind.LAYER:
            folded -= folded.mean(dim=1, keepdim=True)
        shift = None if beta is None else matrix @ beta
        return cls(folded.contiguous(), shift, bias, norm, epsilon)

    def scale(self, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """The norm's scale at `hidden`: sqrt(var + ε) for LayerNorm, sqrt(mean square + ε) for RMSNorm."""
        if self.norm is NormKind.LAYER:
            return torch.sqrt(hidden.var(dim=-1, correction=0, keepdim=True) + self.epsilon)
        return torch.sqrt(hidden.square().mean(dim=-1, keepdim=True) + self.epsilon)

    def constant(self, conventions: Conventions = Conventions.EXACT) -> Float[Tensor, " V"] | None:
        """The part of the logits that does not depend on the residual vector; None where it is zero."""
        shift = self.shift if conventions is Conventions.EXACT else None
        parts = [part for part in (shift, self.bias) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None

    def logits(
        self,
        residual: Float[Tensor, "*batch d"],
        scale: Float[Tensor, "*batch 1"] | float = 1.0,
        conventions: Conventions = Conventions.EXACT,
    ) -> Float[Tensor, "*batch V"]:
        """Logits of a whole residual vector, the norm frozen at `scale`."""
        scaled = residual / scale
        logits = product(scaled.reshape(-1, scaled.shape[-1]), self.folded).view(*scaled.shape[:-1], -1)
        constant = self.constant(conventions)
        return logits if constant is None else logits + constant

    @cached_property
    def longest_row(self) -> float:
        """The largest norm of a folded row: |v · row| <= |v| x this, for every token."""
        return float(self.folded.norm(dim=1).max())

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the folded rows' bytes, in float32."""
        return hashlib.sha256(self.folded.cpu().contiguous().numpy().data).hexdigest()
