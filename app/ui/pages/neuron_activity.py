"""When a neuron is active: on the prompt that it was opened from, on any text, and which tokens switch it on.

These parts of the neuron page need the model.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.answers import explain
from app.answers.neuron import most_active, part_in_prompt, reads_what_it_writes, router_in_words
from app.attribution.frames import keys_frame
from app.charts import prompt_charts
from app.gallery import TRIALS
from app.serving import resources
from app.serving.access import has_model
from app.state.selections import MAX_TRIAL, NeuronSelection, PromptSelection, TokenSelection
from app.ui import navigation
from app.ui.common import attempt, data_table, folded, progress, where_you_are
from app.ui.components import Chip, chip, chips, link, prompt_box
from app.ui.components.charts import show
from app.ui.navigation import fail
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign

if TYPE_CHECKING:
    from app.attribution.results import KeySide, KeyToken

HERE = "neuron"
_PARTS = 3


def on_prompt(neuron: Neuron, origin: PromptSelection, atlas: Catalogue) -> Sign | None:
    """Draw the neuron's part in the prompt; returns the end whose tokens it raised, None where that is not known."""
    try:
        with progress() as watch:
            analysis = explain.analysis(atlas, origin, watch)
        active = explain.detail(atlas, origin, "neuron", neuron)
    except AtlasError as error:
        fail(error)
        return None
    where_you_are(analysis, origin, key="trail", neuron=neuron)
    found = sorted(active, key=lambda one: abs(one.score), reverse=True)
    with st.container(border=True):
        st.markdown(f"**On the prompt**, explaining {literal(f'“{analysis.target.token.display}”')}")
        tokens = [chip(token.display, current=at == analysis.position) for at, token in enumerate(analysis.tokens)]
        chips(tokens, key="origin", here=HERE, label="the prompt")
        for one in found[:_PARTS]:
            score, rest = part_in_prompt(one, analysis)
            st.markdown(f"**{literal(score)}**{literal(rest)}")
        if len(found) > _PARTS:
            st.caption(f"and less from {len(found) - _PARTS} more positions")
    return Sign.of(found[0].activation)


# A neuron tried on a text: how active it is at every position, as coloured text.


def tried_on_text(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """A box for a text, and the text coloured."""
    st.header("Try it on a text", anchor=False)
    if not has_model():
        st.info("This server has no model, so it cannot tell how active the neuron is on a text.")
        return
    text = selection.trial or selection.origin.prompt
    typed = prompt_box(
        text,
        longest=MAX_TRIAL,
        placeholder="She moved from London to Paris and learned French.",
        key="neuron_trial",
        here=HERE,
        label="Text to try it on",
        button="Try it",
        quiet=True,
    )
    if typed.sent is not None:
        navigation.show(replace(selection, trial=typed.sent))
        st.rerun()
    if not text:
        st.caption("Type a text and press Enter, or take one of these: how active is the neuron at each token?")
        links = [link(one, navigation.href(HERE, replace(selection, trial=one))) for one in TRIALS]
        chips(links, key="trials", here=HERE, label="texts to try it on")
        return
    asked = PromptSelection(text)
    if not selection.trial:
        asked = replace(asked, bare=selection.origin.bare, chat=selection.origin.chat)
    answer = attempt(partial(explain.activations, atlas, asked, neuron))
    if answer is None:
        return
    tokens, found = answer
    frame = pd.DataFrame({"position": range(len(tokens)), "token": tokens, "activation": found.activation})
    if found.attention_weight is None or found.arriving is None:
        if found.router is not None:
            frame = frame.assign(router=found.router)
            st.caption(literal(router_in_words(tokens, found.router, neuron)))
        show(prompt_charts.activations(frame, "activation", "activation", neuron), HERE)
        st.markdown(literal(most_active(tokens, found.activation)))
    else:
        last = len(tokens) - 1
        frame = frame.assign(attention_weight=found.attention_weight, arriving=found.arriving)
        words = "value at each position, before any attention"
        show(prompt_charts.activations(frame, "activation", words, neuron), HERE)
        st.caption(
            literal(f"What of it arrives at the last position, {last} “{tokens[last]}”: attention weight × value.")
        )
        words = f"attention of position {last} × value"
        show(prompt_charts.activations(frame, "arriving", words, neuron), HERE)
        st.markdown(literal(most_active(tokens, found.arriving)))
    explained = link("Explain this text on the prompt page →", navigation.href("prompt", asked))
    chips([explained], key="explain_trial", here=HERE, label="the text explained")
    folded("The same as a data table, with CSV export", lambda: data_table(frame, "activations"), key="activations")


# What switches it on: the tokens whose embeddings it reads the most from, made when it is asked for.

_CHIPS = 16
_MEANING = {
    "key": ("The key", "it is switched on by", "it is left off by"),
    "gate": ("The gate", "it opens for", "it stays shut for"),
    "up": ("Beside the gate, the up row", "the activation is positive for", "the activation is negative for"),
    "value": ("What it takes from a source position", "positive from", "negative from"),
}
"""Of each row that the neuron reads with: what it is, and what its two ends do."""
_LEAD = {
    NeuronKind.FFN: "Each token’s input embedding, read with the neuron’s key vector as if nothing else stood in the "
    "residual stream.",
    NeuronKind.ATTENTION: "Each token’s input embedding, read with the neuron’s row of the value projection as if "
    "nothing else stood at the source position. How much of it arrives depends on the attention weight.",
}
_GATED = " The gate decides how far the neuron opens, and the up row the sign of its activation."


def switched_on_by(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """Both ends of every row that the neuron reads with, where they are asked for or the model is loaded anyway."""
    st.header("What switches it on", anchor=False)
    if not has_model():
        st.info("This server has no model, so it cannot tell which tokens switch the neuron on.")
        return
    if not (selection.keys or resources.is_loaded(atlas)):
        st.caption("Which tokens’ embeddings the neuron reads the most from, by its key vector. This needs the model.")
        asked = link("Show what switches it on", navigation.href(HERE, replace(selection, keys=True)))
        chips([asked], key="ask_keys", here=HERE, label="the key side")
        return
    sides = attempt(partial(explain.key_sides, atlas, neuron))
    if sides is None:
        return
    st.caption(_LEAD[neuron.kind] + (_GATED if len(sides) > 1 else ""))
    for column, side in zip(st.columns(len(sides), gap="large"), sides, strict=True):
        with column:
            _side(side)
    st.caption(
        literal(
            f"The small figures: key · normed embedding, before the activation function; exact over all "
            f"{atlas.info.tokens:,} tokens. In later layers much else stands in the residual stream, so that these "
            "tokens describe the key rather than predict the activation."
        )
    )
    folded(
        "The same as a data table, with CSV export",
        lambda: data_table(keys_frame(sides), "key_side"),
        key="key_side",
    )


def _side(side: "KeySide") -> None:
    what, highest, lowest = _MEANING[side.name]
    figures = f": mean {signed(side.mean)}, standard deviation {side.std:.2f}; {reads_what_it_writes(side.cosine)}"
    st.markdown(f"**{what}**{literal(figures)}")
    for name, words, found in (("highest", highest, side.highest), ("lowest", lowest, side.lowest)):
        st.caption(words.capitalize())
        items = [_chip(one, faint=name == "lowest" and side.name in ("key", "gate")) for one in found[:_CHIPS]]
        chips(items, key=f"key_{side.name}_{name}", here=HERE, label=f"{side.name}: {words}")


def _chip(one: "KeyToken", faint: bool) -> Chip:
    page = navigation.href("token", TokenSelection(one.token.id))
    return chip(one.token.display, page, hint=f"z {signed(one.z)}", note=signed(one.reading, 1), faint=faint)
