"""What all commands of the shell share: how they end, and the options that several have."""

import argparse
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from db.errors import AtlasError
from db.lazy import lazy_import

if TYPE_CHECKING:
    from db import settings
else:
    settings = lazy_import("db.settings")  # pydantic takes a while to import, and --help needs none of it


def run(command: Callable[[], str | None], stopped: str = "Stopped.") -> int:
    """Run a command and print its answer on standard output, or one line of what is wrong on standard error.

    Args:
        command: returns what is to be printed; None prints nothing.
        stopped: what to say when the user interrupts it.

    Returns:
        The exit status: 2 where there is no answer, 130 where it was interrupted.
    """
    # Tokens and titles hold any character; a terminal or pipe in another encoding gets escapes rather than a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        answer = command()
        if answer is not None:
            print(answer)
        sys.stdout.flush()
    except AtlasError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has seen enough. Closing standard output at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def say(line: str) -> None:
    """Tell the user what is being done, on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def add_catalogue(parser: argparse.ArgumentParser) -> None:
    """Add ``--catalogue``; where it is not given, :func:`catalogue_folder` says which folder is meant."""
    parser.add_argument(
        "--catalogue",
        type=Path,
        metavar="DIR",
        help="folder of catalogues, or one .duckdb file (default: ATLAS_CATALOGUE, else catalogue/)",
    )


def catalogue_folder(given: Path | None) -> Path:
    """The folder of catalogues: the one given on the command line, else the setting ``ATLAS_CATALOGUE``.

    Raises:
        AtlasError: the setting cannot be used.
    """
    return settings.paths().catalogue if given is None else given


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that is a whole number within bounds.

    >>> whole_number(1)("3")
    3
    """
    bounds = f"at least {least}" if most is None else f"from {least} to {most:,}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a whole number {bounds}")
        return number

    return read


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns aligned as a terminal draws them: wide characters take two cells, combining ones none."""
    widths = [max(map(_cells, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        padded = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _cells(cell))
            padded.append(space + cell if place in right else cell + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cells(text: str) -> int:
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
