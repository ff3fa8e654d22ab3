"""What every page begins and ends with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

from app import navigation, resources
from app.components import Chip, chips
from app.notices import warn
from app.selection import Limits, SearchSelection
from app.wording import literal
from db.catalogue import Catalogue
from db.errors import AtlasError

_DOTS = "  ·  "


def open_catalogue() -> Catalogue:
    """The catalogue named in the address, or the default one with a notice."""
    chosen = navigation.chosen_model()
    if chosen is None:
        return resources.catalogue()
    try:
        return resources.catalogue(chosen)
    except AtlasError as error:
        atlas = resources.catalogue()
        warn([f"{error} Shown instead: {atlas.info.model}."])
        return atlas


def limits(atlas: Catalogue) -> Limits:
    """What the selections are checked against."""
    return Limits(atlas.info.vocabulary, atlas.info.layers, atlas.info.heads)


def title(text: str, lead: str) -> None:
    """A page's heading and what one is looking at."""
    st.title(literal(text), anchor=False)
    st.caption(lead)


def sync(key: str, value: object) -> None:
    """Give a widget the address's value; not where it has it already, so that half-typed text is left alone."""
    if st.session_state.get(key) != value:
        st.session_state[key] = value


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, once that takes a moment; gone when it is done."""
    slot = st.empty()

    def show(stage: str) -> None:
        slot.markdown(f":material/hourglass_top: {literal(stage)}")

    yield show
    slot.empty()


def footer(atlas: Catalogue, here: str) -> None:
    """Which model and which build; the others, where there are several."""
    info = atlas.info
    st.divider()
    parts = (
        f"Model {info.model} ({info.family}, {info.layers} layers, d {info.d_model:,})",
        f"{info.ffn_neurons:,} FFN and {info.attention_neurons:,} attention neurons",
        f"{info.vocabulary:,} tokens",
        f"catalogue {info.build_id}, built {info.created_at[:10]}",
    )
    st.caption(literal(_DOTS.join(parts)))
    names = resources.catalogue_names()
    if len(names) > 1:
        links = [Chip(name, href=f"{_path(here)}?model={name}", current=name == info.model) for name in names]
        chips(links, key="models", here=here, label="models")


def search_link(token_id: int) -> str:
    """The address of the search for one token."""
    return navigation.href("search", SearchSelection(tokens=(token_id,)))


def _path(page: str) -> str:
    return "./" if page == "start" else page
