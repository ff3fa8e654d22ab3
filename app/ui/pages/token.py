"""Token: what it is exactly, what is near it, and which neurons raise and lower it."""

import streamlit as st

from app.answers import search as search_module
from app.charts import catalogue_charts
from app.gallery.examples import WORDS
from app.state.selections import NeuronSelection, SearchSelection, TokenSelection
from app.ui import navigation
from app.ui.common import about, data_table, folded, footer, limits, open_catalogue, shown, sync, title
from app.ui.components import Cell, Column, TableRow, chip, chips, link, neuron_table
from app.ui.navigation import warn
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.neuron import Sign
from db.records import Hit, Token
from db.token_text import shorten

HERE = "token"
_ROWS = 15
_COLUMNS = (
    Column("neuron", "name"),
    Column("rank", "number", "1 is the neuron’s most extreme token of that end"),
    Column("z-score", "bar", "(logit − mean) / standard deviation of the neuron’s logits over the vocabulary"),
    Column("strongest tokens of that end", "tokens"),
)


def draw() -> None:
    """The page."""
    atlas = open_catalogue()
    selection, notices = TokenSelection.read(navigation.params(), limits(atlas))
    matches = atlas.resolve(selection.text) if selection.text else None
    if matches is not None and not matches.matched:
        notices = [*notices, matches.no_match()]
    found = None if selection.token is None else atlas.token(selection.token)
    if matches is not None and matches.matched:
        found = matches.matched[0]
    if found is None:
        title("Token", "One row of the unembedding: what is near it, and which neurons raise and lower it.")
        about(HERE)
        warn(notices)
        _field(selection)
        pieces = () if matches is None else matches.pieces[:24]
        if pieces:
            items = [chip(one.display, _page(one)) for one in pieces]
            chips(items, key="pieces", here=HERE, label="pieces")
        _examples()
    else:
        _token(found, selection, notices, atlas)
    footer(atlas, HERE)


def _token(token: Token, selection: TokenSelection, notices: list[str], atlas: Catalogue) -> None:
    title(f"Token {shorten(token.display, 40)}", _figures(token, atlas))
    about(HERE)
    warn(notices)
    left, right = st.columns([2, 5], gap="medium", vertical_alignment="center")
    with left:
        _field(selection)
    with right:
        alike = search_module.spelt_alike(atlas, token)
        search = SearchSelection(tokens=(token.token_id,))
        concept = SearchSelection().plus([token.token_id])
        items = [
            link("Search its neurons", navigation.href("search", search)),
            link("Search it as a concept", navigation.href("search", concept)),
            *(chip(one.display, _page(one), hint=f"token {one.token_id}: another spelling") for one in alike),
        ]
        chips(items, key="paths", here=HERE, label="searches and other spellings")
    _neighbours(token, atlas)
    counts = atlas.layer_counts([token.token_id])
    for column, sign in zip(st.columns(2, gap="medium"), Sign, strict=True):
        with column:
            _neurons(token, sign, atlas)
    if len(counts):
        chart = catalogue_charts.token_by_layer(counts, atlas.info.layers)
        shown("token_by_layer", chart, counts, "Neurons that promote and suppress the token, by layer")
        folded("The same as a data table", lambda: data_table(counts, "neurons_by_layer"), key="neurons_by_layer")


def _figures(token: Token, atlas: Catalogue) -> str:
    data = atlas.bytes_of(token.token_id)
    written = data[:32].hex(" ").upper() + (" …" if len(data) > 32 else "") or "none: no token uses this row"
    parts = [f"id {token.token_id:,} of {atlas.info.vocabulary:,}", f"{len(data)} bytes: {written}"]
    if token.special:
        parts.append("a control token or an unused row")
    return literal("  ·  ".join(parts))


def _neighbours(token: Token, atlas: Catalogue) -> None:
    st.subheader("Tokens near it", anchor=False)
    if not atlas.has_neighbours:
        st.caption(
            "This build holds no neighbours of tokens: they are left out for very large vocabularies, and by builds "
            "made before there were any. Building again adds them."
        )
        return
    near = atlas.neighbours(token.token_id)
    items = [
        chip(one.token.display, _page(one.token), hint=f"cosine {one.cosine:.3f}", note=f"{one.cosine:.2f}")
        for one in near
    ]
    if items:
        chips(items, key="neighbours", here=HERE, label="tokens near it")
    hub = atlas.neighbour_of(token.token_id)
    st.caption(
        "By cosine of their rows in the unembedding, less what all rows have in common; corrected for tokens that are "
        f"near everything, so that the order is not quite that of the cosines. It is itself near {hub:,} others."
    )


def _neurons(token: Token, sign: Sign, atlas: Catalogue) -> None:
    search = SearchSelection(tokens=(token.token_id,), sign=sign)
    total = atlas.count_hits([token.token_id], search.conditions)
    st.subheader(f"Neurons that {'promote' if sign is Sign.PROMOTES else 'suppress'} it", anchor=False)
    if not total:
        st.caption(f"None has it among the {atlas.info.depth} strongest tokens of that end.")
        return
    hits = atlas.search_token([token.token_id], search.conditions, limit=_ROWS)
    strongest = atlas.strongest_tokens([hit.neuron for hit in hits], 5)
    most = max((abs(hit.z) for hit in hits), default=1.0) or 1.0
    rows = [_row(hit, search_module.end_of(strongest[hit.neuron], sign), most) for hit in hits]
    neuron_table(_COLUMNS, rows, key=f"neurons_{sign}", here=HERE, label=f"neurons that {sign.value}")
    if total > len(hits):
        more = link(f"All {total:,} →", navigation.href("search", search))
        chips([more], key=f"more_{sign}", here=HERE, label=f"all that {sign.value}")


def _row(hit: Hit, tokens: tuple[Token, ...], most: float) -> TableRow:
    return TableRow(
        navigation.href("neuron", NeuronSelection(hit.neuron.label)),
        (
            Cell(hit.neuron.label, dot=hit.neuron.kind.value),
            Cell(f"{hit.rank}"),
            Cell(signed(hit.z), share=hit.z / most),
            Cell(chips=tuple(chip(one.display, tone=hit.sign.value) for one in tokens)),
        ),
    )


def _field(selection: TokenSelection) -> None:
    sync("token_text", selection.text)

    def changed() -> None:
        text = st.session_state["token_text"] or ""
        navigation.show(TokenSelection(text=text))

    st.text_input(
        "Token",
        key="token_text",
        max_chars=200,
        placeholder="another token, such as Paris",
        on_change=changed,
        label_visibility="collapsed",
    )


def _examples() -> None:
    st.caption("Type a token, or look at one of these:")
    links = [link(word, navigation.href(HERE, TokenSelection(text=word))) for word in WORDS]
    chips(links, key="examples", here=HERE, label="tokens to look at")


def _page(token: Token) -> str:
    return navigation.href(HERE, TokenSelection(token.token_id))


if __name__ == "__main__":
    draw()
