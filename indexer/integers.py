"""Products of 8-bit integers: CPUs that multiply them (VNNI, AMX) do so at twice the rate of bf16, and sum exactly.

A vector is rounded to whole multiples of one step. That loses least where no entry stands far above the others, so
vectors are turned first by a rotation in which every entry is a mix of all: their products stay what they were.

Legend: n, m = vectors, d = their width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from indexer.products import best_seconds

LARGEST = 127
"""Of an entry's absolute value: symmetric, so that the sign of a vector is free."""
_SLICE = 8192


class Rounded(NamedTuple):
    """Vectors as multiples of a step."""

    codes: Int[Tensor, "n d"]
    """int8."""
    step: float


def rotation(width: int) -> Float[Tensor, "d d"]:
    """A random rotation, the same every time."""
    generator = torch.Generator().manual_seed(width)
    turned: Tensor = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    return turned.float()


def rounded(vectors: Float[Tensor, "n d"], turn: Float[Tensor, "d d"], largest: float) -> Rounded:
    """The vectors, turned and rounded, in slices; entries beyond `largest` are cut off there."""
    step = max(largest, torch.finfo(torch.float32).tiny) / LARGEST
    codes = torch.empty(vectors.shape, dtype=torch.int8)
    for start in range(0, vectors.shape[0], _SLICE):
        some = vectors[start : start + _SLICE] @ turn
        codes[start : start + _SLICE] = some.div_(step).round_().clamp_(-LARGEST, LARGEST)
    return Rounded(codes, step)


def product(left: Int[Tensor, "n d"], right: Int[Tensor, "m d"], out: Int[Tensor, "n m"]) -> None:
    """Every left vector times every right one, in int32, into `out`."""
    torch._int_mm(left, right.T, out=out)


def integers_are_exact(d_model: int) -> bool:
    """Whether this machine sums such products without loss, and in the CPU's memory.

    (Older instructions for them cut sums off at 16 bits, which the largest entries show.)
    """
    if torch.cuda.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (_extreme(count, d_model, generator) for count in (64, 256))
    right[:64] = left  # whose sums are the largest of all
    out = torch.empty(64, 256, dtype=torch.int32)
    product(left, right, out)
    return torch.equal(out.double(), left.double() @ right.double().T)


def integers_are_faster(d_model: int) -> bool:
    """Whether this CPU multiplies 8-bit integers faster than bf16 and float32, and exactly; measured, in 20 ms."""
    if not integers_are_exact(d_model):
        return False
    left, right = torch.randn(64, d_model), torch.randn(4096, d_model)
    small, large = left.to(torch.int8), right.to(torch.int8)
    halved = left.bfloat16(), right.bfloat16()
    out = torch.empty(4096, 64, dtype=torch.int32)
    whole, bf16, float32 = best_seconds(
        [lambda: product(large, small, out), lambda: halved[1] @ halved[0].T, lambda: right @ left.T]
    )
    return whole * 1.2 < min(bf16, float32)


def _extreme(count: int, width: int, generator: torch.Generator) -> Int[Tensor, "n d"]:
    return torch.randint(0, 2, (count, width), generator=generator).mul_(2).sub_(1).mul_(LARGEST).to(torch.int8)
