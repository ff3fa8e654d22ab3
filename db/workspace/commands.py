"""What each of the shell's commands answers."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from db.errors import AtlasError
from db.terminal import table
from db.token_text import display, shorten
from db.workspace import documents
from db.workspace.store import Workspace
from db.workspace.values import NeuronNote, Saved


def run(options: argparse.Namespace) -> str:
    """The answer as text, or as JSON.

    Raises:
        AtlasError: it cannot be answered.
    """
    if options.workspace == "off":
        raise AtlasError("ATLAS_WORKSPACE is off: name a workspace with --workspace URL.")
    # Looking makes nothing: only an import begins a workspace.
    with Workspace.open(options.workspace, create=options.command == "import") as workspace:
        return _COMMANDS[options.command](workspace, options)


def _list(workspace: Workspace, options: argparse.Namespace) -> str:
    found = workspace.analyses(limit=options.limit, offset=options.offset)
    if options.json:
        return _json({"total": workspace.count_analyses(), "analyses": [asdict(one) for one in found]})
    return _analyses(found)


def _search(workspace: Workspace, options: argparse.Namespace) -> str:
    page = {"limit": options.limit, "offset": options.offset}
    found, notes = workspace.analyses(options.words, **page), workspace.notes(options.words, **page)
    if options.json:
        return _json({"analyses": [asdict(one) for one in found], "notes": list(map(note_json, notes))})
    return "\n\n".join(part for part in (_analyses(found), _notes(notes)) if part) or "nothing found"


def _show(workspace: Workspace, options: argparse.Namespace) -> str:
    saved, result = workspace.saved(options.id), workspace.result(options.id)
    if options.json:
        return _json(asdict(saved) | {"result": result})
    lines = [(name, _plain(str(value))) for name, value in asdict(saved).items()]
    lines += [("probability", f"{result['target'].get('probability', float('nan')):.4f}")]
    return "\n".join(f"{name:17}{value}" for name, value in lines)


def _notes_command(workspace: Workspace, options: argparse.Namespace) -> str:
    found = workspace.notes(tag=options.tag, limit=options.limit, offset=options.offset)
    return _json(list(map(note_json, found))) if options.json else _notes(found)


def _collections(workspace: Workspace, options: argparse.Namespace) -> str:
    found = workspace.collections()
    if not options.json:
        rows = [(one.id, _plain(one.name), str(one.analyses), str(one.neurons)) for one in found]
        return table(("id", "name", "analyses", "neurons"), rows, right={2, 3})
    listed = []
    for one in found:
        contents = workspace.contents(one.id)
        analyses = [asdict(saved) for saved in contents.analyses]
        neurons = [{"model": model, "neuron": neuron.label} for model, neuron in contents.neurons]
        listed.append({"id": one.id, "name": one.name, "created_at": one.created_at, "analyses": analyses})
        listed[-1]["neurons"] = neurons
    return _json(listed)


def _export(workspace: Workspace, options: argparse.Namespace) -> str:
    text = documents.to_text(documents.export(workspace))
    if options.to is None:
        return text
    path = Path(options.to)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="ascii")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise AtlasError(f"{path} cannot be written ({error.strerror}).") from error
    return _json({"path": str(path), "bytes": len(text)}) if options.json else f"{path}: {len(text):,} bytes"


def _import(workspace: Workspace, options: argparse.Namespace) -> str:
    try:
        data = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    except OSError as error:
        raise AtlasError(f"{options.file} cannot be read ({error.strerror}).") from error
    done = documents.merge(workspace, documents.parse(data))
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


def note_json(note: NeuronNote) -> dict[str, Any]:
    """A note as the shell writes it."""
    return {
        "model": note.model,
        "neuron": note.neuron.label,
        "note": note.text,
        "tags": list(note.tags),
        "updated_at": note.updated_at,
    }


def _analyses(found: Sequence[Saved]) -> str:
    rows = [(one.id, one.created_at[:16], one.model, _plain(one.title), _plain(one.target)) for one in found]
    return table(("id", "saved", "model", "title", "target"), rows, right=set()) if rows else ""


def _notes(found: Sequence[NeuronNote]) -> str:
    rows = [(one.neuron.label, one.model, ", ".join(one.tags), _plain(one.text)) for one in found]
    return table(("neuron", "model", "tags", "note"), rows, right=set()) if rows else ""


def _plain(text: str) -> str:
    """One line that no terminal reads as a command."""
    return shorten(display(text.encode("utf-8", "replace")).replace("␣", " "), 100)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
