"""Saved: the explanations that were kept, notes on neurons, collections of both; out to a file and in again."""

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl

import streamlit as st

from app.answers import stored
from app.serving import access
from app.state.selections import SAVED_ROWS, NeuronSelection, PromptSelection, SavedSelection
from app.ui import navigation
from app.ui.common import about, footer, limits, open_catalogue, sync, title
from app.ui.components import chips, link
from app.ui.navigation import fail, warn
from app.words import literal
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.token_text import display, shorten
from db.workspace import Collection, NeuronNote, Saved, Workspace
from db.workspace.exchange import export, parse, to_text
from db.workspace.records import MAX_NAME, MAX_TITLE

# What can be changed on the page of saved analyses; deleting is confirmed. Each change says what was done.

_DONE, _FAILED = "saved_done", "saved_failed"
_NEW = "a new collection …"


def done() -> None:
    """Say what the last click did, or why it could not."""
    said = st.session_state.pop(_DONE, None)
    if said:
        st.toast(literal(said), icon=":material/check:")
    failed = st.session_state.pop(_FAILED, None)
    if failed:
        fail(AtlasError(failed))


def doing(change: Callable[[Workspace], object], said: str) -> None:
    """Change the workspace; the next drawing of the page says what came of it."""
    try:
        change(stored.workspace_to_write())
    except AtlasError as error:
        st.session_state[_FAILED] = str(error)
    else:
        st.session_state[_DONE] = said


def analysis_menu(one: Saved, collections: tuple[Collection, ...], within: Collection | None) -> None:
    """Rename, collect, delete."""
    with st.popover("Change", icon=":material/more_horiz:", width="stretch"):
        key = f"title_{one.id}"

        def rename() -> None:
            text = st.session_state[key] or ""
            doing(lambda workspace: workspace.rename(one.id, text), "Renamed.")

        st.text_input("Title", value=one.title, key=key, max_chars=MAX_TITLE)
        st.button("Rename", key=f"rename_{one.id}", on_click=rename)
        _collect(
            one.id,
            collections,
            lambda workspace, collection_id: workspace.collect_analysis(collection_id, one.id),
        )
        if within is not None:
            _take_out(one.id, within, lambda workspace: workspace.uncollect_analysis(within.id, one.id))
        st.divider()
        sure = st.checkbox("Delete it for good", key=f"sure_{one.id}")

        def delete() -> None:
            doing(lambda workspace: workspace.delete(one.id), f"Deleted “{one.title}”.")

        st.button("Delete", key=f"delete_{one.id}", disabled=not sure, on_click=delete, icon=":material/delete:")


def neuron_menu(model: str, neuron: Neuron, collections: tuple[Collection, ...], within: Collection | None) -> None:
    """Collect, take out."""
    name = f"{model}_{neuron.label}"
    with st.popover("Change", icon=":material/more_horiz:"):
        _collect(
            name,
            collections,
            lambda workspace, collection_id: workspace.collect_neuron(collection_id, model, neuron),
        )
        if within is not None:
            _take_out(name, within, lambda workspace: workspace.uncollect_neuron(within.id, model, neuron))


def collection_menu(one: Collection) -> None:
    """Rename, delete."""
    with st.popover("Change the collection", icon=":material/more_horiz:"):
        key = f"name_{one.id}"

        def rename() -> None:
            text = st.session_state[key] or ""
            doing(lambda workspace: workspace.rename_collection(one.id, text), "Renamed.")

        st.text_input("Name", value=one.name, key=key, max_chars=MAX_NAME)
        st.button("Rename", key=f"rename_{one.id}", on_click=rename)
        st.divider()
        sure = st.checkbox("Delete the collection; what is in it stays", key=f"sure_{one.id}")

        def delete() -> None:
            doing(lambda workspace: workspace.delete_collection(one.id), f"Deleted “{one.name}”.")
            navigation.show(SavedSelection())

        st.button("Delete", key=f"delete_{one.id}", disabled=not sure, on_click=delete, icon=":material/delete:")


def _collect(name: str, collections: tuple[Collection, ...], put: Callable[[Workspace, str], object]) -> None:
    names = {one.id: one.name for one in collections} | {"": _NEW}
    chosen = st.selectbox("Put into", list(names), key=f"into_{name}", format_func=names.__getitem__)
    if chosen == "":
        st.text_input("Its name", key=f"new_{name}", max_chars=MAX_NAME)

    def clicked() -> None:
        into, new = st.session_state[f"into_{name}"], st.session_state.get(f"new_{name}") or ""
        doing(lambda workspace: put(workspace, into or workspace.new_collection(new).id), "Collected.")

    st.button("Collect", key=f"collect_{name}", on_click=clicked)


def _take_out(name: str, within: Collection, take: Callable[[Workspace], object]) -> None:
    def clicked() -> None:
        doing(take, f"Taken out of “{within.name}”.")

    st.button(literal(f"Take out of “{within.name}”"), key=f"out_{name}", on_click=clicked)


# Everything that was saved as a file, and a file put back.


def files(workspace: Workspace | None) -> None:
    """Export and, where whoever looks may write, import."""
    with st.expander("To a file, and from one"):
        if workspace is not None:
            st.download_button(
                "Export everything as JSON",
                data=lambda: to_text(export(workspace)).encode("ascii"),
                file_name="neuron-atlas-workspace.json",
                mime="application/json",
                on_click="ignore",
                key="saved_export",
                icon=":material/download:",
            )
        if access.may_write():
            given = st.file_uploader("Import such a file", type="json", key="saved_import_file")

            def clicked() -> None:
                if given is not None:
                    data = given.getvalue()
                    doing(lambda _workspace: stored.open_document(parse(data)), "Imported.")

            st.button("Import", key="saved_import", on_click=clicked, disabled=given is None)
            st.caption("What is there already stays; of two versions of the same the newer is kept.")
        st.caption("The same from the shell: python -m db.workspace export --to workspace.json")


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
    if stored.offered():
        try:
            _page(stored.workspace(), selection, atlas)
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
    offset = (selection.page - 1) * SAVED_ROWS
    found = workspace.analyses(selection.text, limit=SAVED_ROWS, offset=offset)
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
    if offset + SAVED_ROWS < total:
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
    for note in workspace.notes(selection.text, tag=tag, model=model, limit=SAVED_ROWS):
        _note(note, workspace.collections())
    if total > SAVED_ROWS:
        st.caption(f"The {SAVED_ROWS} changed last. Search for words or choose a tag to see others.")


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
