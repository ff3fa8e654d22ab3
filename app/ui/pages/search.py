"""Search: which neurons have a token at one of their ends, or cover a concept."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from app.answers import search
from app.answers.search import ORDERS, order_of, orders
from app.gallery.examples import CONCEPTS, WORDS
from app.state.selections import MAX_RANK, MAX_TEXT, MAX_Z, By, Order, SearchSelection, TokenSelection
from app.ui import navigation
from app.ui.common import about, choice, footer, limits, open_catalogue, search_link, sync, title
from app.ui.components import chip, chips, link
from app.ui.navigation import warn
from app.ui.neuron_lists import chosen_kinds, kind_fields, layer_slider
from app.ui.pages.search_results import concept_chips, concept_results, hit_results
from app.words import literal
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from db.records import Token, TokenMatches

HERE = "search"
_BYS = {"token": "a token", "concept": "a concept"}


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
    _form(selection, by, atlas)
    if by is By.TOKEN:
        _by_token(selection, matches, atlas)
    else:
        _by_concept(selection, atlas)
    footer(atlas, HERE)


# The form. Each change goes into the address, which the next run reads.


def _form(selection: SearchSelection, by: By, atlas: Catalogue) -> None:
    def changed() -> None:
        navigation.show(_typed(selection, by, atlas))

    left, right = st.columns([3, 1], gap="medium", vertical_alignment="bottom")
    sync("search_text", selection.text)
    left.text_input(
        "Token or concept",
        key="search_text",
        max_chars=MAX_TEXT,
        placeholder="Paris · programming languages · python, -snake",
        on_change=changed,
    )
    with right:
        choice("Look for", _BYS, str(by), key="search_by", changed=changed)
    with st.container(horizontal=True, gap="medium"):
        kind_fields(HERE, selection, changed)
        names = {str(order): ORDERS[order].label for order in orders(selection, by)}
        sync("search_order", str(order_of(selection, by)))
        st.selectbox(
            "Ranked by", list(names), key="search_order", format_func=names.__getitem__, on_change=changed, width=170
        )
        layer_slider(HERE, selection, atlas, changed, width=260)
    _more_conditions(selection, by, atlas, changed)
    if by is By.CONCEPT:
        sync("search_exact", selection.exact)
        st.toggle(
            f"Exact: rank all {atlas.info.neurons:,} neurons by the concept’s direction (needs the model)",
            key="search_exact",
            on_change=changed,
            help="Without it, only neurons whose stored token lists hold one of the concept’s tokens are found.",
        )


def _more_conditions(selection: SearchSelection, by: By, atlas: Catalogue, changed: Callable[[], None]) -> None:
    values = {"head": selection.head, "z": selection.min_z, "depth": selection.max_rank, "reverse": selection.reverse}
    for name, value in values.items():
        sync(f"search_{name}", value)
    count = sum(value is not None and value is not False for value in values.values())
    label = "More conditions: head, least z, depth, reversed" + (f" · {count} set" if count else "")
    with st.expander(label, expanded=False), st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.selectbox(
            "Head",
            [None, *range(atlas.info.heads)],
            key="search_head",
            format_func=lambda head: "any" if head is None else f"head {head}",
            disabled=selection.kind is NeuronKind.FFN,
            on_change=changed,
            width=130,
        )
        st.number_input(
            "Least z", 0.0, MAX_Z, None, 0.5, key="search_z", placeholder="any", on_change=changed, width=150
        )
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


def _typed(selection: SearchSelection, by: By, atlas: Catalogue) -> SearchSelection:
    """The selection that the form stands for. With another text, the tokens of the old one are forgotten."""
    state = st.session_state
    text, chosen = state["search_text"] or "", By(state["search_by"] or by)
    if text != selection.text:
        selection = replace(selection, text=text, tokens=None, added=(), avoided=(), dropped=())
    if chosen is not by:
        selection = replace(selection, by=chosen, tokens=None)
    kinds = chosen_kinds(HERE, atlas)
    best = orders(selection, by)[0]
    order = Order(state["search_order"] or best)
    return replace(
        selection,
        **kinds,
        order=None if order is best or chosen is not by else order,
        head=None if kinds["kind"] is NeuronKind.FFN else state["search_head"],
        min_z=state["search_z"],
        max_rank=state["search_depth"],
        reverse=bool(state["search_reverse"]),
        exact=bool(state.get("search_exact", selection.exact)) and chosen is By.CONCEPT,
        page=1,
    )


# What is searched for.


def _by_token(selection: SearchSelection, matches: TokenMatches | None, atlas: Catalogue) -> None:
    if selection.tokens is not None:
        tokens = list(atlas.tokens(selection.tokens).values())
    else:
        tokens = [] if matches is None else list(matches.matched)
    if tokens:
        _token_chips(selection, tokens)
        hit_results(tokens, selection, atlas)
    elif matches is None:
        _examples("Type one or more words, or start from one of these:")
    elif selection.tokens is not None:
        _examples("No token is left. Type a word, or start from one of these:")
    else:
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
    page = link(f"About “{tokens[0].display}” →", navigation.href("token", TokenSelection(ids[0])))
    concept = link("Search as a concept →", navigation.href(HERE, selection.plus(() if selection.text else ids)))
    chips([page, concept], key="about", here=HERE, label="more about the token")


def _by_concept(selection: SearchSelection, atlas: Catalogue) -> None:
    try:
        concept = search.concept_of(atlas, selection)
    except AtlasError as error:
        warn([str(error)])
        _examples("Type what the neurons should stand for, or start from one of these:")
        return
    concept_chips(concept, selection, atlas)
    if any(entry.weight > 0 for entry in concept.tokens):
        concept_results(concept, selection, atlas)
    else:
        _examples("No token is left to look for. Add one above, or start from one of these:")


def _examples(lead: str) -> None:
    st.caption(lead)
    links = [link(words, navigation.href(HERE, SearchSelection(words, by=By.CONCEPT))) for words in CONCEPTS]
    chips(links, key="concepts", here=HERE, label="concepts to search for")
    links = [link(word, navigation.href(HERE, SearchSelection(word))) for word in WORDS]
    chips(links, key="words", here=HERE, label="words to search for")


if __name__ == "__main__":
    draw()
