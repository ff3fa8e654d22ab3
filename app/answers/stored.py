"""Answers that need no model: saved analyses and the gallery's, found by model and question.

An answer made with the same build is the answer. One made with an older build of the same weights is shown too, and the
page says so; one of other weights is none. Nothing here imports torch.
"""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from sqlalchemy import make_url
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app import gallery
from app.attribution.details_form import DETAILS, TOP
from app.serving import access, resources
from app.serving.settings import Mode, configuration
from app.serving.worker import Reason, RefusedError
from app.state.selections import PromptSelection, question_key
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.workspace import Saved, Workspace
from db.workspace.exchange import Document, Imported, merge

if TYPE_CHECKING:
    from app.attribution.results import Analysis


# The workspace of this server: whether there is one, who may write to it, and how its analyses are looked up.


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


def open_document(document: Document) -> Imported:
    """Put a document into the workspace; its analyses must be ones that the pages can show.

    Raises:
        AtlasError: one cannot be shown, or the document cannot be merged; nothing was changed.
    """
    from app.attribution.results import from_json

    for place, one in enumerate(document.analyses):
        try:
            from_json(one.result)
        except AtlasError as error:
            raise AtlasError(f"The file cannot be imported; at analyses.{place}: {error}") from error
    return merge(workspace_to_write(), document)


MISSING = object()
"""No stored answer; an answer may be None."""

_PAUSE_SECONDS = 10.0
"""So long an unusable workspace is not asked again: pages that only look must not wait for it at every click."""
_ANEW = "stored_anew"
_log = logging.getLogger(__name__)
_pause_until = 0.0


@dataclass(frozen=True)
class Stored:
    """A stored analysis, and where it is from."""

    analysis: "Analysis"
    details: dict[str, dict[str, Any]]
    title: str
    build_id: str
    created_at: str
    saved_id: str | None
    """None for the gallery's."""


def answer(atlas: Catalogue, selection: PromptSelection) -> Stored | None:
    """The stored answer to a question; None where there is none, or it was asked to be made anew."""
    if not selection.prompt or question_key(selection) in _anew():
        return None
    found: list[Saved | gallery.View] = [
        *_saved(atlas, selection),
        *gallery.answers(atlas.info.model, question_key(selection)),
    ]
    fitting = [one for one in found if one.unembedding_hash == atlas.info.unembedding_hash]
    fitting.sort(key=lambda one: one.build_id != atlas.info.build_id)  # of the same build first, else as they come
    for one in fitting:
        stored = _read(one)
        if stored is not None and stored[1] >= selection.top:
            return replace(stored[0], analysis=_narrowed(stored[0].analysis, selection.top))
    return None


def detail(atlas: Catalogue, selection: PromptSelection, name: str, what: Any) -> Any:
    """A stored answer one step further; MISSING where there is none."""
    from app.attribution import details_form

    stored = answer(atlas, selection)
    if stored is None or name not in details_form.NAMES:
        return MISSING
    given = stored.details.get(name, {}).get(details_form.label_of(what), MISSING)
    if given is MISSING:
        return MISSING
    try:
        return details_form.from_json(name, given, stored.analysis)
    except AtlasError as error:
        _log.warning("a stored answer is passed over: %s", error)
        return MISSING


def require_model_for_more(atlas: Catalogue, selection: PromptSelection) -> None:
    """Asked before the model is, for what is not stored.

    Raises:
        RefusedError: the analysis is a stored one, and this server has no model to go further with.
    """
    if configuration().mode is Mode.CATALOGUE and answer(atlas, selection) is not None:
        raise RefusedError(
            Reason.MODE,
            "This part was not stored with the analysis, and this server has no model to work it out. Run Neuron Atlas "
            "on a machine of your own to see it.",
        )


def make_anew(selection: PromptSelection) -> None:
    """From now on this session has the question answered by the model."""
    st.session_state[_ANEW] = {*_anew(), question_key(selection)}


def _anew() -> set[str]:
    """What this session had made anew; outside a session, nothing."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return set()
    asked: set[str] = st.session_state.get(_ANEW, set())
    return asked


def _saved(atlas: Catalogue, selection: PromptSelection) -> tuple[Saved, ...]:
    """The workspace's answers, newest first; none where it cannot be used, since the model may still answer."""
    global _pause_until
    if time.monotonic() < _pause_until:
        return ()
    try:
        kept = workspace()
        return () if kept is None else kept.asked(atlas.info.model, question_key(selection))
    except AtlasError as error:
        _pause_until = time.monotonic() + _PAUSE_SECONDS
        _log.warning("the workspace is passed over: %s", error)
        return ()


def _read(one: "Saved | gallery.View") -> tuple[Stored, int] | None:
    """The answer and how many neurons were asked for; None where it cannot be read. Remembered."""
    if isinstance(one, gallery.View):
        return resources.remembered(("gallery", one.name), lambda: _stored(one, one.result(), None))
    kept = workspace()
    if kept is None:
        return None
    key = ("saved", kept.shown, one.id, one.updated_at)
    try:
        return resources.remembered(key, lambda: _stored(one, _result(kept, one.id), one.id))
    except AtlasError as error:
        _log.warning("a saved analysis is passed over: %s", error)
        return None


def _result(workspace: Workspace, saved_id: str) -> dict[str, Any]:
    return workspace.result(saved_id)


def _stored(one: "Saved | gallery.View", result: dict[str, Any], saved_id: str | None) -> tuple[Stored, int]:
    from app.attribution.results import from_json

    details, top = result.get(DETAILS), result.get(TOP)
    stored = Stored(
        from_json(result),
        details if isinstance(details, dict) else {},
        one.title,
        one.build_id,
        one.created_at,
        saved_id,
    )
    return stored, top if isinstance(top, int) else len(stored.analysis.ffn_value_neurons)


def _narrowed(analysis: "Analysis", top: int) -> "Analysis":
    """The same with fewer neurons: the beginning of a complete list is one."""
    query, contrast = analysis.query, analysis.contrast
    return replace(
        analysis,
        ffn_value_neurons=analysis.ffn_value_neurons[:top],
        attention_value_neurons=analysis.attention_value_neurons[:top],
        ffn_suppressing_neurons=analysis.ffn_suppressing_neurons[:top],
        attention_suppressing_neurons=analysis.attention_suppressing_neurons[:top],
        query=None if query is None else replace(query, ffn_neurons=query.ffn_neurons[:top]),
        contrast=None
        if contrast is None
        else replace(
            contrast,
            ffn_neurons=contrast.ffn_neurons[:top],
            attention_neurons=contrast.attention_neurons[:top],
            ffn_opposing=contrast.ffn_opposing[:top],
            attention_opposing=contrast.attention_opposing[:top],
        ),
    )
