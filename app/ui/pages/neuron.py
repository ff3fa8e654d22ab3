"""Neuron: what one component writes, which others are like it, and where it ranks in its layer."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pandas as pd
import streamlit as st

from app.answers import neuron as answers
from app.answers import stored
from app.answers.neuron import FIGURES, LayerRank, NeuronPeak
from app.charts import KIND_NAMES, catalogue_charts
from app.gallery import WALKTHROUGH_PROMPT
from app.serving import access, resources
from app.serving.access import has_model
from app.state.selections import NeuronSelection, OverviewSelection, PromptSelection, SavedSelection, SimilarBy
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import (
    attempt,
    data_table,
    folded,
    footer,
    keep,
    on_click,
    open_catalogue,
    saved_href,
    say_what_was_done,
    search_link,
    switch,
    sync,
    title,
)
from app.ui.components import Cell, Chip, Column, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import fail, warn
from app.ui.pages.neuron_activity import activating_texts, on_prompt, switched_on_by, tried_on_text
from app.words import literal, nats, percent, signed
from db.catalogue.export import card_frame
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.groups import groups_with
from db.neuron import Neuron, Sign
from db.records import NeuronCard, TokenLogit
from db.texts.records import NeuronTexts
from db.token_text import COMMAS, legible, shorten
from db.workspace import Mention, NeuronNote, Workspace
from db.workspace.records import MAX_NOTE

_LEAD = "One component of the model: its tokens, its figures and its layer."
_TYPE = (
    "Type a label such as L{0}.F11 (layer, FFN index) or L{0}.H1.N7 (layer, head, dimension), or look at one of these:"
)
_SIGN_RULE = (
    "Sign rule: a positive activation raises the promoted tokens and lowers the suppressed ones; a negative activation "
    "does the opposite."
)


def draw() -> None:
    """The page."""
    atlas = open_catalogue()
    selection, notices = NeuronSelection.read(navigation.params(), resources.limits(atlas))
    card, wrong = None, []
    try:
        card = atlas.neuron(Neuron.parse(selection.label)) if selection.label else None
    except AtlasError as error:
        wrong = [str(error)]
    if card is not None:
        _neuron_page(card, selection, notices, atlas)
    else:
        title("Neuron", _LEAD)
        warn(notices)
        labels = answers.examples(atlas)
        _field(selection, labels[0])
        warn(wrong)
        st.caption("Neurons to look at:" if wrong else _TYPE.format(atlas.info.layers - 1))
        chips((link(label, NeuronSelection(label)) for label in labels), key="examples", label="neurons to look at")
    footer(atlas)


def _neuron_page(card: NeuronCard, selection: NeuronSelection, notices: list[str], atlas: Catalogue) -> None:
    neuron = card.neuron
    within = "" if neuron.head is None else f"head {neuron.head} in "
    within = within if neuron.expert is None else f"expert {neuron.expert} in "
    where = f"{within}layer {neuron.layer}"
    texts = attempt(lambda _watch: answers.texts_of(atlas, neuron))
    called = _called(neuron, texts, atlas)
    title(f"{neuron.label}{called} · {KIND_NAMES[neuron.kind]} neuron of {where}", _SIGN_RULE)
    navigation.name_tab("", neuron.label)
    warn(notices)
    if card.generic:
        st.caption(f"{card.generic[0].upper()}{card.generic[1:]} of many kinds, so that its being in one says little.")
    layer = atlas.layer_statistics(neuron.layer, neuron.kind)
    rank = answers.rank_in_layer(neuron, layer, atlas.layout.sizes(neuron.layer))
    _paths(neuron, selection, rank, atlas)
    active = on_prompt(neuron, selection.origin, atlas) if selection.origin.prompt else None
    usual = None if texts is None else texts.usual
    first = active or usual or Sign.PROMOTES
    order = (first, first.other)
    _ends(card, order, active, None if texts is None else answers.clearly_usual(texts))
    activating_texts(neuron, texts, order, selection, atlas)
    _notes(neuron, atlas)
    switched_on_by(neuron, selection, atlas)
    tried_on_text(neuron, selection, atlas)
    _similar(neuron, selection, atlas)
    _neighbours(neuron, selection, layer, atlas)
    _among_layer(card, layer, rank)
    folded(
        "All stored tokens as a data table, with CSV export",
        lambda: data_table(card_frame(card), "stored_tokens"),
        key="stored_tokens",
    )


def _page(neuron: Neuron, selection: NeuronSelection) -> str:
    """The page of another neuron, opened from the same prompt."""
    return navigation.href(replace(selection, label=neuron.label, window=None))


def _called(neuron: Neuron, texts: NeuronTexts | None, atlas: Catalogue) -> str:
    """What people call it, else what its tokens and texts do, for the heading; empty where neither is known."""
    own = stored.called(atlas, (neuron,)).get(neuron)
    made = "" if texts is None or texts.name.text is None else legible(texts.name.text)
    return f" “{own or made}”" if own or made else ""


def _field(selection: NeuronSelection, example: str = "") -> None:
    sync("neuron_label", selection.label)

    def changed() -> None:
        navigation.show(replace(selection, label=(st.session_state["neuron_label"] or "").strip()))

    st.text_input(
        "Neuron",
        key="neuron_label",
        max_chars=40,
        placeholder=example,
        on_change=changed,
        label_visibility="collapsed",
    )


def _paths(neuron: Neuron, selection: NeuronSelection, rank: LayerRank, atlas: Catalogue) -> None:
    """To another neuron by label, to the next one, and back to the prompt."""
    left, right = st.columns([2, 5], gap="medium", vertical_alignment="center")
    with left:
        _field(selection)
    links = []
    if rank.before is not None:
        links.append(link(f"← {rank.before.label}", _page(rank.before, selection)))
    if rank.after is not None:
        links.append(link(f"{rank.after.label} →", _page(rank.after, selection)))
    for group in groups_with(atlas.maps, atlas.layout.neuron_id(neuron)):
        where = OverviewSelection(alike=group.by, group=group.group)
        links.append(link(f"Group {group.group}", where))
    if has_model():
        origin = selection.origin if selection.origin.prompt else PromptSelection(WALKTHROUGH_PROMPT)
        links.append(link("Steer with it", lists.steer_link(neuron, origin)))
    if selection.origin.prompt:
        links.append(link("↩ Back to the prompt", selection.origin))
    with right, st.container(horizontal=True, vertical_alignment="center"):
        chips(links, key="paths", label="other neurons")
        label, prompt = neuron.label, navigation.in_a_line(selection.origin.prompt)
        keep(selection, label, f"{label}, on “{prompt}”" if prompt else label, atlas)


# Its two ends.

_CHIPS = 24
_BARS = 20


def _ends(card: NeuronCard, order: tuple[Sign, Sign], active: Sign | None, usual: Sign | None) -> None:
    """Both ends; the one that raised its tokens on the prompt, or else usually does, first and strong, the other faint
    where there is a prompt.
    """
    frame = card_frame(card)
    for column, sign in zip(st.columns(2, gap="large"), order, strict=True):
        faint = active is not None and sign is not active
        with column:
            state = "" if usual is None else ", usually raised" if sign is usual else ", usually lowered"
            if active is not None:
                state = ", lowered on this prompt" if faint else ", raised on this prompt"
                state += "" if usual in (None, active) else ", unlike usually"
            st.header(("Promotes" if sign is Sign.PROMOTES else "Suppresses") + state, anchor=False)
            entries = card.top if sign is Sign.PROMOTES else card.bottom
            links = [_token(entry, sign, faint) for entry in entries[:_CHIPS]]
            chips(links, key=f"end_{sign}", label=f"tokens it {sign}")
            show(catalogue_charts.token_bars(frame, sign, _BARS, faint=faint))
    legend("promotes", "suppresses")
    st.caption("A token opens the search for it.")


def _token(entry: TokenLogit, sign: Sign, faint: bool) -> Chip:
    hint = f"logit {signed(entry.logit)}, z {signed(entry.z)}"
    return chip(entry.token.display, search_link(entry.token.token_id), tone=sign.value, hint=hint, faint=faint)


# What people noted of it, and the saved explanations in whose lists it stands.

_MENTIONS = 20


def _notes(neuron: Neuron, atlas: Catalogue) -> None:
    """Nothing where this server keeps nothing, or there is nothing to read and nobody may write."""
    if not stored.offered():
        return
    model, own, may_write = atlas.info.model, atlas.info.checkpoint, access.may_write()
    try:
        workspace = stored.workspace()
        among = stored.noted_among(workspace, atlas)
        note = None if workspace is None else workspace.note(model, neuron, among)
        found = () if workspace is None else workspace.mentions(model, neuron, checkpoint=own, limit=_MENTIONS)
        if note is None and not found and not may_write:
            return
        st.header("Notes", anchor=False)
        _note(note)
        if may_write:
            _note_form(neuron, model, note, among)
        if workspace is not None and found:
            _mentions(neuron, found, workspace, atlas)
    except AtlasError as error:
        fail(error)


def _note(note: NeuronNote | None) -> None:
    if note is None:
        st.caption("Nobody has written a note on this neuron yet.")
        return
    for line in note.text.splitlines():
        st.markdown(literal(line) or "&nbsp;")
    if note.tags:
        chips((link(tag, SavedSelection(tag=tag)) for tag in note.tags), key="note_tags", label="tags")


def _note_form(neuron: Neuron, model: str, note: NeuronNote | None, among: tuple[str, ...]) -> None:
    """The note that is replaced is named, so that nobody overwrites one that they have not seen."""
    seen = "" if note is None else note.updated_at
    key = f"{model}_{among[0]}_{neuron.label}_{seen}"

    def clicked() -> None:
        state = st.session_state
        tags = re.split(f"[{COMMAS}]", state[f"tags_{key}"] or "")
        text = state[f"note_{key}"] or ""
        stored.workspace_to_write().write_note(model, neuron, text, tags, seen=seen, among=among)

    with st.expander("Write a note" if note is None else "Change the note", icon=":material/edit_note:"):
        with st.form(f"note_form_{key}", border=False):
            noted, tags = ("", "") if note is None else (note.text, ", ".join(note.tags))
            st.text_area("Note", value=noted, key=f"note_{key}", max_chars=MAX_NOTE, placeholder="What it stands for …")
            st.text_input("Tags", value=tags, key=f"tags_{key}", max_chars=500, placeholder="geography, capitals")
            st.form_submit_button("Keep", type="primary", on_click=partial(on_click, clicked))
        st.caption("Plain text; everybody who uses this server sees it. Tags are separated by commas.")
    say_what_was_done()


def _mentions(neuron: Neuron, found: tuple[Mention, ...], workspace: Workspace, atlas: Catalogue) -> None:
    rows, analyses = workspace.count_mentions(atlas.info.model, neuron, checkpoint=atlas.info.checkpoint)
    st.markdown(f"**Active in {analyses:,} saved explanation{'' if analyses == 1 else 's'}**")

    lists.table(
        found,
        [
            lists.text("saved explanation", "name", lambda one: shorten(one.saved.title, 60), "a click opens it"),
            lists.text("list", "source", lambda one: one.role, "in which of its lists the neuron stands"),
            lists.bar("score (nats)", found, lambda one: one.score, nats, "there"),
            lists.text(
                "activation", "number", lambda one: "" if one.activation is None else signed(one.activation), "there"
            ),
            lists.text(
                "from", "number", lambda one: "" if one.position is None else f"{one.position}", "source position"
            ),
        ],
        lambda one: saved_href(one.saved, atlas),
        key="mentions",
        label="saved explanations",
    )
    if rows > len(found):
        st.caption(f"The {len(found)} with the largest scores, of {rows:,}.")


# Similar neurons: those that share its tokens, or those whose vectors point the same way.

_COUNT = 12
_WAYS = {str(SimilarBy.TOKENS): "by shared tokens", str(SimilarBy.VALUE): "by value vector"}


def _similar(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    st.header("Similar neurons", anchor=False)

    def to(by: str) -> NeuronSelection:
        return replace(selection, similar_by=SimilarBy(by))

    both = has_model()  # which vectors point the same way is for the model's weights to say
    if both:
        switch("Similar", _WAYS, selection.similar_by, key="neuron_similar_by", to=to)
    if both and selection.similar_by is SimilarBy.VALUE:
        _by_value(neuron, selection, atlas)
    else:
        _by_tokens(neuron, selection, atlas)
    legend("ffn", "attention")


def _by_tokens(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    found = atlas.similar(neuron, limit=_COUNT)
    if not found:
        st.caption("No other neuron shares a stored token with it.")
        return
    hint = "1 for the same tokens at the same ranks; negative where they stand at opposite ends"
    lists.table(
        found,
        [
            lists.named(atlas.strongest_tokens([one.neuron for one in found], 1), atlas),
            lists.bar("similarity", found, lambda one: one.signed, signed, hint, full=1.0),
            lists.chips_of("shared tokens", "tokens", lambda one: lists.token_chips(one.shared[:10])),
        ],
        lambda one: _page(one.neuron, selection),
        key="similar",
        label="similar neurons",
    )
    st.caption(
        "Similar in the first tokens of both ends; earlier ones count more. A negative similarity: what one promotes "
        "the other suppresses."
    )


def _by_value(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    found = attempt(partial(answers.similar_by_value, atlas, neuron, _COUNT))
    if found is None:
        return
    strongest = atlas.strongest_tokens([one.neuron for one in found], 6)
    hint = "of the two value vectors; negative where one writes the opposite of the other"
    lists.table(
        found,
        [
            lists.named(strongest, atlas),
            lists.bar("cosine", found, lambda one: one.cosine, signed, hint, full=1.0),
            lists.both_ends(strongest),
        ],
        lambda one: _page(one.neuron, selection),
        key="similar",
        label="similar neurons",
    )
    st.caption(literal(f"Of all {atlas.info.neurons:,} neurons, by the cosine of what they write."))


# Its neighbours in the model: those next to it, and for an attention neuron all of its head.

_DEPTH = 6


def _neighbours(neuron: Neuron, selection: NeuronSelection, layer: pd.DataFrame, atlas: Catalogue) -> None:
    if neuron.head is None:
        st.caption(f"Its neighbours in layer {neuron.layer}; their order means nothing")
    else:
        st.header(f"The other dimensions of head {neuron.head} in layer {neuron.layer}", anchor=False)
        _head(neuron, selection, layer, atlas)
        st.caption("The dimensions next to it")
    around = answers.layer_neighbours(atlas, neuron)
    links = [link(one.label, _page(one, selection), current=one == neuron) for one in around]
    chips(links, key="neighbours", label="neighbours in the model")


def _head(neuron: Neuron, selection: NeuronSelection, layer: pd.DataFrame, atlas: Catalogue) -> None:
    others = answers.head_by_peak(neuron, layer)
    if not others:
        st.caption("The head has no other dimension.")
        return
    strongest = atlas.strongest_tokens([one.neuron for one in others], _DEPTH)

    def end(sign: Sign) -> tuple[Column, Callable[[NeuronPeak], Cell]]:
        return Column(sign.value, "list"), lambda one: Cell(
            tone=sign.value, chips=lists.token_chips(strongest[one.neuron].at(sign), sign.value)
        )

    hint = "the larger |z| of its two first tokens, with its sign: how sharply it points"
    lists.table(
        others,
        [
            lists.named(strongest, atlas),
            lists.bar("peak z", others, lambda one: one.z, signed, hint),
            end(Sign.PROMOTES),
            end(Sign.SUPPRESSES),
        ],
        lambda one: _page(one.neuron, selection),
        key="head",
        label="the other dimensions of its head",
    )


# Where its vector and logits lie among the others of its layer and kind.

_FIGURES = {
    "norm": ("norm of the value vector", "norm", "longer than"),
    "std": ("standard deviation of its logits", "logits", "wider than"),
    "top_z": ("z of its most promoted token", "z", "more peaked than"),
    "bottom_z": ("z of its most suppressed token", "z", "more peaked than"),
}


def _among_layer(card: NeuronCard, layer: pd.DataFrame, rank: LayerRank) -> None:
    """A sentence, and a histogram of each figure with the neuron's own place."""
    neuron = card.neuron
    st.header(f"Among the {len(layer):,} {KIND_NAMES[neuron.kind]} neurons of layer {neuron.layer}", anchor=False)
    st.markdown(literal(answers.rank_sentence(card, rank)))
    for column, name in zip(st.columns(4, gap="small"), FIGURES, strict=True):
        words, unit, more = _FIGURES[name]
        value = rank.figures[name]
        with column:
            show(catalogue_charts.histogram(layer, name, value, words, unit))
            own = signed(value) if unit == "z" else f"{value:.2f}"
            st.caption(literal(f"Its own: {own}, {more} {percent(rank.exceeds[name])} of the others"))
    st.caption("Grey: all neurons of this kind in the layer. The upright line: this neuron.")


if __name__ == "__main__":
    draw()
