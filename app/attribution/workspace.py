"""Memory for rows of logits, kept between products: pages new to the process cost as much as the product itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

KEPT = 4
"""Buffers kept for the next product; one analysis uses up to three at a time."""

_free: list[Tensor] = []
_lock = threading.Lock()


@contextmanager
def room(rows: int, columns: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """[rows, columns] of uninitialised memory on the device of `like`, to be written within the block and not kept."""
    needed = rows * columns * dtype.itemsize
    with _lock:
        fitting = [buffer for buffer in _free if buffer.numel() >= needed and buffer.device == like.device]
        buffer = min(fitting, key=Tensor.numel) if fitting else None
        if buffer is not None:
            _free[:] = [other for other in _free if other is not buffer]
    if buffer is None:
        buffer = torch.empty(needed, dtype=torch.uint8, device=like.device)
    try:
        yield buffer[:needed].view(dtype).view(rows, columns)
    finally:
        with _lock:
            _free.append(buffer)
            _free.sort(key=Tensor.numel, reverse=True)
            del _free[KEPT:]
