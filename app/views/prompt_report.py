"""The current analysis of the prompt page as files: a report, JSON and its tables. Each is made when asked for."""

from contextlib import suppress
from typing import TYPE_CHECKING

import streamlit as st

from app.asking import explaining
from app.report.files import FILES, FileForm, Material, file_name
from app.report.origin import Origin
from app.state.selection import Map, PromptSelection
from db.catalogue import Catalogue
from db.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.attribution.results import Analysis


def report(analysis: "Analysis", selection: PromptSelection, atlas: Catalogue) -> None:
    """One control that opens on a button for each form, and the shell command that makes the same."""
    lens = None
    if selection.place.map is Map.LENS:
        with suppress(AtlasError):  # the map itself says why
            lens = explaining.lens(atlas, selection)
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
