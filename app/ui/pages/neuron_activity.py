"""When a neuron is active: on the prompt that it was opened from, on any text, which tokens switch it on, all of which
need the model; and in the texts of a corpus.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.answers import explain
from app.answers import neuron as answers
from app.attribution.frames import keys_frame
from app.charts import catalogue_charts, prompt_charts
from app.gallery import TRIALS
from app.serving import access, resources
from app.state.selections import MAX_TRIAL, NeuronSelection, PromptSelection, TokenSelection
from app.ui import navigation
from app.ui.common import attempt, data_table, folded, formulas, progress, switch, where_you_are, whole_files
from app.ui.components import Chip, TextLine, TextToken, chip, chips, excerpts, link, prompt_box
from app.ui.components.charts import show
from app.ui.navigation import fail
from app.words import figure, literal, signed
from db.catalogue.export import texts_frame
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign
from db.records import Token
from db.texts.records import AFTER, Excerpt, NeuronTexts
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.results import KeySide, KeyToken

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
    where_you_are(analysis, origin, neuron=neuron)
    found = sorted(active, key=lambda one: abs(one.score), reverse=True)
    with st.container(border=True):
        st.markdown(f"**On the prompt**, explaining {literal(f'“{analysis.target.token.display}”')}")
        tokens = [chip(token.display, current=at == analysis.position) for at, token in enumerate(analysis.tokens)]
        chips(tokens, key="origin", label="the prompt")
        for one in found[:_PARTS]:
            score, rest = answers.part_in_prompt(one, analysis)
            st.markdown(f"**{literal(score)}**{literal(rest)}")
        if len(found) > _PARTS:
            st.caption(f"and less from {len(found) - _PARTS} more positions")
    return Sign.of(found[0].activation)


# A neuron tried on a text: how active it is at every position, as coloured text.


def tried_on_text(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """A box for a text, and the text coloured."""
    st.header("Try it on a text", anchor=False)
    if not access.has_model():
        st.info("This server has no model, so it cannot tell how active the neuron is on a text.")
        return
    text = selection.trial or selection.origin.prompt
    typed = prompt_box(
        text,
        longest=MAX_TRIAL,
        placeholder="She moved from London to Paris and learned French.",
        key="neuron_trial",
        label="Text to try it on",
        button="Try it",
        quiet=True,
    )
    if typed.sent is not None:
        navigation.show(replace(selection, trial=typed.sent))
        st.rerun()
    if not text:
        st.caption("Type a text and press Enter, or take one of these: how active is the neuron at each token?")
        chips((link(one, replace(selection, trial=one)) for one in TRIALS), key="trials", label="texts to try it on")
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
            st.caption(literal(answers.router_in_words(tokens, found.router, neuron)))
        show(prompt_charts.activations(frame, "activation", "activation", neuron))
        st.markdown(literal(answers.most_active(tokens, found.activation)))
    else:
        last = len(tokens) - 1
        frame = frame.assign(attention_weight=found.attention_weight, arriving=found.arriving)
        words = "value at each position, before any attention"
        show(prompt_charts.activations(frame, "activation", words, neuron))
        st.caption(
            literal(f"What of it arrives at the last position, {last} “{tokens[last]}”: attention weight × value.")
        )
        words = f"attention of position {last} × value"
        show(prompt_charts.activations(frame, "arriving", words, neuron))
        st.markdown(literal(answers.most_active(tokens, found.arriving)))
    chips([link("Explain this text on the prompt page →", asked)], key="explain_trial", label="the text explained")
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
    if not access.has_model():
        st.info("This server has no model, so it cannot tell which tokens switch the neuron on.")
        return
    if not (selection.keys or resources.is_loaded(atlas)):
        st.caption("Which tokens’ embeddings the neuron reads the most from, by its key vector. This needs the model.")
        chips([link("Show what switches it on", replace(selection, keys=True))], key="ask_keys", label="the key side")
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
    figures = (
        f": mean {signed(side.mean)}, standard deviation {side.std:.2f}; {answers.reads_what_it_writes(side.cosine)}"
    )
    st.markdown(f"**{what}**{literal(figures)}")
    for name, words, found in (("highest", highest, side.highest), ("lowest", lowest, side.lowest)):
        st.caption(words.capitalize())
        items = [_chip(one, faint=name == "lowest" and side.name in ("key", "gate")) for one in found[:_CHIPS]]
        chips(items, key=f"key_{side.name}_{name}", label=f"{side.name}: {words}")


def _chip(one: "KeyToken", faint: bool) -> Chip:
    page = navigation.href(TokenSelection(one.token.id))
    return chip(one.token.display, page, hint=f"z {signed(one.z)}", note=signed(one.reading, 1), faint=faint)


# The texts that activate it most, how often it is active, and which end it then raises.

_FIRST = NeuronSelection().texts
_LONGEST_TOKEN = 100
_COUNTS = {"log": "logarithmic counts", "linear": "linear counts"}


def activating_texts(
    neuron: Neuron, found: NeuronTexts | None, order: tuple[Sign, Sign], selection: NeuronSelection, atlas: Catalogue
) -> None:
    """The strongest texts of both signs, figures, sign cases and files; without texts, a line that says how to get
    them, where that is of use to whoever looks.
    """
    if found is None or atlas.texts is None:
        _without(atlas)
        return
    st.header("Texts that activate it", anchor=False)
    stamp = atlas.texts.stamp
    st.markdown(literal(answers.activity(found)))
    if found.description is not None:
        st.markdown(literal(answers.described(found)))
    described = f": {stamp.description}" if stamp.description else ""
    st.caption(literal(f"From {stamp.documents:,} documents, {stamp.words}{described}."))
    for column, sign in zip(st.columns(2, gap="large"), order, strict=True):
        with column:
            _of_sign(found, sign, selection, atlas)
    _more(found, selection)
    left, right = st.columns(2, gap="large")
    with left:
        _histogram(found, selection)
    with right:
        st.markdown(literal(answers.spread(found)))
        if found.cases:
            _cases(found)
    folded("Download all its texts", partial(_files, found, atlas), key="texts")


def _without(atlas: Catalogue) -> None:
    if not access.adds_models():
        return
    if atlas.texts is not None:
        st.caption("The texts were read without attention neurons: “--attention” takes them in.")
    elif atlas.texts_problem:
        st.caption(literal(atlas.texts_problem))
    else:
        st.caption(
            "Which texts activate it was not looked at: “make texts” does that for the demo model, and “python -m "
            "indexer texts MODEL --corpus …” for any."
        )


# The texts, a line each.


def _of_sign(found: NeuronTexts, sign: Sign, selection: NeuronSelection, atlas: Catalogue) -> None:
    """Those at which it raises the tokens of one end."""
    name = "Positive" if sign is Sign.PROMOTES else "Negative"
    st.markdown(f"**{name}: it raises the tokens it {sign}**")
    shown = found.at(sign)[: selection.texts]
    if not shown:
        st.caption(f"It is never {name.lower()} in these texts.")
        return
    most = abs(found.at(sign)[0].peak)
    lines = [_line(one, rank, most, selection, atlas) for rank, one in enumerate(shown, 1)]
    excerpts(lines, most=most, key=f"texts_{sign}", label=f"strongest texts, {name.lower()}")


def _line(one: Excerpt, rank: int, most: float, selection: NeuronSelection, atlas: Catalogue) -> TextLine:
    whole = one.window == selection.window
    tokens, first, before = one.tokens, one.first, one.first > 0
    if whole:
        tokens, first, before = _window(one, atlas)
    known, size = dict(enumerate(one.activations, one.first)), atlas.info.vocabulary
    pieces = [
        _token(token, known.get(place), most, peak=place == one.position, page=token.token_id < size)
        for place, token in enumerate(tokens, first)
    ]
    named = f"of text {rank}, {figure(one.peak)}"
    words, turned = ("only the excerpt", None) if whole else ("whole text", one.window)
    links = [link(words, replace(selection, window=turned), name=f"{words} {named}")]
    if access.has_model():
        prompt = PromptSelection(answers.text_up_to_peak(atlas, one))
        links.append(link("open as a prompt", prompt, name=f"open as a prompt {named}"))
    gate = "" if one.gate is None else f" · gate {'positive' if one.gate == '+' else 'negative'}"
    return TextLine(
        label=f"text {rank}, activation {figure(one.peak)}",
        value=figure(one.peak),
        about=f"document {one.document:,}{gate}",
        tokens=tuple(pieces),
        links=tuple(links),
        before=before,
        after=not whole and len(one.tokens) - 1 - one.peak_at == AFTER,
    )


def _window(one: Excerpt, atlas: Catalogue) -> tuple[tuple[Token, ...], int, bool]:
    """All tokens of an excerpt's window, the position of the first, and whether its document has some before it."""
    assert atlas.texts is not None  # the excerpt is of them
    return atlas.texts.tokens_of(one.window), 0, atlas.texts.window(one.window)[1] > 0


def _token(token: Token, value: float | None, most: float, *, peak: bool, page: bool) -> TextToken:
    shown = f"“{shorten(token.display, 60)}”"
    known = "activation not stored" if value is None else figure(value)
    share = 0.0 if not value or not most else max(-1.0, min(1.0, value / most))
    hint = f"{shown}: {known}{', the peak' if peak else ''}"
    href = navigation.href(TokenSelection(token.token_id)) if page else ""
    return TextToken(shorten(token.display, _LONGEST_TOKEN), hint, share, peak, href)


def _more(found: NeuronTexts, selection: NeuronSelection) -> None:
    stored = max(len(found.positive), len(found.negative))
    items = []
    if selection.texts < stored:
        items.append(link(f"More texts, up to {stored} of each", replace(selection, texts=stored)))
    if selection.texts > _FIRST:
        items.append(link("Fewer texts", replace(selection, texts=_FIRST)))
    chips(items, key="more_texts", label="how many texts")


# Figures, sign cases and files.


def _histogram(found: NeuronTexts, selection: NeuronSelection) -> None:
    def to(counts: str) -> NeuronSelection:
        return replace(selection, linear=counts == "linear")

    switch("Counts", _COUNTS, "linear" if selection.linear else "log", key="neuron_counts", to=to)
    show(catalogue_charts.activation_histogram(answers.bins_frame(found), linear=selection.linear))


def _cases(found: NeuronTexts) -> None:
    """As a table in words."""
    st.markdown("**Which signs the gate and the up row have, and what comes of it**")
    lines = [answers.CASE_COLUMNS, ("---",) * len(answers.CASE_COLUMNS), *answers.case_rows(found)]
    st.markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _files(found: NeuronTexts, atlas: Catalogue) -> None:
    name = f"texts-of-{found.neuron.label.lower().replace('.', '-')}"
    whole_files(name, lambda: texts_frame(found), "texts", "Texts", record=found)
    formulas()
    st.caption(literal(f"In the shell: {answers.texts_command(found.neuron, atlas.info.model)}"))
