"""How much memory the process keeps beyond what it uses."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ARENAS, _BLOCK = 2, 128 * 1024


def keep_little() -> None:
    """Let the C library hand out memory from two places instead of from eight for each core: what is freed in one can
    be used from there only, and a page's thread is another each time. Large blocks go back to the system when they are
    freed, however large the largest so far was. Does nothing where the library is not GNU's.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, _ARENAS)
        library.mallopt(_M_MMAP_THRESHOLD, _BLOCK)
        library.mallopt(_M_TRIM_THRESHOLD, _BLOCK)
