"""Search: which neurons have a token at one of their ends, or cover a concept."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app.answers import search
from app.answers.search import ORDERS, Result, Row, command, order_of, orders
from app.charts import catalogue_charts, prompt_charts
from app.gallery import CONCEPTS, TRIALS, WORDS
from app.serving import resources
from app.serving.access import has_model
from app.state.selections import (
    MAX_RANK,
    MAX_TEXT,
    MAX_TRIAL,
    MAX_Z,
    By,
    NeuronSelection,
    PageOrder,
    SearchSelection,
    TokenSelection,
)
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import (
    attempt,
    choice,
    data_table,
    folded,
    footer,
    formulas,
    keep,
    open_catalogue,
    search_link,
    sync,
    title,
    whole_files,
)
from app.ui.components import Cell, Chip, Column, chip, chips, legend, link, prompt_box
from app.ui.components.charts import show
from app.ui.navigation import warn
from app.ui.pages.search_concept import concept_tokens
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronAt, NeuronKind
from db.questions import Order
from db.records import Concept, ConceptNeuron, Hit, Token, TokenMatches

if TYPE_CHECKING:
    from app.attribution.activated import ActivatedBy, ActivatedNeuron

_BYS = {"token": "a token", "concept": "a concept", "text": "a text"}


def draw() -> None:
    """The page."""
    title(
        "Search neurons by token, concept or text",
        "Find the neurons whose value vector raises or lowers the logit of a token the most, or of the many tokens "
        "that a few words stand for; or those that a text activates far more than usual.",
    )
    atlas = open_catalogue()
    selection, notices = SearchSelection.read(navigation.params(), resources.limits(atlas))
    if selection.usual and atlas.texts is None:
        selection = replace(selection, usual=False)
        notices = [*notices, "No texts were read for this model, so which ends are usually active is not known."]
    warn(notices)
    matches = atlas.resolve(selection.text) if selection.text else None
    by = search.searches_by(selection, matches)
    named = selection.text or ", ".join(one.display for one in atlas.tokens(selection.tokens or ()).values())
    navigation.name_tab("Search", selection.passage if by is By.TEXT else named)
    _form(selection, by, atlas)
    if by is By.TOKEN:
        _by_token(selection, matches, atlas)
    elif by is By.TEXT:
        _by_text(selection, atlas)
    else:
        _by_concept(selection, atlas)
    footer(atlas)


# The form. Each change goes into the address, which the next run reads.


def _form(selection: SearchSelection, by: By, atlas: Catalogue) -> None:
    def changed() -> None:
        navigation.show(_typed(selection, by, atlas))

    left, right = st.columns([3, 1], gap="medium", vertical_alignment="bottom")
    with left:
        if by is By.TEXT:
            _passage_box(selection)
        else:
            sync("search_text", selection.text)
            st.text_input(
                "Token or concept",
                key="search_text",
                max_chars=MAX_TEXT,
                placeholder="Paris · programming languages · python, -snake",
                on_change=changed,
            )
    with right:
        choice("Look for", _BYS, str(by), key="search_by", changed=changed)
    with st.container(horizontal=True, vertical_alignment="bottom", key="search_filters"):
        lists.kind_fields(selection, changed)
        names = {str(order): ORDERS[order].label for order in orders(selection, by)}
        names |= {str(PageOrder.SCORE): ORDERS[Order.Z].label} if by is By.TEXT else {}
        sync("search_order", str(order_of(selection, by)))
        st.selectbox(
            "Ranked by", list(names), key="search_order", format_func=names.__getitem__, on_change=changed, width=170
        )
        lists.layer_slider(selection, atlas, changed, width=220)
        _more_conditions(selection, by, atlas, changed)
        if by is By.CONCEPT and has_model():
            sync("search_exact", selection.exact)
            st.toggle(
                "Exact",
                key="search_exact",
                on_change=changed,
                help=f"Rank all {atlas.info.neurons:,} neurons by the concept’s direction, which needs the model. "
                "Without it, only neurons whose stored token lists hold one of the concept’s tokens are found.",
            )


_CONDITIONS = ("head", "expert", "min_z", "max_rank", "reverse", "usual")
"""Of the popover: fields of the selection, each with a widget of that name."""


def _more_conditions(selection: SearchSelection, by: By, atlas: Catalogue, changed: Callable[[], None]) -> None:
    values = {name: getattr(selection, name) for name in _CONDITIONS}
    for name, value in values.items():
        sync(f"search_{name}", value)
    count = sum(value is not None and value is not False for value in values.values())

    def numbered(name: str, many: int, *, disabled: bool) -> None:
        st.selectbox(
            name.capitalize(),
            [None, *range(many)],
            key=f"search_{name}",
            format_func=lambda one: "any" if one is None else f"{name} {one}",
            disabled=disabled,
            on_change=changed,
            width=130,
        )

    label = "More conditions" + (f" · {count} set" if count else "")
    with st.popover(label, help="Head, least z, depth, reversed order"):
        numbered("head", atlas.info.heads, disabled=selection.kind is NeuronKind.FFN)
        if atlas.info.expert_count:
            without = selection.kind is NeuronKind.ATTENTION or selection.head is not None
            numbered("expert", atlas.info.expert_count, disabled=without)
        st.number_input(
            "Least z", 0.0, MAX_Z, None, 0.5, key="search_min_z", placeholder="any", on_change=changed, width=150
        )
        st.number_input(
            "Among the first … tokens",
            1,
            MAX_RANK,
            None,
            5,
            key="search_max_rank",
            placeholder=f"all {atlas.info.depth}",
            disabled=by is By.CONCEPT and selection.exact,
            on_change=changed,
            width=190,
        )
        st.checkbox("Reversed order", key="search_reverse", on_change=changed)
        if atlas.texts is not None:
            hint = "Leaves out ends that are active in less than half of their neuron’s activations"
            st.checkbox("Only ends that are usually active", key="search_usual", on_change=changed, help=hint)


def _typed(selection: SearchSelection, by: By, atlas: Catalogue) -> SearchSelection:
    """The selection that the form stands for. With another text, the tokens of the old one are forgotten."""
    state = st.session_state
    text, chosen = state.get("search_text", selection.text) or "", By(state["search_by"] or by)
    text = selection.text if by is By.TEXT else text
    if text != selection.text:
        selection = replace(selection, text=text, tokens=None, added=(), avoided=(), dropped=(), families=())
    if chosen is not by:
        passage = selection.passage or (text if chosen is By.TEXT else "")
        selection = replace(selection, by=chosen, tokens=None, passage=passage)
    kinds = lists.chosen_kinds(atlas)
    best = orders(selection, by)[0]
    order = next(one for one in ORDERS if one == (state["search_order"] or best))
    more: dict[str, Any] = {name: state.get(f"search_{name}") for name in _CONDITIONS}
    more["head"] = None if kinds["kind"] is NeuronKind.FFN else more["head"]
    if kinds["kind"] is NeuronKind.ATTENTION or more["head"] is not None:
        more["expert"] = None
    return replace(
        selection,
        **kinds,
        **more,
        order=None if order is best or chosen is not by else order,
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
        result = search.find_hits(atlas, tokens, selection)
        _results(result, _hit_columns(result.page.rows, selection, atlas), selection, atlas)
    elif matches is None:
        _examples(_NOTHING_TYPED)
    elif selection.tokens is not None:
        _examples("No token is left. Type a word, or start from one of these:")
    else:
        st.info(literal(matches.no_match()), icon=":material/content_cut:")
        meant = [link(one, replace(selection, text=one, page=1)) for one in matches.suggestions]
        chips(meant, key="meant", label="other spellings")
        pieces = [chip(piece.display, search_link(piece.token_id)) for piece in matches.pieces[:24]]
        concept = navigation.href(SearchSelection(selection.text, by=By.CONCEPT))
        chips(pieces, key="pieces", label="pieces")
        chips([link("Search it as a concept", concept)], key="instead", label="another search")


def _token_chips(selection: SearchSelection, tokens: list[Token]) -> None:
    ids = [token.token_id for token in tokens]
    items = [
        chip(
            token.display,
            selection.with_tokens(i for i in ids if i != token.token_id),
            hint=f"token {token.token_id}; click to leave it out",
            removes=True,
        )
        for token in tokens
    ]
    page = link(f"About “{tokens[0].display}” →", TokenSelection(ids[0]))
    concept = link("Search as a concept →", selection.plus(() if selection.text else ids))
    with st.container(horizontal=True, vertical_alignment="center"):
        chips(items, key="tokens", label="tokens searched for", width="content")
        chips([page, concept], key="about", label="more about the token", width="content")


def _passage_box(selection: SearchSelection) -> None:
    typed = prompt_box(
        selection.passage,
        longest=MAX_TRIAL,
        placeholder="Paste a passage: which neurons does it activate far more than usual?",
        key="search_passage",
        label="Text",
        button="Search",
        quiet=True,
    )
    if typed.sent is not None:
        navigation.show(replace(selection, passage=typed.sent, by=By.TEXT, shown=None, page=1))
        st.rerun()


def _by_text(selection: SearchSelection, atlas: Catalogue) -> None:
    missing = search.why_no_texts(atlas)
    if missing is not None:
        st.info(literal(missing))
        return
    if not selection.passage:
        st.caption("Type or paste a text, or take one of these:")
        links = [link(one, replace(selection, by=By.TEXT, passage=one)) for one in TRIALS]
        chips(links, key="passages", label="texts to search by")
        return
    answer = attempt(partial(search.find_activated, atlas, selection))
    if answer is None:
        return
    found, result = answer
    rows = result.page.rows
    one = next(
        (row for row in found.neurons if selection.shown and row.neuron == selection.shown.neuron),
        rows[0] if rows else None,
    )
    if one is not None:
        tokens = [token.display for token in found.tokens]
        frame = pd.DataFrame({"position": range(len(tokens)), "token": tokens, "activation": one.activations})
        show(prompt_charts.activations(frame, "activation", "activation", one.neuron))
        st.caption(f"{one.neuron.label} along the text. A token under “most at” shows another neuron’s activations.")
    _results(result, _activated_columns(found, rows, selection, atlas), selection, atlas)


def _activated_columns(
    found: "ActivatedBy", rows: "Sequence[ActivatedNeuron]", selection: SearchSelection, atlas: Catalogue
) -> "list[lists.ColumnOf[ActivatedNeuron]]":
    strongest = atlas.strongest_tokens([row.neuron for row in rows], 6)

    def peak(row: "ActivatedNeuron") -> tuple[Chip, ...]:
        hint = f"position {row.position}: show this neuron’s activations along the text"
        to = navigation.href(replace(selection, shown=NeuronAt(row.neuron)))
        return (chip(found.tokens[row.position].display, to, hint=hint, note=signed(row.activation)),)

    return [
        lists.named(strongest, atlas, PageOrder.NEURON),
        lists.bar("z", rows, lambda row: row.z, signed, _ACTIVATED_Z, order=PageOrder.SCORE),
        lists.chips_of("most at", "token", peak, "the token of its peak, and its activation there"),
        lists.strongest_tokens(
            strongest, "raises there", "tokens", "the first tokens of that end", order=PageOrder.SIGN
        ),
    ]


_ACTIVATED_Z = "(activation at its peak − mean) / standard deviation, both over the corpus that the texts are from"


def _by_concept(selection: SearchSelection, atlas: Catalogue) -> None:
    try:
        concept = search.concept_of(atlas, selection)
    except AtlasError as error:
        warn([str(error)])
        _examples("Type what the neurons should stand for, or start from one of these:")
        return
    concept_tokens(concept, selection, atlas)
    if any(entry.weight > 0 for entry in concept.tokens):
        _concept_results(concept, selection, atlas)
    elif not (selection.text.strip() or selection.dropped or selection.families):
        _examples(_NOTHING_TYPED)
    else:
        _examples(
            "No token is left to look for. Add one above, or start from one of these:"
            if selection.dropped or selection.families
            else "No word of this is a token of the model, or begins like one. Try other words, add a token above, or "
            "start from one of these:"
        )


_NOTHING_TYPED = "Type one or more words, or start from one of these:"


def _examples(lead: str) -> None:
    st.caption(lead)
    links = [link(words, SearchSelection(words, by=By.CONCEPT)) for words in CONCEPTS]
    chips(links, key="concepts", label="concepts to search for")
    chips((link(word, SearchSelection(word)) for word in WORDS), key="words", label="words to search for")


# What was found: a sentence, a page of it as a table, where in the model its neurons are, and all of it as files.


def _concept_results(concept: Concept, selection: SearchSelection, atlas: Catalogue) -> None:
    """The ends of neurons that cover a concept, by their stored tokens or by its direction."""
    if selection.exact:
        result = attempt(partial(search.find_exactly, atlas, concept, selection))
        if result is None:
            off = navigation.href(replace(selection, exact=False, page=1))
            chips([link("Search the stored lists instead", off)], key="inexact", label="without the model")
            return
    else:
        result = search.find_concept(atlas, concept, selection)
    _results(result, _end_columns(result.page.rows, selection, atlas), selection, atlas)


def _results(
    result: Result[Row], columns: Sequence[lists.ColumnOf[Row]], selection: SearchSelection, atlas: Catalogue
) -> None:
    page = result.page
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{literal(result.sentence)}**", width="content")
        text = selection.passage if result.by is By.TEXT else selection.text
        keep(selection, navigation.in_a_line(text) or result.sentence, result.sentence, atlas)
    if not page.total:
        st.info(
            f"No neuron has such a token among the {atlas.info.depth} strongest of an end. Widen the layers, allow "
            "both ends, remove conditions, or search for a more common word.",
            icon=":material/search_off:",
        )
        return
    hits = result.by is By.TOKEN
    best = selection.exact or result.by is By.TEXT
    what = "hits" if hits else "rows, the best of all" if best else "rows"
    left, right = st.columns([2 if hits else 3, 1], gap="medium")
    with left:
        last = page.first + len(page.rows) - 1
        concept = result.by is By.CONCEPT
        each = " Each is one end of a neuron: the tokens it promotes, or those it suppresses." if concept else ""
        st.caption(f"{page.first:,} to {last:,} of {page.total:,} {what}.{each} A row opens its neuron.")
        headed = _headed(columns, selection, result.by)
        lists.table(
            page.rows, headed, lambda row: _opened(row.neuron, selection, result.by), key="hits", label="found neurons"
        )
        legend("ffn", "attention", "promotes", "suppresses")
        lists.pager(page.number, page.pages, lambda at: navigation.href(replace(selection, page=at)))
    with right:
        title = "Found neurons by layer" if hits else f"The best {min(search.BEST, page.total)} by layer"
        name = "found_by_layer" if hits else "best_by_layer"
        show(catalogue_charts.layer_distribution(result.by_layer, atlas.info.layers, name=name, title=title))
    frame = result.frame(page.rows)
    folded("This page as a data table", lambda: data_table(frame, "this_page"), key="this_page")
    _downloads(result, selection, atlas)


def _opened(neuron: Neuron, selection: SearchSelection, by: By) -> str:
    """The address that a row leads to; of a search by text the neuron is tried on the text."""
    return navigation.href(NeuronSelection(neuron.label, trial=selection.passage if by is By.TEXT else ""))


def _headed(columns: Sequence[lists.ColumnOf[Row]], selection: SearchSelection, by: By) -> list[lists.ColumnOf[Row]]:
    """The columns with links in their headings: a click sorts, a second click reverses the order."""

    def at(order: Order | PageOrder, reverse: bool) -> str:
        best = order is orders(selection, by)[0]
        return navigation.href(replace(selection, order=None if best else order, reverse=reverse, page=1))

    return lists.sortable(columns, order_of(selection, by), selection.reverse, at)


def _hit_columns(rows: Sequence[Hit], selection: SearchSelection, atlas: Catalogue) -> list[lists.ColumnOf[Hit]]:
    strongest = atlas.strongest_tokens([hit.neuron for hit in rows], 6)
    return [
        lists.named(strongest, atlas, PageOrder.NEURON),
        lists.token("▲ among the neuron’s highest logits, ▼ among its lowest", PageOrder.SIGN),
        lists.text("rank", "number", lambda hit: f"{hit.rank}", lists.RANK_HINT, Order.RANK),
        lists.bar("logit", rows, lambda hit: hit.logit, signed, "of the value vector alone", order=Order.LOGIT)
        if order_of(selection, By.TOKEN) is Order.LOGIT
        else lists.bar("z-score", rows, lambda hit: hit.z, signed, lists.Z_HINT, order=Order.Z),
        lists.strongest_tokens(strongest),
    ]


_SCORE = "Sum over the matched tokens of weight × rarity × √|z|; spellings share one weight. Comparable within a search"
_MEAN_Z = "Weighted mean of z over all of the concept’s tokens, whether stored or not"


def _end_columns(
    rows: Sequence[ConceptNeuron], selection: SearchSelection, atlas: Catalogue
) -> list[lists.ColumnOf[ConceptNeuron]]:
    strongest = atlas.strongest_tokens([row.neuron for row in rows], 8)
    name, hint = ("mean z", _MEAN_Z) if selection.exact else ("score", _SCORE)
    order = None if selection.exact else PageOrder.MATCHED
    stored = "the concept’s tokens among the stored ones of that end"
    return [
        lists.named(strongest, atlas, PageOrder.NEURON),
        lists.bar(name, rows, lambda row: row.score, "{:.2f}".format, hint, order=PageOrder.SCORE),
        (Column("matched", "list", stored, order=order), _matched),
        lists.strongest_tokens(strongest, "strongest", "list", "its first tokens at that end"),
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


if __name__ == "__main__":
    draw()
