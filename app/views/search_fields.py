"""The conditions of a search. Each change goes into the address, which the next run reads."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import streamlit as st

from app import navigation
from app.asking.ranking import order_of, orders
from app.state.search_selection import MAX_RANK, MAX_TEXT, MAX_Z, By, Order, SearchSelection
from app.views.shared import sync
from db.catalogue import Catalogue
from db.neuron import NeuronKind, Sign

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
