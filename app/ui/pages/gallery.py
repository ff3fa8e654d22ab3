"""Gallery: explanations that show something, one click each, without the model."""

from typing import Any

import streamlit as st

from app import gallery
from app.state.selections import PromptSelection
from app.ui import navigation
from app.ui.common import about, footer, open_catalogue, title
from app.ui.components import chip, chips, link
from app.words import literal, nats, percent
from db.token_text import display, shorten

HERE = "gallery"
_COLUMNS = 3


def draw() -> None:
    """The page."""
    title("Gallery", "Explanations chosen because they show something. Each opens as it was found, at once.")
    about(HERE)
    atlas = open_catalogue()
    views = gallery.of_model(atlas.info.model, atlas.info.unembedding_hash)
    if not views:
        st.info(
            "The gallery shows the demo model, and this catalogue is another model's: explain a prompt of your own."
        )
        chips(
            [link("Explain a prompt", navigation.href("prompt", PromptSelection()))],
            key="none",
            here=HERE,
            label="instead",
        )
    for first in range(0, len(views), _COLUMNS):
        columns = st.columns(_COLUMNS, gap="medium")
        for column, view in zip(columns, views[first : first + _COLUMNS], strict=False):
            with column, st.container(border=True, height="stretch"):
                _card(view)
    if views and views[0].build_id != atlas.info.build_id:
        st.caption(literal(f"Made with catalogue {views[0].build_id}; the model is the same, so the figures are too."))
    footer(atlas, HERE)


def _card(view: gallery.View) -> None:
    result = view.result()
    st.subheader(literal(view.title), anchor=False)
    tokens = [chip(one["display"]) for one in _tokens(result)]
    chips(tokens, key=f"tokens_{view.name}", here=HERE, label=f"{view.title}: the prompt")
    target, contrast = result["target"], result.get("contrast")
    words = f"→ {_shown(target['text'])} {percent(target['probability'])}"
    if contrast is not None:
        other = contrast["distractor"]
        words += f", not {_shown(other['text'])}: {nats(contrast['logit_difference'])} nats between them"
    st.markdown(literal(words))
    st.caption(literal(view.choice.sentence))
    opened = link("Open the explanation →", navigation.href("prompt", view.selection))
    chips([opened], key=f"open_{view.name}", here=HERE, label=f"open {view.title}")


def _tokens(result: dict[str, Any]) -> list[dict[str, Any]]:
    shown = {one["id"]: one for one in result["displays"]}
    return [shown[token_id] for token_id in result["token_ids"]]


def _shown(text: str) -> str:
    return shorten(display(text.encode("utf-8", "replace")), 24)


if __name__ == "__main__":
    draw()
