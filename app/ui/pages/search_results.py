"""What the search page shows below its form: the tokens of a concept, and the neurons that were found."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import streamlit as st

from app.answers import search
from app.answers.files import command
from app.answers.search import ORDERS, Result, Row, order_of, orders
from app.charts import catalogue_charts
from app.state.address import MAX_TOKENS
from app.state.selections import By, Order, SearchSelection, TokenSelection
from app.ui import navigation
from app.ui.common import data_table, folded, formulas, progress, shown, whole_files
from app.ui.components import Cell, Chip, Column, chip, chips, legend, link
from app.ui.navigation import fail, warn
from app.ui.neuron_lists import NEURON, RANK_HINT, Z_HINT, ColumnOf, bar, neuron_link, strongest_tokens, table, token
from app.words import literal, signed
from db.catalogue.concepts import Concept, Origin, WeightedToken
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.records import ConceptNeuron, Hit, Token
from db.token_text import display, shorten

HERE = "search"


def hit_results(tokens: Sequence[Token], selection: SearchSelection, atlas: Catalogue) -> None:
    """The neurons that have one of the tokens at an end."""
    result = search.find_hits(atlas, tokens, selection)
    _results(result, _hit_columns(result.page.rows, selection, atlas), selection, atlas)


def concept_results(concept: Concept, selection: SearchSelection, atlas: Catalogue) -> None:
    """The ends of neurons that cover a concept, by their stored tokens or by its direction."""
    if selection.exact:
        try:
            with progress() as watch:
                result = search.find_exactly(atlas, concept, selection, watch)
        except AtlasError as error:
            fail(error)
            off = navigation.href(HERE, replace(selection, exact=False, page=1))
            chips([link("Search the stored lists instead", off)], key="inexact", here=HERE, label="without the model")
            return
    else:
        result = search.find_concept(atlas, concept, selection)
    _results(result, _end_columns(result.page.rows, selection, atlas), selection, atlas)


# A result: a sentence, a page of it as a table, where in the model its neurons are, and all of it as files.


def _results(
    result: Result[Row],
    columns: Sequence[tuple[ColumnOf[Row], Order | None]],
    selection: SearchSelection,
    atlas: Catalogue,
) -> None:
    page = result.page
    st.markdown(f"**{literal(result.sentence)}**")
    if not page.total:
        st.info(
            f"No neuron has such a token among the {atlas.info.depth} strongest of an end. Widen the layers, allow "
            "both ends, remove conditions, or search for a more common word.",
            icon=":material/search_off:",
        )
        return
    hits = result.by is By.TOKEN
    what = "hits" if hits else "best ends" if selection.exact else "ends of neurons"
    left, right = st.columns([2 if hits else 3, 1], gap="medium")
    with left:
        last = page.first + len(page.rows) - 1
        st.caption(f"{page.first:,} to {last:,} of {page.total:,} {what}. A row opens its neuron.")
        headed = _sortable(columns, selection, result.by)
        table(page.rows, headed, lambda row: neuron_link(row.neuron), key="hits", here=HERE, label="found neurons")
        legend("ffn", "attention", "promotes", "suppresses")
        if page.pages > 1:
            items = [
                link(f"{number}", navigation.href(HERE, replace(selection, page=number)), number == page.number)
                for number in page.nearby
            ]
            chips(items, key="pages", here=HERE, label="pages of the result")
    with right:
        title = "Found neurons by layer" if hits else f"The best {min(search.BEST, page.total)} by layer"
        chart = catalogue_charts.layer_distribution(result.by_layer, atlas.info.layers, title)
        shown("found_by_layer" if hits else "best_by_layer", chart, result.by_layer, title)
    frame = result.frame(page.rows)
    folded("This page as a data table", lambda: data_table(frame, "this_page"), key="this_page")
    _downloads(result, selection, atlas)


def _sortable(
    columns: Sequence[tuple[ColumnOf[Row], Order | None]], selection: SearchSelection, by: By
) -> list[ColumnOf[Row]]:
    """The columns with headings that sort by the order beside each; a second click reverses it."""
    possible, current = orders(selection, by), order_of(selection, by)

    def heading(column: Column, order: Order | None) -> Column:
        if order is None or order not in possible:
            return column
        here = order is current
        best = None if order is possible[0] else order
        to = replace(selection, order=best, reverse=here and not selection.reverse, page=1)
        upwards = ORDERS[order].ascending != selection.reverse
        state: Literal["ascending", "descending"] = "ascending" if upwards else "descending"
        return replace(column, href=navigation.href(HERE, to), sorted=state if here else "")

    return [(heading(column, order), cell) for (column, cell), order in columns]


def _hit_columns(
    rows: Sequence[Hit], selection: SearchSelection, atlas: Catalogue
) -> list[tuple[ColumnOf[Hit], Order | None]]:
    strongest = atlas.strongest_tokens([hit.neuron for hit in rows], 6)
    by_logit = order_of(selection, By.TOKEN) is Order.LOGIT
    return [
        (NEURON, Order.NEURON),
        (token("▲ among the neuron’s highest logits, ▼ among its lowest"), Order.SIGN),
        ((Column("rank", "number", RANK_HINT), lambda hit: Cell(f"{hit.rank}")), Order.RANK),
        (bar("logit", rows, lambda hit: hit.logit, signed, "of the value vector alone"), Order.LOGIT)
        if by_logit
        else (bar("z-score", rows, lambda hit: hit.z, signed, Z_HINT), Order.Z),
        (strongest_tokens(strongest), None),
    ]


_SCORE = (
    "Sum over the matched tokens of weight × √|z|; the spellings of a word share one weight. Comparable within a search"
)
_MEAN_Z = "Weighted mean of z over all of the concept’s tokens, whether stored or not"


def _end_columns(
    rows: Sequence[ConceptNeuron], selection: SearchSelection, atlas: Catalogue
) -> list[tuple[ColumnOf[ConceptNeuron], Order | None]]:
    strongest = atlas.strongest_tokens([row.neuron for row in rows], 8)
    name, hint = ("mean z", _MEAN_Z) if selection.exact else ("score", _SCORE)
    matched = Column("matched", "list", "the concept’s tokens among the stored ones of that end")
    return [
        (NEURON, Order.NEURON),
        (bar(name, rows, lambda row: row.score, lambda value: f"{value:.2f}", hint), Order.SCORE),
        ((matched, _matched), Order.MATCHED),
        (strongest_tokens(strongest, "strongest", "list", "its first tokens at that end"), None),
    ]


def _matched(row: ConceptNeuron) -> Cell:
    shown = [
        chip(
            one.token.display,
            tone="avoided" if one.weight < 0 else row.sign.value,
            hint=f"rank {one.rank}" + (f", z {signed(one.z)}" if one.z else ""),
        )
        for one in row.matched[:8]
    ]
    return Cell(f"{len(row.matched)}", tone=row.sign.value, chips=tuple(shown))


def _downloads(result: Result[Row], selection: SearchSelection, atlas: Catalogue) -> None:
    """The whole result as files, each made when its button is pressed."""
    total = result.page.total
    rows = min(total, search.MAX_WHOLE)

    def files() -> None:
        whole_files("neurons", lambda: result.frame(result.whole()), "export")
        if rows < total:
            st.caption(f"These are the first {rows:,} of {total:,}; the shell writes all.")
        formulas()
        said = command(selection, result.by, atlas.info.model)
        if said is not None:
            st.caption("The same rows, best first, from the shell:")
            st.code(said, language="bash", wrap_lines=True)

    folded(f"Download all {rows:,} rows", files, key="whole")


# A concept's tokens as chips: the words' own, those near them, those to avoid. Each can be left out.

_SHOWN = 16
_ORIGINS = {
    Origin.WORD: "the word itself",
    Origin.BEGINNING: "begins like a word that is no token",
    Origin.NEIGHBOUR: "near the words in the model’s unembedding",
    Origin.CHOSEN: "added",
}


def concept_chips(concept: Concept, selection: SearchSelection, atlas: Catalogue) -> None:
    """What the text was taken to mean, and the means to change it."""
    wanted = [entry for entry in concept.tokens if entry.weight > 0]
    own = [entry for entry in wanted if entry.origin is not Origin.NEIGHBOUR]
    near = [entry for entry in wanted if entry.origin is Origin.NEIGHBOUR]
    avoided = [entry for entry in concept.tokens if entry.weight <= 0]
    with st.container(border=True, gap="xsmall"):
        if own:
            st.caption("The words’ own tokens, with their weights. A click leaves one out.")
            chips([_chip(one, selection) for one in own], key="concept_own", here=HERE, label="own tokens")
        _near(near, selection, concept)
        if avoided:
            st.caption("To be avoided: they count against a neuron")
            chips([_chip(one, selection) for one in avoided], key="concept_avoided", here=HERE, label="avoided tokens")
        _dropped(selection, atlas)
        _unmatched(concept)
        _add(selection, atlas)


def _chip(entry: WeightedToken, selection: SearchSelection) -> Chip:
    token_id = entry.token.token_id
    return chip(
        entry.token.display,
        navigation.href(HERE, selection.less(token_id)),
        tone="avoided" if entry.weight <= 0 else "plain",
        faint=entry.origin is Origin.NEIGHBOUR,
        hint=f"token {token_id}, {_ORIGINS[entry.origin]}; click to leave it out",
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
            chip(one.display, navigation.href(HERE, selection.again(one.token_id)), faint=True, note="＋")
            for one in dropped
        ]
        chips(items, key="concept_dropped", here=HERE, label="tokens left out")


def _unmatched(concept: Concept) -> None:
    for number, word in enumerate(concept.unmatched):
        shown = shorten(display(word.text.encode()), 40)
        stands = "; tokens that begin like it stand in for it" if word.beginnings else ", and nothing stands in for it"
        st.caption(literal(f"“{shown}” is not one token of this model{stands}. It splits into"))
        pieces = [chip(one.display, navigation.href("token", TokenSelection(one.token_id))) for one in word.pieces[:24]]
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
            found = tuple(one.token_id for one in atlas.tokens_of(text)) if text else ()
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
