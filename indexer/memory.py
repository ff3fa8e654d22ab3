"""What the process holds and does not use."""

import ctypes


def give_back() -> None:
    """Hand free memory back to the system where the allocator would keep it and can be asked not to (glibc's).

    It keeps what the threads of an earlier stage have freed, beside which the next one would need its own.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
