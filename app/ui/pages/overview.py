"""Overview: what a model's neurons are like by layer, which stand out, and which tokens most of them favour."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from app.answers import search
from app.answers.search import MAX_BUILD_BYTES, copy_command
from app.charts import catalogue_charts
from app.serving import resources
from app.state.selections import OverviewSelection, TokenSelection
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import data_table, folded, footer, limits, open_catalogue, title
from app.ui.components import Cell, Column, chip, legend
from app.ui.components.charts import show
from app.ui.navigation import warn
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.neuron import Sign
from db.records import TokenFavour
from db.token_text import shorten

HERE = "overview"
_FIGURES = {
    "norm": ("norm of the value vectors", "norm"),
    "peak": ("how far the first token stands out", "larger |z| of its two first tokens"),
}


def draw() -> None:
    """The page."""
    atlas = open_catalogue()
    info = atlas.info
    title(
        f"The neurons of {info.model}",
        f"{info.ffn_neurons:,} FFN and {info.attention_neurons:,} attention neurons in {info.layers} layers. Each adds "
        "a vector of its own to the answer: how long those vectors are, and how sharply they point to single tokens.",
        HERE,
    )
    navigation.name_tab("Overview", info.model)
    selection, notices = OverviewSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    _layers(atlas)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _peaked(selection, atlas)
    with right:
        _favoured(atlas)
    _whole_build(atlas)
    footer(atlas)


def _layers(atlas: Catalogue) -> None:
    frame = search.overview(atlas)
    kinds = [kind for kind in ("ffn", "attention") if (frame["kind"] == kind).any()]
    # The same for every visitor of the build, and the slowest thing on the page to make.
    charts = resources.remembered(
        (atlas.info.build_id, "bands"),
        lambda: {
            (name, kind): catalogue_charts.bands(frame, name, kind, *words)
            for name, words in _FIGURES.items()
            for kind in kinds
        },
    )
    for name in _FIGURES:
        for column, kind in zip(st.columns(len(kinds), gap="medium"), kinds, strict=True):
            with column:
                show(charts[name, kind])

    def each() -> None:
        show(catalogue_charts.neurons_by_layer(frame, atlas.info.layers))
        data_table(frame, "layers")

    folded("How many neurons each layer has, and the same figures as a data table", each, key="layers")


def _peaked(selection: OverviewSelection, atlas: Catalogue) -> None:
    st.header("The most peaked neurons", anchor=False)

    def changed() -> None:
        navigation.show(replace(selection, **lists.chosen_kinds(HERE, atlas)))

    with st.container(horizontal=True, gap="medium"):
        lists.kind_fields(HERE, selection, changed)
        lists.layer_slider(HERE, selection, atlas, changed, width=190)
    found = search.most_peaked(atlas, selection.conditions)
    if not found:
        st.caption("No neuron meets these conditions.")
        return
    strongest = atlas.strongest_tokens([one.neuron for one in found], 6)
    lists.table(
        found,
        [
            lists.named(strongest, atlas),
            lists.token("the token that stands out; ▲ promoted, ▼ suppressed"),
            lists.bar("z-score", found, lambda one: one.z, signed, lists.Z_HINT),
            lists.strongest_tokens(strongest, "the next tokens of that end", skip=1),
        ],
        lambda one: lists.neuron_link(one.neuron),
        key="peaked",
        here=HERE,
        label="most peaked neurons",
    )
    legend("ffn", "attention", "promotes", "suppresses")


def _favoured(atlas: Catalogue) -> None:
    st.header("Tokens that most neurons favour", anchor=False)
    found = search.favourites(atlas)
    st.caption(literal(_favoured_words(found, atlas.info.depth)))

    def end(one: TokenFavour) -> Cell:
        words = "promoted" if one.sign is Sign.PROMOTES else "suppressed"
        return Cell(tone=one.sign.value, chips=(chip(words, tone=one.sign.value),))

    first = "neurons for which it is the very first token of that list"
    stored = f"neurons that have it among the {atlas.info.depth} stored tokens of that list"
    lists.table(
        found,
        [
            lists.text("token", "name", lambda one: shorten(one.token.display, 20)),
            (Column("list", "token", "tokens that neurons promote, or that they suppress"), end),
            lists.bar("neurons: first", found, lambda one: one.first, lambda count: f"{count:,}", first),
            lists.text(f"in the first {atlas.info.depth}", "number", lambda one: f"{one.stored:,}", stored),
        ],
        lambda one: navigation.href("token", TokenSelection(one.token.token_id)),
        key="favoured",
        here=HERE,
        label="favoured tokens",
    )


def _favoured_words(found: Sequence[TokenFavour], depth: int) -> str:
    """The first row of the table as a sentence, and why such tokens are there."""
    why = "Often fragments that the model hardly ever saw: their rows lie far out, and many neurons reach them."
    if not found:
        return why
    one = found[0]
    verb = "promote" if one.sign is Sign.PROMOTES else "suppress"
    return (
        f"“{one.token.display}” is the token that {one.first:,} neurons {verb} most, and {one.stored:,} have it among "
        f"the {depth} they {verb} most. {why}"
    )


def _whole_build(atlas: Catalogue) -> None:
    path, size = atlas.path, atlas.path.stat().st_size

    def file() -> None:
        st.markdown(
            literal(f"{path.name}, {size / 1e6:,.0f} MB, holds everything that these pages show.")
            + " It is one DuckDB file that never changes: copy it anywhere, and query it with"
            " `python -m db --catalogue FILE …`, or from Python with `Catalogue.open`."
        )
        if size <= MAX_BUILD_BYTES:
            st.download_button(
                "Download it",
                data=path.read_bytes,
                file_name=path.name,
                on_click="ignore",
                icon=":material/download:",
                key="whole_build",
            )
        st.caption("To copy it where this server runs:")
        st.code(copy_command(path, atlas.info.model), language="bash", wrap_lines=True)
        place = resources.placement(atlas)
        if place is not None:
            st.caption(f"Its model is loaded, on {place.device}, with weights kept in {place.numbers}.")

    folded("The whole build as one file", file, key="whole")


if __name__ == "__main__":
    draw()
