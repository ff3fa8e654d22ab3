"""What can be changed on the page of saved analyses; deleting is confirmed. Each change says what was done."""

from collections.abc import Callable

import streamlit as st

from app import navigation
from app.asking import saving
from app.drawing.wording import literal
from app.notices import fail
from app.state.saved_selection import SavedSelection
from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import Collection, Saved, Workspace
from db.workspace.values import MAX_NAME, MAX_TITLE

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
        change(saving.workspace_to_write())
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
