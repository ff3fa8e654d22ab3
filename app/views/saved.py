"""Saved: the explanations that were kept, notes on neurons, collections of both; out to a file and in again."""

from dataclasses import replace
from urllib.parse import parse_qsl

import streamlit as st

from app import navigation
from app.asking import saving
from app.drawing.components import chips, link
from app.drawing.wording import literal
from app.notices import fail, warn
from app.serving import access
from app.state.saved_selection import PAGE_ROWS, SavedSelection
from app.state.selection import NeuronSelection, PromptSelection
from app.views.about import about
from app.views.saved_changes import analysis_menu, collection_menu, done, neuron_menu
from app.views.saved_files import files
from app.views.shared import footer, limits, open_catalogue, sync, title
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.token_text import display, shorten
from db.workspace import Collection, NeuronNote, Saved, Workspace

HERE = "saved"
_NOTE = 300


def draw() -> None:
    """The page."""
    title("Saved", "Explanations that were kept, with their figures; notes on neurons; collections of both.")
    about(HERE)
    atlas = open_catalogue()
    selection, notices = SavedSelection.read(navigation.params())
    warn(notices)
    done()
    if saving.offered():
        try:
            _page(saving.workspace(), selection, atlas)
        except AtlasError as error:
            fail(error)
    else:
        st.info("This server keeps no workspace, so nothing is saved here. The gallery has explanations to open.")
    footer(atlas, HERE)


def _page(workspace: Workspace | None, selection: SavedSelection, atlas: Catalogue) -> None:
    refusal = access.why_not_write()
    if refusal is not None:
        st.caption(literal(refusal))
    collections = () if workspace is None else workspace.collections()
    _search(selection, collections)
    if workspace is None:
        _nothing()
    else:
        chosen = next((one for one in collections if one.id == selection.collection), None)
        if selection.collection and chosen is None:
            warn(["The collection named in the address is not there; it may have been deleted."])
        if chosen is not None:
            _collection(workspace, chosen, collections, atlas)
        else:
            _analyses(workspace, selection, collections, atlas)
            _notes(workspace, selection, atlas)
    files(workspace)


def _nothing() -> None:
    st.info("Nothing is saved yet. Explain a prompt and press Save there, or note something on a neuron's page.")
    links = [
        link("Explain a prompt", navigation.href("prompt", PromptSelection())),
        link("Look at a neuron", navigation.href("neuron", NeuronSelection())),
    ]
    chips(links, key="nothing", here=HERE, label="where to begin")


def _search(selection: SavedSelection, collections: tuple[Collection, ...]) -> None:
    sync("saved_words", selection.text)
    sync("saved_collection", selection.collection)

    def changed() -> None:
        state = st.session_state
        navigation.show(SavedSelection((state["saved_words"] or "").strip(), state.get("saved_collection") or ""))

    names = {"": "everything", **{one.id: one.name for one in collections}}
    if selection.collection not in names:
        st.session_state["saved_collection"] = ""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.text_input(
            "Search",
            key="saved_words",
            max_chars=200,
            placeholder="words of a title, prompt or note",
            on_change=changed,
        )
    with right:
        st.selectbox(
            "Collection", list(names), key="saved_collection", format_func=names.__getitem__, on_change=changed
        )
    if selection.tag:
        off = link(f"✕ Only notes tagged {selection.tag}", navigation.href(HERE, replace(selection, tag="")))
        chips([off], key="tag_off", here=HERE, label="narrowed to")


def _analyses(
    workspace: Workspace, selection: SavedSelection, collections: tuple[Collection, ...], atlas: Catalogue
) -> None:
    if selection.tag:
        return
    total = workspace.count_analyses(selection.text)
    offset = (selection.page - 1) * PAGE_ROWS
    found = workspace.analyses(selection.text, limit=PAGE_ROWS, offset=offset)
    st.subheader(f"{total:,} explanation{'' if total == 1 else 's'}", anchor=False)
    if not total:
        if selection.text:
            st.info("None has all these words. Try fewer of them.")
        else:
            _nothing()
    for one in found:
        _row(one, collections, None, atlas)
    pages = []
    if selection.page > 1:
        pages.append(link("← Newer", navigation.href(HERE, replace(selection, page=selection.page - 1))))
    if offset + PAGE_ROWS < total:
        pages.append(link("Older →", navigation.href(HERE, replace(selection, page=selection.page + 1))))
    if pages:
        chips(pages, key="pages", here=HERE, label="pages")


def _row(one: Saved, collections: tuple[Collection, ...], within: Collection | None, atlas: Catalogue) -> None:
    with st.container(border=True):
        left, right = st.columns([8, 2], vertical_alignment="center")
        with left:
            chips([link(one.title, _opened(one, atlas))], key=f"open_{one.id}", here=HERE, label=f"open {one.title}")
            facts = [
                shorten(display(one.prompt.encode("utf-8", "replace")).replace("␣", " "), 120),
                f"→ {display(one.target.encode('utf-8', 'replace'))}",
                one.created_at[:10],
            ]
            if one.model != atlas.info.model:
                facts.append(f"model {one.model}")
            elif one.unembedding_hash != atlas.info.unembedding_hash:
                facts.append("made with other weights of this model: opening it analyses the prompt anew")
            elif one.build_id != atlas.info.build_id:
                facts.append(f"of an older catalogue, {one.build_id}")
            st.caption(literal("  ·  ".join(facts)))
        with right:
            if access.may_write():
                analysis_menu(one, collections, within)


def _opened(one: Saved, atlas: Catalogue) -> str:
    """The saved view's address, read and checked again as any address is."""
    params = dict(parse_qsl(one.address, keep_blank_values=True))
    selection, _ = PromptSelection.read(params, limits(atlas))
    if one.model != atlas.info.model:
        return f"prompt?model={one.model}&{one.address}"
    return navigation.href("prompt", selection)


def _collection(
    workspace: Workspace, chosen: Collection, collections: tuple[Collection, ...], atlas: Catalogue
) -> None:
    contents = workspace.contents(chosen.id)
    st.subheader(literal(chosen.name), anchor=False)
    if access.may_write():
        collection_menu(chosen)
    if not contents.analyses and not contents.neurons:
        st.info("Nothing is in this collection yet: put something in from its row's menu.")
    for one in contents.analyses:
        _row(one, collections, chosen, atlas)
    for model, neuron in contents.neurons:
        with st.container(border=True):
            href = navigation.href("neuron", NeuronSelection(neuron.label))
            items = [link(neuron.label, href)]
            chips(items, key=f"neuron_{model}_{neuron.label}", here=HERE, label=f"neuron {neuron.label}")
            if model != atlas.info.model:
                st.caption(literal(f"of {model}"))
            if access.may_write():
                neuron_menu(model, neuron, collections, chosen)


def _notes(workspace: Workspace, selection: SavedSelection, atlas: Catalogue) -> None:
    model, tag = atlas.info.model, selection.tag or None
    total = workspace.count_notes(selection.text, tag=tag, model=model)
    every = workspace.tags(model)
    if not total and not selection.tag:
        return
    st.subheader(f"Notes on {total:,} neuron{'' if total == 1 else 's'}", anchor=False)
    if every:
        items = [
            link(f"{name} {count}", navigation.href(HERE, SavedSelection(tag=name)), current=name == selection.tag)
            for name, count in every[:60]
        ]
        chips(items, key="tags", here=HERE, label="tags")
    for note in workspace.notes(selection.text, tag=tag, model=model, limit=PAGE_ROWS):
        _note(note, workspace.collections())
    if total > PAGE_ROWS:
        st.caption(f"The {PAGE_ROWS} changed last. Search for words or choose a tag to see others.")


def _note(note: NeuronNote, collections: tuple[Collection, ...]) -> None:
    with st.container(border=True):
        label = note.neuron.label
        items = [link(label, navigation.href("neuron", NeuronSelection(label)))]
        items += [link(tag, navigation.href(HERE, SavedSelection(tag=tag))) for tag in note.tags]
        chips(items, key=f"note_{label}", here=HERE, label=f"note on {label}")
        if note.text:
            st.markdown(literal(shorten(note.text, _NOTE)))
        if access.may_write():
            neuron_menu(note.model, note.neuron, collections, None)


if __name__ == "__main__":
    draw()
