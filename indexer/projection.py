"""Value vectors -> their most promoted and most suppressed tokens, and the statistics of their logits. Pure tensors.

Two ways give the same lists: the plain one, a float32 product with the whole unembedding, and the screened one
(`indexer.projection`), which is faster where the CPU multiplies bf16 matrices and proves every list it gives.

Mean and standard deviation over the vocabulary need no logits: with m the mean row and S the rows' covariance, they
are v·m and sqrt(v·S·v).

Work is dealt out in chunks of neurons, one thread a core (`indexer.products`).
"""

import queue
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from indexer.extremes import FAN, Pyramid, levels_for, padded
from indexer.products import best_seconds, in_threads
from indexer.unembedding import Unembedding

# Lists of a neuron's most extreme tokens: the plain way, and the screened way, which is faster and proven equal.

FIRST_SPARE = 56  # candidates an end beyond k in the first round: enough for all but a few neurons in a thousand
SECOND_FACTOR = 5  # candidates an end in the second round, times k
LONG_SHARE = 256  # one row in so many is long

Lists = tuple[Tensor, Tensor, Tensor, Tensor]
"""Top tokens and logits, bottom tokens and logits, each [c, k], the most extreme first."""


class CentredRows:
    """The unembedding's rows less their mean, with rows of zeros at the end so that a pyramid fits their number.

    Those have logits of zero, which a pyramid never gives.

    Attributes:
        padded: [V', d] with V' >= V; float32.
        vocabulary: V.
        levels: of a pyramid with room for `count` at its top.
    """

    def __init__(self, rows: Float[Tensor, "V d"], mean: Float[Tensor, " d"], count: int) -> None:
        self.vocabulary = rows.shape[0]
        self.levels = levels_for(self.vocabulary, count)
        self.padded = rows.new_zeros(padded(self.vocabulary, self.levels), rows.shape[1])
        torch.sub(rows, mean, out=self.padded[: self.vocabulary])

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
        self.rounds = (depth + FIRST_SPARE, depth * SECOND_FACTOR)
        self._screening = rows.padded.bfloat16()
        # The longest rows, which would loosen the bound for all, are multiplied in float32.
        lengths = rows.rows.norm(dim=1)
        self._long = lengths.topk(rows.vocabulary // LONG_SHARE).indices
        self._long_rows = rows.rows[self._long]
        rest = torch.ones(rows.vocabulary, dtype=torch.bool, device=self._long.device).index_fill_(0, self._long, False)
        self._largest_row = float(lengths[rest].max())
        self._largest_screening_row = self._largest_row * (1 + 2**-8)
        self._largest_rounding = float(_rounding(rows.rows, self._screening)[rest].max())

    @staticmethod
    def candidates(depth: int) -> int:
        """The most that are looked for at one end."""
        return max(depth + FIRST_SPARE, depth * SECOND_FACTOR)

    @staticmethod
    def fits(vocabulary: int, depth: int) -> bool:
        """Whether there is anything to screen: with few tokens, the plain way is cheaper."""
        # The pyramid counts places within its levels in 16 bits.
        return vocabulary >= 2 * Screen.candidates(depth) and FAN * Screen.candidates(depth) < 2**16

    def lists(
        self, values: Float[Tensor, "c d"], buffer: Tensor | None = None, at_once: int = 1024
    ) -> tuple[Lists, int, Tensor]:
        """The lists, how many neurons needed more than the first round, and the buffer to hand in the next time.

        `at_once` neurons are multiplied at a time, which bounds the buffer; their candidates are scored all together.
        """
        size = self._screening.shape[0] * min(at_once, values.shape[0])
        # Memory that is new to the process costs as much as the product.
        if buffer is None or buffer.numel() < size:
            buffer = values.new_empty(size, dtype=torch.bfloat16)
        lists, proven = self._round(values, buffer, at_once, self.rounds[0])
        left = (~proven).nonzero().flatten()
        again = len(left)
        if again:
            more, proven = self._round(values[left], buffer, at_once, self.rounds[1])
            _put(lists, left, more)
            left = left[~proven]
        for some in left.split(at_once) if len(left) else ():
            _put(lists, some, plain_lists(values[some], self.rows, self.depth))
        return lists, again, buffer

    def _round(self, values: Tensor, buffer: Tensor, at_once: int, candidates: int) -> tuple[Lists, Bool[Tensor, " c"]]:
        """The lists out of so many candidates an end, and for which neurons they are proven."""
        parts = [self._candidates(some, buffer, candidates) for some in values.split(at_once)]
        high, high_left, low, low_left = (torch.cat(column) for column in zip(*parts, strict=True))
        # What a pyramid could not find may be no token at all; it is not proven below.
        tokens = torch.cat([high, low], dim=1).clamp_max(self.rows.vocabulary - 1)
        exact = sampled_products(values, self.rows.rows, tokens)
        top = exact[:, :candidates].topk(self.depth)
        bottom = exact[:, candidates:].topk(self.depth, largest=False)
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
        """The bound of the module's docstring, but for the final rounding of the product to bf16."""
        rounded = values.bfloat16().float()
        summed = values.shape[1] * 2**-24 * rounded.norm(dim=1) * self._largest_screening_row  # float32 accumulation
        error: Tensor = (values - rounded).norm(dim=1) * self._largest_row
        error += rounded.norm(dim=1) * self._largest_rounding + summed
        return error


def plain_lists(values: Float[Tensor, "c d"], rows: CentredRows, depth: int) -> Lists:
    """The lists from the float32 logits of all tokens."""
    if values.device.type != "cpu" or rows.padded.shape[0] < depth * FAN**rows.levels:
        return _sorted_lists(values @ rows.rows.T, depth)
    logits = rows.padded @ values.T
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
    """values[i] · rows[tokens[i, j]] in float32, without gathering the rows."""
    count, width = tokens.shape
    if values.device.type == "cpu" and tokens.numel() >= rows.shape[0]:
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


CHUNK = 512
"""Neurons multiplied at a time: with more, the product is no faster."""
SCORED = 4096
"""Neurons, at most, whose candidates are scored together."""
MEMORY_MB = 1024
"""For logits, all threads together."""
_LEAST_CHUNK = 64
"""Below this, fewer threads are better than smaller chunks."""


@dataclass(frozen=True, eq=False)
class Projection:
    """What the catalogue stores of a batch of neurons.

    Attributes:
        top_tokens, top_logits: [neuron, k]; highest logits first.
        bottom_tokens, bottom_logits: [neuron, k]; lowest logits first.
        mean, std: [neuron]; of the logits over the whole vocabulary (population), in logits.
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
        self.depth = min(depth, rows.shape[0])
        self.mean_row = rows.mean(dim=0)
        self.rows = CentredRows(rows, self.mean_row, Screen.candidates(self.depth))
        self.covariance = (self.rows.padded.T @ self.rows.padded) / rows.shape[0]
        self._screen: Screen | None = None
        if screen is not False and on_cpu and Screen.fits(rows.shape[0], self.depth):
            self._screen = Screen(self.rows, self.depth) if screen or bf16_is_faster(rows.shape[1]) else None
        affordable = max(1, memory_mb * 1_000_000 // (rows.shape[0] * _bytes_an_entry(self.screens)))
        cores = torch.get_num_threads() if on_cpu else 1
        self.workers = max(1, min(cores, affordable // _LEAST_CHUNK))
        self.chunk = min(chunk, max(1, affordable // self.workers))
        self._buffers: queue.SimpleQueue[Tensor | None] = queue.SimpleQueue()
        for _ in range(self.workers):
            self._buffers.put(None)
        self.unproven = 0  # neurons that needed more than the first round, of `seen`
        self.seen = 0

    def workspace(self, vocabulary: int) -> float:
        """Bytes for logits and their search, with so many rows in the unembedding, all threads together."""
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
            lists = plain_lists(values, self.rows, self.depth)
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
        mean = values @ self.mean_row
        variance = ((values @ self.covariance) * values).sum(dim=1)
        std = variance.clamp_min(0).sqrt()
        top, bottom, norm = top + mean[:, None], bottom + mean[:, None], values.norm(dim=1)
        return tuple(found.cpu() for found in (top_tokens, top, bottom_tokens, bottom, mean, std, norm))


def _bytes_an_entry(screens: bool) -> int:
    """Of memory in use for one logit: itself, and half as much again for looking for the extremes."""
    return 3 if screens else 6


def bf16_is_faster(d_model: int) -> bool:
    """Whether a bf16 product beats a float32 one on this CPU by enough to pay for the re-scoring; measured, in 20 ms.

    (On a GPU the plain way is fast enough and needs no proof.)
    """
    left, right = torch.randn(64, d_model), torch.randn(4096, d_model)
    rounded = left.bfloat16(), right.bfloat16()
    float32, bf16 = best_seconds([lambda: left @ right.T, lambda: rounded[0] @ rounded[1].T])
    return float32 > 2 * bf16
