"""Everything that was saved as a file, and a file put back."""

import streamlit as st

from app.asking import saving
from app.serving import access
from app.views.saved_changes import doing
from db.workspace import Workspace
from db.workspace.documents import export, parse, to_text


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
                    doing(lambda _workspace: saving.open_document(parse(data)), "Imported.")

            st.button("Import", key="saved_import", on_click=clicked, disabled=given is None)
            st.caption("What is there already stays; of two versions of the same the newer is kept.")
        st.caption("The same from the shell: python -m db.workspace export --to workspace.json")
