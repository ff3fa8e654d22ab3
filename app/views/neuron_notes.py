"""On the neuron's page: what people noted of it, its tags, and the saved explanations in whose lists it stands."""

import streamlit as st

from app import navigation
from app.asking import saving
from app.drawing.components import Cell, Column, TableRow, chips, link, neuron_table
from app.drawing.wording import literal, nats, signed
from app.notices import fail
from app.serving import access
from app.state.saved_selection import SavedSelection
from app.state.selection import PromptSelection
from app.views.shared import limits
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.token_text import shorten
from db.workspace import Mention, NeuronNote, Workspace
from db.workspace.values import MAX_NOTE

HERE = "neuron"
_MENTIONS = 20
_COLUMNS = (
    Column("saved explanation", "name", "a click opens it"),
    Column("list", "source", "in which of its lists the neuron stands"),
    Column("score (nats)", "bar", "there"),
    Column("activation", "number", "there"),
    Column("from", "number", "source position"),
)


def notes(neuron: Neuron, atlas: Catalogue) -> None:
    """Draw them; nothing where this server keeps nothing, or there is nothing to read and nobody may write."""
    if not saving.offered():
        return
    model, may_write = atlas.info.model, access.may_write()
    try:
        workspace = saving.workspace()
        note = None if workspace is None else workspace.note(model, neuron)
        found = () if workspace is None else workspace.mentions(model, neuron, limit=_MENTIONS)
        if note is None and not found and not may_write:
            return
        st.subheader("Notes", anchor=False)
        _note(note)
        if may_write:
            _editor(neuron, model, note)
        if workspace is not None and found:
            _mentions(neuron, found, workspace, atlas)
    except AtlasError as error:
        fail(error)


def _note(note: NeuronNote | None) -> None:
    if note is None:
        st.caption("Nothing was noted of this neuron yet.")
        return
    if note.text:
        for line in note.text.splitlines():
            st.markdown(literal(line) or "&nbsp;")
    if note.tags:
        items = [link(tag, navigation.href("saved", SavedSelection(tag=tag))) for tag in note.tags]
        chips(items, key="note_tags", here=HERE, label="tags")


def _editor(neuron: Neuron, model: str, note: NeuronNote | None) -> None:
    """A form; the note that it replaces is named, so that nobody's is overwritten unseen."""
    seen = "" if note is None else note.updated_at
    key = f"{model}_{neuron.label}_{seen}"

    def clicked() -> None:
        state = st.session_state
        try:
            tags = (state[f"tags_{key}"] or "").split(",")
            saving.workspace_to_write().write_note(model, neuron, state[f"note_{key}"] or "", tags, seen=seen)
        except AtlasError as error:
            state["note_failed"] = str(error)

    with st.expander("Note something" if note is None else "Change the note", icon=":material/edit_note:"):
        with st.form(f"note_form_{key}", border=False):
            text, tags = ("", "") if note is None else (note.text, ", ".join(note.tags))
            st.text_area("Note", value=text, key=f"note_{key}", max_chars=MAX_NOTE, placeholder="What it stands for …")
            st.text_input("Tags", value=tags, key=f"tags_{key}", max_chars=500, placeholder="geography, capitals")
            st.form_submit_button("Keep", type="primary", on_click=clicked)
        st.caption("Plain text; everybody who uses this server sees it. Tags are separated by commas.")
    failed = st.session_state.pop("note_failed", None)
    if failed:
        fail(AtlasError(failed))


def _mentions(neuron: Neuron, found: tuple[Mention, ...], workspace: Workspace, atlas: Catalogue) -> None:
    rows, analyses = workspace.count_mentions(atlas.info.model, neuron)
    st.markdown(f"**Active in {analyses:,} saved explanation{'' if analyses == 1 else 's'}**")
    most = max(abs(one.score) for one in found) or 1.0
    table = [
        TableRow(
            _opened(one, atlas),
            (
                Cell(shorten(one.saved.title, 60)),
                Cell(one.role),
                Cell(nats(one.score), share=one.score / most),
                Cell("" if one.activation is None else signed(one.activation)),
                Cell("" if one.position is None else str(one.position)),
            ),
        )
        for one in found
    ]
    neuron_table(_COLUMNS, table, key="mentions", here=HERE, label="saved explanations")
    if rows > len(found):
        st.caption(f"The {len(found)} of the largest scores, of {rows:,}.")


def _opened(one: Mention, atlas: Catalogue) -> str:
    """The saved view, read again as any address is."""
    from urllib.parse import parse_qsl

    selection, _ = PromptSelection.read(dict(parse_qsl(one.saved.address, keep_blank_values=True)), limits(atlas))
    return navigation.href("prompt", selection)
