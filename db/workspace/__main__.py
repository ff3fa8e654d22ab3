"""The workspace from the shell.

    python -m db.workspace list --limit 20
    python -m db.workspace search "capital France"
    python -m db.workspace show ID
    python -m db.workspace notes --tag geography
    python -m db.workspace collections
    python -m db.workspace export --to workspace.json
    python -m db.workspace import workspace.json

Status 0: done. Status 2: it cannot be; one line on standard error says why.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from db.shell import ended
from db.workspace import commands
from db.workspace.store import DEFAULT_URL


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(prog="python -m db.workspace", description="Saved analyses, notes, collections.")
    shared = argparse.ArgumentParser(add_help=False)
    for target, default in ((whole, os.environ.get("ATLAS_WORKSPACE") or DEFAULT_URL), (shared, argparse.SUPPRESS)):
        target.add_argument(
            "--workspace", metavar="URL", default=default, help=f"default: ATLAS_WORKSPACE, else {DEFAULT_URL}"
        )
    shared.add_argument("--json", action="store_true", help="JSON on standard output and nothing else there")
    add = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return add.add_parser(name, parents=[shared], help=text)

    search = command("search", "saved analyses and notes that hold all the words")
    search.add_argument("words", metavar="WORDS")
    listed = command("list", "saved analyses, newest first")
    notes = command("notes", "notes on neurons, last changed first")
    notes.add_argument("--tag", metavar="TAG", help="only neurons with this tag")
    for paged in (search, listed, notes):
        paged.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default: 50)")
        paged.add_argument("--offset", type=int, default=0, metavar="N", help="leave out the first N")
    show = command("show", "one saved analysis; with --json, its result")
    show.add_argument("id", metavar="ID")
    command("collections", "the collections and what is in them")
    export = command("export", "everything as one JSON document")
    export.add_argument("--to", metavar="FILE", help="the file to write; without it, standard output")
    merge = command("import", "put a JSON document into the workspace")
    merge.add_argument("file", metavar="FILE", help="what `export` wrote; - is standard input")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    return ended(lambda: commands.run(options))


if __name__ == "__main__":
    sys.exit(main())
