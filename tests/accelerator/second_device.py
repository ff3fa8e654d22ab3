"""A second device that every machine has: tensors that say they are on “meta”, though their numbers are here.

A function of torch fails here as it would with a CUDA device: where its tensors are not all on one device, where
indices are neither on the CPU nor with what they index, and `numpy()`. So whatever runs mixes nothing, and gives the
CPU's figures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DEVICE, _HOME = torch.device("meta"), torch.device("cpu")
_MOVES = {Tensor.to, Tensor.cpu, Tensor.copy_}
_INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
_NUMPY: set[Any] = {Tensor.numpy, Tensor.__array__}


class MixedError(RuntimeError):
    """Tensors of two devices in one operation."""


class Elsewhere(Tensor):
    """A tensor of the second device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = list(_leaves((*args, *kwargs.values())))
    away = any(isinstance(one, Elsewhere) for one in leaves)
    if away and func == Tensor.device.__get__:
        return DEVICE
    if away and func in _NUMPY:
        raise MixedError("a tensor of another device has no numpy()")
    if away and func not in _MOVES:
        _require_one_device(func, args, leaves)
    if func is Tensor.cpu:
        away = False
    if func in (Tensor.copy_, Tensor.to):
        named = [isinstance(one, Elsewhere) for one in args[func is Tensor.to :] if isinstance(one, Tensor)]
        away = named[0] if named else away
    devices = [one for one in leaves if isinstance(one, torch.device)]
    if devices:
        away = devices[0].type == DEVICE.type
        args, kwargs = tree_map(lambda one: _HOME if isinstance(one, torch.device) else one, (args, kwargs))
    with torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)
    place = Elsewhere if away else Tensor
    if isinstance(out, Tensor):
        return out if type(out) is place else out.as_subclass(place)
    return tree_map(lambda one: one.as_subclass(place) if isinstance(one, Tensor) else one, out)


def _leaves(given: Any) -> Iterator[Any]:
    for one in given:
        if type(one) in (list, tuple):
            yield from _leaves(one)
        elif isinstance(one, Tensor | torch.device):
            yield one


def _require_one_device(func: Any, args: Any, leaves: list[Any]) -> None:
    tensors = [one for one in leaves if isinstance(one, Tensor)]
    indexed = func in _INDEXED and isinstance(args[0], Elsewhere)
    indices = {id(one) for one in _leaves((args[1],))} if indexed else set()
    if any(not isinstance(one, Elsewhere) and one.ndim and id(one) not in indices for one in tensors):
        raise MixedError(f"{func.__name__}: {[(type(one).__name__, tuple(one.shape)) for one in tensors]}")


class _Everything(TorchFunctionMode):
    """What makes tensors on the device or moves them there, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """While inside, and in this thread, there is a second device."""
    with _Everything():
        yield DEVICE
