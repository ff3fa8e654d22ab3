"""What a search for a concept was taken to mean: a line or two above its results, and the means to change it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import streamlit as st

from app.answers import search
from app.state.address import MAX_TOKENS
from app.state.selections import MAX_TEXT, SearchSelection, TokenSelection
from app.ui import navigation
from app.ui.common import on_click, say_what_was_done
from app.ui.components import Chip, chip, chips, link
from app.words import literal, signed
from db.catalogue.concepts import families
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.records import Concept, Origin, WeightedToken
from db.token_text import display, shorten

_SHOWN = 5
_ORIGINS = {
    Origin.WORD: "the word itself",
    Origin.BEGINNING: "begins like a word that is no token",
    Origin.NEIGHBOUR: "near the words in the model’s unembedding",
    Origin.COMPANY: "at the ends of several of the neurons that cover the others best",
    Origin.CHOSEN: "added",
}
_NEAR = (Origin.NEIGHBOUR, Origin.COMPANY)


def concept_tokens(concept: Concept, selection: SearchSelection, atlas: Catalogue) -> None:
    """What the text was taken to mean, and the means to change it."""
    own: list[Chip] = []
    near: list[Chip] = []
    avoided: list[Chip] = []
    for family in families(concept):
        is_near = all(entry.origin in _NEAR for entry in family)
        (avoided if family[0].weight <= 0 else near if is_near else own).append(_chip(family, selection))
    _unmatched(concept, selection)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="concept_box"):
        for name, items in (("own", own), ("near", near[:_SHOWN]), ("avoided", avoided)):
            chips(items, key=f"concept_{name}", label=f"{name} tokens", width="content")
        _dropped(selection, atlas)
        if concept.tokens:
            _widening(concept, selection)
            with st.popover("All tokens"):
                for family in families(concept):
                    items = [_chip([entry], selection) for entry in family]
                    chips(items, key=f"every_{family[0].token.token_id}", label=family[0].token.display)
        _add(selection, atlas)
        if concept.passed_over:
            named = ", ".join(f"“{shorten(display(one.encode()), 40)}”" for one in concept.passed_over)
            st.caption(literal(f"Passed over: {named}. In quotation marks a word counts."), width="content")


def _chip(family: Sequence[WeightedToken], selection: SearchSelection) -> Chip:
    """One chip for a token, or for all spellings and inflections of a word: a click leaves them out together."""
    first, ids = family[0], [entry.token.token_id for entry in family]
    to, note = selection.less(ids[0]), signed(first.weight) if first.weight < 0 else f"{first.weight:.2f}"
    hint = f"token {ids[0]}, {_ORIGINS[first.origin]}; click to leave it out"
    if len(family) > 1:
        to, note = selection.less_family(ids), f"×{len(family)}"
        spelt = " ".join(entry.token.display for entry in family)
        hint = f"{spelt}: {_ORIGINS[first.origin]}; click to leave all {len(family)} out"
    return chip(
        first.token.display,
        to,
        tone="avoided" if first.weight <= 0 else "plain",
        faint=first.origin in _NEAR,
        hint=hint,
        note=note,
        removes=True,
    )


def _widening(concept: Concept, selection: SearchSelection) -> None:
    if not (selection.narrow or concept.widened):
        st.caption("This build holds no neighbours of tokens, so the words are not widened.", width="content")
        return
    words = "Widen by the tokens near them" if selection.narrow else "Only the words themselves"
    to = navigation.href(replace(selection, narrow=not selection.narrow, page=1))
    chips([link(words, to)], key="concept_widen", label="widening", width="content")


def _dropped(selection: SearchSelection, atlas: Catalogue) -> None:
    families, dropped = (atlas.tokens(ids).values() for ids in (selection.families, selection.dropped))
    items = [
        chip(one.display, selection.again(one.token_id), faint=True, note=note, hint="left out; click to bring back")
        for note, tokens in (("＋ all", families), ("＋", dropped))
        for one in tokens
    ]
    if items:
        st.caption("left out:", width="content")
        chips(items, key="concept_dropped", label="tokens left out", width="content")


def _unmatched(concept: Concept, selection: SearchSelection) -> None:
    """Which words are no tokens, and what may be meant instead."""
    for number, word in enumerate(concept.unmatched):
        shown = shorten(display(word.text.encode()), 40)
        stands = "; tokens that begin like it stand in for it" if word.beginnings else ""
        into = " It splits into" if word.pieces else ""
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            meant = [
                link(f"Did you mean {one}?", replace(selection, text=text, page=1))
                for one in word.suggestions
                if (text := search.with_word(selection.text, word.text, one)) != selection.text
            ]
            chips(meant, key=f"meant_{number}", label="other spellings", width="content")
            st.caption(literal(f"“{shown}” {word.why}{stands}.{into}"), width="content")
            pieces = [chip(one.display, TokenSelection(one.token_id)) for one in word.pieces[:24]]
            if pieces:
                label = f"pieces of word {number + 1}"
                chips(pieces, key=f"concept_pieces_{number}", label=label, width="content")


def _add(selection: SearchSelection, atlas: Catalogue) -> None:
    def add() -> None:
        typed = st.session_state["concept_add"] or ""
        st.session_state["concept_add"] = ""
        avoid, word = typed.startswith("-"), typed.removeprefix("-")
        found = [one.token_id for one in atlas.tokens_of(word)] if word else []
        changed = selection.plus(found, avoid=avoid)
        if max(len(changed.added), len(changed.avoided)) > MAX_TOKENS:
            raise AtlasError(f"At most {MAX_TOKENS} tokens can be added.")
        navigation.show(changed)

    st.text_input(
        "Add a token",
        key="concept_add",
        max_chars=MAX_TEXT,
        placeholder="add a token, or −one to avoid",
        label_visibility="collapsed",
        on_change=partial(on_click, add, "concept_add"),
        width=220,
    )
    say_what_was_done(key="concept_add")
