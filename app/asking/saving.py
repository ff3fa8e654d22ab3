"""The workspace of this server: whether there is one, who may write to it, and how its analyses are looked up."""

import json
from pathlib import Path

import streamlit as st
from sqlalchemy import make_url

from app.serving import access
from app.serving.configuration import configuration
from app.state.selection import PromptSelection
from db.errors import AtlasError
from db.workspace import Workspace
from db.workspace.documents import Document, Imported, merge

DETAILS = "details"
"""The key beside an analysis' own under which answers one step further are kept; see `details_form`."""
TOP = "top"
"""The key for how many neurons of each kind were asked for."""


def offered() -> bool:
    """Whether this server keeps anything."""
    return configuration().workspace_url is not None


def workspace() -> Workspace | None:
    """The workspace to read from; None where there is none, or nothing was saved yet.

    Raises:
        AtlasError: it cannot be opened.
    """
    url = configuration().workspace_url
    if url is None or _not_made_yet(url):
        return None
    return _open(url)  # says so where it has vanished


def workspace_to_write() -> Workspace:
    """The workspace to write to; made where there is none.

    Raises:
        AtlasError: it cannot be opened, there is none, or whoever asks may not write; the message says why.
    """
    refusal = access.why_not_write()
    if refusal is not None:
        raise AtlasError(refusal)
    url = configuration().workspace_url
    if url is None:
        raise AtlasError("This server keeps no workspace, so nothing can be saved here.")
    return _open(url)


@st.cache_resource(max_entries=2, show_spinner=False)
def _open(url: str) -> Workspace:
    workspace = Workspace.open(url)
    _opened().add(url)
    return workspace


@st.cache_resource(show_spinner=False)
def _opened() -> set[str]:
    """What this process has had open."""
    return set()


def _not_made_yet(url: str) -> bool:
    parsed = make_url(url)
    missing = parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists()
    return missing and url not in _opened()


def question_key(selection: PromptSelection) -> str:
    """What was asked, as it is looked up: all that changes a result but the number of neurons."""
    asked = (selection.prompt, selection.target, selection.position, str(selection.rule), selection.distractor)
    return json.dumps(asked, ensure_ascii=True)


def open_document(document: Document) -> Imported:
    """Put a document into the workspace; its analyses must be ones that the pages can show.

    Raises:
        AtlasError: one cannot be shown, or the document cannot be merged; nothing was changed.
    """
    from app.attribution.parsing import from_json

    for place, one in enumerate(document.analyses):
        try:
            from_json(one.result)
        except AtlasError as error:
            raise AtlasError(f"The file cannot be imported; at analyses.{place}: {error}") from error
    return merge(workspace_to_write(), document)
