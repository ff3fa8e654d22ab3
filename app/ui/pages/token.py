"""Token: what it is exactly, what is near it, and which neurons raise and lower it."""

import streamlit as st

from app.answers import search
from app.charts import catalogue_charts
from app.gallery import WORDS
from app.serving import resources
from app.state.selections import SearchSelection, TokenSelection
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import data_table, folded, footer, open_catalogue, sync, title
from app.ui.components import chip, chips, link
from app.ui.components.charts import show
from app.ui.navigation import warn
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.neuron import Sign
from db.records import Token
from db.token_text import shorten

_ROWS = 15


def draw() -> None:
    """The page."""
    atlas = open_catalogue()
    selection, notices = TokenSelection.read(navigation.params(), resources.limits(atlas))
    token = None if selection.token is None else atlas.token(selection.token)
    pieces: tuple[Token, ...] = ()
    if selection.text:
        matches = atlas.resolve(selection.text)
        if matches.matched:
            token = matches.matched[0]
        else:
            notices, pieces = [*notices, matches.no_match()], matches.pieces[:24]
    if token is None:
        title("Token", "One row of the unembedding: what is near it, and which neurons raise and lower it.")
    else:
        title(f"Token {shorten(token.display, 40)}", _figures(token, atlas))
        navigation.name_tab("", f"Token {token.display}")
    warn(notices)
    if token is None:
        _field(selection)
        if pieces:
            chips([chip(one.display, _page(one)) for one in pieces], key="pieces", label="pieces")
        st.caption("Type a token, or look at one of these:")
        chips((link(word, TokenSelection(text=word)) for word in WORDS), key="examples", label="tokens to look at")
    else:
        _token(token, selection, atlas)
    footer(atlas)


def _figures(token: Token, atlas: Catalogue) -> str:
    data = atlas.bytes_of(token.token_id)
    written = data[:32].hex(" ").upper() + (" …" if len(data) > 32 else "") or "none: no token uses this row"
    parts = [f"id {token.token_id:,} of {atlas.info.vocabulary:,}", f"{len(data)} bytes: {written}"]
    if token.special:
        parts.append("a control token or an unused row")
    return literal("  ·  ".join(parts))


def _field(selection: TokenSelection) -> None:
    sync("token_text", selection.text)

    def changed() -> None:
        navigation.show(TokenSelection(text=st.session_state["token_text"] or ""))

    st.text_input(
        "Token",
        key="token_text",
        max_chars=200,
        placeholder="another token, such as Paris",
        on_change=changed,
        label_visibility="collapsed",
    )


def _token(token: Token, selection: TokenSelection, atlas: Catalogue) -> None:
    left, right = st.columns([2, 5], gap="medium", vertical_alignment="center")
    with left:
        _field(selection)
    with right:
        concept = SearchSelection().plus([token.token_id])
        items = [
            link("Search its neurons", SearchSelection(tokens=(token.token_id,))),
            link("Search it as a concept", concept),
            *(
                chip(one.display, _page(one), hint=f"token {one.token_id}: another spelling")
                for one in search.other_spellings(atlas, token)
            ),
        ]
        chips(items, key="paths", label="searches and other spellings")
    _neighbours(token, atlas)
    for column, sign in zip(st.columns(2, gap="medium"), Sign, strict=True):
        with column:
            _neurons(token, sign, atlas)
    counts = atlas.layer_counts([token.token_id])
    if len(counts):
        show(catalogue_charts.token_by_layer(counts, atlas.info.layers))
        folded("The same as a data table", lambda: data_table(counts, "neurons_by_layer"), key="neurons_by_layer")


def _neighbours(token: Token, atlas: Catalogue) -> None:
    st.header("Tokens near it", anchor=False)
    if not atlas.has_neighbours:
        st.caption(
            "This build holds no neighbours of tokens: earlier versions left them out for large vocabularies. "
            "Building the catalogue again adds them."
        )
        return
    items = [
        chip(one.token.display, _page(one.token), hint=f"cosine {one.cosine:.3f}", note=f"{one.cosine:.2f}")
        for one in atlas.neighbours(token.token_id)
    ]
    chips(items, key="neighbours", label="tokens near it")
    st.caption(
        "By the cosine of their rows in the unembedding, after what all rows have in common is subtracted. Tokens that "
        "are near everything are ranked lower, so the order is not quite that of the cosines. This token is near "
        f"{atlas.neighbour_of(token.token_id):,} others." + _recall(atlas)
    )


def _recall(atlas: Catalogue) -> str:
    """What must be said where not every token was compared with every other."""
    found = atlas.info.neighbour_recall
    return (
        "" if found is None else f" The vocabulary is large, and some are missed: {found:.0%} were found in a sample."
    )


def _neurons(token: Token, sign: Sign, atlas: Catalogue) -> None:
    selection = SearchSelection(tokens=(token.token_id,), sign=sign)
    total = atlas.count_hits([token.token_id], selection.conditions)
    st.header(f"Neurons that {'promote' if sign is Sign.PROMOTES else 'suppress'} it", anchor=False)
    if not total:
        st.caption(f"None has it among the {atlas.info.depth} strongest tokens of that end.")
        return
    hits = atlas.search_token([token.token_id], selection.conditions, limit=_ROWS)
    strongest = atlas.strongest_tokens([hit.neuron for hit in hits], 5)
    lists.table(
        hits,
        [
            lists.named(strongest, atlas),
            lists.text("rank", "number", lambda hit: f"{hit.rank}", lists.RANK_HINT),
            lists.bar("z-score", hits, lambda hit: hit.z, signed, lists.Z_HINT),
            lists.strongest_tokens(strongest),
        ],
        lambda hit: lists.neuron_link(hit.neuron),
        key=f"neurons_{sign}",
        label=f"neurons that {sign.value}",
    )
    if total > len(hits):
        chips([link(f"All {total:,} →", selection)], key=f"more_{sign}", label=f"all that {sign.value}")


def _page(token: Token) -> str:
    return navigation.href(TokenSelection(token.token_id))


if __name__ == "__main__":
    draw()
