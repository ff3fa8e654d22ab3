"""The current analysis of the prompt page as files: a report, JSON and its tables. Each is made when asked for."""

from contextlib import suppress
from typing import TYPE_CHECKING

import streamlit as st

from app.answers import explain, stored
from app.attribution import frames
from app.report.contents import Origin
from app.report.files import FILES, FileForm, Material, file_name
from app.serving import access
from app.serving.settings import Mode, configuration
from app.state.selections import GallerySelection, Map, PromptSelection, SavedSelection, question_key
from app.ui import navigation
from app.ui.components import chips, link
from app.ui.navigation import fail, warn
from app.words import literal
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.workspace.records import MAX_TITLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.attribution.results import Analysis


def report(analysis: "Analysis", selection: PromptSelection, atlas: Catalogue) -> None:
    """One control that opens on a button for each form, and the shell command that makes the same."""
    lens = None
    if selection.place.map is Map.LENS:
        with suppress(AtlasError):  # the map itself says why
            lens = frames.lens_frame(explain.detail(atlas, selection, "lens"))
    origin = Origin(selection, st.context.url or "", atlas.info.model)
    material = Material(analysis, atlas, origin, lens)
    with st.popover("Report", icon=":material/description:", help="This analysis as a file"):
        st.caption(
            "Everything below as one page that opens offline, to read, print and pass on; and the same as data. The "
            "logit lens is part of it where it is shown."
        )
        for name, form in FILES.items():
            st.download_button(
                f"{form.name}: {form.hint}",
                data=_writing(form, material),
                file_name=file_name(form, analysis.prompt),
                mime=form.mime,
                on_click="ignore",
                key=f"report_{name}",
                icon=":material/download:",
                type="tertiary",
            )
        said = origin.command()
        if said is not None:
            st.caption("The report from the shell:")
            st.code(said, language="bash", wrap_lines=True)


def _writing(form: FileForm, material: Material) -> "Callable[[], bytes]":
    return lambda: form.write(material)


# On the prompt page: where a stored explanation is from, and the control that keeps the one that is shown.

HERE = "prompt"


def origin(selection: PromptSelection, atlas: Catalogue) -> None:
    """Where a stored explanation is from; nothing where the model has just made it."""
    found = stored.answer(atlas, selection)
    if found is None:
        return
    day = found.created_at[:10]
    if found.saved_id is None:
        words, back = (
            f"From the gallery, made on {day}",
            link("Gallery", navigation.href("gallery", GallerySelection())),
        )
    else:
        words = f"Saved on {day} as “{found.title}”"
        back = link("Saved", navigation.href("saved", SavedSelection(found.title[:100])))
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.caption(f":material/bookmark: {literal(words)}.", width="content")
        chips([back], key="stored_from", here=HERE, label="where it is kept")
        if configuration().mode is not Mode.CATALOGUE:
            st.button(
                "Analyse anew",
                type="tertiary",
                key="stored_anew_button",
                on_click=stored.make_anew,
                args=(selection,),
                help="Ask the model instead of showing the stored result",
            )
    if found.build_id != atlas.info.build_id:
        warn(
            [
                f"This result is of an older catalogue, {found.build_id}; the tokens of its neurons are shown from "
                f"{atlas.info.build_id}. The model is the same."
            ]
        )


def keeping(analysis: "Analysis", selection: PromptSelection, atlas: Catalogue) -> None:
    """The control that saves what is shown; where that is not allowed, it says why. Nothing without a workspace."""
    if not stored.offered():
        return
    said = st.session_state.pop("saved_as", None)
    if said:
        st.toast(literal(said), icon=":material/bookmark_added:")
    failed = st.session_state.pop("save_failed", None)
    with st.popover("Save", icon=":material/bookmark_add:", help="Keep this explanation with its place and figures"):
        refusal = access.why_not_write()
        if refusal is not None:
            st.info(literal(refusal))
            return
        suggested = explain.suggested_title(selection, analysis)
        key = f"save_title_{question_key(selection)}"
        st.text_input("Title", value=suggested, key=key, max_chars=MAX_TITLE)

        def clicked() -> None:
            try:
                saved = explain.save(st.session_state[key] or "", selection, analysis, atlas)
            except AtlasError as error:
                st.session_state["save_failed"] = str(error)
            else:
                st.session_state["saved_as"] = f"Saved as “{saved.title}”."

        st.button("Save it", type="primary", on_click=clicked, key="save_button")
        st.caption("The address, the whole result and what is open on this page are kept. Find them under Saved.")
    if failed:
        fail(AtlasError(failed))
