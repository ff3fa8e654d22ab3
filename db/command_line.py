"""What all commands of the shell share: how they are read, print and end, and the options that several have."""

import argparse
import codecs
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import Sign
from db.questions import Parameter, Span, read_span

if TYPE_CHECKING:
    from db import settings
else:
    settings = lazy_import("db.settings")  # pydantic takes a while to import, and --help needs none of it


def run(command: Callable[[], str | bytes | None], stopped: str = "Stopped.") -> int:
    """Run a command and print its answer on standard output, or one line of what is wrong on standard error.

    Args:
        command: returns what is to be printed; None prints nothing. Bytes are UTF-8 for a program, such as CSV: they
            pass unchanged, whatever the encoding of standard output, unless that is a terminal.
        stopped: what to say when the user interrupts it.

    Returns:
        The exit status: 2 where there is no answer, 130 where it was interrupted.
    """
    _take_any_character()
    try:
        answer = command()
        if answer is not None:
            _write(answer)
    except AtlasError as error:
        say(f"error: {' '.join(str(error).split())}")
        return 2
    except OSError as error:  # of a path that was named, such as one that is too long or may not be looked into
        say(f"error: {str(error.filename or '')[:80]}: {error.strerror or error}.")
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def _write(answer: str | bytes) -> None:
    """Print it, or raise AtlasError; a reader that goes away has seen enough."""
    try:
        if isinstance(answer, bytes) and sys.stdout is not None and not sys.stdout.isatty():
            sys.stdout.buffer.write(answer + b"\n")
            sys.stdout.flush()
        else:
            print(harmless(answer if isinstance(answer, str) else answer.decode("utf-8", "replace")), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # closing it at exit must not complain either
        if not isinstance(error, BrokenPipeError):
            raise AtlasError(f"Standard output cannot be written ({error.strerror}).") from error


def say(line: str) -> None:
    """Tell the user what is being done, on standard error, at once."""
    print(harmless(line), file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """A parser whose help and errors can be printed anywhere."""

    def print_help(self, file: Any = None) -> None:
        """The help, in any encoding."""
        _take_any_character()
        super().print_help(file)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End; the message may repeat what was typed."""
        _take_any_character()
        super().exit(status, message and harmless(message))


# What is printed holds prompts, tokens, titles and names of folders, which are anybody's.

_COMMANDS = re.compile(
    r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)"  # what terminals obey
    "|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # what turns the direction of writing
    "|[\u2028\u2029\ufeff\U000e0000-\U000e007f]"  # what some take for the end of a line, and what nobody sees
)


def harmless(text: str) -> str:
    r"""The text without what a terminal would obey: such characters become escapes, which JSON reads back as they were.

    >>> harmless('{"token": "\x9b2J"}')
    '{"token": "\\u009b2J"}'
    """
    return _COMMANDS.sub(lambda found: _escaped(found[0]), text)


def _escaped(text: str) -> str:
    r"""As JSON writes it in ASCII: \u00e9, and two of them beyond U+FFFF."""
    return json.dumps(text)[1:-1]


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _escaped(error.object[error.start : error.end]), error.end


codecs.register_error("atlas.escape", _escape_unencodable)


def _take_any_character() -> None:
    """Where the terminal or pipe has another encoding than UTF-8, what it lacks is written as an escape, which in JSON
    stands for the same character. Without this, a finished computation would end in a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="atlas.escape")


def add_token(parser: argparse.ArgumentParser, name: str, about: str) -> None:
    """Add ``--NAME TEXT`` and ``--NAME-id N``, of which one may be given."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(f"--{name}", metavar="TEXT", help=about)
    either.add_argument(f"--{name}-id", type=whole_number(0), metavar="N", help="the same by its token id")


def add_catalogue(parser: argparse.ArgumentParser) -> None:
    """Add ``--catalogue``; where it is not given, :func:`catalogue_folder` says which folder is meant."""
    parser.add_argument(
        "--catalogue",
        type=Path,
        metavar="DIR",
        help="folder of catalogues, or one .duckdb file (default: ATLAS_CATALOGUE, else catalogue/)",
    )


def add_option(command: argparse.ArgumentParser | argparse._ArgumentGroup, parameter: Parameter) -> None:
    """The option, or options, that a field of a question is asked for by."""
    option, kind, flag = parameter.option, parameter.kind, f"--{parameter.name.replace('_', '-')}"
    default = None if parameter.default in (None, ()) else parameter.default
    text = option.about if default is None else f"{option.about} (default: {default})"
    if parameter.default is MISSING:
        command.add_argument(parameter.name, metavar=option.metavar, help=option.about)
    elif kind is Sign:
        signs = command.add_mutually_exclusive_group()
        for sign in Sign:
            signs.add_argument(f"--{sign}", dest="sign", action="store_const", const=sign, help=f"only what {sign} it")
    elif kind is bool:
        command.add_argument(flag, action="store_true", help=option.about)
    elif kind == Span:  # which is no class
        command.add_argument(flag, type=layers, default=default, metavar=option.metavar, help=text)
    elif issubclass(kind, StrEnum):
        command.add_argument(flag, choices=[str(choice) for choice in kind], default=default, help=text)
    elif parameter.several:
        command.add_argument(flag, type=kind, action="append", default=[], metavar=option.metavar, help=text)
    else:
        read = whole_number(int(option.least or 0)) if kind is int else kind
        command.add_argument(flag, type=read, default=default, metavar=option.metavar, help=text)


def layers(text: str) -> Span:
    """The type of an option that is a range of layers."""
    try:
        return read_span(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of layers: write 20-29, or 7") from None


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
