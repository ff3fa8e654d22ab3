"""The tables of a search: hits of tokens, and ends of neurons that cover a concept. Every heading sorts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd
import streamlit as st

from app.answers import search
from app.answers.files import command
from app.answers.search import Page, concept_sentence, hits_sentence, order_of, orders
from app.charts import catalogue_charts
from app.state.address import MAX_TOKENS
from app.state.selections import By, NeuronSelection, Order, SearchSelection, TokenSelection
from app.ui import navigation
from app.ui.common import data_table, folded, formulas, progress, shown, whole_files
from app.ui.components import Cell, Chip, Column, TableRow, chip, chips, legend, link, neuron_table
from app.ui.navigation import fail, warn
from app.words import literal, signed
from db.catalogue.concepts import Concept, Origin, WeightedToken
from db.catalogue.export import concept_frame, hits_frame
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.records import ConceptNeuron, Hit, NeuronTokens, Token
from db.token_text import display, shorten

# A result beyond its page's table: the page as data, and all of it as files.


def as_data(frame: pd.DataFrame) -> None:
    """What the table shows, for the keyboard."""
    folded("This page as a data table", lambda: data_table(frame, "this_page"), key="this_page")


def exports(
    total: int, selection: SearchSelection, by: By, atlas: Catalogue, whole: Callable[[], pd.DataFrame]
) -> None:
    """The whole result as files; each is made when its button is pressed."""
    rows = min(total, search.MAX_WHOLE)

    def files() -> None:
        whole_files("neurons", whole, "export")
        if rows < total:
            st.caption(f"These are the first {rows:,} of {total:,}; the shell writes all.")
        formulas()
        said = command(selection, by, atlas.info.model)
        if said is not None:
            st.caption("The same rows, best first, from the shell:")
            st.code(said, language="bash", wrap_lines=True)

    folded(f"Download all {rows:,} rows", files, key="whole")


HERE = "search"
_STRONGEST = Column("strongest tokens of that end", "tokens")
_Z = "(logit − mean) / standard deviation of the neuron’s logits over the vocabulary"


def hits_table(page: Page[Hit], selection: SearchSelection, atlas: Catalogue) -> None:
    """Hits, a row each."""
    strongest = atlas.strongest_tokens([hit.neuron for hit in page.rows], 6)
    by_logit = order_of(selection, By.TOKEN) is Order.LOGIT
    values = [hit.logit if by_logit else hit.z for hit in page.rows]
    most = max(map(abs, values), default=1.0) or 1.0
    sort = _sorter(selection, By.TOKEN)
    measure = ("logit", "of the value vector alone", Order.LOGIT) if by_logit else ("z-score", _Z, Order.Z)
    columns = (
        sort("neuron", "name", "", Order.NEURON),
        sort("token", "token", "▲ among the neuron’s highest logits, ▼ among its lowest", Order.SIGN),
        sort("rank", "number", "1 is the neuron’s most extreme token of that end", Order.RANK),
        sort(measure[0], "bar", measure[1], measure[2]),
        _STRONGEST,
    )
    rows = [
        TableRow(
            navigation.href("neuron", NeuronSelection(hit.neuron.label)),
            (
                Cell(hit.neuron.label, dot=hit.neuron.kind.value),
                Cell(tone=hit.sign.value, chips=(chip(hit.token.display, tone=hit.sign.value),)),
                Cell(f"{hit.rank}"),
                Cell(signed(value), share=value / most),
                _end(strongest[hit.neuron], hit),
            ),
        )
        for hit, value in zip(page.rows, values, strict=True)
    ]
    neuron_table(columns, rows, key="hits", here=HERE, label="found neurons")


def ends_table(page: Page[ConceptNeuron], selection: SearchSelection, atlas: Catalogue, score: tuple[str, str]) -> None:
    """Ends of neurons, a row each; score: what it is called, and its meaning."""
    strongest = atlas.strongest_tokens([row.neuron for row in page.rows], 8)
    most = max((row.score for row in page.rows), default=1.0) or 1.0
    sort = _sorter(selection, By.CONCEPT)
    columns = (
        sort("neuron", "name", "", Order.NEURON),
        sort(score[0], "bar", score[1], Order.SCORE),
        sort("matched", "list", "the concept’s tokens among the stored ones of that end", Order.MATCHED),
        Column("strongest", "list", "its first tokens at that end"),
    )
    rows = [
        TableRow(
            navigation.href("neuron", NeuronSelection(row.neuron.label)),
            (
                Cell(row.neuron.label, dot=row.neuron.kind.value),
                Cell(f"{row.score:.2f}", share=row.score / most),
                _matched(row),
                _end(strongest[row.neuron], row),
            ),
        )
        for row in page.rows
    ]
    neuron_table(columns, rows, key="hits", here=HERE, label="found neurons")


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


def _end(strongest: NeuronTokens, row: Hit | ConceptNeuron) -> Cell:
    tokens = search.end_of(strongest, row.sign)
    return Cell(chips=tuple(chip(token.display, tone=row.sign.value) for token in tokens))


def _sorter(selection: SearchSelection, by: By) -> Callable[[str, str, str, Order], Column]:
    """Makes columns that sort: a click sorts by one, a second click turns it round."""
    possible, current = orders(by, exact=selection.exact), order_of(selection, by)

    def column(name: str, role: str, hint: str, order: Order) -> Column:
        if order not in possible:
            return Column(name, role, hint)
        here = order is current
        chosen = replace(
            selection,
            order=None if order is possible[0] else order,
            reverse=here and not selection.reverse,
            page=1,
        )
        falling = order not in (Order.NEURON, Order.RANK, Order.SIGN)
        state: Literal["ascending", "descending"] = "descending" if falling != selection.reverse else "ascending"
        return Column(name, role, hint, navigation.href(HERE, chosen), state if here else "")

    return column


# What a search found: a sentence, a page of neurons, where in the model they are, and the whole of it as files.

_SCORE = (
    "Sum over the matched tokens of weight × √|z|, a word’s spellings sharing one weight; comparable within a search"
)
_MEAN_Z = "Weighted mean of z over all of the concept’s tokens, whether stored or not"


def hit_results(selection: SearchSelection, tokens: Sequence[Token], atlas: Catalogue) -> None:
    """The neurons that have one of the tokens at an end."""
    ids = [token.token_id for token in tokens]
    page = search.hits_page(atlas, ids, selection)
    st.markdown(f"**{literal(hits_sentence(tokens, selection))}**")
    if not page.total:
        _nothing(atlas)
        return
    left, right = st.columns([2, 1], gap="medium")
    with left:
        _count(page, "hits")
        hits_table(page, selection, atlas)
        legend("ffn", "attention", "promotes", "suppresses")
        _pages(selection, page)
    with right:
        counts = atlas.layer_counts(ids, selection.conditions)
        chart = catalogue_charts.layer_distribution(counts, atlas.info.layers)
        shown("found_by_layer", chart, counts, "Found neurons by layer")
    as_data(hits_frame(page.rows))
    exports(page.total, selection, By.TOKEN, atlas, lambda: hits_frame(search.all_hits(atlas, ids, selection)))


def concept_results(selection: SearchSelection, concept: Concept, atlas: Catalogue) -> None:
    """The ends of neurons whose stored tokens cover the concept."""
    page = search.concept_page(atlas, concept, selection)
    st.markdown(f"**{literal(concept_sentence(concept, selection))}**")
    if not page.total:
        _nothing(atlas)
        return
    _ends(page, selection, atlas, "score", _SCORE, search.best_by_layer(atlas, concept, selection))
    as_data(concept_frame(page.rows))

    def whole() -> pd.DataFrame:
        return concept_frame(search.all_of_concept(atlas, concept, selection))

    exports(page.total, selection, By.CONCEPT, atlas, whole)


def exact_results(selection: SearchSelection, concept: Concept, atlas: Catalogue) -> None:
    """All neurons by the concept's direction."""
    try:
        with progress() as watch:
            page = search.exact_page(atlas, concept, selection, watch)
    except AtlasError as error:
        fail(error)
        off = link("Search the stored lists instead", navigation.href(HERE, replace(selection, exact=False, page=1)))
        chips([off], key="inexact", here=HERE, label="without the model")
        return
    st.markdown(f"**{literal(concept_sentence(concept, selection))}, of all {atlas.info.neurons:,} neurons**")
    if not page.total:
        _nothing(atlas)
        return
    whole = search.all_exact(atlas, concept, selection)
    counts = search.layers_of([row.neuron for row in whole[: search.BEST]])
    _ends(page, selection, atlas, "mean z", _MEAN_Z, counts)
    as_data(concept_frame(page.rows))
    exports(page.total, selection, By.CONCEPT, atlas, lambda: concept_frame(whole))


def _ends(
    page: Page[ConceptNeuron], selection: SearchSelection, atlas: Catalogue, name: str, hint: str, counts: pd.DataFrame
) -> None:
    left, right = st.columns([3, 1], gap="medium")
    with left:
        _count(page, "best ends" if selection.exact else "ends of neurons")
        ends_table(page, selection, atlas, (name, hint))
        legend("ffn", "attention", "promotes", "suppresses")
        _pages(selection, page)
    with right:
        best = min(search.BEST, page.total)
        chart = catalogue_charts.layer_distribution(counts, atlas.info.layers, f"The best {best} by layer")
        shown("best_by_layer", chart, counts, f"The best {best} by layer")


def _count(page: Page[Hit] | Page[ConceptNeuron], what: str) -> None:
    last = page.first + len(page.rows) - 1
    st.caption(f"{page.first:,} to {last:,} of {page.total:,} {what}. A row opens its neuron.")


def _pages(selection: SearchSelection, page: Page[Hit] | Page[ConceptNeuron]) -> None:
    if page.pages <= 1:
        return
    here = page.number
    near = sorted({1, here - 1, here, here + 1, page.pages} & set(range(1, page.pages + 1)))
    items = [link(f"{one}", navigation.href(HERE, replace(selection, page=one)), one == here) for one in near]
    chips(items, key="pages", here=HERE, label="pages of the result")


def _nothing(atlas: Catalogue) -> None:
    st.info(
        f"No neuron has such a token among the {atlas.info.depth} strongest of an end. Widen the layers, allow both "
        "ends, take conditions away, or search for a more common word.",
        icon=":material/search_off:",
    )


# A concept's tokens as chips: the words' own, those near them, those to avoid; each can be left out.

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
