"""Look-ups from the shell.

    python -m db search " Python" --suppresses --layers 20-29 --json
    python -m db neuron L29.F1499
    python -m db builds

Status 0: answered (an empty answer is one). Status 2: what was asked cannot be answered; one line on standard error
says why.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    # Tokens hold any character; a terminal or pipe in another encoding gets escapes rather than a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        print(_COMMANDS[options.command](options))
        sys.stdout.flush()
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has seen enough. Closing standard output at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m db", description="Look neurons up by token, or tokens by neuron.")
    shared = argparse.ArgumentParser(add_help=False)
    for target, default in ((parser, None), (shared, argparse.SUPPRESS)):
        target.add_argument(
            "--catalogue", type=Path, metavar="DIR", default=default, help="folder of catalogues, or one build's file"
        )
        target.add_argument("--model", metavar="NAME", default=default, help="which of several catalogues")
    shared.add_argument("--json", action="store_true", help="JSON on standard output and nothing else there")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_search(commands.add_parser("search", parents=[shared], help="neurons that promote or suppress a token"))
    neuron = commands.add_parser("neuron", parents=[shared], help="the tokens at both ends of a neuron")
    neuron.add_argument("label", metavar="LABEL", help="such as L28.F29 or L21.H19.N7")
    commands.add_parser("builds", parents=[shared], help="the builds there are, and which are current")
    return parser


def _add_search(search: argparse.ArgumentParser) -> None:
    search.add_argument("text", metavar="TEXT", help="a token; its leading space and case may differ")
    signs = search.add_mutually_exclusive_group()
    for sign in Sign:
        signs.add_argument(f"--{sign}", dest="sign", action="store_const", const=sign, help=f"only what {sign} it")
    search.add_argument("--kind", choices=[str(kind) for kind in NeuronKind])
    search.add_argument("--layers", type=_layers, metavar="FIRST-LAST", help="such as 20-29, or 7")
    search.add_argument("--head", type=int, metavar="N", help="attention neurons of this head")
    search.add_argument("--min-z", type=float, metavar="X", help="least z-score in the sign's direction")
    search.add_argument("--max-rank", type=int, metavar="N", help="only the first N tokens of each end")
    search.add_argument("--by", choices=["z", "rank", "logit"], default="z", help="what ranks the hits (default: z)")
    search.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many hits (default: 100)")
    search.add_argument("--offset", type=int, default=0, metavar="N", help="leave out the first N hits")


def _layers(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of layers: write 20-29, or 7") from None


def _search(options: argparse.Namespace) -> str:
    from db import terminal
    from db.catalogue import Catalogue
    from db.filters import Filters, Order

    filters = Filters(
        sign=options.sign,
        kind=options.kind,
        layers=options.layers,
        head=options.head,
        min_z=options.min_z,
        max_rank=options.max_rank,
        order=Order(options.by),
    )
    with Catalogue.open(_chosen(options)) as catalogue:
        matches = catalogue.resolve(options.text)
        if not matches.matched:
            raise AtlasError(matches.no_match())
        ids = [token.token_id for token in matches.matched]
        hits = catalogue.search_token(ids, filters, limit=options.limit, offset=options.offset)
        if options.json:
            return json.dumps(terminal.hits_json(hits))
        total = catalogue.count_hits(ids, filters)
    shown = f"{len(hits)} of {total:,} hits" + (f" from {options.offset + 1}" if options.offset and hits else "")
    lines = [terminal.matches_text(matches), f"{filters.describe(matches.matched)}: {shown}", ""]
    return "\n".join([*lines, terminal.hits_text(hits)] if hits else lines[:2])


def _neuron(options: argparse.Namespace) -> str:
    neuron = Neuron.parse(options.label)
    from db import terminal
    from db.catalogue import Catalogue

    with Catalogue.open(_chosen(options)) as catalogue:
        card = catalogue.neuron(neuron)
    return json.dumps(terminal.card_json(card)) if options.json else terminal.card_text(card)


def _builds(options: argparse.Namespace) -> str:
    from db import terminal
    from db.builds import builds
    from db.library import DEFAULT_ROOT, model_folders

    root = options.catalogue or DEFAULT_ROOT
    folders = [folder for folder in model_folders(root) if options.model in (None, folder.resolve().name)]
    found = [(folder.resolve().name, build) for folder in folders for build in builds(folder)]
    if not found:
        raise AtlasError(f"No catalogue in {root}: run `make index`, or `python -m indexer build MODEL`.")
    return json.dumps(terminal.builds_json(found)) if options.json else terminal.builds_text(found)


def _chosen(options: argparse.Namespace) -> Path:
    from db.library import DEFAULT_ROOT, find_catalogue

    return find_catalogue(options.catalogue or DEFAULT_ROOT, options.model)


_COMMANDS = {"search": _search, "neuron": _neuron, "builds": _builds}

if __name__ == "__main__":
    sys.exit(main())
