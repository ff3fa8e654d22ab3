"""The most extreme entries of long columns, found without sorting them.

Floating-point numbers above zero are ordered as their bit patterns are, read as signed integers, and every number
below zero reads as a negative integer. So as long as the k-th largest entry is above zero, integer maxima find it,
which a CPU takes several times faster than floating-point ones in bf16. With the sign bits flipped, the same search
finds the lowest entries. Whole numbers (int32) are searched as they are, whatever their sign.

The search is a pyramid: maxima of groups, maxima of groups of groups; the k largest entries lie in the k groups with
the largest maxima. A column of 50,000 is read once, and only some thousand entries of it are ever compared.

Legend: V = entries a column (tokens), c = columns (neurons). Columns, not rows: the maxima then run along contiguous
memory, and the product that makes them is faster this way round.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

FAN = 4
"""Members of a group."""
LEVELS = 3
"""Of maxima, at most."""
_STRIP_BYTES = 1 << 21
_PATTERNS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.int32: torch.int32}
_WIDER = {torch.int16: torch.int32, torch.int32: torch.int64}


class Pyramid:
    """Searches the columns of one buffer, [V, c]; `flip` turns it from the highest to the lowest.

    Args:
        logits: bf16, float32 or int32; contiguous, on the CPU, fewer than 2^31 entries; `flip` changes its bits.
        levels: of maxima; V is a multiple of FAN^levels.
    """

    def __init__(self, logits: Float[Tensor, "V c"], levels: int) -> None:
        self._entries = logits.view(_PATTERNS[logits.dtype])
        self._dtype = logits.dtype
        self._maxima: list[Tensor] = []  # of each level, the entries themselves first
        self._count = levels
        self._summarise()

    def flip(self) -> None:
        """Reverse the order of all entries: each x becomes -x."""
        self._summarise(flip=True)

    def _summarise(self, flip: bool = False) -> None:
        """Group g holds entries g, g + V/FAN, g + 2V/FAN, ...; and so on up."""
        sign = torch.iinfo(self._entries.dtype).min
        self._maxima = [self._entries]
        for level in range(self._count):
            below = self._maxima[-1].view(FAN, -1, self._entries.shape[1])
            above = torch.empty_like(below[0])
            # In strips that stay in the processor's cache between the two steps.
            strip = max(1, _STRIP_BYTES // (FAN * below.shape[2] * below.element_size()))
            for start in range(0, below.shape[1], strip):
                some = below[:, start : start + strip]
                if flip and level == 0:
                    some.bitwise_xor_(sign)
                torch.amax(some, dim=0, out=above[start : start + strip])
            self._maxima.append(above)
        if flip and not self._count:
            self._entries.bitwise_xor_(sign)

    def largest(self, count: int) -> tuple[Int[Tensor, "c count"], Float[Tensor, " c"]]:
        """Where the `count` largest entries of each column stand, in no order, and the least of their values.

        `count` is at most V / FAN^levels. Where that value is not above zero, the column's answer is worthless.
        """
        columns = self._entries.shape[1]
        column = torch.arange(columns, dtype=torch.int32)[:, None]
        places, least = _select(self._maxima[-1].T, count)
        for level in reversed(self._maxima[:-1]):
            step = level.shape[0] // FAN
            members = torch.arange(0, FAN * step, step, dtype=torch.int32)
            places = (places[:, :, None] + members).flatten(1)
            found = level.view(-1).index_select(0, (places * columns + column).view(-1))
            chosen, least = _select(found.view(columns, -1), count)
            places = places.gather(1, chosen.long())
        return places, least.contiguous().view(self._dtype)


def _select(patterns: Int[Tensor, "c n"], count: int) -> tuple[Int[Tensor, "c count"], Int[Tensor, " c"]]:
    """Where the `count` largest of each row stand, and the least of them.

    Value and place are packed into one integer, so that numbers and not pairs are partitioned; so the width is less
    than 2^16 for bf16, 2^32 for float32.
    """
    wide = _WIDER[patterns.dtype]
    half = torch.iinfo(patterns.dtype).bits
    width = patterns.shape[1]
    packed = patterns.to(wide, memory_format=torch.contiguous_format).bitwise_left_shift_(half)
    packed |= torch.arange(width, dtype=wide)
    packed.numpy().partition(width - count, axis=1)  # numpy's partition is vectorised; torch's topk is not
    chosen = packed[:, width - count :]
    least = (chosen[:, 0] >> half).to(patterns.dtype)
    return (chosen & ((1 << half) - 1)).int(), least


def levels_for(entries: int, count: int) -> int:
    """Levels such that the top of a pyramid over so many entries has room for `count`; 0 for a short column."""
    return next((levels for levels in range(LEVELS, 0, -1) if entries >= count * FAN**levels), 0)


def padded(entries: int, levels: int) -> int:
    """The next number of entries that a pyramid can be built on; what is added must not be above zero."""
    block: int = FAN**levels
    return -(-entries // block) * block
