"""Search: which neurons have a token at one of their ends, or cover a concept."""

import streamlit as st

from app import navigation
from app.asking import finding
from app.asking.examples import CONCEPTS, WORDS
from app.drawing.components import chip, chips, link
from app.drawing.wording import literal
from app.notices import warn
from app.state.selection import By, SearchSelection, TokenSelection
from app.views.about import about
from app.views.search_concept import concept_chips
from app.views.search_fields import fields
from app.views.search_results import concept_results, exact_results, hit_results
from app.views.shared import footer, limits, open_catalogue, search_link, title
from db.answers import Token, TokenMatches
from db.catalogue import Catalogue
from db.errors import AtlasError

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
    by = finding.searches_by(selection, matches)
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
        concept = finding.concept_of(atlas, selection)
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
