"""A neuron on the prompt from which its page was opened: its score, its activation and the end that was active."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.answers import explain, search
from app.charts.printed import coloured_text
from app.charts.style import Words
from app.gallery.examples import TRIALS
from app.state.selections import MAX_TRIAL, Alike, NeuronSelection, PromptSelection
from app.ui import navigation
from app.ui.common import control, data_table, folded, progress, sync, where_you_are
from app.ui.components import Cell, Column, TableRow, chip, chips, legend, link, neuron_table
from app.ui.components.plots import Piece, Scale, coloured
from app.ui.navigation import fail
from app.words import literal, nats, percent, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, Sign
from db.records import NeuronTokens, SimilarNeuron
from db.token_text import shorten

if TYPE_CHECKING:
    from indexer.directions import NeuronCosine


_SHOWN = 3


def active_end(neuron: Neuron, origin: PromptSelection, atlas: Catalogue) -> Sign | None:
    """Draw the neuron's part in the prompt; returns the end whose tokens it raised, None where that is not known."""
    try:
        with progress() as watch:
            analysis = explain.analysis(atlas, origin, watch)
        active = explain.on_prompt(atlas, origin, neuron)
    except AtlasError as error:
        fail(error)
        return None
    where_you_are(analysis, origin, key="trail", neuron=neuron)
    found = sorted(active, key=lambda one: abs(one.score), reverse=True)
    with st.container(border=True):
        target = literal(f"“{analysis.target.token.display}”")
        st.markdown(f"**On the prompt**, explaining {target}")
        tokens = [
            chip(token.display, current=place == analysis.position) for place, token in enumerate(analysis.tokens)
        ]
        chips(tokens, key="origin", here="neuron", label="the prompt")
        for one in found[:_SHOWN]:
            source = (
                ""
                if one.position is None
                else f" from position {one.position} “{analysis.tokens[one.position].display}”"
            )
            raised = "promoted" if one.activation > 0 else "suppressed"
            st.markdown(
                f"**{literal(nats(one.score))} nats**"
                + literal(f"{source}, activation {signed(one.activation)}: it raised its {raised} tokens.")
            )
        if len(found) > _SHOWN:
            st.caption(f"and less from {len(found) - _SHOWN} more positions")
    return Sign.PROMOTES if found[0].activation > 0 else Sign.SUPPRESSES


# A neuron tried on a text: how active it is at every position, as coloured text.

HERE = "neuron"


def trial(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """A box for a text, and the text coloured."""
    st.subheader("Try it on a text", anchor=False)
    text = selection.trial or selection.origin.prompt
    sync("neuron_trial", text)

    def changed() -> None:
        navigation.show(replace(selection, trial=st.session_state["neuron_trial"] or ""))

    st.text_area(
        "Text",
        key="neuron_trial",
        height=80,
        max_chars=MAX_TRIAL,
        placeholder="She moved from London to Paris and learned French.",
        on_change=changed,
        label_visibility="collapsed",
    )
    if not text.strip():
        st.caption("Type a text and leave the field, or take one of these: how active is the neuron at each token?")
        links = [link(one, navigation.href(HERE, replace(selection, trial=one))) for one in TRIALS]
        chips(links, key="trials", here=HERE, label="texts to try it on")
        return
    try:
        with progress() as watch:
            tokens, found = explain.activations(atlas, text, neuron, watch)
    except AtlasError as error:
        fail(error)
        return
    frame = pd.DataFrame({"position": range(len(tokens)), "token": tokens, "activation": found.activation})
    if found.attention_weight is None or found.arriving is None:
        _text(frame, "activation", "activation", neuron.label)
        st.markdown(_strongest(tokens, found.activation))
    else:
        last = len(tokens) - 1
        frame = frame.assign(attention_weight=found.attention_weight, arriving=found.arriving)
        _text(frame, "activation", "value at each position, before any attention", neuron.label)
        st.caption(
            literal(f"What of it arrives at the last position, {last} “{tokens[last]}”: attention weight × value.")
        )
        _text(frame, "arriving", f"attention of position {last} × value", neuron.label)
        st.markdown(_strongest(tokens, found.arriving))
    explained = link("Explain this text on the prompt page →", navigation.href("prompt", PromptSelection(text)))
    chips([explained], key="explain_trial", here=HERE, label="the text explained")
    folded("The same as a data table, with CSV export", lambda: data_table(frame, "activations"), key="activations")


def _strongest(tokens: tuple[str, ...], activation: tuple[float, ...]) -> str:
    """Where the neuron is most active, and what that does."""
    place = max(range(len(tokens)), key=lambda one: abs(activation[one]))
    value = activation[place]
    if not value:
        return "It is not active anywhere in this text."
    raised, lowered = ("promotes", "suppresses") if value > 0 else ("suppresses", "promotes")
    return literal(
        f"Most active at position {place}, “{shorten(tokens[place], 40)}”: {signed(value)}. There it raises the tokens "
        f"it {raised} and lowers those it {lowered}."
    )


def _text(frame: pd.DataFrame, column: str, words: str, label: str) -> None:
    most = float(frame[column].abs().max())
    weights = frame["attention_weight"] if column == "arriving" else [None] * len(frame)
    pieces = [
        Piece(
            token,
            value / most if most else 0.0,
            f"position {position}: {signed(value, 3)}" + ("" if weight is None else f", attention {percent(weight)}"),
        )
        for position, token, value, weight in zip(
            frame["position"], frame["token"], frame[column], weights, strict=True
        )
    ]
    scale = Scale(f"{words}: negative | positive", signed(-most), signed(most))
    coloured(pieces, scale, key=f"trial_{column}", here=HERE, label=f"the text, coloured by {column}")
    said = Words(f"{label}: {words}", unit=column, sides=("negative", "positive"))
    control(f"trial_{column}", lambda: coloured_text(frame, column, said), frame)


# A neuron's relatives: those that share its tokens, and those whose vectors point the same way.

_COUNT = 12
_WAYS = {str(Alike.TOKENS): "by shared tokens", str(Alike.VALUE): "by value vector"}
_NAME = Column("neuron", "name")
_SHARED = (
    _NAME,
    Column("similarity", "bar", "1 for the same tokens at the same ranks; negative where they stand at opposite ends"),
    Column("shared tokens", "tokens"),
)
_COSINE = (
    _NAME,
    Column("cosine", "bar", "of the two value vectors; negative where one writes the opposite of the other"),
    Column("tokens it promotes", "tokens"),
)


def alike(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """Either of the two; each row keeps the prompt that the neuron was opened from."""
    st.subheader("Similar neurons", anchor=False)
    sync("neuron_alike", str(selection.alike))

    def changed() -> None:
        chosen = Alike(st.session_state["neuron_alike"] or Alike.TOKENS)
        navigation.show(replace(selection, alike=chosen))

    st.segmented_control(
        "Similar",
        list(_WAYS),
        key="neuron_alike",
        format_func=_WAYS.__getitem__,
        on_change=changed,
        label_visibility="collapsed",
        required=True,
    )
    if selection.alike is Alike.VALUE:
        _by_value(neuron, selection, atlas)
    else:
        _by_tokens(neuron, selection, atlas)
    legend("ffn", "attention")


def _by_tokens(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    found = atlas.similar(neuron, limit=_COUNT)
    if not found:
        st.caption("No other neuron shares a stored token with it.")
        return
    rows = [_shared_row(one, selection) for one in found]
    neuron_table(_SHARED, rows, key="similar", here=HERE, label="similar neurons")
    st.caption(
        "Alike in their first tokens of both ends, earlier ones counting more. A negative similarity: what one "
        "promotes the other suppresses."
    )


def _shared_row(one: SimilarNeuron, selection: NeuronSelection) -> TableRow:
    value = -one.similarity if one.opposite else one.similarity
    return TableRow(
        _page(one.neuron, selection),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            Cell(signed(value), share=value),
            Cell(chips=tuple(chip(token.display) for token in one.shared[:10])),
        ),
    )


def _by_value(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    try:
        with progress() as watch:
            found = search.alike_by_value(atlas, neuron, _COUNT, watch)
    except AtlasError as error:
        fail(error)
        return
    strongest = atlas.strongest_tokens([one.neuron for one in found], 6)
    rows = [_cosine_row(one, strongest[one.neuron], selection) for one in found]
    neuron_table(_COSINE, rows, key="similar", here=HERE, label="similar neurons")
    st.caption(literal(f"Of all {atlas.info.neurons:,} neurons, by the cosine of what they write."))


def _cosine_row(one: "NeuronCosine", tokens: NeuronTokens, selection: NeuronSelection) -> TableRow:
    return TableRow(
        _page(one.neuron, selection),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            Cell(signed(one.cosine), share=one.cosine),
            Cell(chips=tuple(chip(token.display, tone="promotes") for token in tokens.promotes)),
        ),
    )


def _page(neuron: Neuron, selection: NeuronSelection) -> str:
    return navigation.href(HERE, replace(selection, label=neuron.label))
