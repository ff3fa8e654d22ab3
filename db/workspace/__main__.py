"""The workspace from the shell: ``python -m db.workspace COMMAND``.

Status 0: done. Status 2: it cannot be; one line on standard error says why.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from db.command_line import Parser, run, table, whole_number
from db.errors import AtlasError
from db.files import atomic_write
from db.settings import OFF, paths
from db.token_text import legible, shorten
from db.workspace import exchange
from db.workspace.records import PROMPT, Contents, NeuronNote, Record, Saved
from db.workspace.store import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    return run(lambda: _answer(options))


def _answer(options: argparse.Namespace) -> str:
    """The answer as text, or as JSON."""
    url = options.workspace or paths().workspace_url
    if url in (None, OFF):
        raise AtlasError("ATLAS_WORKSPACE is off: name a workspace with --workspace URL.")
    if options.command == "import":
        options.document = _read(options.file)
    # Looking creates nothing: only an import begins a workspace, and only of a file that can be read.
    with Workspace.open(url, create=options.command == "import") as workspace:
        return _COMMANDS[options.command](workspace, options)


def _list(workspace: Workspace, options: argparse.Namespace) -> str:
    found = workspace.analyses(limit=options.limit, offset=options.offset)
    if options.json:
        return _json({"total": workspace.count_analyses(), "analyses": _all(found)})
    return _analyses(found)


def _search(workspace: Workspace, options: argparse.Namespace) -> str:
    page = {"limit": options.limit, "offset": options.offset}
    found, notes = workspace.analyses(options.words, **page), workspace.notes(options.words, **page)
    if options.json:
        return _json({"analyses": _all(found), "notes": _all(notes)})
    return "\n\n".join(part for part in (_analyses(found), _notes(notes)) if part) or "nothing found"


def _show(workspace: Workspace, options: argparse.Namespace) -> str:
    saved, result = workspace.saved(options.id), workspace.result(options.id)
    if options.json:
        return _json(saved.to_json() | {"result": result})
    lines = [(name, _one_line(str(value))) for name, value in saved.to_json().items()]
    if saved.page == PROMPT:
        lines += [("probability", f"{result['target'].get('probability', float('nan')):.4f}")]
    return "\n".join(f"{name:17}{value}" for name, value in lines)


def _notes_command(workspace: Workspace, options: argparse.Namespace) -> str:
    found = workspace.notes(tag=options.tag, limit=options.limit, offset=options.offset)
    return _json(_all(found)) if options.json else _notes(found)


def _collections(workspace: Workspace, options: argparse.Namespace) -> str:
    found = workspace.collections()
    if not options.json:
        rows = [(one.id, _one_line(one.name), str(one.analyses), str(one.neurons)) for one in found]
        return table(("id", "name", "analyses", "neurons"), rows, right={2, 3})
    contents, nothing = workspace.all_contents(), Contents((), ())
    listed = []
    for one in found:
        held = contents.get(one.id, nothing)
        neurons = [{"model": model, "neuron": neuron.label} for model, neuron in held.neurons]
        listed.append({"id": one.id, "name": one.name, "created_at": one.created_at, "analyses": _all(held.analyses)})
        listed[-1]["neurons"] = neurons
    return _json(listed)


def _export(workspace: Workspace, options: argparse.Namespace) -> str:
    text = exchange.to_text(exchange.export(workspace))
    if options.to is None:
        return text
    path = Path(options.to)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="ascii")
    return _json({"path": str(path), "bytes": len(text)}) if options.json else f"{path}: {len(text):,} bytes"


def _read(file: str) -> exchange.Document:
    try:
        return exchange.parse(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
    except OSError as error:
        raise AtlasError(f"{file} cannot be read ({error.strerror}).") from error


def _import(workspace: Workspace, options: argparse.Namespace) -> str:
    done = exchange.merge(workspace, options.document)
    return _json(asdict(done)) if options.json else str(done)


_COMMANDS: dict[str, Callable[[Workspace, argparse.Namespace], str]] = {
    "list": _list,
    "search": _search,
    "show": _show,
    "notes": _notes_command,
    "collections": _collections,
    "export": _export,
    "import": _import,
}


def _all(found: Sequence[Record]) -> list[dict[str, Any]]:
    return [one.to_json() for one in found]


def _analyses(found: Sequence[Saved]) -> str:
    rows = [(one.id, one.created_at[:16], one.model, _one_line(one.title), _one_line(one.target)) for one in found]
    return table(("id", "saved", "model", "title", "target"), rows, right=set()) if rows else ""


def _notes(found: Sequence[NeuronNote]) -> str:
    rows = [(one.neuron.label, one.model, ", ".join(one.tags), _one_line(one.text)) for one in found]
    return table(("neuron", "model", "tags", "note"), rows, right=set()) if rows else ""


def _one_line(text: str) -> str:
    """One line that no terminal reads as a command."""
    return shorten(legible(text), 100)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = Parser(prog="python -m db.workspace", description="Saved analyses, notes, collections.")
    shared = Parser(add_help=False)
    for target, default in ((whole, None), (shared, argparse.SUPPRESS)):
        target.add_argument(
            "--workspace", metavar="URL", default=default, help="default: ATLAS_WORKSPACE, else workspace/atlas.sqlite"
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
        paged.add_argument(
            "--limit", type=whole_number(0), default=50, metavar="N", help="at most so many (default: 50)"
        )
        paged.add_argument("--offset", type=whole_number(0), default=0, metavar="N", help="leave out the first N")
    show = command("show", "one saved analysis; with --json, its result")
    show.add_argument("id", metavar="ID")
    command("collections", "the collections and what is in them")
    export = command("export", "everything as one JSON document")
    export.add_argument("--to", metavar="FILE", help="the file to write; without it, standard output")
    merge = command("import", "put a JSON document into the workspace")
    merge.add_argument("file", metavar="FILE", help="what `export` wrote; - is standard input")
    return whole


if __name__ == "__main__":
    sys.exit(main())
