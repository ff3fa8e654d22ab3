"""Search: which neurons have a token at one of their ends, or cover a concept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import streamlit as st

from app.answers import search
from app.answers.search import order_of, orders
from app.gallery.examples import CONCEPTS, WORDS
from app.state.selections import MAX_RANK, MAX_TEXT, MAX_Z, By, Order, SearchSelection, TokenSelection
from app.ui import navigation
from app.ui.common import (
    about,
    footer,
    limits,
    open_catalogue,
    search_link,
    sync,
    title,
)
from app.ui.components import chip, chips, link
from app.ui.navigation import warn
from app.ui.pages.search_results import concept_chips, concept_results, exact_results, hit_results
from app.words import literal
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind, Sign
from db.records import Token, TokenMatches

# The conditions of a search. Each change goes into the address, which the next run reads.

_BOTH = "both"
_BYS = {"token": "a token", "concept": "a concept"}
_SIGNS = {_BOTH: "both", "promotes": "promotes", "suppresses": "suppresses"}
_KINDS = {_BOTH: "all neurons", "ffn": "FFN", "attention": "attention"}
ORDERS = {
    Order.Z: "z-score",
    Order.RANK: "rank",
    Order.LOGIT: "logit",
    Order.SCORE: "score",
    Order.MATCHED: "tokens matched",
    Order.NEURON: "neuron",
    Order.SIGN: "end",
}


def fields(selection: SearchSelection, by: By, atlas: Catalogue) -> None:
    """All of them."""
    _give(selection, by, atlas)

    def changed() -> None:
        navigation.show(_taken(selection, by, atlas))

    left, right = st.columns([3, 1], gap="medium", vertical_alignment="bottom")
    left.text_input(
        "Token or concept",
        key="search_text",
        max_chars=MAX_TEXT,
        placeholder="Paris · programming languages · python, -snake",
        on_change=changed,
    )
    with right:
        _segmented("Look for", "search_by", _BYS, changed)
    with st.container(horizontal=True, gap="medium"):
        _segmented("The neuron", "search_sign", _SIGNS, changed)
        _segmented("Kind", "search_kind", _KINDS, changed)
        names = {str(order): ORDERS[order] for order in orders(by, exact=selection.exact)}
        st.selectbox(
            "Ranked by", list(names), key="search_order", format_func=names.__getitem__, on_change=changed, width=170
        )
        if atlas.info.layers > 1:
            st.slider("Layers", 0, atlas.info.layers - 1, key="search_layers", on_change=changed, width=260)
    further = (selection.head, selection.min_z, selection.max_rank, selection.reverse or None)
    set_ones = sum(one is not None for one in further)
    label = "More conditions: head, least z, depth, reversed" + (f" · {set_ones} set" if set_ones else "")
    with st.expander(label, expanded=False), st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        _further(selection, by, atlas, changed)
    if by is By.CONCEPT:
        st.toggle(
            f"Exact: rank all {atlas.info.neurons:,} neurons by the concept’s direction (needs the model)",
            key="search_exact",
            on_change=changed,
            help="Without it, only neurons whose stored token lists hold one of the concept’s tokens are found.",
        )


def _further(selection: SearchSelection, by: By, atlas: Catalogue, changed: Callable[[], None]) -> None:
    st.selectbox(
        "Head",
        [None, *range(atlas.info.heads)],
        key="search_head",
        format_func=lambda head: "any" if head is None else f"head {head}",
        disabled=selection.kind is NeuronKind.FFN,
        on_change=changed,
        width=130,
    )
    st.number_input("Least z", 0.0, MAX_Z, None, 0.5, key="search_z", placeholder="any", on_change=changed, width=150)
    st.number_input(
        "Among the first … tokens",
        1,
        MAX_RANK,
        None,
        5,
        key="search_depth",
        placeholder=f"all {atlas.info.depth}",
        disabled=by is By.CONCEPT and selection.exact,
        on_change=changed,
        width=190,
    )
    st.checkbox("Reversed order", key="search_reverse", on_change=changed)


def _give(selection: SearchSelection, by: By, atlas: Catalogue) -> None:
    """Give every widget the address's value."""
    sync("search_text", selection.text)
    sync("search_by", str(by))
    sync("search_sign", str(selection.sign or _BOTH))
    sync("search_kind", str(selection.kind or _BOTH))
    sync("search_order", str(order_of(selection, by)))
    sync("search_layers", selection.layers or (0, atlas.info.layers - 1))
    sync("search_head", selection.head)
    sync("search_z", selection.min_z)
    sync("search_depth", selection.max_rank)
    sync("search_reverse", selection.reverse)
    if by is By.CONCEPT:
        sync("search_exact", selection.exact)


def _taken(selection: SearchSelection, by: By, atlas: Catalogue) -> SearchSelection:
    """The selection that the widgets stand for. Another text takes nothing of the old one's tokens along."""
    state = st.session_state
    text, chosen = state["search_text"] or "", By(state["search_by"] or by)
    layers = tuple(state.get("search_layers", ())) or None
    kind = _choice(NeuronKind, state["search_kind"])
    order = Order(state["search_order"] or orders(by)[0])
    fresh = text != selection.text
    return replace(
        selection,
        text=text,
        by=selection.by if chosen is by else chosen,
        tokens=None if fresh or chosen is not by else selection.tokens,
        added=() if fresh else selection.added,
        avoided=() if fresh else selection.avoided,
        dropped=() if fresh else selection.dropped,
        sign=_choice(Sign, state["search_sign"]),
        kind=kind,
        layers=None if layers == (0, atlas.info.layers - 1) else layers,
        order=None if order is orders(by)[0] or chosen is not by else order,
        head=None if kind is NeuronKind.FFN else state["search_head"],
        min_z=state["search_z"],
        max_rank=state["search_depth"],
        reverse=bool(state["search_reverse"]),
        exact=bool(state.get("search_exact", selection.exact)) and chosen is By.CONCEPT,
        page=1,
    )


def _choice(kind: type[Any], value: str | None) -> Any:
    return None if value in (None, _BOTH) else kind(value)


def _segmented(label: str, key: str, names: dict[str, str], changed: Callable[[], None]) -> None:
    st.segmented_control(label, list(names), key=key, format_func=names.__getitem__, on_change=changed, required=True)


HERE = "search"


def draw() -> None:
    """The page."""
    title(
        "Search neurons by token or concept",
        "Find the neurons whose value vector raises or lowers the logit of a token the most, or of the many tokens "
        "that a few words stand for.",
    )
    about(HERE)
    atlas = open_catalogue()
    selection, notices = SearchSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    matches = atlas.resolve(selection.text) if selection.text else None
    by = search.searches_by(selection, matches)
    fields(selection, by, atlas)
    if by is By.TOKEN:
        _by_token(selection, matches, atlas)
    else:
        _by_concept(selection, atlas)
    footer(atlas, HERE)


def _by_token(selection: SearchSelection, matches: TokenMatches | None, atlas: Catalogue) -> None:
    if matches is None and not selection.tokens:
        _examples("Type a word or several, or start from one of these:")
        return
    if selection.tokens is not None:
        tokens = list(atlas.tokens(selection.tokens).values())
    else:
        tokens = [] if matches is None else list(matches.matched)
    if tokens:
        _token_chips(selection, tokens)
        hit_results(selection, tokens, atlas)
    elif selection.tokens is not None:
        _examples("No token is left. Type a word, or start from one of these:")
    elif matches is not None:
        st.info(literal(matches.no_match()), icon=":material/content_cut:")
        pieces = [chip(piece.display, search_link(piece.token_id)) for piece in matches.pieces[:24]]
        concept = navigation.href(HERE, SearchSelection(selection.text, by=By.CONCEPT))
        if pieces:
            chips(pieces, key="pieces", here=HERE, label="pieces")
        chips([link("Search it as a concept", concept)], key="instead", here=HERE, label="another search")


def _token_chips(selection: SearchSelection, tokens: list[Token]) -> None:
    ids = [token.token_id for token in tokens]
    items = [
        chip(
            token.display,
            navigation.href(HERE, selection.with_tokens(i for i in ids if i != token.token_id)),
            hint=f"token {token.token_id}; click to leave it out",
            removes=True,
        )
        for token in tokens
    ]
    chips(items, key="tokens", here=HERE, label="tokens searched for")
    about = link(f"About “{tokens[0].display}” →", navigation.href("token", TokenSelection(ids[0])))
    concept = link("Search as a concept →", navigation.href(HERE, selection.plus(() if selection.text else ids)))
    chips([about, concept], key="about", here=HERE, label="more about the token")


def _by_concept(selection: SearchSelection, atlas: Catalogue) -> None:
    try:
        concept = search.concept_of(atlas, selection)
    except AtlasError as error:
        warn([str(error)])
        _examples("Type what the neurons should stand for, or start from one of these:")
        return
    concept_chips(selection, concept, atlas)
    if not any(entry.weight > 0 for entry in concept.tokens):
        _examples("No token is left to look for. Add one above, or start from one of these:")
    elif selection.exact:
        exact_results(selection, concept, atlas)
    else:
        concept_results(selection, concept, atlas)


def _examples(lead: str) -> None:
    st.caption(lead)
    links = [link(words, navigation.href(HERE, SearchSelection(words, by=By.CONCEPT))) for words in CONCEPTS]
    chips(links, key="concepts", here=HERE, label="concepts to search for")
    links = [link(word, navigation.href(HERE, SearchSelection(word))) for word in WORDS]
    chips(links, key="words", here=HERE, label="words to search for")


if __name__ == "__main__":
    draw()
