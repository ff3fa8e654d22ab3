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
from app.ui.common import choice, data_table, folded, footer, open_catalogue, title
from app.ui.components import Cell, Column, chip, download, legend
from app.ui.components.charts import show
from app.ui.navigation import warn
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.groups import Group, GroupedBy, MapShade
from db.neuron import Sign
from db.questions import OneGroup
from db.records import TokenFavour
from db.token_text import shorten

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
    )
    navigation.name_tab("Overview", info.model)
    selection, notices = OverviewSelection.read(navigation.params(), resources.limits(atlas))
    warn(notices)
    if atlas.maps:
        _map(selection, atlas)
    _layers(atlas)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _peaked(selection, atlas)
    with right:
        _favoured(atlas)
    _whole_build(atlas)
    footer(atlas)


_ALIKE = {GroupedBy.VALUE: "value vectors", GroupedBy.TEXTS: "activity in texts"}
_SHADES = {
    MapShade.LAYER: "layer",
    MapShade.GROUP: "group",
    MapShade.SHARPNESS: "sharpness",
    MapShade.RATE: "activation rate",
}
_GROUPS, _MEMBERS = 200, 100


def _map(selection: OverviewSelection, atlas: Catalogue) -> None:
    """The map of all FFN neurons, the groups on it, and the neurons of the one that is chosen."""
    maps = atlas.maps
    by = selection.alike if selection.alike in maps else next(iter(maps))
    group = None
    try:
        group = search.chosen_group(atlas, selection.group)
    except AtlasError as error:
        warn([str(error)])
    by = by if group is None else group.by

    def changed() -> None:
        state = st.session_state
        chosen = GroupedBy(state.get("overview_alike") or by)
        kept = selection.group if chosen is by else ""
        navigation.show(replace(selection, alike=chosen, shade=MapShade(state["overview_shade"]), group=kept))

    st.header("A map of the FFN neurons", anchor=False)
    st.caption(_MAP_WORDS[by])
    with st.container(horizontal=True, gap="medium"):
        if len(maps) > 1:
            choice("Near one another by", {one: _ALIKE[one] for one in maps}, by, key="overview_alike", changed=changed)
        shades = {
            str(one): words for one, words in _SHADES.items() if one is not MapShade.RATE or atlas.texts is not None
        }
        shade = selection.shade if str(selection.shade) in shades else MapShade.LAYER
        choice("Coloured by", shades, shade, key="overview_shade", changed=changed)
    left, right = st.columns([3, 2], gap="large")
    with left:
        data = search.cloud(atlas, by, shade, group)
        lists.neuron_map(data)
    with right:
        _groups(maps[by].groups, group, selection, by)
    if group is not None:
        _members(group, atlas)


_MAP_WORDS = {
    GroupedBy.VALUE: "Neurons lie near those whose value vectors point the same way: they write alike. Far apart says "
    "little: the map keeps neighbours, not distances.",
    GroupedBy.TEXTS: "Neurons lie near those that are active at the same tokens of the corpus. Far apart says little: "
    "the map keeps neighbours, not distances.",
}


def _groups(found: Sequence[Group], chosen: Group | None, selection: OverviewSelection, by: GroupedBy) -> None:
    """The groups of a map, the largest first; a row shows one."""
    if not found:
        st.caption("No neurons are alike enough to be a group.")
        return
    in_groups = sum(one.neurons for one in found)
    st.caption(f"{len(found):,} groups hold {in_groups:,} neurons; most neurons are in none. A row shows its group.")
    lists.table(
        found[:_GROUPS],
        [
            lists.text("group", "name", lambda one: f"{one.group} ✓" if one == chosen else one.group),
            lists.text("neurons", "number", lambda one: f"{one.neurons:,}"),
            lists.text("alike", "number", lambda one: f"{one.alike:.2f}", "mean cosine of two of its neurons"),
            lists.text("shared tokens", "tokens", lambda one: one.name or "no clear name"),
        ],
        lambda one: replace(selection, alike=by, group=one.group),
        key="groups",
        label="groups of neurons",
    )


def _members(group: Group, atlas: Catalogue) -> None:
    st.subheader(literal(f"{group.group} · {group.name or 'no clear name'}"), anchor=False)
    found = OneGroup(group=group.group, limit=_MEMBERS).answer(atlas).members
    shown = (
        f"The {len(found)} neurons nearest to its middle, of {group.neurons:,}." if group.neurons > len(found) else ""
    )
    known = atlas.strongest_tokens([one.neuron for one in found], 6)
    if shown:
        st.caption(shown)
    lists.table(
        found,
        [
            lists.named(known, atlas),
            lists.bar("closeness", found, lambda one: one.closeness, signed, "mean cosine with the others", full=1.0),
            lists.both_ends(known),
        ],
        lambda one: lists.neuron_link(one.neuron),
        key="members",
        label="neurons of the group",
    )


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
        navigation.show(replace(selection, **lists.chosen_kinds(atlas)))

    with st.container(horizontal=True, gap="medium"):
        lists.kind_fields(selection, changed)
        lists.layer_slider(selection, atlas, changed, width=190)
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
        lambda one: TokenSelection(one.token.token_id),
        key="favoured",
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
            download("Download it", path.read_bytes, path.name, key="whole_build")
        st.caption("To copy it where this server runs:")
        st.code(copy_command(path, atlas.info.model), language="bash", wrap_lines=True)
        place = resources.placement(atlas)
        if place is not None:
            st.caption(f"Its model is loaded, on {place.device}, with weights kept in {place.numbers}.")

    folded("The whole build as one file", file, key="whole")


if __name__ == "__main__":
    draw()
