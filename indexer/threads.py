"""Work dealt out to one thread a core.

torch's own threads share every single step and wait for each other after it; on a machine that does anything else at
the same time the waiting costs more than the steps. Here each thread has chunks of its own.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

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
