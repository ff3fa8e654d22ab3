"""Look-ups from the shell.

    python -m db search " Python" --suppresses --layers 20-29 --json
    python -m db concept "programming languages, -snake"
    python -m db neuron L29.F1499
    python -m db similar L29.F1499
    python -m db token " Paris"
    python -m db overview
    python -m db export concept "months January" --to months.csv
    python -m db export --build copy.duckdb
    python -m db builds

Status 0: answered (an empty answer is one). Status 2: what was asked cannot be answered; one line on standard error
says why.
"""

import os
import sys
from collections.abc import Sequence

from db import commands
from db.errors import AtlasError
from db.options import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    # Tokens hold any character; a terminal or pipe in another encoding gets escapes rather than a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        print(commands.COMMANDS[options.command](options))
        sys.stdout.flush()
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has seen enough. Closing standard output at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
