"""Overview: what a model's neurons are like by layer, which stand out, and which tokens most of them favour."""

from dataclasses import replace

import streamlit as st

from app.answers import search
from app.answers.files import MAX_BUILD_BYTES, copy_command
from app.charts import catalogue_charts
from app.charts.style import KIND_NAMES
from app.serving import resources
from app.state.selections import NeuronSelection, OverviewSelection, TokenSelection
from app.ui import navigation
from app.ui.common import about, data_table, folded, footer, limits, open_catalogue, shown, sync, title
from app.ui.components import Cell, Column, TableRow, Tone, chip, legend, neuron_table
from app.ui.navigation import warn
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.neuron import NeuronKind, Sign
from db.records import PeakedNeuron, Token, TokenFavour
from db.token_text import shorten

HERE = "overview"
_ALL = "both"
_SIGNS = {_ALL: "both", "promotes": "promotes", "suppresses": "suppresses"}
_KINDS = {_ALL: "all", "ffn": "FFN", "attention": "attention"}
_FIGURES = {
    "norm": ("norm of the value vectors", "norm"),
    "peak": ("how far the first token stands out", "larger |z| of its two first tokens"),
}
_PEAKED = (
    Column("neuron", "name"),
    Column("token", "token", "the token that stands out; ▲ promoted, ▼ suppressed"),
    Column("z-score", "bar", "(logit − mean) / standard deviation of the neuron’s logits over the vocabulary"),
    Column("the next tokens of that end", "tokens"),
)
_FAVOURED = (
    Column("token", "name"),
    Column("end", "token"),
    Column("first token of", "bar", "neurons where it is the first token of that end"),
    Column("stored for", "number", "neurons where it is among the stored tokens of that end"),
)


def draw() -> None:
    """The page."""
    atlas = open_catalogue()
    info = atlas.info
    title(
        f"The neurons of {info.model}",
        f"{info.ffn_neurons:,} FFN and {info.attention_neurons:,} attention neurons in {info.layers} layers. Each adds "
        "a vector of its own to the answer: how long those vectors are, and how sharply they point to single tokens.",
    )
    about(HERE)
    selection, notices = OverviewSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    _layers(atlas)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _peaked(selection, atlas)
    with right:
        _favoured(atlas)
    _whole(atlas)
    footer(atlas, HERE)


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
    for name, (words, _) in _FIGURES.items():
        for column, kind in zip(st.columns(len(kinds), gap="medium"), kinds, strict=True):
            with column:
                own = frame[frame["kind"] == kind]
                shown(f"{name}_{kind}_by_layer", charts[name, kind], own, f"{KIND_NAMES[kind]}, by layer: {words}")

    def each() -> None:
        columns = catalogue_charts.neurons_by_layer(frame, atlas.info.layers)
        shown("neurons_of_each_layer", columns, frame, "Neurons by layer and kind")
        data_table(frame, "layers")

    folded("How many neurons each layer has, and the same figures as a data table", each, key="layers")


def _peaked(selection: OverviewSelection, atlas: Catalogue) -> None:
    st.subheader("The most peaked neurons", anchor=False)
    last = atlas.info.layers - 1
    sync("overview_sign", str(selection.sign or _ALL))
    sync("overview_kind", str(selection.kind or _ALL))
    sync("overview_layers", selection.layers or (0, last))

    def changed() -> None:
        sign, kind = st.session_state["overview_sign"], st.session_state["overview_kind"]
        layers = tuple(st.session_state.get("overview_layers", (0, last)))
        navigation.show(
            replace(
                selection,
                sign=None if sign in (None, _ALL) else Sign(sign),
                kind=None if kind in (None, _ALL) else NeuronKind(kind),
                layers=None if layers == (0, last) else layers,
            )
        )

    with st.container(horizontal=True, gap="medium"):
        for label, key, names in (("The neuron", "overview_sign", _SIGNS), ("Kind", "overview_kind", _KINDS)):
            st.segmented_control(
                label, list(names), key=key, format_func=names.__getitem__, on_change=changed, required=True
            )
        if last > 0:
            st.slider("Layers", 0, last, key="overview_layers", on_change=changed, width=190)
    found = search.most_peaked(atlas, selection.conditions)
    if not found:
        st.caption("No neuron fulfils these conditions.")
        return
    strongest = atlas.strongest_tokens([one.neuron for one in found], 6)
    most = max((abs(one.z) for one in found), default=1.0) or 1.0
    rows = [_peaked_row(one, search.end_of(strongest[one.neuron], one.sign)[1:], most) for one in found]
    neuron_table(_PEAKED, rows, key="peaked", here=HERE, label="most peaked neurons")
    legend("ffn", "attention", "promotes", "suppresses")


def _tone(sign: Sign) -> Tone:
    return "promotes" if sign is Sign.PROMOTES else "suppresses"


def _peaked_row(one: PeakedNeuron, others: tuple[Token, ...], most: float) -> TableRow:
    tone = _tone(one.sign)
    return TableRow(
        navigation.href("neuron", NeuronSelection(one.neuron.label)),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            Cell(tone=tone, chips=(chip(one.token.display, tone=tone),)),
            Cell(signed(one.z), share=one.z / most),
            Cell(chips=tuple(chip(token.display, tone=tone) for token in others)),
        ),
    )


def _favoured(atlas: Catalogue) -> None:
    st.subheader("Tokens that most neurons favour", anchor=False)
    st.caption("Often fragments that the model hardly ever saw: their rows lie far out, and many neurons reach them.")
    found = search.favourites(atlas)
    most = max((one.first for one in found), default=1) or 1
    neuron_table(
        _FAVOURED, [_favoured_row(one, most) for one in found], key="favoured", here=HERE, label="favoured tokens"
    )


def _favoured_row(one: TokenFavour, most: int) -> TableRow:
    tone = _tone(one.sign)
    return TableRow(
        navigation.href("token", TokenSelection(one.token.token_id)),
        (
            Cell(shorten(one.token.display, 20)),
            Cell(tone=tone, chips=(chip("promoted" if one.sign is Sign.PROMOTES else "suppressed", tone=tone),)),
            Cell(f"{one.first:,}", share=one.first / most),
            Cell(f"{one.stored:,}"),
        ),
    )


def _whole(atlas: Catalogue) -> None:
    """The build as one file."""
    path, size = atlas.path, atlas.path.stat().st_size

    def file() -> None:
        st.markdown(
            literal(f"{path.name}, {size / 1e6:,.0f} MB, holds everything that these pages show.")
            + " It is one DuckDB file that is never changed: copy it anywhere, and ask it with"
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

    folded("The whole build as one file", file, key="whole")


if __name__ == "__main__":
    draw()
