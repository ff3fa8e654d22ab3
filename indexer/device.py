"""Where models run, and in which type of numbers their weights are kept: the one place that decides either.

All arithmetic is in float32, the model's own included: a weight is kept in a half type only where that holds it
exactly, and is widened while its module runs. So device and type change time and memory, and no identity, score or
measured effect is any looser. Tensors follow the device of what they are computed from; this module is asked only where
there is nothing to follow.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
