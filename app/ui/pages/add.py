"""Add a model: what its build would take, the build in the background, and the way to what it made."""

from functools import partial

import streamlit as st

from app.answers import add
from app.answers.add import Doing, Expected, Progress
from app.serving import access
from app.state.address import MODEL, address
from app.state.selections import MAX_TEXT, AddSelection
from app.ui import navigation
from app.ui.common import on_click, say_what_was_done, sync, title
from app.ui.components import chips, link
from app.ui.navigation import fail, warn
from app.words import literal
from db.errors import AtlasError
from db.token_text import shorten

_POLL_SECONDS = 1.0
_OPENS = {"search": "Search its neurons", "prompt": "Explain a prompt", "overview": "See it as a whole"}


def draw() -> None:
    """The page."""
    title("Add a model", "Make the catalogue of another model, here, in the background.")
    selection, notices = AddSelection.read(navigation.params())
    warn(notices)
    navigation.name_tab("Add a model", selection.source)
    refusal = access.why_not_add()
    if refusal is not None:
        st.info(literal(refusal), icon=":material/info:")
        return
    _form(selection)
    running = add.progress()
    if running is not None:
        _running(running, selection)
    if selection.source and (running is None or running.source != selection.source):
        _known(selection, busy=running is not None)
    _offered()


def _form(selection: AddSelection) -> None:
    sync("add_source", selection.source)

    def submitted() -> None:
        source = add.named(st.session_state["add_source"] or "")
        navigation.show(AddSelection(source))
        add.begin(Doing.ESTIMATE, source)

    with st.form("add_form", border=False):
        st.text_input(
            "Hub id, or the path of a folder or a .gguf file",
            key="add_source",
            max_chars=MAX_TEXT,
            placeholder="openai-community/gpt2",
            help="A folder holds config.json, the tokenizer and *.safetensors. Pickled weights and code in checkpoints "
            "are never loaded.",
        )
        st.form_submit_button("Estimate", type="primary", on_click=partial(on_click, submitted, "add"))
    st.caption("The estimate builds nothing. The files of a hub id that are not here yet are fetched for it.")
    say_what_was_done(key="add")


def _running(first: Progress, selection: AddSelection) -> None:
    """The one that is running, whoever began it."""
    doing = "Estimating" if first.doing is Doing.ESTIMATE else "Building the catalogue of"
    st.header(literal(f"{doing} {shorten(first.source, 80)}"), anchor=False)

    @st.fragment(run_every=_POLL_SECONDS)
    def poll() -> None:
        now = add.progress()
        if now is None or (now.doing, now.source) != (first.doing, first.source):
            st.rerun()
        words = f"layer {now.finished} of {now.layers}" if now.layers else literal(shorten(now.stage, 120))
        if now.seconds_left is not None:
            words += f", about {_duration(now.seconds_left)} left"
        st.progress(now.finished / now.layers if now.layers else 0.0, words[:1].upper() + words[1:])
        if now.layers:
            st.caption(literal(shorten(now.stage, 200)))
        st.button("Cancel", on_click=on_click, args=(add.stop, "add"), key="add_stop", icon=":material/cancel:")

    poll()
    if first.doing is Doing.BUILD:
        st.caption("It goes on when this page is closed, and ends with the server. Finished layers are kept.")
    if first.source != selection.source:
        chips([link("Show it", AddSelection(first.source))], key="running", label="the model that is being added")


def _known(selection: AddSelection, *, busy: bool) -> None:
    """What is known of the model that the address names."""
    found = add.known(selection.source)
    if found.model:
        st.success(literal(f"The catalogue of {found.model} is there."), icon=":material/check:")
        items = [link(words, address(page, {MODEL: found.model})) for page, words in _OPENS.items()]
        chips(items, key="open", label=f"open {found.model}")
        return
    if found.problem:
        fail(AtlasError(found.problem))
    if found.expected is not None:
        _expected(found.expected, selection, busy)
    elif not found.problem and not busy:
        st.caption("Nothing is known of this model yet: press Estimate.")


def _expected(found: Expected, selection: AddSelection, busy: bool) -> None:
    st.header(literal(f"What building {found.model} takes"), anchor=False)
    figures = {
        "Neurons": f"{found.neurons:,}",
        "Rows": f"{found.rows:,}",
        "Time": f"about {_duration(found.seconds)}",
        "Memory, at most": _size(found.peak_memory),
        "Disk": _size(found.file_size),
        "Disk, meanwhile": _size(found.disk_while_building),
    }
    with st.container(horizontal=True, gap="medium", key="add_figures"):
        for name, value in figures.items():
            st.metric(name, value, width="content")
    refusal = add.lacks_disk(found)
    warn(filter(None, [*found.notices, add.lacks_memory(found)]))
    if refusal:
        fail(AtlasError(refusal))
    st.button(
        "Build the catalogue",
        type="primary",
        disabled=busy or bool(refusal),
        on_click=on_click,
        args=(partial(add.begin, Doing.BUILD, selection.source), "add"),
        key="add_build",
    )


def _offered() -> None:
    folders, begun = add.offered()
    if begun:
        st.header("Begun and not finished", anchor=False)
        st.caption("Their finished layers are kept; a build goes on from there.")
        chips((link(name, AddSelection(source)) for name, source in begun), key="begun", label="begun and not finished")
    if folders:
        st.header("Models on this machine without a catalogue", anchor=False)
        chips((link(name, AddSelection(name)) for name in folders), key="folders", label="models without a catalogue")


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, count / 1e6):.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    draw()
