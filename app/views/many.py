"""Many prompts: which neurons matter over all of them, by role."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import streamlit as st

from app import navigation
from app.asking import aggregating
from app.asking.batches import MAX_PROMPTS, Asked, as_lines, parse_lines, read_upload
from app.asking.examples import READY
from app.drawing.components import chips, link
from app.drawing.wording import literal
from app.notices import fail, warn
from app.serving.configuration import configuration
from app.state.selection import MAX_MANY, ManySelection
from app.views.about import about
from app.views.many_table import aggregate_table
from app.views.shared import footer, limits, open_catalogue, sync, title
from db.catalogue import Catalogue
from db.errors import AtlasError

HERE = "many"
_TEXT = "many_long_text"  # a text too long for the address is kept for the session


@dataclass(frozen=True)
class Found:
    """What the table is made from."""

    table: pd.DataFrame
    prompts: int
    failed: tuple[tuple[str, str], ...]
    """Prompts that could not be analysed, and why."""


def draw() -> None:
    """The page."""
    title("Many prompts", "Which neurons matter again and again: the lists of many prompts, put together.")
    about(HERE)
    atlas = open_catalogue()
    selection, notices = ManySelection.read(navigation.params(), limits(atlas))
    if selection.ready and selection.ready not in READY:
        notices.append(f"In the address, the set {selection.ready[:40]} is not known: there are {', '.join(READY)}.")
        selection = replace(selection, ready="")
    warn(notices)
    _ready(selection)
    upload = _fields(selection)
    try:
        found = _opened(upload, atlas) if upload is not None else _analysed(_text(selection), atlas)
    except AtlasError as error:
        fail(error)
        found = None
    if found is not None:
        _report(found)
        aggregate_table(found.table, found.prompts, selection, atlas)
    footer(atlas, HERE)


def _text(selection: ManySelection) -> str:
    if selection.ready:
        return as_lines(READY[selection.ready])
    return selection.text or str(st.session_state.get(_TEXT, ""))


def _ready(selection: ManySelection) -> None:
    st.caption("Choose a set, or write your own prompts:")
    links = [link(name, navigation.href(HERE, ManySelection(ready=name)), name == selection.ready) for name in READY]
    chips(links, key="ready", here=HERE, label="ready sets of prompts")


def _fields(selection: ManySelection):  # type: ignore[no-untyped-def]  # Streamlit's type of an upload is private
    """The prompts, and a file in their place."""
    sync("many_text", _text(selection))

    def submitted() -> None:
        text = st.session_state["many_text"] or ""
        if text == _text(selection):
            return
        moved = ManySelection(text=text)
        st.session_state[_TEXT] = "" if moved.fits else text
        navigation.show(moved)

    with st.form("many_form", border=False):
        st.text_area(
            f"Prompts, one a line, at most {configuration().max_prompts}; a target may follow after a tab",
            key="many_text",
            height=170,
            max_chars=MAX_MANY,
            placeholder="The capital of France is\nThe capital of Germany is",
        )
        st.form_submit_button("Explain them all", type="primary", on_click=submitted)
    if st.session_state.get(_TEXT) and not selection.ready and not selection.text:
        st.caption(
            "These prompts are too long, so that the address does not hold them: to pass them on, keep them in a file "
            "or shorten the list."
        )
    with st.expander("Or open a file of analyses"):
        st.caption(
            "Made by `python -m app.attribution --prompts prompts.txt --out analyses.jsonl`; .jsonl or .parquet. It is "
            "shown in place of the prompts above until it is taken away."
        )
        return st.file_uploader("File of analyses", type=["jsonl", "parquet"], label_visibility="collapsed")


def _analysed(text: str, atlas: Catalogue) -> Found | None:
    most = configuration().max_prompts
    asked, beyond = parse_lines(text, most)
    if beyond:
        warn(
            [f"Only the first {most} prompts are explained; {beyond} more were left out. The shell has no such limit."]
        )
    if not asked:
        return None
    table = aggregating.known_aggregate(atlas, tuple(asked))
    if table is None:
        table = _with_progress(asked, atlas)
    return Found(table.frame, len(asked) - len(table.failed), table.failed)


def _with_progress(asked: list[Asked], atlas: Catalogue) -> "aggregating.Aggregate":
    slot = st.empty()
    for done, one in enumerate(asked):
        slot.progress(done / len(asked), literal(f"{done + 1} of {len(asked)}: {one.prompt[:60]}"))
        aggregating.row(atlas, one)
    slot.progress(1.0, "Putting their lists together …")
    table = aggregating.aggregate(atlas, tuple(asked))
    slot.empty()
    return table


def _opened(upload: Any, atlas: Catalogue) -> Found:
    from app.attribution.aggregate import aggregate

    rows = read_upload(upload.name, upload.getvalue())
    failed = tuple((row["prompt"], row["error"]) for row in rows if "error" in row)
    other = sorted({row["model"] for row in rows if "error" not in row} - {atlas.info.model})
    if other:
        warn([f"The file is about {', '.join(other)[:80]}, the tokens shown are those of {atlas.info.model}."])
    return Found(aggregate(rows), len(rows) - len(failed), failed)


def _report(found: Found) -> None:
    if not found.failed:
        return
    with st.expander(f"{len(found.failed)} could not be explained"):
        for prompt, reason in found.failed[:MAX_PROMPTS]:
            st.markdown(f"**{literal(prompt[:80])}**: {literal(reason)}")


if __name__ == "__main__":
    draw()
