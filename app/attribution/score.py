"""Log-probability increase, and its bound. Pure tensors -> scores (README, Method, Importance; paper eq. 7).

    Imp(c | base) = log p(w | base + c) - log p(w | base),    p = softmax of the frozen-norm logits

With z = folded · c / s the change of the logits and p_j the base's probabilities this is

    Imp = z_w - log Σ_j p_j e^{z_j}

and, being concave in c, at most c · g with g = ∇ log p(w | base) = (folded_w - Σ_j p_j folded_j) / s.

Legend: B = base points, N = contributions, d = d_model, V = vocabulary. Scores are in nats.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.fast import FEW, TOLERANCE, Distributions, RoundedRows, Shortlist
from app.attribution.results import SublayerScores
from indexer.architecture import Conventions
from indexer.device import product
from indexer.forward import ResidualStream
from indexer.weights import Unembedding, Weights

SAFE_EXPONENT = 80.0
"""e^z in float32 overflows at 88; beyond this the sum is taken as a log-sum-exp, which cannot."""

AT_ONCE = 2**21
"""Logits at a time on a processor. With fewer, its threads would wait for each other more often, which takes long where
other work keeps the processor busy.
"""

ROWS_AT_ONCE = 512
"""Rows of V logits held at a time, memory permitting: more would make the products no faster."""

COPIES = 4
"""Copies of such rows that live at the same time, in float32."""


def rows_for(megabytes: int, vocabulary: int) -> int:
    """How many rows of logits fit into the memory allowed; never fewer than 1, never more than are useful."""
    return max(1, min(ROWS_AT_ONCE, megabytes * 10**6 // (4 * COPIES * vocabulary)))


def in_cache(rows: Float[Tensor, "n d"], unembedding: Unembedding) -> Iterator[slice]:
    """All tokens, part by part: so many at a time that what is made of these rows' logits stays in the processor's
    cache. All at once where the rows are not on the CPU.
    """
    vocabulary = len(unembedding.folded)
    step = vocabulary
    if rows.device.type == "cpu":  # a power of two, so that products of few different shapes are met
        step = 2 ** (max(1, AT_ONCE // max(1, len(rows))).bit_length() - 1)
    for start in range(0, vocabulary, step):
        yield slice(start, min(start + step, vocabulary))


def log_softmax(logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """log p in float32, nats. torch's own adds up the tokens one after the other: over 262,144 of them that is off by
    10⁻⁴, which would stand in every score of a base. Its sum adds them in pairs.

    >>> log_softmax(torch.tensor([math.log(3.0), 0.0])).exp()
    tensor([0.7500, 0.2500])
    """
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(dim=-1, keepdim=True).log_())


def log_sum_exp(logits: Float[Tensor, "rows V"]) -> Float[Tensor, " rows"]:
    """Of each row, nats; some rows at a time, which stay in the processor's cache."""
    return torch.cat([some.logsumexp(dim=-1) for some in logits.split(max(1, AT_ONCE // logits.shape[1]))])


@dataclass(frozen=True, eq=False)
class Bases:
    """Points of the residual stream that contributions are added to, their distributions and their bounds' gradients.

    Attributes:
        log_probabilities: [B, V]; log p(· | base), in nats.
        probabilities: [B, V]; p(· | base).
        gradient: [B, d]; ∇ log p(w | base), in nats a unit of residual stream.
        target: w, a token id.
        scale: the frozen norm's scale s.
        unembedding: of the model.
        rows: contributions scored at a time, which bounds the memory in use.
        rounded: the unembedding's rows for products in bf16; None scores in float32.
        logits: [B, V]; before the model caps them; None where it does not.
    """

    log_probabilities: Float[Tensor, "B V"]
    probabilities: Float[Tensor, "B V"]
    gradient: Float[Tensor, "B d"]
    target: int
    scale: float
    unembedding: Unembedding
    rows: int = ROWS_AT_ONCE
    rounded: RoundedRows | None = None
    logits: Float[Tensor, "B V"] | None = None

    @classmethod
    def at(
        cls,
        points: Float[Tensor, "B d"],
        target: int,
        scale: float,
        unembedding: Unembedding,
        conventions: Conventions = Conventions.EXACT,
        rows: int = ROWS_AT_ONCE,
        rounded: RoundedRows | None = None,
    ) -> "Bases":
        """Distributions and gradients at `points`."""
        if unembedding.soft_cap is not None:
            return cls._capped(points, target, scale, unembedding, conventions, rows)
        log_probabilities = log_softmax(unembedding.logits(points, scale, conventions))
        probabilities = log_probabilities.exp()
        gradient = (unembedding.folded[target] - product(probabilities, unembedding.folded.T)) / scale
        return cls(log_probabilities, probabilities, gradient, target, scale, unembedding, rows, rounded)

    @classmethod
    def _capped(
        cls,
        points: Float[Tensor, "B d"],
        target: int,
        scale: float,
        unembedding: Unembedding,
        conventions: Conventions,
        rows: int,
    ) -> "Bases":
        """The same where the model caps its logits; in float32 always."""
        logits = unembedding.logits(points, scale, conventions, capped=False)
        capped = unembedding.capped(logits)
        log_probabilities = log_softmax(capped)
        probabilities = log_probabilities.exp()
        pull = -probabilities
        pull[:, target] += 1
        pull *= 1 - (capped / (unembedding.soft_cap or 1.0)).square()  # the cap's own slope
        gradient = product(pull, unembedding.folded.T) / scale
        return cls(log_probabilities, probabilities, gradient, target, scale, unembedding, rows, None, logits)

    def part(self, points: slice) -> "Bases":
        """Some of the points; what was computed for all is shared."""
        return replace(
            self,
            log_probabilities=self.log_probabilities[points],
            probabilities=self.probabilities[points],
            gradient=self.gradient[points],
            logits=None if self.logits is None else self.logits[points],
        )

    @property
    def log_target(self) -> Float[Tensor, " B"]:
        """log p(w | base), in nats."""
        return self.log_probabilities[:, self.target]

    @property
    def tolerance(self) -> float:
        """Nats by which a score may be off beyond the rounding of float32."""
        return 0.0 if self.rounded is None else TOLERANCE

    def importance(self, contributions: Float[Tensor, "N d"], base: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Imp(contributions[i] | point base[i]) in nats, exact to float32 and `tolerance`.

        Args:
            contributions: c.
            base: numbers of the points.
        """
        scores = contributions.new_zeros(len(contributions))
        # What adds nothing raises nothing; as probabilities add up to 1 up to rounding only, it would not be 0.
        left = contributions.any(dim=1).to(base.device)
        for shortlist in self._shortlists if len(contributions) >= FEW else ():
            for one in self._parts((shortlist.chosen[base] & left).nonzero().flatten()):
                scores[one], error = shortlist.scores(contributions[one], base[one])
                left[one] = ~(error <= TOLERANCE)
        for one in self._parts(left.nonzero().flatten()):
            scores[one] = self._importance(contributions[one], base[one])
        return scores

    def _parts(self, entries: Int[Tensor, " n"]) -> tuple[Tensor, ...]:
        """In parts of about equal size that memory has room for: a product of a few rows takes nearly as long as one
        of many.
        """
        return entries.tensor_split(-(-len(entries) // self.rows)) if len(entries) else ()

    @cached_property
    def _shortlists(self) -> list[Shortlist]:
        """Of bf16 products; none where everything is scored in float32."""
        if self.rounded is None:
            return []
        whole = Distributions(
            self.unembedding, self.rounded, self.probabilities, self.gradient, self.target, self.scale
        )
        return whole.shortlists()

    def _importance(self, contributions: Float[Tensor, "N d"], base: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """In float32; some tokens at a time, so that what is computed of them stays in the processor's cache."""
        x, scores = contributions / self.scale, contributions.new_empty(len(contributions))
        base = base.to(x.device)
        far = x.norm(dim=1) * self.unembedding.longest_row >= SAFE_EXPONENT
        some = far.nonzero().flatten()
        if len(some):
            change = self._change(x[some], base[some], slice(None))
            scores[some] = log_probability_increase(change, self.log_probabilities[base[some]], self.target)
        some = (~far).nonzero().flatten()
        if not len(some):
            return scores
        x, base = x[some], base[some]
        sums = []
        for here in in_cache(x, self.unembedding):
            change = self._change(x, base, here)
            if here.start <= self.target < here.stop:
                raised = change[:, self.target - here.start].clone()
            # torch sums a row in pairs; a product with the vector of probabilities would round more.
            sums.append(change.exp_().mul_(self.probabilities[:, here].index_select(0, base)).sum(dim=1))
        scores[some] = raised - torch.stack(sums).sum(dim=0).log()
        return scores

    def _change(self, x: Float[Tensor, "N d"], base: Int[Tensor, " N"], tokens: slice) -> Float[Tensor, "N some"]:
        """The change of some tokens' logits; x: c / s."""
        change = product(x, self.unembedding.folded[tokens])
        if self.logits is None:
            return change
        before, capped = self.logits[:, tokens].index_select(0, base), self.unembedding.capped
        return capped(change.add_(before)).sub_(capped(before))  # no larger than without the cap


def log_probability_increase(
    change: Float[Tensor, "N V"], log_probabilities: Float[Tensor, "N V"], target: int
) -> Float[Tensor, " N"]:
    """Imp from the change of the logits and the base's log-probabilities, whatever their size.

    With two tokens of equal probability and a change of (ln 3, 0), p(w) goes from 1/2 to 3/4:

    >>> log_probability_increase(torch.tensor([[math.log(3.0), 0.0]]), torch.full((1, 2), math.log(0.5)), 0)  # ln 1.5
    tensor([0.4055])
    """
    return change[:, target] - torch.logsumexp(log_probabilities + change, dim=-1)


LAST_DIGITS = 1 + 1e-5
"""Stored logits are float32 products; their last digits may differ from the ones computed here."""


def logit_spans(
    values: Float[Tensor, "n d"], unembedding: Unembedding, ends: tuple[Tensor, Tensor] | None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Highest minus lowest logit of each value vector (where the model caps its logits: with 0 among them), and the
    largest of either sign; or more.

    Args:
        values: value vectors.
        unembedding: of the model.
        ends: their highest and lowest logits over all tokens, [n] each; None bounds by norms. Rows of no token count
            too, as in the softmax: what they add is bounded by their middle and by how far they are from it.
    """
    if ends is None:
        longest: Tensor = values.norm(dim=1) * unembedding.longest_row
        return 2 * longest, longest
    highest, lowest = (one.to(values) for one in ends)
    if unembedding.padding is not None:
        middle, radius = unembedding.padding_ball
        near, reach = values @ middle, values.norm(dim=1) * radius
        highest, lowest = torch.maximum(highest, near + reach), torch.minimum(lowest, near - reach)
    if unembedding.soft_cap is not None:
        highest, lowest = highest.clamp_min(0), lowest.clamp_max(0)
    return (highest - lowest) * LAST_DIGITS, torch.maximum(highest, -lowest) * LAST_DIGITS


def bend(
    target: Float[Tensor, " n"], largest: Float[Tensor, " n"], unembedding: Unembedding
) -> Float[Tensor, " n"] | float:
    """How far the cap of the logits can take scores from where concavity and Hoeffding's lemma bound them, nats: κ / 2
    (y_w² + max y²), with y the change of the logits before the cap c and κ = 4 / (3√3 c) at least its curvature.

    Args:
        target: |y_w|.
        largest: at least any |y|.
        unembedding: of the model.
    """
    if unembedding.soft_cap is None:
        return 0.0
    found: Tensor = (target.square() + largest.square()) * (2 / (27**0.5 * unembedding.soft_cap))
    return found


# Log-probability increase of whole sub-layers and of heads (README, Method, Importance).


def array(tensor: Tensor) -> Float[np.ndarray, "..."]:
    """The same numbers as a numpy array, in the same precision: results hold no tensors."""
    numbers: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return numbers


def base_points(stream: ResidualStream) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
    """What attention and FFN of each layer are added to, at the analysed position: layer input, layer input +
    attention output.
    """
    inputs = stream.layer_input[:-1, stream.position]
    return inputs, inputs + stream.attention_output[:, stream.position]


def layer_scores(
    attention_base: Float[Tensor, " L"], ffn_base: Float[Tensor, " L"], final: Float[Tensor, ""]
) -> SublayerScores:
    """Differences of log p(w) along the residual stream: before attention, before the FFN, and after the last layer."""
    after = torch.cat([attention_base[1:], final[None]])
    return SublayerScores(array(ffn_base - attention_base), array(after - ffn_base))


def head_contributions(stream: ResidualStream, weights: Weights) -> Float[Tensor, "L H d"]:
    """What each head wrote at the analysed position, summed over source positions and dimensions; no output bias."""
    layers = []
    for layer in range(stream.attention_weight.shape[0]):
        mixed = stream.attention_activation(layer).sum(dim=1)  # [H, D]
        values = weights.attention_values(layer).unflatten(0, tuple(mixed.shape))  # [H, D, d]
        layers.append(torch.einsum("hn,hnd->hd", mixed, values))
    return torch.stack(layers)
