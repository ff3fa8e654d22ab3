"""A concept's tokens as chips: the words' own, those near them, those to avoid; each can be left out."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from app import navigation
from app.drawing.components import Chip, chip, chips, link
from app.drawing.wording import literal, signed
from app.notices import warn
from app.state.selection import MAX_TOKENS, SearchSelection, TokenSelection
from db.catalogue import Catalogue
from db.concepts import Concept, Origin, WeightedToken
from db.errors import AtlasError
from db.token_text import display, shorten

HERE = "search"
_SHOWN = 16
_ORIGINS = {
    Origin.WORD: "the word itself",
    Origin.BEGINNING: "begins like a word that is no token",
    Origin.NEIGHBOUR: "near the words in the model’s unembedding",
    Origin.CHOSEN: "added",
}


def concept_chips(selection: SearchSelection, concept: Concept, atlas: Catalogue) -> None:
    """What the text was taken to mean, and the means to mend it."""
    wanted = [entry for entry in concept.tokens if entry.weight > 0]
    own = [entry for entry in wanted if entry.origin is not Origin.NEIGHBOUR]
    near = [entry for entry in wanted if entry.origin is Origin.NEIGHBOUR]
    avoided = [entry for entry in concept.tokens if entry.weight <= 0]
    with st.container(border=True, gap="xsmall"):
        if own:
            _line("The words’ own tokens, with their weights. A click leaves one out.", "own", own, selection)
        _near(near, selection, concept)
        if avoided:
            _line("To be avoided: they count against a neuron", "avoided", avoided, selection)
        _dropped(selection, atlas)
        _unmatched(concept)
        _add(selection, atlas)


def _line(lead: str, key: str, entries: Sequence[WeightedToken], selection: SearchSelection) -> None:
    st.caption(literal(lead))
    chips([_chip(entry, selection) for entry in entries], key=f"concept_{key}", here=HERE, label=f"{key} tokens")


def _chip(entry: WeightedToken, selection: SearchSelection) -> Chip:
    token = entry.token
    return chip(
        token.display,
        navigation.href(HERE, selection.less(token.token_id)),
        tone="avoided" if entry.weight <= 0 else "plain",
        faint=entry.origin is Origin.NEIGHBOUR,
        hint=f"token {token.token_id}, {_ORIGINS[entry.origin]}; click to leave it out",
        note=signed(entry.weight) if entry.weight < 0 else f"{entry.weight:.2f}",
        removes=True,
    )


def _near(near: Sequence[WeightedToken], selection: SearchSelection, concept: Concept) -> None:
    if selection.narrow:
        wide = link("Widen by the tokens near them", navigation.href(HERE, replace(selection, narrow=False, page=1)))
        chips([wide], key="concept_widen", here=HERE, label="widening")
    elif not concept.widened:
        st.caption("This build holds no neighbours of tokens, so the words are not widened by what is near them.")
    if not near:
        return
    narrow = link("leave all of these out", navigation.href(HERE, replace(selection, narrow=True, page=1)))
    st.caption("Near them in the model’s own unembedding, weighted by how near")
    items = [_chip(entry, selection) for entry in near]
    chips([*items[:_SHOWN], narrow], key="concept_near", here=HERE, label="near tokens")
    if items[_SHOWN:]:
        with st.expander(f"{len(items) - _SHOWN} more tokens near them"):
            chips(items[_SHOWN:], key="concept_further", here=HERE, label="further tokens")


def _dropped(selection: SearchSelection, atlas: Catalogue) -> None:
    dropped = atlas.tokens(selection.dropped).values()
    if dropped:
        st.caption("Left out. A click brings one back.")
        items = [
            chip(token.display, navigation.href(HERE, selection.again(token.token_id)), faint=True, note="＋")
            for token in dropped
        ]
        chips(items, key="concept_dropped", here=HERE, label="tokens left out")


def _unmatched(concept: Concept) -> None:
    for number, word in enumerate(concept.unmatched):
        shown = shorten(display(word.text.encode()), 40)
        stands = "; tokens that begin like it stand in for it" if word.beginnings else ", and nothing stands in for it"
        st.caption(literal(f"“{shown}” is not one token of this model{stands}. It splits into"))
        pieces = [
            chip(piece.display, navigation.href("token", TokenSelection(piece.token_id))) for piece in word.pieces[:24]
        ]
        if pieces:
            chips(pieces, key=f"concept_pieces_{number}", here=HERE, label=f"pieces of word {number + 1}")
        else:
            st.caption("no pieces that this catalogue knows")


def _add(selection: SearchSelection, atlas: Catalogue) -> None:
    notice = st.session_state.pop("concept_notice", None)

    def add() -> None:
        typed = st.session_state["concept_add"] or ""
        st.session_state["concept_add"] = ""
        avoid, text = typed.startswith("-"), typed.removeprefix("-")
        try:
            found = tuple(token.token_id for token in atlas.tokens_of(text)) if text else ()
        except AtlasError as error:
            st.session_state["concept_notice"] = str(error)
            return
        changed = selection.plus(found, avoid=avoid)
        if len(changed.added) > MAX_TOKENS or len(changed.avoided) > MAX_TOKENS:
            st.session_state["concept_notice"] = f"At most {MAX_TOKENS} tokens can be added."
        else:
            navigation.show(changed)

    st.text_input(
        "Add a token",
        key="concept_add",
        max_chars=60,
        placeholder="add a token; with a minus before it, one to avoid",
        label_visibility="collapsed",
        on_change=add,
        width=360,
    )
    if notice:
        warn([notice])
