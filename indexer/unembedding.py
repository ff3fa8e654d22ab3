"""Final norm and head as one object: residual vector -> logits, log-probabilities.

The norm is folded into the head once: with s the norm's frozen scale, logits(x) = folded · x / s + constant, where
folded = U·diag(γ), its rows mean-centred for LayerNorm (which is the same as centring x), and constant = U·β + head
bias (README, Method). This is the only holder of final norm and head, and its hash ties a catalogue to
its model.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db.errors import AtlasError
from indexer.architecture import Conventions, NormKind
from indexer.products import product
from indexer.tokens import TokenBytes
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
        padding: [P] or None; ids of the rows that are no token. The model gives them probability, so they are part of
            every softmax; of lists and statistics of tokens they are not.
        soft_cap: c, where the model's logits are c · tanh(u / c), u those of the frozen norm; None: they are u.
    """

    folded: Float[Tensor, "V d"]
    shift: Float[Tensor, " V"] | None
    bias: Float[Tensor, " V"] | None
    norm: NormKind
    epsilon: float
    padding: Int[Tensor, " P"] | None = None
    soft_cap: float | None = None

    @classmethod
    def from_weights(cls, weights: Weights, epsilon: float, tokens: TokenBytes | None = None) -> "Unembedding":
        """The rows that `tokens` has no token for are padding; without it none is. Wherever the weights are, they are
        folded on the CPU: another device rounds otherwise, and the hash would not be that of the catalogue.
        """
        gamma, beta = (None if one is None else one.cpu() for one in weights.final_norm())
        matrix, bias = (None if one is None else one.cpu() for one in weights.head())
        assert gamma is not None
        assert matrix is not None
        folded = matrix * gamma
        norm = weights.architecture.norm
        if norm is NormKind.LAYER:
            folded -= folded.mean(dim=1, keepdim=True)
        shift = None if beta is None else matrix @ beta
        unused = tokens.unused(len(folded)) if tokens is not None else []
        if len(unused) == len(folded):
            raise AtlasError("The tokenizer has no token for any row of the unembedding: they do not belong together.")
        padding = torch.tensor(unused) if unused else None
        found = cls(folded.contiguous(), shift, bias, norm, epsilon, padding, weights.dimensions.soft_cap)
        return found.on(weights.device)

    def on(self, device: torch.device) -> "Unembedding":
        """The same on another device."""
        shift, bias, padding = (
            None if one is None else one.to(device) for one in (self.shift, self.bias, self.padding)
        )
        return replace(self, folded=self.folded.to(device), shift=shift, bias=bias, padding=padding)

    @cached_property
    def used(self) -> Int[Tensor, " R"] | None:
        """The ids of the rows that are tokens, rising; None where all are."""
        if self.padding is None:
            return None
        every = torch.ones(len(self.folded), dtype=torch.bool, device=self.folded.device)
        return every.index_fill_(0, self.padding, False).nonzero().flatten()

    @cached_property
    def padding_ball(self) -> tuple[Float[Tensor, " d"], float]:
        """The mean of the rows that are no token, and the distance of the furthest of them from it."""
        rows = self.folded[self.padding]
        middle = rows.mean(dim=0)
        return middle, float((rows - middle).norm(dim=1).max())

    @property
    def rows(self) -> Float[Tensor, "R d"]:
        """The folded rows of tokens; a copy where there are others."""
        return self.folded if self.used is None else self.folded[self.used]

    def extremes(
        self, numbers: Float[Tensor, "*batch V"], count: int, *, largest: bool = True
    ) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
        """The `count` largest (or smallest) numbers of tokens, the most extreme first, and the tokens' ids."""
        of_tokens = numbers if self.used is None else numbers[..., self.used]
        found = of_tokens.topk(min(count, of_tokens.shape[-1]), largest=largest)
        return found.values, found.indices if self.used is None else self.used[found.indices]

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
        *,
        capped: bool = True,
    ) -> Float[Tensor, "*batch V"]:
        """Logits of a whole residual vector, the norm frozen at `scale`; `capped` as the model's own are."""
        scaled = residual / scale
        logits = product(scaled.reshape(-1, scaled.shape[-1]), self.folded).view(*scaled.shape[:-1], -1)
        constant = self.constant(conventions)
        logits = logits if constant is None else logits + constant
        return self.capped(logits) if capped else logits

    def capped(self, logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        """What the model makes of them."""
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    @cached_property
    def longest_row(self) -> float:
        """The largest norm of a folded row: |v · row| <= |v| x this, for every token."""
        return float(self.folded.norm(dim=1).max())

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the folded rows' bytes, in float32."""
        return hashlib.sha256(self.folded.cpu().contiguous().numpy().data).hexdigest()
