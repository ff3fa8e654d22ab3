"""This server's workspace, and the answers that need no model: saved analyses and the gallery's, found by question.

An answer made with the same build is the answer. One made with an older build of the same checkpoint is shown too, and
the page says so; one of another checkpoint is none, whatever its name. Nothing here imports torch.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import streamlit as st
from sqlalchemy import make_url
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app import gallery
from app.attribution import drilldowns
from app.attribution.drilldowns import DETAILS, TOP
from app.attribution.results import Analysis, Contrast, Query, from_json
from app.serving import access, resources
from app.serving.settings import Mode, configuration
from app.serving.worker import Reason, RefusedError
from app.state.address import Selection
from app.state.selections import PromptSelection, question_key
from db.catalogue.builds import find_build, folders_called
from db.catalogue.reader import checkpoint_of
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.token_text import legible, shorten
from db.workspace import AnalysisEntry, NeuronNote, Saved, Workspace
from db.workspace.exchange import Document, Imported, merge
from db.workspace.records import ABOUT, PROMPT

T = TypeVar("T")


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
    opened = Workspace.open(url)
    _opened().add(url)
    return opened


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
    for place, one in enumerate(document.analyses):
        try:
            _ = one.page == PROMPT and from_json(one.result)
        except AtlasError as error:
            raise AtlasError(f"The file cannot be imported; at analyses.{place}: {error}") from error
    return merge(workspace_to_write(), document)


def save_view(selection: Selection, title: str, about: str, atlas: Catalogue) -> Saved:
    """Keep a view of any page but the prompt's: its state, which says what to ask again.

    Raises:
        AtlasError: it cannot be kept; the message says why.
    """
    page, address = selection.page_name, urlencode(selection.params())
    entry = AnalysisEntry(
        page=page,
        title=title,
        model=atlas.info.model,
        build_id=atlas.info.build_id,
        checkpoint=atlas.info.checkpoint,
        unembedding_hash=atlas.info.unembedding_hash,
        address=address,
        question=f"{page}?{address}",
        result={ABOUT: about},
    )
    return workspace_to_write().save(entry)


def noted_among(workspace: Workspace | None, atlas: Catalogue) -> tuple[str, ...]:
    """The identities whose notes are a catalogue's: its checkpoint's; and as long as no other checkpoint of that name
    is known, the notes of older versions, which name the model alone.
    """
    own, model = atlas.info.checkpoint, atlas.info.model
    saved = frozenset[str]() if workspace is None else workspace.checkpoints(model)
    alone = saved <= {own} and len(folders_called(resources.catalogue_root(), model)) < 2
    return tuple(dict.fromkeys((own, "") if alone else (own,)))


def called(atlas: Catalogue, neurons: Sequence[Neuron]) -> dict[Neuron, str]:
    """What people call some neurons: the first line of the note on each, shortened; none where it cannot be read."""
    nothing: dict[Neuron, NeuronNote] = {}
    notes = _patient(lambda kept: kept.notes_on(atlas.info.model, neurons, noted_among(kept, atlas)), nothing)
    lines = {neuron: legible(note.text.strip().partition("\n")[0]) for neuron, note in notes.items()}
    return {neuron: shorten(line, _LONGEST_NAME) for neuron, line in lines.items() if line}


def names(atlas: Catalogue, neurons: Iterable[Neuron]) -> dict[Neuron, str]:
    """The names of some neurons, as far as the catalogue has them; none where it cannot be read."""
    there = []
    for neuron in neurons:
        with suppress(AtlasError):
            atlas.layout.neuron_id(neuron)
            there.append(neuron)
    with suppress(AtlasError):
        marks = atlas.marks(there)
        return {neuron: legible(mark.name.text) for neuron, mark in marks.items() if mark.name.text}
    return {}


MISSING = object()
"""No stored answer; an answer may be None."""

_PAUSE_SECONDS = 10.0
"""So long an unusable workspace is not asked again: pages that only look must not wait for it at every click."""
_ANEW = "stored_anew"
_LONGEST_NAME = 40
"""Characters of a note that stand as its neuron's name."""
_log = logging.getLogger(__name__)
_pause_until = 0.0


@dataclass(frozen=True)
class Stored:
    """A stored analysis, and where it is from.

    Attributes:
        analysis: as it was made.
        details: what was asked one step further, as JSON by name and by what it is about.
        top: how many neurons of each kind were asked for.
        title, build_id, created_at: of the saved analysis or the gallery's view.
        saved_id: None for the gallery's.
        checkpoint: of the model that was analysed; empty where it was not noted, as in older versions.
    """

    analysis: Analysis
    details: dict[str, dict[str, Any]]
    top: int
    title: str
    build_id: str
    created_at: str
    saved_id: str | None
    checkpoint: str


def fits(one: Saved | AnalysisEntry, atlas: Catalogue) -> bool | None:
    """Whether a stored analysis is of a catalogue's checkpoint; None where only the unembedding is known to agree."""
    own = atlas.info
    if one.unembedding_hash != own.unembedding_hash:
        return False
    noted = one.checkpoint
    if not noted and one.build_id != own.build_id and (path := find_build(atlas.path, one.build_id)):
        with suppress(AtlasError):
            noted = checkpoint_of(path) or ""
    return noted == own.checkpoint if noted else one.build_id == own.build_id or None


def answer(atlas: Catalogue, selection: PromptSelection) -> Stored | None:
    """The stored answer to a question; None where there is none, or it was asked to be made anew."""
    key = question_key(selection)
    if not selection.prompt or key in _anew():
        return None
    found: list[Saved | AnalysisEntry] = [*_saved(atlas, key), *gallery.answers(atlas.info.model, key)]
    fitting = [one for one in found if fits(one, atlas) is not False]
    fitting.sort(key=lambda one: one.build_id != atlas.info.build_id)  # of the same build first, else as they come
    for one in fitting:
        stored = _read(one)
        if stored is not None and stored.top >= selection.top:
            return replace(stored, analysis=_narrowed(stored.analysis, selection.top))
    return None


def detail(atlas: Catalogue, selection: PromptSelection, name: str, what: Any) -> Any:
    """A stored answer one step further; MISSING where there is none."""
    stored = answer(atlas, selection)
    if stored is None or name not in drilldowns.NAMES:
        return MISSING
    label = drilldowns.label_of(what)
    given = stored.details.get(name, {}).get(label, MISSING)
    if given is MISSING:
        return MISSING
    try:
        return drilldowns.from_json(name, given, stored.analysis, label)
    except AtlasError as error:
        _log.warning("a stored answer is passed over: %s", error)
        return MISSING


def told(atlas: Catalogue, selection: PromptSelection, name: str) -> Callable[[str], bool]:
    """Whether one step further into a prompt is answered for what begins with a label: by the model, or if it was
    stored.
    """
    if access.has_model():
        return lambda _label: True
    found = answer(atlas, selection)
    kept = () if found is None else tuple(found.details.get(name, {}))
    return lambda label: any(f"{one}:".startswith(f"{label}:") for one in kept)


def answers_to(atlas: Catalogue, questions: Iterable[PromptSelection]) -> list[PromptSelection]:
    """Those of the questions that this server answers: its model may be asked, or the answer is stored."""
    return [one for one in questions if _allowed(one) or answer(atlas, one) is not None]


def _allowed(question: PromptSelection) -> bool:
    try:
        access.require_allowed(question.prompt, question.top)
    except RefusedError:
        return False
    return True


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


def _saved(atlas: Catalogue, key: str) -> tuple[Saved, ...]:
    """The workspace's answers, newest first; none where it cannot be used, since the model may still answer."""
    nothing: tuple[Saved, ...] = ()
    return _patient(lambda kept: kept.asked(atlas.info.model, key), nothing)


def _patient(ask: Callable[[Workspace], T], nothing: T) -> T:
    """What the workspace says; nothing where there is none, or it cannot be used and is left alone for a while."""
    global _pause_until
    if time.monotonic() < _pause_until:
        return nothing
    try:
        kept = workspace()
        return nothing if kept is None else ask(kept)
    except AtlasError as error:
        _pause_until = time.monotonic() + _PAUSE_SECONDS
        _log.warning("the workspace is passed over: %s", str(error))  # an exception would be left out
        return nothing


def _read(one: Saved | AnalysisEntry) -> Stored | None:
    """What was stored; None where it cannot be read. Remembered."""
    try:
        if isinstance(one, AnalysisEntry):
            return resources.remembered(("gallery", one.id), lambda: _stored(one, one.result, None))
        kept = workspace()
        if kept is None:
            return None
        key = ("saved", kept.shown, one.id, one.updated_at)
        return resources.remembered(key, lambda: _stored(one, kept.result(one.id), one.id))
    except AtlasError as error:
        _log.warning("a stored analysis is passed over: %s", error)
        return None


def _stored(one: Saved | AnalysisEntry, result: dict[str, Any], saved_id: str | None) -> Stored:
    analysis, details, top = from_json(result), result.get(DETAILS), result.get(TOP)
    return Stored(
        analysis,
        details if isinstance(details, dict) else {},
        top if isinstance(top, int) else len(analysis.ffn_value_neurons),
        one.title,
        one.build_id,
        one.created_at,
        saved_id,
        one.checkpoint,
    )


_Lists = TypeVar("_Lists", Analysis, Query, Contrast)


def _narrowed(analysis: Analysis, top: int) -> Analysis:
    """The same with fewer neurons: the beginning of a complete list is one."""
    query, contrast = analysis.query, analysis.contrast
    return replace(
        _first(analysis, top),
        query=None if query is None else _first(query, top),
        contrast=None if contrast is None else _first(contrast, top),
    )


def _first(result: _Lists, top: int) -> _Lists:
    """The first of every list of neurons."""
    names = [one.name for one in fields(result) if one.name.endswith(("neurons", "opposing"))]
    return replace(result, **{name: getattr(result, name)[:top] for name in names})
