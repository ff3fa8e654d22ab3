"""The unembedding's rows rounded to bf16, and what is known of the rounding: prepared once a model.

Legend: d = d_model, V = vocabulary.
"""

import functools
import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from indexer.projection import bf16_is_faster
from indexer.unembedding import Unembedding

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
_lock = threading.Lock()


@functools.cache
def _pays(d_model: int) -> bool:
    return bf16_is_faster(d_model)


def rounded_rows(unembedding: Unembedding, megabytes: int) -> RoundedRows | None:
    """The rows of an unembedding, rounded once; None where that does not pay here, or memory lacks."""
    folded = unembedding.folded
    if folded.device.type != "cpu" or folded.shape[0] < FEWEST_TOKENS or not _pays(folded.shape[1]):
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
