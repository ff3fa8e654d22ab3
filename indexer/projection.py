"""Value vectors -> their most promoted and most suppressed tokens, and the statistics of their logits. Pure tensors.

Two ways (README, How a build works) give the same lists: the plain one (`float32_lists`, by a `Pyramid`), and for CPUs
that multiply bf16 matrices faster the screened one (`Screen`).

Mean and standard deviation over the vocabulary need no logits: with m the mean row and S the rows' covariance, they
are v·m and sqrt(v·S·v).

Work is dealt out in chunks of neurons, one thread per core (`indexer.device`). Legend: V = tokens, V2 = the same with
rows of zeros up to a whole pyramid, d = d_model, c = neurons of a chunk, k = tokens kept at each end.
"""

import queue
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from indexer.device import best_seconds, in_threads, product
from indexer.weights import Unembedding

CHUNK = 512
"""Neurons multiplied at a time: with more, the product is no faster."""
SCORED = 4096
"""Neurons, at most, whose candidates are scored together."""
MEMORY_MB = 1024
"""For logits, all threads together."""
_LEAST_CHUNK = 64
"""Below this, fewer threads are better than smaller chunks."""
SPARE = 56
"""Candidates at each end beyond k: enough for nearly all neurons."""
_LONG_SHARE = 256  # one row in 256 counts as long
FAN = 4
"""Entries of a pyramid's group."""
_LEVELS = 3  # of maxima, at most
_STRIP_BYTES = 1 << 21
_GATHERED_ENTRIES = 1 << 26  # of rows: 268 MB
_PATTERNS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_WIDER = {torch.int16: torch.int32, torch.int32: torch.int64}

Lists = tuple[Tensor, Tensor, Tensor, Tensor]
"""Top tokens and logits, bottom tokens and logits, each [c, k], the most extreme first."""


@dataclass(frozen=True, eq=False)
class Projection:
    """What the catalogue stores of a batch of neurons.

    Attributes:
        top_tokens, top_logits: [neuron, k]; highest logits first.
        bottom_tokens, bottom_logits: [neuron, k]; lowest logits first.
        mean, std: [neuron]; of the logits over all tokens (population), in logits. Rows of no token are left out, here
            and in the lists.
        norm: [neuron]; length of the value vector itself.
    """

    top_tokens: Int[Tensor, "neuron k"]
    top_logits: Float[Tensor, "neuron k"]
    bottom_tokens: Int[Tensor, "neuron k"]
    bottom_logits: Float[Tensor, "neuron k"]
    mean: Float[Tensor, " neuron"]
    std: Float[Tensor, " neuron"]
    norm: Float[Tensor, " neuron"]


class Projector:
    """Projects value vectors through one unembedding; prepared once, used for every layer.

    Args:
        unembedding: the model's folded unembedding, on the device to compute on; value vectors are moved there chunk
            by chunk.
        depth: how many tokens to keep at each end.
        screen: whether to screen in bf16; None measures which is faster here.
        chunk: neurons at a time, at most.
        memory_mb: 10^6 bytes for logits, all threads together; bounds the chunk, but never below one neuron.
    """

    def __init__(
        self,
        unembedding: Unembedding,
        depth: int = 50,
        *,
        screen: bool | None = None,
        chunk: int = CHUNK,
        memory_mb: int = MEMORY_MB,
    ) -> None:
        rows = unembedding.folded
        on_cpu = rows.device.type == "cpu"
        self.used = unembedding.used
        tokens = rows.shape[0] if self.used is None else self.used.shape[0]
        self.depth = min(depth, tokens)
        self.rows = CentredRows(rows, self.depth + SPARE, self.used)
        self.mean_row = self.rows.mean
        self.covariance = (self.rows.padded.T @ self.rows.padded) / tokens
        self._screen: Screen | None = None
        if screen is not False and on_cpu and Screen.fits(tokens, self.depth):
            self._screen = Screen(self.rows, self.depth) if screen or bf16_is_faster(rows.shape[1]) else None
        affordable = max(1, memory_mb * 1_000_000 // (tokens * _bytes_an_entry(self.screens)))
        cores = torch.get_num_threads() if on_cpu else 1
        self.workers = max(1, min(cores, affordable // _LEAST_CHUNK))
        self.chunk = min(chunk, max(1, affordable // self.workers))
        self._buffers: queue.SimpleQueue[Tensor | None] = queue.SimpleQueue()
        for _ in range(self.workers):
            self._buffers.put(None)
        self.unproven = 0  # of `seen`, the neurons that were screened
        self.seen = 0

    def workspace(self, vocabulary: int) -> float:
        """Bytes for logits and their search, for a vocabulary of this size, all threads together."""
        return self.workers * self.chunk * vocabulary * _bytes_an_entry(self.screens)

    @property
    def screens(self) -> bool:
        """Whether lists are screened in bf16."""
        return self._screen is not None

    def project(self, values: Float[Tensor, "neuron d"]) -> Projection:
        """The stored lists and statistics of `values`, in chunks."""
        # As many even chunks as keep every thread busy to the end.
        most = SCORED if self.screens else self.chunk
        rounds = -(-values.shape[0] // (most * self.workers))
        size = max(1, -(-values.shape[0] // (rounds * self.workers)))
        chunks = [values[start : start + size] for start in range(0, values.shape[0], size)]
        parts = in_threads(self._chunk, chunks, self.workers)
        return Projection(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _chunk(self, values: Tensor) -> tuple[Tensor, ...]:
        """The fields of a Projection, on the CPU."""
        values = values.to(self.mean_row.device).contiguous()
        if self._screen is None:
            lists = float32_lists(values, self.rows, self.depth)
        else:
            buffer = self._buffers.get()
            try:
                at_once = -(-len(values) // -(-len(values) // self.chunk))  # even shares again
                lists, again, buffer = self._screen.lists(values, buffer, at_once)
            finally:
                self._buffers.put(buffer)
            self.seen += values.shape[0]
            self.unproven += again
        top_tokens, top, bottom_tokens, bottom = lists
        if self.used is not None:  # from places among the tokens' rows to ids
            top_tokens, bottom_tokens = (self.used[found.long()].int() for found in (top_tokens, bottom_tokens))
        mean = values @ self.mean_row
        variance = ((values @ self.covariance) * values).sum(dim=1)
        std = variance.clamp_min(0).sqrt()
        top, bottom, norm = top + mean[:, None], bottom + mean[:, None], values.norm(dim=1)
        return tuple(found.cpu() for found in (top_tokens, top, bottom_tokens, bottom, mean, std, norm))


def _bytes_an_entry(screens: bool) -> int:
    """Of memory in use for one logit: itself, and half as much again for looking for the extremes."""
    return 3 if screens else 6


@cache
def bf16_is_faster(d_model: int) -> bool:
    """Whether a bf16 product beats a float32 one on this CPU by enough to pay for the re-scoring; measured, in 20 ms.

    (On a GPU the plain way is fast enough and needs no proof.)
    """
    left, right = torch.randn(64, d_model), torch.randn(4096, d_model)
    rounded = left.bfloat16(), right.bfloat16()
    float32, bf16 = best_seconds([lambda: left @ right.T, lambda: rounded[0] @ rounded[1].T])
    return float32 > 2 * bf16


class CentredRows:
    """The unembedding's rows of tokens less their mean, with rows of zeros at the end so that a pyramid fits their
    number.

    Those have logits of zero, which a pyramid never gives.

    Attributes:
        padded: [V', d] with V' >= V; float32.
        vocabulary: V, the tokens.
        mean: [d].
        levels: of a pyramid with room for `count` at its top.
    """

    def __init__(self, rows: Float[Tensor, "U d"], count: int, used: Int[Tensor, " V"] | None = None) -> None:
        self.vocabulary = rows.shape[0] if used is None else used.shape[0]
        self.levels = levels_for(self.vocabulary, count)
        self.padded = rows.new_zeros(padded(self.vocabulary, self.levels), rows.shape[1])
        if used is None:
            self.rows.copy_(rows)
        else:
            torch.index_select(rows, 0, used, out=self.rows)
        self.mean = self.rows.mean(dim=0)
        self.rows.sub_(self.mean)

    @property
    def rows(self) -> Float[Tensor, "V d"]:
        return self.padded[: self.vocabulary]


class Screen:
    """Screens in bf16, prepared for one unembedding.

    Args:
        rows: the unembedding's.
        depth: k.
    """

    def __init__(self, rows: CentredRows, depth: int) -> None:
        self.rows = rows
        self.depth = depth
        self._screening = rows.padded.bfloat16()
        # The longest rows, which would loosen the bound for all, are multiplied in float32.
        lengths = rows.rows.norm(dim=1)
        self._long = lengths.topk(rows.vocabulary // _LONG_SHARE).indices
        self._long_rows = rows.rows[self._long]
        rest = torch.ones(rows.vocabulary, dtype=torch.bool, device=self._long.device).index_fill_(0, self._long, False)
        self._largest_row = float(lengths[rest].max())
        self._largest_screening_row = self._largest_row * (1 + 2**-8)
        self._largest_rounding = float(_rounding(rows.rows, self._screening)[rest].max())

    @staticmethod
    def fits(vocabulary: int, depth: int) -> bool:
        """Whether there is anything to screen: with few tokens, the plain way is cheaper."""
        # The pyramid counts places within its levels in 16 bits.
        return vocabulary >= 2 * (depth + SPARE) and FAN * (depth + SPARE) < 2**16

    def lists(
        self, values: Float[Tensor, "c d"], buffer: Tensor | None = None, at_once: int = 1024
    ) -> tuple[Lists, int, Tensor]:
        """The lists, how many neurons had to be projected the plain way, and the buffer to hand in the next time.

        `at_once` neurons are multiplied at a time, which bounds the buffer; their candidates are scored all together.
        """
        size = self._screening.shape[0] * min(at_once, values.shape[0])
        # Memory that is new to the process costs as much as the product.
        if buffer is None or buffer.numel() < size:
            buffer = values.new_empty(size, dtype=torch.bfloat16)
        lists, proven = self._screened(values, buffer, at_once)
        left = (~proven).nonzero().flatten()
        for some in left.split(at_once) if len(left) else ():
            _put(lists, some, float32_lists(values[some], self.rows, self.depth))
        return lists, len(left), buffer

    def _screened(self, values: Tensor, buffer: Tensor, at_once: int) -> tuple[Lists, Bool[Tensor, " c"]]:
        """The lists out of the candidates, and for which neurons they are proven."""
        count = self.depth + SPARE
        parts = [self._candidates(some, buffer, count) for some in values.split(at_once)]
        high, high_left, low, low_left = (torch.cat(column) for column in zip(*parts, strict=True))
        # What a pyramid could not find may be no token at all; it is not proven below.
        tokens = torch.cat([high, low], dim=1).clamp_max(self.rows.vocabulary - 1)
        exact = sampled_products(values, self.rows.rows, tokens)
        top = exact[:, :count].topk(self.depth)
        bottom = exact[:, count:].topk(self.depth, largest=False)
        error = self._error(values)
        proven = (high_left > 0) & (high_left * (1 + 2**-8) + error <= top.values[:, -1])
        proven &= (low_left > 0) & (low_left * (1 + 2**-8) + error <= -bottom.values[:, -1])
        return (high.gather(1, top.indices), top.values, low.gather(1, bottom.indices), bottom.values), proven

    def _candidates(self, values: Tensor, buffer: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tokens that the product puts at the top, [c, count], and the least of their logits; both of the bottom,
        with the sign turned.
        """
        height = self._screening.shape[0]
        screened = buffer[: height * values.shape[0]].view(height, values.shape[0])
        torch.mm(self._screening, values.bfloat16().T, out=screened)
        screened[self._long] = (self._long_rows @ values.T).bfloat16()
        pyramid = Pyramid(screened, self.rows.levels)
        high, high_left = pyramid.largest(count)
        pyramid.flip()
        low, low_left = pyramid.largest(count)
        return high, high_left.float(), low, low_left.float()

    def _error(self, values: Tensor) -> Float[Tensor, " c"]:
        """A bound of how far a screened logit is off, but for the final rounding of the product to bf16.

        By Cauchy and Schwarz: what value and row lost to rounding, times the other's length, and the sum's own error.
        """
        rounded = values.bfloat16().float()
        summed = values.shape[1] * 2**-24 * rounded.norm(dim=1) * self._largest_screening_row  # float32 accumulation
        error: Tensor = (values - rounded).norm(dim=1) * self._largest_row
        error += rounded.norm(dim=1) * self._largest_rounding + summed
        return error


def float32_lists(values: Float[Tensor, "c d"], rows: CentredRows, depth: int) -> Lists:
    """The lists from the float32 logits of all tokens."""
    if values.device.type != "cpu" or rows.padded.shape[0] < depth * FAN**rows.levels:
        return _sorted_lists(values @ rows.rows.T, depth)
    logits = product(rows.padded, values)
    pyramid = Pyramid(logits, rows.levels)
    top, least_top = pyramid.largest(depth)
    pyramid.flip()
    bottom, least_bottom = pyramid.largest(depth)
    flipped = logits.T
    high, low = -flipped.gather(1, top.long()), -flipped.gather(1, bottom.long())
    tops, bottoms = high.topk(depth), low.topk(depth, largest=False)
    lists = (top.gather(1, tops.indices), tops.values, bottom.gather(1, bottoms.indices), bottoms.values)
    left = (~((least_top > 0) & (least_bottom > 0))).nonzero().flatten()
    if len(left):
        _put(lists, left, _sorted_lists(values[left] @ rows.rows.T, depth))
    return lists


def _sorted_lists(logits: Float[Tensor, "c V"], depth: int) -> Lists:
    top, bottom = logits.topk(depth), logits.topk(depth, largest=False)
    return top.indices.int(), top.values, bottom.indices.int(), bottom.values


def _put(lists: Lists, places: Int[Tensor, " n"], new: Lists) -> None:
    for old, column in zip(lists, new, strict=True):
        old[places] = column


def sampled_products(
    values: Float[Tensor, "c d"], rows: Float[Tensor, "V d"], tokens: Int[Tensor, "c m"]
) -> Float[Tensor, "c m"]:
    """values[i] · rows[tokens[i, j]] in float32; on the CPU without gathering the rows."""
    count, width = tokens.shape
    if values.device.type != "cpu":
        at_once = max(1, _GATHERED_ENTRIES // (width * rows.shape[1]))
        parts = zip(values.split(at_once), tokens.split(at_once), strict=True)
        return torch.cat([(rows[some] @ one[:, :, None])[:, :, 0] for one, some in parts])
    if tokens.numel() >= rows.shape[0]:
        return _products_by_row(values, rows, tokens)
    starts = torch.arange(0, (count + 1) * width, width, device=values.device)
    return _sampled(values, rows, starts, tokens.flatten()).view(count, width)


def _products_by_row(values: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """The same, row by row: the rows, which no cache holds, are read once and in order, and the values stay in it."""
    size = tokens.numel()
    wanted = tokens.numpy().reshape(-1)
    order = wanted.astype(np.int64) << 32
    order |= np.arange(size)
    order.sort()  # numbers and not pairs, which numpy sorts several times faster
    order &= (1 << 32) - 1
    starts = np.zeros(rows.shape[0] + 1, np.int64)
    np.cumsum(np.bincount(wanted, minlength=rows.shape[0]), out=starts[1:])
    products = np.empty(size, np.float32)
    columns = torch.from_numpy(order // tokens.shape[1])
    products[order] = _sampled(rows, values, torch.from_numpy(starts), columns).numpy()
    return torch.from_numpy(products).view(tokens.shape)


def _sampled(
    left: Float[Tensor, "n d"], right: Float[Tensor, "m d"], starts: Int[Tensor, " n1"], columns: Int[Tensor, " s"]
) -> Float[Tensor, " s"]:
    """The products of row i of `left` with rows columns[starts[i] : starts[i + 1]] of `right`."""
    # torch calls its CSR tensors beta and says so once; what is used of them here is tested against the plain product.
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
    pattern = torch.sparse_csr_tensor(
        starts.to(columns.dtype), columns, left.new_zeros(len(columns)), (len(left), len(right)), check_invariants=False
    )
    products: Tensor = torch.sparse.sampled_addmm(pattern, left, right.T, beta=0).values()
    return products


def _rounding(rows: Tensor, rounded: Tensor) -> Float[Tensor, " V"]:
    """The length of what each row lost to rounding, in slices."""
    starts = range(0, rows.shape[0], 8192)
    lost = [rows[start : start + 8192] - rounded[start : min(start + 8192, rows.shape[0])] for start in starts]
    return torch.cat([part.norm(dim=1) for part in lost])


class Pyramid:
    """The most extreme entries of long columns, found without sorting; `flip` turns it from the highest to the lowest.

    Floating-point numbers above zero are ordered as their bit patterns are, read as signed integers, and every number
    below zero reads as a negative integer. So as long as the k-th largest entry is above zero, integer maxima find it,
    which a CPU takes several times faster than floating-point ones in bf16. With the sign bits flipped, the same search
    finds the lowest entries.

    The search takes maxima of groups, and maxima of groups of groups; the k largest entries lie in the k groups with
    the largest maxima. A column of 50,000 is read once, and only some thousand entries of it are ever compared.
    (Columns, not rows: the maxima then run along contiguous memory, and the product that makes them is faster.)

    Args:
        logits: [V2, c]; bf16 or float32, contiguous, on the CPU, fewer than 2^31 entries; `flip` changes its bits.
        levels: of maxima; V2 is a multiple of FAN^levels.
    """

    def __init__(self, logits: Float[Tensor, "V2 c"], levels: int) -> None:
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
    """Levels at whose top a pyramid over this many entries has room for `count`; 0 for a short column."""
    return next((levels for levels in range(_LEVELS, 0, -1) if entries >= count * FAN**levels), 0)


def padded(entries: int, levels: int) -> int:
    """The next number of entries that a pyramid can be built on; what is added must not be above zero."""
    block: int = FAN**levels
    return -(-entries // block) * block
