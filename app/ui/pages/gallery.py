"""Gallery: explanations that show something, one click each, without the model."""

import streamlit as st

from app import gallery
from app.serving import resources
from app.state.address import MODEL, address, left_out
from app.state.selections import PromptSelection
from app.ui import navigation
from app.ui.common import footer, in_display_form, open_catalogue, title
from app.ui.components import chip, chips, link
from app.ui.navigation import warn
from app.words import literal, nats, percent
from db.token_text import shorten

_COLUMNS = 3


def draw() -> None:
    """The page."""
    title("Gallery", "Explanations chosen because they show something. Each opens as it was found, at once.")
    atlas = open_catalogue()
    warn(left_out(navigation.params()))
    views = gallery.of_model(atlas.info.model, atlas.info.checkpoint)
    if not views:
        st.info(
            "The gallery shows the demo model, and this catalogue belongs to another: explain a prompt of your own."
        )
        own = {one.entry.model for one in gallery.views()}.intersection(resources.catalogue_names())
        links = [link(f"The gallery of {model}", address("gallery", {MODEL: model})) for model in own]
        chips([link("Explain a prompt", PromptSelection()), *links], key="none", label="instead")
    for first in range(0, len(views), _COLUMNS):
        columns = st.columns(_COLUMNS, gap="medium")
        for column, view in zip(columns, views[first : first + _COLUMNS], strict=False):
            with column, st.container(border=True, height="stretch"):
                _card(view)
    if views and views[0].entry.build_id != atlas.info.build_id:
        build = views[0].entry.build_id
        st.caption(literal(f"Made with catalogue {build}; the model is the same, so the figures are too."))
    footer(atlas)


def _card(view: gallery.View) -> None:
    choice, result = view.choice, view.entry.result
    st.header(literal(choice.title), anchor=False)
    displays = {one["id"]: one["display"] for one in result["displays"]}
    tokens = [chip(displays[token_id]) for token_id in result["token_ids"]]
    chips(tokens, key=f"tokens_{choice.name}", label=f"{choice.title}: the prompt")
    target, contrast = result["target"], result.get("contrast")
    words = f"→ {_shown(target['text'])} {percent(target['probability'])}"
    if contrast is not None:
        other = contrast["distractor"]["text"]
        words += f", not {_shown(other)}: {nats(contrast['logit_difference'])} nats between them"
    st.markdown(literal(words))
    st.caption(literal(choice.sentence))
    opened = link("Open the explanation →", view.selection, name=f"Open the explanation: {choice.title}")
    chips([opened], key=f"open_{choice.name}", label=f"open {choice.title}")


def _shown(text: str) -> str:
    return shorten(in_display_form(text), 24)


if __name__ == "__main__":
    draw()
