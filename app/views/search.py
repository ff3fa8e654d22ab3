"""Search: which neurons have a token at one of their ends."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from app import charts, navigation
from app.components import Cell, Column, TableRow, Tone, chip, chips, legend, link, neuron_table
from app.examples import CONCEPTS
from app.notices import warn
from app.selection import PAGE_ROWS, NeuronSelection, SearchSelection
from app.views.shared import footer, limits, open_catalogue, search_link, sync, title
from app.wording import literal, signed
from db.answers import Hit, NeuronTokens, Token
from db.catalogue import Catalogue
from db.filters import Filters, Order
from db.frames import hits_frame
from db.neuron import NeuronKind, Sign

HERE = "search"
_BOTH = "both"
_SIGNS = {_BOTH: "both", "promotes": "promotes", "suppresses": "suppresses"}
_KINDS = {_BOTH: "all neurons", "ffn": "FFN", "attention": "attention"}
_ORDERS = {"z": "z-score", "rank": "rank", "logit": "logit"}
_NEURON = Column("neuron", "name")
_TOKEN = Column("token", "token", "▲ among the neuron's highest logits, ▼ among its lowest")
_RANK = Column("rank", "number", "1 is the neuron's most extreme token of that end")
_Z = Column("z", "bar", "(logit − mean) / standard deviation of the neuron's logits over the vocabulary")
_LOGIT = Column("logit", "bar", "of the neuron's value vector alone")
_STRONGEST = Column("strongest tokens of that end", "tokens")


def draw() -> None:
    """The page."""
    title(
        "Search neurons by token", "Find the neurons whose value vector raises or lowers the logit of a token the most."
    )
    atlas = open_catalogue()
    selection, notices = SearchSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    _fields(selection, atlas)
    tokens = _tokens(selection, atlas)
    if tokens:
        _results(selection, tokens, atlas)
    footer(atlas, HERE)


def _fields(selection: SearchSelection, atlas: Catalogue) -> None:
    """The conditions; each change goes into the address, which the next run reads."""
    last = atlas.info.layers - 1
    sync("search_text", selection.text)
    sync("search_sign", str(selection.sign or _BOTH))
    sync("search_kind", str(selection.kind or _BOTH))
    sync("search_layers", selection.layers or (0, last))
    sync("search_order", str(selection.order))

    def changed() -> None:
        state = st.session_state
        text = state["search_text"] or ""
        layers = tuple(state["search_layers"])
        navigation.show(
            SearchSelection(
                text,
                selection.tokens if text == selection.text else None,
                None if state["search_sign"] in (None, _BOTH) else Sign(state["search_sign"]),
                None if state["search_kind"] in (None, _BOTH) else NeuronKind(state["search_kind"]),
                None if layers == (0, last) else layers,
                Order(state["search_order"] or "z"),
            )
        )

    st.text_input(
        "Token or concept", key="search_text", max_chars=1000, placeholder="Paris, music, def …", on_change=changed
    )
    with st.container(horizontal=True, gap="medium"):
        _segmented("The neuron", "search_sign", _SIGNS, changed)
        _segmented("Kind", "search_kind", _KINDS, changed)
        _segmented("Ranked by", "search_order", _ORDERS, changed)
        if last > 0:
            st.slider("Layers", 0, last, key="search_layers", on_change=changed, width=300)


def _segmented(label: str, key: str, names: dict[str, str], changed: Callable[[], None]) -> None:
    st.segmented_control(label, list(names), key=key, format_func=names.__getitem__, on_change=changed, required=True)


def _tokens(selection: SearchSelection, atlas: Catalogue) -> list[Token]:
    """The tokens searched for, shown as chips; what to try where there are none."""
    if not selection.text and not selection.tokens:
        _concepts("Type a word, or start from one of these:")
        return []
    tokens: list[Token] = []
    pieces: tuple[Token, ...] = ()
    if selection.text:
        found = atlas.resolve(selection.text)
        tokens, pieces = list(found.matched), found.pieces
        if not tokens and selection.tokens is None:
            st.info(literal(found.no_match()), icon=":material/content_cut:")
    if selection.tokens is not None:
        tokens = list(atlas.tokens(selection.tokens).values())
    if tokens:
        _token_chips(selection, tokens)
    elif pieces:
        chips(
            [chip(piece.display, search_link(piece.token_id)) for piece in pieces[:24]],
            key="pieces",
            here=HERE,
            label="pieces",
        )
    elif selection.tokens is not None:
        _concepts("No token is left. Type a word, or start from one of these:")
    return tokens


def _token_chips(selection: SearchSelection, tokens: list[Token]) -> None:
    ids = [token.token_id for token in tokens]
    items = [
        chip(
            token.display,
            navigation.href(HERE, replace(selection, tokens=tuple(i for i in ids if i != token.token_id), page=1)),
            hint=f"token {token.token_id}; click to leave it out",
            removes=True,
        )
        for token in tokens
    ]
    chips(items, key="tokens", here=HERE, label="tokens searched for")


def _concepts(lead: str) -> None:
    st.caption(lead)
    links = [link(word, navigation.href(HERE, SearchSelection(text=word))) for word in CONCEPTS]
    chips(links, key="concepts", here=HERE, label="concepts to search for")


def _results(selection: SearchSelection, tokens: list[Token], atlas: Catalogue) -> None:
    filters = Filters(selection.sign, selection.kind, selection.layers, order=selection.order)
    ids = [token.token_id for token in tokens]
    total = atlas.count_hits(ids, filters)
    st.markdown(f"**{literal(filters.describe(tokens))}**")
    if not total:
        depth = atlas.info.depth
        st.info(
            f"No neuron has such a token among the {depth} strongest of an end. Widen the layers, allow both ends, "
            "or search for a more common word.",
            icon=":material/search_off:",
        )
        return
    pages = -(-total // PAGE_ROWS)
    page = min(selection.page, pages)
    hits = atlas.search_token(ids, filters, limit=PAGE_ROWS, offset=PAGE_ROWS * (page - 1))
    left, right = st.columns([2, 1], gap="medium")
    with left:
        first = PAGE_ROWS * (page - 1) + 1
        st.caption(f"{first:,} to {first + len(hits) - 1:,} of {total:,} hits. A row opens its neuron.")
        _table(hits, selection.order, atlas)
        legend("ffn", "attention", "promotes", "suppresses")
        _pages(selection, page, pages)
    with right:
        counts = atlas.layer_counts(ids, filters)
        st.altair_chart(
            charts.layer_distribution(counts, atlas.info.layers), width="stretch", alt="Found neurons by layer"
        )
    with st.expander("The same as a data table, with CSV export"):
        st.dataframe(hits_frame(hits), hide_index=True)


def _table(hits: tuple[Hit, ...], order: Order, atlas: Catalogue) -> None:
    strongest = atlas.strongest_tokens([hit.neuron for hit in hits], 6)
    measure, values = (_LOGIT, [hit.logit for hit in hits]) if order is Order.LOGIT else (_Z, [hit.z for hit in hits])
    most = max(map(abs, values), default=1.0) or 1.0
    rows = [_row(hit, strongest[hit.neuron], value, most) for hit, value in zip(hits, values, strict=True)]
    columns = (_NEURON, _TOKEN, _RANK, measure, _STRONGEST)
    neuron_table(columns, rows, key="hits", here=HERE, label="found neurons")


def _row(hit: Hit, strongest: NeuronTokens, value: float, most: float) -> TableRow:
    promotes = hit.sign is Sign.PROMOTES
    tone: Tone = "promotes" if promotes else "suppresses"
    end = strongest.promotes if promotes else strongest.suppresses
    return TableRow(
        navigation.href("neuron", NeuronSelection(hit.neuron.label)),
        (
            Cell(hit.neuron.label, dot=hit.neuron.kind.value),
            Cell(tone=tone, chips=(chip(hit.token.display, tone=tone),)),
            Cell(f"{hit.rank}"),
            Cell(signed(value), share=value / most),
            Cell(chips=tuple(chip(token.display, tone=tone) for token in end)),
        ),
    )


def _pages(selection: SearchSelection, page: int, pages: int) -> None:
    if pages == 1:
        return
    near = sorted({1, page - 1, page, page + 1, pages} & set(range(1, pages + 1)))
    items = [link(f"{one}", navigation.href(HERE, replace(selection, page=one)), one == page) for one in near]
    chips(items, key="pages", here=HERE, label="pages of the result")


if __name__ == "__main__":
    draw()
