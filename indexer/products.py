"""What products cost on this machine: float32 by whichever library is quicker, one thread per core, memory given back.

torch hands float32 products to its BLAS, which on some processors takes two to three times as long as oneDNN does. The
oneDNN operator used here is the one that torch's own compiler calls; both compute in float32, and differ in the order
of their sums.
"""

import ctypes
import functools
import mmap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

TRIALS = 12
_PAGE_OUT = 21  # MADV_PAGEOUT

TILE = 32
"""Rows of a matrix are filled up to a multiple of this, or to a power of two: a processor's tiles divide that, and
oneDNN keeps code and memory for each shape that it has met."""

_VOCABULARY = 2**14  # columns: matrices as wide have a few rows, as many each time, and are not worth copying


def product(left: Float[Tensor, "n d"], right: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """left @ right.T, in float32; on the CPU by the quicker library.

    >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    tensor([[11., 17.]])
    """
    if left.device.type != "cpu" or not onednn_is_faster():
        return left @ right.T
    return _onednn(left, right)


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices faster here; measured, in some 30 ms."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    left, right = torch.randn(64, 512), torch.randn(4096, 512)
    blas, onednn = best_seconds([lambda: left @ right.T, lambda: _onednn(left, right)])
    return onednn < 0.9 * blas


def best_seconds(ways: list[Callable[[], Any]]) -> list[float]:
    """Seconds of each way at its best, by turns, so that what else the machine does falls on all."""
    best = [float("inf")] * len(ways)
    for _ in range(TRIALS):
        for place, way in enumerate(ways):
            started = time.perf_counter()
            way()
            best[place] = min(best[place], time.perf_counter() - started)
    return best


def tiled(matrix: Float[Tensor, "n d"]) -> Float[Tensor, "n2 d"]:
    """The matrix with rows of zeros below, so that few different shapes are met."""
    rows, columns = matrix.shape
    wanted = tiled_rows(rows)
    if wanted == rows or columns > _VOCABULARY:
        return matrix
    found = matrix.new_zeros(wanted, columns)
    found[:rows] = matrix
    return found


def tiled_rows(rows: int) -> int:
    """How many rows there are once they are filled up.

    >>> tiled_rows(5), tiled_rows(33)
    (8, 64)
    """
    return -(-rows // TILE) * TILE if rows > TILE else 1 << max(0, rows - 1).bit_length()


def _onednn(left: Float[Tensor, "n d"], right: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    with torch.no_grad():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(tiled(left), right, None, "none", [], "")
    return found[: left.shape[0]]


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(step: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """`step` of every item, in order; each of the workers has its share of torch's threads."""
    if workers == 1 or len(items) == 1:
        return [step(item) for item in items]
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            return list(pool.map(step, items))
    finally:
        torch.set_num_threads(threads)  # a thread that sets its own number also sets that of threads to come


def give_back() -> None:
    """Hand free memory back to the system where the allocator would keep it and can be asked not to (glibc's).

    It keeps what the threads of an earlier stage have freed, beside which the next one would need its own.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def page_out(tensor: Tensor) -> None:
    """Ask the system to take a tensor's pages out of memory, where it can (Linux). Those of a map of a file are read
    again when somebody asks; no number is lost.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (tensor.data_ptr() + tensor.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if madvise is not None and size > 0 and tensor.is_contiguous():
        madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _PAGE_OUT)
