"""The machine: where models run and in which type of numbers their weights are kept, and how products are quickest.

All arithmetic is in float32, the model's own included: a weight is kept in a half type only where that holds it
exactly, and is widened while its module runs. So device and type change time and memory, and no identity, score or
measured effect is any looser. Tensors follow the device of what they are computed from; this module is asked only where
there is nothing to follow.
"""

import ctypes
import functools
import mmap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from db import settings
from db.errors import AtlasError

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ROOM = 0.5
"""Share of a device's free memory that weights in float32 may take by themselves: the unembedding comes twice."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model is, and how it is kept.

    Attributes:
        device: such as cuda:0.
        dtype: of the weights.
        wide: how many tensors are in float32 all the same, since that type does not hold them exactly.
    """

    device: torch.device
    dtype: torch.dtype
    wide: int = 0

    @property
    def numbers(self) -> str:
        """The type of the weights by name."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def is_default(self) -> bool:
        """On the CPU, in float32: nothing worth telling."""
        return self.device.type == "cpu" and self.dtype is torch.float32

    def notices(self) -> tuple[str, ...]:
        """What a result says of it."""
        if self.is_default:
            return ()
        less = f" ({self.wide} tensors in float32, which that would round)" if self.wide else ""
        return (f"Computed on {self.device} in float32; weights are kept in {self.numbers}{less}.",)


def chosen_device() -> torch.device:
    """The device that the setting ``ATLAS_DEVICE`` names.

    Raises:
        AtlasError: it is not there.
    """
    wanted = settings.paths().device
    if wanted == AUTO:
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    name = f"cuda:{torch.cuda.current_device()}" if wanted == "cuda" and len(there) > 1 else wanted
    if name not in there:
        built = " (this torch is built without CUDA)" if "cuda" in name and torch.version.cuda is None else ""
        raise AtlasError(
            f"ATLAS_DEVICE is {wanted}, which torch does not find here{built}. Choose {' or '.join(there)}."
        )
    return torch.device(name)


def chosen_dtype(device: torch.device, numbers: int, stored: torch.dtype) -> torch.dtype:
    """The type that the setting ``ATLAS_DTYPE`` names, or the one that fits.

    Args:
        device: where the weights go.
        numbers: how many they are.
        stored: the type of most of them in their files.
    """
    wanted = settings.paths().dtype
    if wanted != AUTO:
        return DTYPES[wanted]
    roomy = device.type != "cuda" or 4 * numbers <= _ROOM * torch.cuda.mem_get_info(device)[0]
    return torch.float32 if roomy or stored not in DTYPES.values() else stored


def put(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Placement:
    """Move a model, each weight in that type where it holds it exactly, else in float32; and have it run in float32.

    Nothing stays of the memory that the weights were in, which may be maps of their files: a process that reads a map
    whose file was cut short is killed by the system.
    """
    homes: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, one in owner._parameters.items():
            if one is not None:
                homes.setdefault(one, []).append((owner, name))  # tied ones have several, and stay one
        for name, buffer in owner._buffers.items():
            owner._buffers[name] = None if buffer is None else buffer.to(device, copy=True)
    wide = 0
    while homes:
        one, places = homes.popitem()  # and let go of, before the next is copied
        moved = nn.Parameter(_kept(one.detach(), dtype).to(device, copy=True), requires_grad=False)
        wide += moved.dtype is not dtype
        for owner, name in places:
            owner._parameters[name] = moved
    for owner in module.modules():
        _widen_while_it_runs(owner)
    return Placement(device, dtype, wide)


def _kept(weight: Tensor, dtype: torch.dtype) -> Tensor:
    narrow, wide = weight.to(dtype), weight.float()
    return narrow if narrow is wide or torch.equal(narrow.float(), wide) else wide


def _widen_while_it_runs(owner: nn.Module) -> None:
    narrow = {name: one for name, one in owner._parameters.items() if one is not None and one.dtype != torch.float32}
    if not narrow:
        return

    def widen(*_: Any) -> None:
        owner._parameters.update({name: nn.Parameter(one.float(), False) for name, one in narrow.items()})

    def narrow_again(*_: Any) -> None:
        owner._parameters.update(narrow)

    owner.register_forward_pre_hook(widen)
    owner.register_forward_hook(narrow_again, always_call=True)


# Products in float32 by whichever library is quicker here, one thread per core, memory given back. torch hands them to
# its BLAS, which on some processors takes two to three times as long as oneDNN does. The oneDNN operator is the one
# that torch's own compiler calls; both compute in float32, and differ in the order of their sums.

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


class Watched(TorchFunctionMode):
    """Within it, `look` is called before each operation on tensors of this thread; what it raises ends the work there.
    What computes for long need not say so, whoever wrote it. A pass back is one operation.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self._look = look

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._look()
        return func(*args, **(kwargs or {}))
