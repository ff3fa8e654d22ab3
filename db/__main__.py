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

import sys
from collections.abc import Sequence

from db import commands
from db.options import parser
from db.shell import ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    return ended(lambda: commands.COMMANDS[options.command](options))


if __name__ == "__main__":
    sys.exit(main())
