"""Neuron: what one component writes, and where it stands among its layer; on a prompt, which of its ends was active."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from app.answers import search
from app.answers.search import Standing, standing_of
from app.charts import catalogue_charts
from app.charts.style import KIND_NAMES
from app.gallery.examples import NEURONS
from app.state.selections import NeuronSelection
from app.ui import navigation
from app.ui.common import about, data_table, folded, footer, limits, open_catalogue, search_link, shown, sync, title
from app.ui.components import Cell, Chip, Column, TableRow, Tone, chip, chips, legend, link, neuron_table
from app.ui.navigation import warn
from app.ui.pages.neuron_tables import key_side, notes
from app.ui.pages.neuron_trial import active_end, alike, trial
from app.words import literal, percent, signed
from db.catalogue.export import card_frame
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, Sign
from db.records import NeuronCard, Token, TokenLogit

# A neuron's neighbours in the model: those next to it, and for an attention neuron all of its head.

HERE = "neuron"
_DEPTH = 6
_HEAD = (
    Column("neuron", "name"),
    Column("peak z", "bar", "the larger |z| of its two first tokens, with its sign: how sharply it points"),
    Column("promotes", "list"),
    Column("suppresses", "list"),
)


def beside(neuron: Neuron, selection: NeuronSelection, layer: pd.DataFrame, atlas: Catalogue) -> None:
    """The neurons next to it; of a head all others with their tokens, the sharpest first.

    Args:
        neuron: which.
        selection: the page's; each link keeps the prompt that the neuron was opened from.
        layer: `Catalogue.layer_statistics` of its layer and kind.
        atlas: the catalogue.
    """
    if neuron.head is None:
        st.caption(f"Its neighbours in layer {neuron.layer}; their order means nothing")
    else:
        st.subheader(f"The other dimensions of head {neuron.head} in layer {neuron.layer}", anchor=False)
        _head(neuron, selection, layer, atlas)
        st.caption("The dimensions next to it")
    around = search.beside(atlas, neuron)
    links = [link(one.label, _page(one, selection), current=one == neuron) for one in around]
    chips(links, key="beside", here=HERE, label="neighbours in the model")


def _head(neuron: Neuron, selection: NeuronSelection, layer: pd.DataFrame, atlas: Catalogue) -> None:
    own = layer[(layer["head"] == neuron.head) & (layer["index"] != neuron.index)]
    if own.empty:
        st.caption("The head has no other dimension.")
        return
    upper = own["top_z"].abs() >= own["bottom_z"].abs()
    peaks = own["top_z"].where(upper, own["bottom_z"])
    order = peaks.abs().sort_values(ascending=False, kind="stable").index
    others = [replace(neuron, index=int(own.loc[place, "index"])) for place in order]
    strongest = atlas.strongest_tokens(others, _DEPTH)
    most = float(peaks.abs().max()) or 1.0
    rows = [
        TableRow(
            _page(one, selection),
            (
                Cell(one.label, dot=one.kind.value),
                Cell(signed(float(peaks[place])), share=float(peaks[place]) / most),
                Cell(tone="promotes", chips=_tokens(strongest[one].promotes, "promotes")),
                Cell(tone="suppresses", chips=_tokens(strongest[one].suppresses, "suppresses")),
            ),
        )
        for one, place in zip(others, order, strict=True)
    ]
    neuron_table(_HEAD, rows, key="head", here=HERE, label="the other dimensions of its head")


def _tokens(tokens: tuple[Token, ...], tone: Tone) -> tuple[Chip, ...]:
    return tuple(chip(token.display, tone=tone) for token in tokens)


def _page(neuron: Neuron, selection: NeuronSelection) -> str:
    return navigation.href(HERE, replace(selection, label=neuron.label))


# Where a neuron's vector and logits lie among the others of its layer and kind.

_FIGURES = {
    "norm": ("norm of the value vector", "norm", "longer than"),
    "std": ("standard deviation of its logits", "logits", "wider than"),
    "top_z": ("z of its most promoted token", "z", "more peaked than"),
    "bottom_z": ("z of its most suppressed token", "z", "more peaked than"),
}


def standing_among(card: NeuronCard, layer: pd.DataFrame, standing: Standing) -> None:
    """Heading, a sentence, and a histogram of each figure with the neuron's own place."""
    neuron = card.neuron
    st.subheader(f"Among the {len(layer):,} {KIND_NAMES[neuron.kind]} neurons of layer {neuron.layer}", anchor=False)
    st.markdown(literal(_sentence(card, standing)))
    columns = st.columns(4, gap="small")
    for column, (name, (words, unit, more)) in zip(columns, _FIGURES.items(), strict=True):
        with column:
            chart = catalogue_charts.standing(layer, name, standing.figures[name], words, unit)
            shown(f"layer_{name}", chart, layer, f"Histogram of the layer: {words}", width=420)
            value = standing.figures[name]
            own = signed(value) if unit == "z" else f"{value:.2f}"
            st.caption(literal(f"Its own: {own}, {more} {percent(standing.larger[name])} of the others"))
    st.caption("Grey: all neurons of this kind in the layer. The upright line: this neuron.")


def _sentence(card: NeuronCard, standing: Standing) -> str:
    sharper, end = max((standing.larger["top_z"], "promotes"), (standing.larger["bottom_z"], "suppresses"))
    return (
        f"Over the vocabulary its logits have mean {signed(card.mean)} and standard deviation {card.std:.2f}. Its "
        f"first token stands out most sharply at the end it {end}: more than in {percent(sharper)} of the others. A "
        "sharp end points to a few tokens; a blunt one is spread over many and hard to read."
    )


_CHIPS = 24
_BARS = 20
_SIGN_RULE = (
    "Sign rule: a positive activation raises the promoted tokens and lowers the suppressed ones; a negative activation "
    "does the opposite."
)


def draw() -> None:
    """The page."""
    atlas = open_catalogue()
    selection, notices = NeuronSelection.read(navigation.params(), limits(atlas))
    try:
        card = _card(selection, atlas)
    except AtlasError as error:
        title("Neuron", "One component of the model: its tokens, its figures and its layer.")
        about(HERE)
        warn(notices)
        _field(selection)
        warn([str(error)])
        _examples("Neurons to look at:")
    else:
        _neuron_page(card, selection, notices, atlas)
    footer(atlas, HERE)


def _card(selection: NeuronSelection, atlas: Catalogue) -> NeuronCard | None:
    return atlas.neuron(Neuron.parse(selection.label)) if selection.label else None


def _neuron_page(card: NeuronCard | None, selection: NeuronSelection, notices: list[str], atlas: Catalogue) -> None:
    if card is None:
        title("Neuron", "One component of the model: its tokens, its figures and its layer.")
        about(HERE)
        warn(notices)
        _field(selection)
        _examples(
            "Type a label such as L29.F1499 (layer, FFN index) or L21.H8.N7 (layer, head, dimension), or look at one "
            "of these:"
        )
        return
    neuron = card.neuron
    title(f"{neuron.label} · {_describe(neuron)}", _SIGN_RULE)
    about(HERE)
    warn(notices)
    layer = atlas.layer_statistics(neuron.layer, neuron.kind)
    standing = standing_of(neuron, layer)
    _paths(selection, standing)
    active = active_end(neuron, selection.origin, atlas) if selection.origin.prompt else None
    _ends(card, active)
    notes(neuron, atlas)
    key_side(neuron, selection, atlas)
    trial(neuron, selection, atlas)
    alike(neuron, selection, atlas)
    beside(neuron, selection, layer, atlas)
    standing_among(card, layer, standing)
    folded(
        "All stored tokens as a data table, with CSV export",
        lambda: data_table(card_frame(card), "stored_tokens"),
        key="stored_tokens",
    )


def _describe(neuron: Neuron) -> str:
    where = f"layer {neuron.layer}" if neuron.head is None else f"head {neuron.head} in layer {neuron.layer}"
    return f"{KIND_NAMES[neuron.kind]} neuron of {where}"


def _field(selection: NeuronSelection) -> None:
    sync("neuron_label", selection.label)

    def changed() -> None:
        navigation.show(replace(selection, label=(st.session_state["neuron_label"] or "").strip()))

    st.text_input(
        "Neuron",
        key="neuron_label",
        max_chars=40,
        placeholder="L29.F1499",
        on_change=changed,
        label_visibility="collapsed",
    )


def _examples(lead: str) -> None:
    st.caption(lead)
    links = [link(label, navigation.href(HERE, NeuronSelection(label))) for label in NEURONS]
    chips(links, key="examples", here=HERE, label="neurons to look at")


def _paths(selection: NeuronSelection, standing: Standing) -> None:
    """To another neuron by label, to the next one, and back to the prompt."""
    left, right = st.columns([2, 5], gap="medium", vertical_alignment="center")
    with left:
        _field(selection)
    neighbours = (("← ", standing.before, ""), ("", standing.after, " →"))
    links = [
        link(f"{lead}{neuron.label}{tail}", navigation.href(HERE, replace(selection, label=neuron.label)))
        for lead, neuron, tail in neighbours
        if neuron is not None
    ]
    if selection.origin.prompt:
        links.append(link("↩ Back to the prompt", navigation.href("prompt", selection.origin)))
    with right:
        chips(links, key="paths", here=HERE, label="other neurons")


def _ends(card: NeuronCard, active: Sign | None) -> None:
    """Both ends; the one that raised its tokens on the prompt first and strong, the other faint."""
    order = (Sign.SUPPRESSES, Sign.PROMOTES) if active is Sign.SUPPRESSES else (Sign.PROMOTES, Sign.SUPPRESSES)
    frame = card_frame(card)
    for column, sign in zip(st.columns(2, gap="large"), order, strict=True):
        faint = active is not None and sign is not active
        with column:
            state = "" if active is None else ", lowered on this prompt" if faint else ", raised on this prompt"
            st.subheader(("Promotes" if sign is Sign.PROMOTES else "Suppresses") + state, anchor=False)
            entries = card.top if sign is Sign.PROMOTES else card.bottom
            links = [_token(entry, sign, faint) for entry in entries[:_CHIPS]]
            chips(links, key=f"end_{sign}", here=HERE, label=f"tokens it {sign}")
            chart = catalogue_charts.token_bars(frame, sign, _BARS, faint=faint)
            shown(f"tokens_it_{sign}", chart, frame[frame["sign"] == str(sign)], f"Logits of the tokens it {sign}")
    legend("promotes", "suppresses")
    st.caption("A token opens the search for it.")


def _token(entry: TokenLogit, sign: Sign, faint: bool) -> Chip:
    token = entry.token
    tone: Tone = "promotes" if sign is Sign.PROMOTES else "suppresses"
    hint = f"logit {signed(entry.logit)}, z {signed(entry.z)}"
    return chip(token.display, search_link(token.token_id), tone=tone, hint=hint, faint=faint)


if __name__ == "__main__":
    draw()
