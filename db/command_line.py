"""How a command of the shell ends: its answer on standard output, or one line of what is wrong."""

import os
import sys
from collections.abc import Callable

from db.errors import AtlasError


def ended(answer: Callable[[], str]) -> int:
    """Print the answer; returns the exit status, 2 where it could not be given."""
    # Tokens and titles hold any character; a terminal or pipe in another encoding gets escapes rather than a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        print(answer())
        sys.stdout.flush()
    except AtlasError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has seen enough. Closing standard output at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
