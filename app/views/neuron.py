"""Neuron: what one component writes, and where it stands among its layer; on a prompt, which of its ends was active."""

from dataclasses import replace

import streamlit as st

from app import navigation
from app.asking.examples import NEURONS
from app.asking.standing import Standing, standing_of
from app.drawing import charts
from app.drawing.components import Chip, Tone, chip, chips, legend, link
from app.drawing.palette import KIND_NAMES
from app.drawing.wording import signed
from app.notices import warn
from app.state.selection import NeuronSelection
from app.views.about import about
from app.views.alike import alike
from app.views.data_table import data_table
from app.views.folded import folded
from app.views.neuron_beside import beside
from app.views.neuron_keys import key_side
from app.views.neuron_notes import notes
from app.views.neuron_standing import standing_among
from app.views.neuron_trial import trial
from app.views.on_prompt import active_end
from app.views.pictures import shown
from app.views.shared import footer, limits, open_catalogue, search_link, sync, title
from db.answers import NeuronCard, TokenLogit
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.frames import card_frame
from db.neuron import Neuron, Sign

HERE = "neuron"
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
        _page(card, selection, notices, atlas)
    footer(atlas, HERE)


def _card(selection: NeuronSelection, atlas: Catalogue) -> NeuronCard | None:
    return atlas.neuron(Neuron.parse(selection.label)) if selection.label else None


def _page(card: NeuronCard | None, selection: NeuronSelection, notices: list[str], atlas: Catalogue) -> None:
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
            chart = charts.token_bars(frame, sign, _BARS, faint=faint)
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
