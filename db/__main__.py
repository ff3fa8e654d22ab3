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

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from db import queries
from db.command_line import run
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign

if TYPE_CHECKING:
    from db.catalogue.store import Catalogue


# What the shell's commands take: the parser of ``python -m db``.

EXPORTS = ("search", "concept", "similar", "neuron", "token", "overview")
FORMATS = ("csv", "json", "parquet")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(prog="python -m db", description="Look neurons up by token, or tokens by neuron.")
    shared = argparse.ArgumentParser(add_help=False)
    for target, default in ((whole, None), (shared, argparse.SUPPRESS)):
        target.add_argument(
            "--catalogue", type=Path, metavar="DIR", default=default, help="folder of catalogues, or one build's file"
        )
        target.add_argument("--model", metavar="NAME", default=default, help="which of several catalogues")
    json = argparse.ArgumentParser(add_help=False)
    json.add_argument("--json", action="store_true", help="JSON on standard output and nothing else there")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, to_json: bool = True) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[shared, json] if to_json else [shared], help=text)

    search = command("search", "neurons that promote or suppress a token")
    search.add_argument("text", metavar="TEXT", help="a token; its leading space and case may differ")
    _add_filters(search)
    _add_order(search)
    _add_page(search)
    concept = command("concept", "neurons that cover a concept, given by words")
    concept.add_argument("text", metavar="TEXT", help="words, such as “programming languages, -snake”")
    _add_filters(concept)
    _add_concept(concept)
    _add_page(concept, 20)
    for name, text in (
        ("neuron", "the tokens at both ends of a neuron"),
        ("similar", "neurons that share tokens with a neuron"),
    ):
        labelled = command(name, text)
        labelled.add_argument("label", metavar="LABEL", help="such as L28.F29 or L21.H19.N7")
        if name == "similar":
            labelled.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    token = command("token", "a token: its neighbours, and the neurons that have it, by layer")
    token.add_argument("text", metavar="TEXT", help="a token; its leading space and case may differ")
    token.add_argument("--limit", type=int, default=10, metavar="N", help="neurons an end (default: 10)")
    overview = command("overview", "the build as a whole: layers, peaked neurons, favoured tokens")
    overview.add_argument("--limit", type=int, default=10, metavar="N", help="neurons and tokens listed (default: 10)")
    command("builds", "the builds there are, and which are current")
    _add_export(command("export", "a whole answer as CSV, JSON or Parquet, or a copy of the build", to_json=False))
    return whole


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("what", nargs="?", choices=EXPORTS, metavar="WHAT", help=" | ".join(EXPORTS))
    export.add_argument("text", nargs="?", metavar="TEXT", help="what the command of that name takes")
    export.add_argument("--to", type=Path, metavar="FILE", help="the file to write; without it, standard output")
    export.add_argument("--format", choices=FORMATS, help="default: by the file's ending, else csv")
    export.add_argument("--build", type=Path, metavar="FILE", help="copy the whole build to this file instead")
    export.add_argument("--limit", type=int, metavar="N", help="at most so many rows (default: all)")
    export.add_argument("--offset", type=int, default=0, metavar="N", help=argparse.SUPPRESS)
    _add_filters(export)
    _add_order(export)
    _add_concept(export)


def _add_filters(search: argparse.ArgumentParser) -> None:
    signs = search.add_mutually_exclusive_group()
    for sign in Sign:
        signs.add_argument(f"--{sign}", dest="sign", action="store_const", const=sign, help=f"only what {sign} it")
    search.add_argument("--kind", choices=[str(kind) for kind in NeuronKind])
    search.add_argument("--layers", type=_layers, metavar="FIRST-LAST", help="such as 20-29, or 7")
    search.add_argument("--head", type=int, metavar="N", help="attention neurons of this head")
    search.add_argument("--min-z", type=float, metavar="X", help="least z-score in the sign's direction")
    search.add_argument("--max-rank", type=int, metavar="N", help="only the first N tokens of each end")


def _add_order(search: argparse.ArgumentParser) -> None:
    search.add_argument("--by", choices=["z", "rank", "logit"], default="z", help="what ranks the hits (default: z)")


def _add_concept(search: argparse.ArgumentParser) -> None:
    search.add_argument("--widen", type=int, metavar="N", help="neighbours of the words added at most (default: 40)")
    for name, text in (("add", "add this token, by its id"), ("drop", "leave this token out, by its id")):
        search.add_argument(f"--{name}", type=int, action="append", default=[], metavar="ID", help=text)


def _add_page(search: argparse.ArgumentParser, limit: int = 100) -> None:
    search.add_argument("--limit", type=int, default=limit, metavar="N", help=f"at most so many (default: {limit})")
    search.add_argument("--offset", type=int, default=0, metavar="N", help="leave out the first N")


def _layers(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of layers: write 20-29, or 7") from None


# The shell's commands: each takes the parsed options and returns what is printed.


def _open(options: Namespace) -> "Catalogue":
    from db.catalogue.store import Catalogue

    return Catalogue.open(_chosen(options))


def _chosen(options: Namespace) -> Path:
    from db.catalogue.builds import DEFAULT_ROOT, find_catalogue

    return find_catalogue(options.catalogue or DEFAULT_ROOT, options.model)


def _json(options: Namespace) -> str:
    with _open(options) as catalogue:
        return json.dumps(queries.ANSWERS[options.command](catalogue, options))


def _search(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        matches, hits = queries.search(catalogue, options)
        filters = queries.filters_of(options)
        total = catalogue.count_hits([token.token_id for token in matches.matched], filters)
    shown = f"{len(hits)} of {total:,} hits" + (f" from {options.offset + 1}" if options.offset and hits else "")
    lines = [terminal.matches_text(matches), f"{filters.describe(matches.matched)}: {shown}", ""]
    return "\n".join([*lines, terminal.hits_text(hits)] if hits else lines[:2])


def _concept(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        concept, neurons = queries.concept(catalogue, options)
        return terminal.concept_text(concept, neurons, catalogue.count_concept(concept, queries.filters_of(options)))


def _neuron(options: Namespace) -> str:
    neuron = Neuron.parse(options.label)
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        return terminal.card_text(catalogue.neuron(neuron))


def _similar(options: Namespace) -> str:
    neuron = Neuron.parse(options.label)
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        return terminal.similar_text(neuron, catalogue.similar(neuron, limit=options.limit))


def _token(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        return terminal.token_text(queries.token(catalogue, options), has_neighbours=catalogue.has_neighbours)


def _overview(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        peaked, favourites = catalogue.most_peaked(limit=options.limit), catalogue.favourites(limit=options.limit)
        return terminal.overview_text(catalogue.overview(), peaked, favourites)


def _builds(options: Namespace) -> str:
    from db import terminal
    from db.catalogue.builds import DEFAULT_ROOT

    found = queries.builds(options.catalogue or DEFAULT_ROOT, options.model)
    return json.dumps(terminal.builds_json(found)) if options.json else terminal.builds_text(found)


def _export(options: Namespace) -> str:
    from db.catalogue import export

    if options.build is not None:
        if options.what is not None:
            raise AtlasError("--build copies the whole build; leave the query out.")
        return export.copy_build(_chosen(options), options.build)
    if options.what is None or (options.text is None) != (options.what == "overview"):
        raise AtlasError('Say what to export: `export concept "months January" --to months.csv`, or `--build FILE`.')
    with _open(options) as catalogue:
        frame = export.frame_of(catalogue, options)
    return export.write(frame, options.to, options.format)


COMMANDS: dict[str, Callable[[Namespace], str]] = {
    "search": _search,
    "concept": _concept,
    "neuron": _neuron,
    "similar": _similar,
    "token": _token,
    "overview": _overview,
    "builds": _builds,
    "export": _export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: COMMANDS[options.command](options))


if __name__ == "__main__":
    sys.exit(main())
