"""Value vectors -> their most promoted and most suppressed tokens, and the statistics of their logits. Pure tensors.

Two ways give the same lists: the plain one, a float32 product with the whole unembedding, and the screened one
(`indexer.screening`), which is faster where the CPU multiplies bf16 matrices and proves every list it gives.

Mean and standard deviation over the vocabulary need no logits: with m the mean row and S the rows' covariance, they
are v·m and sqrt(v·S·v).

Work is dealt out in chunks of neurons, one thread a core (`indexer.threads`).
"""

import queue
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from indexer.products import best_seconds
from indexer.screening import CentredRows, Screen, plain_lists
from indexer.threads import in_threads
from indexer.unembedding import Unembedding

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
