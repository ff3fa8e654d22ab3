"""The texts that activate a neuron most, how often it is active, and which end it then raises."""

from dataclasses import replace
from functools import partial

import streamlit as st

from app.answers import neuron as answers
from app.charts import catalogue_charts
from app.serving import access
from app.state.selections import NeuronSelection, PromptSelection, TokenSelection
from app.ui import navigation
from app.ui.common import choice, folded, formulas, whole_files
from app.ui.components import TextLine, TextToken, chips, excerpts, link
from app.ui.components.charts import show
from app.words import figure, literal
from db.catalogue.export import texts_frame
from db.catalogue.store import Catalogue
from db.neuron import Neuron, Sign
from db.records import Token
from db.texts.records import AFTER, Excerpt, NeuronTexts
from db.token_text import shorten

HERE = "neuron"
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
        _without(neuron, atlas)
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
    folded("Download all its texts", partial(_files, found), key="texts")


def _without(neuron: Neuron, atlas: Catalogue) -> None:
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
    excerpts(lines, most=most, key=f"texts_{sign}", here=HERE, label=f"strongest texts, {name.lower()}")


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
    links = [link(words, navigation.href(HERE, replace(selection, window=turned)), name=f"{words} {named}")]
    if access.has_model():
        prompt = PromptSelection(answers.text_up_to_peak(atlas, one))
        links.append(link("open as a prompt", navigation.href("prompt", prompt), name=f"open as a prompt {named}"))
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
    href = navigation.href("token", TokenSelection(token.token_id)) if page else ""
    return TextToken(shorten(token.display, _LONGEST_TOKEN), hint, share, peak, href)


def _more(found: NeuronTexts, selection: NeuronSelection) -> None:
    stored = max(len(found.positive), len(found.negative))
    items = []
    if selection.texts < stored:
        items.append(
            link(f"More texts, up to {stored} of each", navigation.href(HERE, replace(selection, texts=stored)))
        )
    if selection.texts > _FIRST:
        items.append(link("Fewer texts", navigation.href(HERE, replace(selection, texts=_FIRST))))
    if items:
        chips(items, key="more_texts", here=HERE, label="how many texts")


# Figures, sign cases and files.


def _histogram(found: NeuronTexts, selection: NeuronSelection) -> None:
    def changed() -> None:
        linear = st.session_state["neuron_counts"] == "linear"
        navigation.show(replace(selection, linear=linear))

    chosen = "linear" if selection.linear else "log"
    choice("Counts", _COUNTS, chosen, key="neuron_counts", changed=changed, hidden=True)
    show(catalogue_charts.activation_histogram(answers.bins_frame(found), linear=selection.linear))


def _cases(found: NeuronTexts) -> None:
    """As a table in words."""
    st.markdown("**Which signs the gate and the up row have, and what comes of it**")
    lines = [answers.CASE_COLUMNS, ("---",) * len(answers.CASE_COLUMNS), *answers.case_rows(found)]
    st.markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _files(found: NeuronTexts) -> None:
    name = f"texts-of-{found.neuron.label.lower().replace('.', '-')}"
    whole_files(name, lambda: texts_frame(found), "texts", "Texts", record=found)
    formulas()
    st.caption(f"In the shell: python -m db texts {found.neuron.label} --json")
