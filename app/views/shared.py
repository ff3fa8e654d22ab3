"""What every page begins and ends with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

from app import navigation
from app.drawing.components import Chip, chips, link
from app.drawing.fields import copy_link
from app.drawing.wording import literal
from app.notices import warn
from app.serving import resources
from app.serving.configuration import configuration
from app.state.links import BUILD, MODEL, address, stamp
from app.state.selection import Limits, SearchSelection
from db.catalogue import Catalogue
from db.errors import AtlasError

_DOTS = "  ·  "


def open_catalogue() -> Catalogue:
    """The catalogue named in the address, or the default one with a notice; where a link names its build, that one."""
    chosen = navigation.chosen_model()
    try:
        atlas = resources.catalogue(chosen)
    except AtlasError as error:
        if chosen is None:
            raise
        atlas = resources.catalogue()
        warn([f"{error} Shown instead: {atlas.info.model}."])
        navigation.hold_build(False)
        return atlas
    return _build_seen(atlas)


def _build_seen(current: Catalogue) -> Catalogue:
    """The build that the address names, where it is still there: a link is to show the figures that were seen."""
    named = navigation.chosen_build()
    found: Catalogue | None = current
    reason = "which is no longer here"
    if named is not None:
        try:
            found = resources.catalogue_of_build(current, named.beginning)
        except AtlasError:
            found, reason = None, "which cannot be read any more"
    navigation.hold_build(found not in (None, current))
    now = f"{current.info.build_id[:8]} of {current.info.created_at[:10]}"
    if named is not None and found is None:
        warn([f"This link was made with {named.words}, {reason}. Shown is the current one, {now}: figures may differ."])
    elif named is not None and found is not current:
        warn([f"This link was made with {named.words}, and that one is shown. The current one is {now}."])
        chips([link("Show the current one", navigation.to_current())], key="build", here="", label="the current build")
    return found or current


def limits(atlas: Catalogue) -> Limits:
    """What the selections are checked against."""
    return Limits(atlas.info.vocabulary, atlas.info.layers, atlas.info.heads, configuration().max_top)


def title(text: str, lead: str) -> None:
    """A page's heading and what one is looking at, and beside it the control that copies the address."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title(literal(text), anchor=False, width="content")
        copying()
    st.caption(lead)


def copying() -> None:
    """“Copy link”: the address that is shown, which holds the whole view, with the model and the build that is seen."""
    try:
        seen = resources.catalogue(navigation.chosen_model())
        named = navigation.chosen_build()
        seen = (named and resources.catalogue_of_build(seen, named.beginning)) or seen
    except AtlasError:  # the page says what is wrong
        return
    copy_link({MODEL: seen.info.model, BUILD: stamp(seen.info)}, key="copy_link", here="")


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
        links = [Chip(name, href=address(here, {MODEL: name}), current=name == info.model) for name in names]
        chips(links, key="models", here=here, label="models")


def search_link(token_id: int) -> str:
    """The address of the search for one token."""
    return navigation.href("search", SearchSelection(tokens=(token_id,)))
