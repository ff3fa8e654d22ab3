"""Saved: explanations and other views that were kept, notes on neurons, and collections; to a file and back."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from app.answers import stored
from app.report import views
from app.serving import access
from app.state.address import MODEL, address
from app.state.selections import SAVED_ROWS, NeuronSelection, PromptSelection, SavedSelection
from app.ui import navigation
from app.ui.common import (
    footer,
    in_display_form,
    on_click,
    open_catalogue,
    saved_href,
    say_what_was_done,
    sign_in,
    sync,
    title,
)
from app.ui.components import chips, download, link
from app.ui.navigation import fail, warn
from app.words import literal
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.token_text import shorten
from db.workspace import Collection, NeuronNote, Saved, Workspace
from db.workspace.exchange import export, parse, to_text
from db.workspace.records import MAX_NAME, MAX_TITLE

_NOTE = 300
"""How much of a note is shown, in characters."""
_TAGS = 60
_NEW = "a new collection …"


def draw() -> None:
    """The page."""
    title("Saved", "Explanations, comparisons, searches and neurons that were kept; notes; collections of them.")
    atlas = open_catalogue()
    selection, notices = SavedSelection.read(navigation.params())
    warn(notices)
    say_what_was_done()
    if stored.offered():
        try:
            _page(stored.workspace(), selection, atlas)
        except AtlasError as error:
            fail(error)
    else:
        st.info("This server keeps no workspace, so nothing is saved here. The gallery has explanations to open.")
    footer(atlas)


def _page(workspace: Workspace | None, selection: SavedSelection, atlas: Catalogue) -> None:
    refusal = access.why_not_write()
    if refusal is not None:
        st.caption(literal(refusal))
        if access.sign_in_helps():
            sign_in()
    collections = () if workspace is None else workspace.collections()
    _search(selection, collections)
    within = next((one.name for one in collections if one.id == selection.collection), "")
    navigation.name_tab("Saved", " ".join(one for one in (within, selection.tag, selection.text) if one))
    if workspace is None:
        _nothing()
    else:
        chosen = next((one for one in collections if one.id == selection.collection), None)
        if selection.collection and chosen is None:
            warn(["The collection named in the address does not exist; it may have been deleted."])
        if chosen is not None:
            _collection(workspace, chosen, selection.text, collections, atlas)
        else:
            if not selection.tag:
                _analyses(workspace, selection, collections, atlas)
            _notes(workspace, selection, collections, atlas)
    _files(workspace)


def _nothing() -> None:
    st.info("Nothing is saved yet. Press Save beside an explanation, a comparison, a search or a neuron.")
    links = [link("Explain a prompt", PromptSelection()), link("Look at a neuron", NeuronSelection())]
    chips(links, key="nothing", label="where to begin")


def _search(selection: SavedSelection, collections: tuple[Collection, ...]) -> None:
    names = {"": "everything"} | {one.id: one.name for one in collections}
    sync("saved_words", selection.text)
    sync("saved_collection", selection.collection if selection.collection in names else "")

    def changed() -> None:
        state = st.session_state
        navigation.show(SavedSelection((state["saved_words"] or "").strip(), state["saved_collection"] or ""))

    left, right = st.columns([3, 2], gap="medium")
    hint = "words of a title, prompt or note"
    left.text_input("Search", key="saved_words", max_chars=200, placeholder=hint, on_change=changed)
    right.selectbox("Collection", list(names), key="saved_collection", format_func=names.__getitem__, on_change=changed)
    if selection.tag:
        off = link(f"✕ Only notes tagged {selection.tag}", replace(selection, tag=""))
        chips([off], key="tag_off", label="narrowed to")


def _analyses(
    workspace: Workspace, selection: SavedSelection, collections: tuple[Collection, ...], atlas: Catalogue
) -> None:
    total = workspace.count_analyses(selection.text)
    last = max(1, -(-total // SAVED_ROWS))  # where the last of a page was deleted, or the address goes beyond
    selection = replace(selection, page=min(selection.page, last))
    offset = (selection.page - 1) * SAVED_ROWS
    st.header(f"{total:,} saved view{'' if total == 1 else 's'}", anchor=False)
    if not total and selection.text:
        st.info("Nothing that was saved has all these words. Try fewer of them.")
    elif not total and workspace.count_notes():
        st.info("No view is saved yet. Press Save beside an explanation, a comparison, a search or a neuron.")
    elif not total:
        _nothing()
    for one in workspace.analyses(selection.text, limit=SAVED_ROWS, offset=offset):
        _analysis(one, collections, None, atlas)
    pages = []
    if selection.page > 1:
        pages.append(link("← Newer", replace(selection, page=selection.page - 1)))
    if offset + SAVED_ROWS < total:
        pages.append(link("Older →", replace(selection, page=selection.page + 1)))
    chips(pages, key="pages", label="pages")


def _analysis(one: Saved, collections: tuple[Collection, ...], within: Collection | None, atlas: Catalogue) -> None:
    """One saved view: a link to it, its kind and where it is from, and a menu for whoever may write."""
    with st.container(border=True):
        left, right = st.columns([8, 2], vertical_alignment="center")
        with left:
            chips([link(one.title, saved_href(one, atlas))], key=f"open_{one.id}", label=f"open {one.title}")
            shown = in_display_form(one.prompt).replace("␣", " ") if one.page == "prompt" else one.prompt
            facts = [views.KINDS.get(one.page, one.page), shorten(shown, 120)]
            facts += [f"→ {in_display_form(one.target)}"] if one.page == "prompt" else []
            facts.append(one.created_at[:10])
            if one.model != atlas.info.model:
                facts.append(f"model {one.model}")
            elif stored.fits(one, atlas) is False:
                facts.append(f"made with other weights of this model, catalogue {one.build_id}")
            elif one.build_id != atlas.info.build_id:
                facts.append(f"from an older catalogue, {one.build_id}")
            st.caption(literal("  ·  ".join(facts)))
        if access.may_write():
            with right.popover("Change", icon=":material/more_horiz:", width="stretch"):
                _rename(one.id, one.title, "Title", MAX_TITLE, Workspace.rename)
                _collect(
                    one.id,
                    collections,
                    within,
                    lambda workspace, into: workspace.collect_analysis(into, one.id),
                    lambda workspace, out_of: workspace.uncollect_analysis(out_of, one.id),
                )
                _delete(one.id, one.title, "Delete it for good", Workspace.delete)


def _collection(
    workspace: Workspace, chosen: Collection, words: str, collections: tuple[Collection, ...], atlas: Catalogue
) -> None:
    contents = workspace.contents(chosen.id, words)
    st.header(literal(chosen.name), anchor=False)
    if access.may_write():
        with st.popover("Change the collection", icon=":material/more_horiz:"):
            _rename(chosen.id, chosen.name, "Name", MAX_NAME, Workspace.rename_collection)
            words = "Delete the collection; what is in it stays"
            _delete(chosen.id, chosen.name, words, Workspace.delete_collection, SavedSelection())
    if words and not contents.analyses and not contents.neurons:
        st.info("Nothing in this collection has all these words. Try fewer of them.")
    elif not contents.analyses and not contents.neurons:
        st.info("This collection is still empty. Put something in it from the menu of its row.")
    else:
        base = st.context.url or ""
        download(
            "Report",
            lambda: views.html(chosen.name, views.of_collection(workspace, chosen, atlas), atlas, base),
            "atlas-collection.html",
            key="collection_report",
            icon=":material/description:",
            help="All of it as one page that opens offline. Comparisons and searches are asked anew.",
        )
    for one in contents.analyses:
        _analysis(one, collections, chosen, atlas)
    here = [neuron for model, neuron in contents.neurons if model == atlas.info.model]
    names = stored.names(atlas, here) | stored.called(atlas, here)
    for model, neuron in contents.neurons:
        with st.container(border=True):
            there = NeuronSelection(neuron.label)
            elsewhere = address(there.page_name, there.params() | {MODEL: model})
            items = [link(neuron.label, there if model == atlas.info.model else elsewhere)]
            chips(items, key=f"neuron_{model}_{neuron.label}", label=f"neuron {neuron.label}")
            if model != atlas.info.model:
                st.caption(literal(f"of {model}"))
            elif neuron in names:
                st.markdown(literal(names[neuron]))
            _neuron_menu(model, neuron, collections, chosen)


def _notes(
    workspace: Workspace, selection: SavedSelection, collections: tuple[Collection, ...], atlas: Catalogue
) -> None:
    model, tag = atlas.info.model, selection.tag or None
    among = stored.noted_among(workspace, atlas)
    total = workspace.count_notes(selection.text, tag=tag, model=model, among=among)
    if not total and not selection.tag:
        return
    st.header(f"Notes on {total:,} neuron{'' if total == 1 else 's'}", anchor=False)
    if not total:
        st.info(
            f"No note tagged {literal(selection.tag)} has all these words."
            if selection.text
            else "No note has this tag."
        )
    items = [
        link(f"{name} {count}", SavedSelection(tag=name), current=name == selection.tag)
        for name, count in workspace.tags(model, among)[:_TAGS]
    ]
    chips(items, key="tags", label="tags")
    notes = workspace.notes(selection.text, tag=tag, model=model, among=among, limit=SAVED_ROWS)
    names = stored.names(atlas, [note.neuron for note in notes])
    for note in notes:
        _note(note, collections, names.get(note.neuron, ""))
    if total > SAVED_ROWS:
        st.caption(f"The {SAVED_ROWS} that changed last. Search for words or choose a tag to see others.")


def _note(note: NeuronNote, collections: tuple[Collection, ...], name: str) -> None:
    with st.container(border=True):
        label = note.neuron.label
        items = [link(label, NeuronSelection(label))]
        items += [link(tag, SavedSelection(tag=tag)) for tag in note.tags]
        chips(items, key=f"note_{label}", label=f"note on {label}")
        if name:
            st.caption(literal(f"named from its tokens and texts: {name}"))
        if note.text:
            st.markdown(literal(shorten(note.text, _NOTE)))
        _neuron_menu(note.model, note.neuron, collections, None)


def _neuron_menu(model: str, neuron: Neuron, collections: tuple[Collection, ...], within: Collection | None) -> None:
    if access.may_write():
        with st.popover("Change", icon=":material/more_horiz:"):
            _collect(
                f"{model}_{neuron.label}",
                collections,
                within,
                lambda workspace, into: workspace.collect_neuron(into, model, neuron),
                lambda workspace, out_of: workspace.uncollect_neuron(out_of, model, neuron),
            )


# What can be changed. Each change is made by a click, before the page is drawn again and says what was done.


def _change(change: Callable[[Workspace], object], said: str) -> None:
    def act() -> str:
        change(stored.workspace_to_write())
        return said

    on_click(act)


def _rename(item: str, name: str, field: str, longest: int, rename: Callable[[Workspace, str, str], object]) -> None:
    key = f"title_{item}"

    def clicked() -> None:
        text = st.session_state[key] or ""
        _change(lambda workspace: rename(workspace, item, text), "Renamed.")

    st.text_input(field, value=name, key=key, max_chars=longest)
    st.button("Rename", key=f"rename_{item}", on_click=clicked)


def _collect(
    item: str,
    collections: tuple[Collection, ...],
    within: Collection | None,
    put: Callable[[Workspace, str], object],
    take: Callable[[Workspace, str], object],
) -> None:
    """Put something into a collection, an old or a new one; take it out of the one that is shown."""
    names = {one.id: one.name for one in collections} | {"": _NEW}
    chosen = st.selectbox("Put into", list(names), key=f"into_{item}", format_func=names.__getitem__)
    if chosen == "":
        st.text_input("Its name", key=f"new_{item}", max_chars=MAX_NAME)

    def clicked() -> None:
        into, new = st.session_state[f"into_{item}"], st.session_state.get(f"new_{item}") or ""
        _change(lambda workspace: put(workspace, into or workspace.new_collection(new).id), "Added to the collection.")

    st.button("Collect", key=f"collect_{item}", on_click=clicked)
    if within is not None:
        st.button(
            literal(f"Remove from “{within.name}”"),
            key=f"out_{item}",
            on_click=lambda: _change(lambda workspace: take(workspace, within.id), f"Removed from “{within.name}”."),
        )


def _delete(
    item: str,
    name: str,
    warning: str,
    delete: Callable[[Workspace, str], object],
    then: SavedSelection | None = None,
) -> None:
    """Delete something, once the box is ticked, and then show another state of the page."""
    st.divider()
    sure = st.checkbox(warning, key=f"sure_{item}")

    def clicked() -> None:
        _change(lambda workspace: delete(workspace, item), f"Deleted “{name}”.")
        if then is not None:
            navigation.show(then)

    st.button("Delete", key=f"delete_{item}", disabled=not sure, on_click=clicked, icon=":material/delete:")


def _files(workspace: Workspace | None) -> None:
    """Export, and for whoever may write import."""
    with st.expander("Export and import", key="saved_files"):
        if workspace is not None:
            download(
                "Export everything as JSON",
                lambda: to_text(export(workspace)).encode("ascii"),
                "neuron-atlas-workspace.json",
                key="saved_export",
            )
        if access.may_write():
            given = st.file_uploader("Import such a file", type="json", key="saved_import_file")

            def clicked() -> None:
                if given is not None:
                    data = given.getvalue()
                    on_click(lambda: f"Imported. {stored.open_document(parse(data))}")

            st.button("Import", key="saved_import", on_click=clicked, disabled=given is None)
            st.caption("Nothing that is here already is lost; of two versions of the same, the newer one is kept.")
        st.caption("The same from the shell, also of larger files: python -m db.workspace export --to workspace.json")


if __name__ == "__main__":
    draw()
