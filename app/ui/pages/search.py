"""Search: which neurons have a token at one of their ends, or cover a concept."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import streamlit as st

from app.answers import search
from app.answers.search import ORDERS, Result, Row, command, order_of, orders
from app.charts import catalogue_charts
from app.gallery import CONCEPTS, WORDS
from app.serving.access import has_model
from app.state.address import MAX_TOKENS
from app.state.selections import MAX_RANK, MAX_TEXT, MAX_Z, By, PageOrder, SearchSelection, TokenSelection
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
    limits,
    on_click,
    open_catalogue,
    say_what_was_done,
    search_link,
    sync,
    title,
    whole_files,
)
from app.ui.components import Cell, Chip, Column, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import warn
from app.words import literal, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from db.questions import Order
from db.records import Concept, ConceptNeuron, Hit, Origin, Token, TokenMatches, WeightedToken
from db.token_text import display, shorten

HERE = "search"
_BYS = {"token": "a token", "concept": "a concept"}


def draw() -> None:
    """The page."""
    title(
        "Search neurons by token or concept",
        "Find the neurons whose value vector raises or lowers the logit of a token the most, or of the many tokens "
        "that a few words stand for.",
        HERE,
    )
    atlas = open_catalogue()
    selection, notices = SearchSelection.read(navigation.params(), limits(atlas))
    if selection.usual and atlas.texts is None:
        selection = replace(selection, usual=False)
        notices = [*notices, "No texts were read for this model, so which ends are usually active is not known."]
    warn(notices)
    named = selection.text or ", ".join(one.display for one in atlas.tokens(selection.tokens or ()).values())
    navigation.name_tab("Search", named)
    matches = atlas.resolve(selection.text) if selection.text else None
    by = search.searches_by(selection, matches)
    _form(selection, by, atlas)
    if by is By.TOKEN:
        _by_token(selection, matches, atlas)
    else:
        _by_concept(selection, atlas)
    footer(atlas)


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
    with st.container(horizontal=True, vertical_alignment="bottom", key="search_filters"):
        lists.kind_fields(HERE, selection, changed)
        names = {str(order): ORDERS[order].label for order in orders(selection, by)}
        sync("search_order", str(order_of(selection, by)))
        st.selectbox(
            "Ranked by", list(names), key="search_order", format_func=names.__getitem__, on_change=changed, width=170
        )
        lists.layer_slider(HERE, selection, atlas, changed, width=220)
        _more_conditions(selection, by, atlas, changed)
    if by is By.CONCEPT and has_model():
        sync("search_exact", selection.exact)
        st.toggle(
            f"Exact: rank all {atlas.info.neurons:,} neurons by the concept’s direction (needs the model)",
            key="search_exact",
            on_change=changed,
            help="Without it, only neurons whose stored token lists hold one of the concept’s tokens are found.",
        )


def _more_conditions(selection: SearchSelection, by: By, atlas: Catalogue, changed: Callable[[], None]) -> None:
    values = {"head": selection.head, "z": selection.min_z, "depth": selection.max_rank, "reverse": selection.reverse}
    if atlas.texts is not None:
        values["usual"] = selection.usual
    if atlas.info.expert_count:
        values["expert"] = selection.expert
    for name, value in values.items():
        sync(f"search_{name}", value)
    count = sum(value is not None and value is not False for value in values.values())
    label = "More conditions" + (f" · {count} set" if count else "")
    with st.popover(label, help="Head, least z, depth, reversed order"):
        st.selectbox(
            "Head",
            [None, *range(atlas.info.heads)],
            key="search_head",
            format_func=lambda head: "any" if head is None else f"head {head}",
            disabled=selection.kind is NeuronKind.FFN,
            on_change=changed,
            width=130,
        )
        if atlas.info.expert_count:
            st.selectbox(
                "Expert",
                [None, *range(atlas.info.expert_count)],
                key="search_expert",
                format_func=lambda expert: "any" if expert is None else f"expert {expert}",
                disabled=selection.kind is NeuronKind.ATTENTION or selection.head is not None,
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
        if atlas.texts is not None:
            hint = "Leaves out ends that are active in less than half of their neuron’s activations"
            st.checkbox("Only ends that are usually active", key="search_usual", on_change=changed, help=hint)


def _typed(selection: SearchSelection, by: By, atlas: Catalogue) -> SearchSelection:
    """The selection that the form stands for. With another text, the tokens of the old one are forgotten."""
    state = st.session_state
    text, chosen = state["search_text"] or "", By(state["search_by"] or by)
    if text != selection.text:
        selection = replace(selection, text=text, tokens=None, added=(), avoided=(), dropped=())
    if chosen is not by:
        selection = replace(selection, by=chosen, tokens=None)
    kinds = lists.chosen_kinds(HERE, atlas)
    best = orders(selection, by)[0]
    order = next(one for one in ORDERS if one == (state["search_order"] or best))
    head = None if kinds["kind"] is NeuronKind.FFN else state["search_head"]
    return replace(
        selection,
        **kinds,
        order=None if order is best or chosen is not by else order,
        head=head,
        expert=None if kinds["kind"] is NeuronKind.ATTENTION or head is not None else state.get("search_expert"),
        min_z=state["search_z"],
        max_rank=state["search_depth"],
        reverse=bool(state["search_reverse"]),
        usual=bool(state.get("search_usual", False)),
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
        _hit_results(tokens, selection, atlas)
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
    page = link(f"About “{tokens[0].display}” →", navigation.href("token", TokenSelection(ids[0])))
    concept = link("Search as a concept →", navigation.href(HERE, selection.plus(() if selection.text else ids)))
    with st.container(horizontal=True, vertical_alignment="center"):
        chips(items, key="tokens", here=HERE, label="tokens searched for", width="content")
        chips([page, concept], key="about", here=HERE, label="more about the token", width="content")


def _by_concept(selection: SearchSelection, atlas: Catalogue) -> None:
    try:
        concept = search.concept_of(atlas, selection)
    except AtlasError as error:
        warn([str(error)])
        _examples("Type what the neurons should stand for, or start from one of these:")
        return
    _concept_chips(concept, selection, atlas)
    if any(entry.weight > 0 for entry in concept.tokens):
        _concept_results(concept, selection, atlas)
    else:
        _examples("No token is left to look for. Add one above, or start from one of these:")


def _examples(lead: str) -> None:
    st.caption(lead)
    links = [link(words, navigation.href(HERE, SearchSelection(words, by=By.CONCEPT))) for words in CONCEPTS]
    chips(links, key="concepts", here=HERE, label="concepts to search for")
    links = [link(word, navigation.href(HERE, SearchSelection(word))) for word in WORDS]
    chips(links, key="words", here=HERE, label="words to search for")


# A concept's tokens as chips: the words' own, those near them, those to avoid. Each can be left out.

_SHOWN = 8
_ORIGINS = {
    Origin.WORD: "the word itself",
    Origin.BEGINNING: "begins like a word that is no token",
    Origin.NEIGHBOUR: "near the words in the model’s unembedding",
    Origin.CHOSEN: "added",
}


def _concept_chips(concept: Concept, selection: SearchSelection, atlas: Catalogue) -> None:
    """What the text was taken to mean, and the means to change it."""
    wanted = [entry for entry in concept.tokens if entry.weight > 0]
    own = [entry for entry in wanted if entry.origin is not Origin.NEIGHBOUR]
    near = [entry for entry in wanted if entry.origin is Origin.NEIGHBOUR]
    avoided = [entry for entry in concept.tokens if entry.weight <= 0]
    with st.container(border=True, gap="xsmall", key="concept_box"):
        if own:
            st.caption("The words’ own tokens, with their weights. A click leaves one out.")
            chips([_chip(one, selection) for one in own], key="concept_own", here=HERE, label="own tokens")
        if avoided:
            st.caption("To be avoided: they count against a neuron")
            chips([_chip(one, selection) for one in avoided], key="concept_avoided", here=HERE, label="avoided tokens")
        _dropped(selection, atlas)
        _unmatched(concept)
        _near(near, selection, concept)
        with st.container(horizontal=True):
            _further(near[_SHOWN:], selection)
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
    items = [_chip(entry, selection) for entry in near[:_SHOWN]]
    chips([*items, narrow], key="concept_near", here=HERE, label="near tokens")


def _further(near: Sequence[WeightedToken], selection: SearchSelection) -> None:
    if near:
        with st.popover(f"{len(near)} more tokens near them"):
            items = [_chip(entry, selection) for entry in near]
            chips(items, key="concept_further", here=HERE, label="further tokens")


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
        into = " It splits into" if word.pieces or not word.rowless else ""
        st.caption(literal(f"“{shown}” {word.why}{stands}.{into}"))
        pieces = [chip(one.display, navigation.href("token", TokenSelection(one.token_id))) for one in word.pieces[:24]]
        if pieces:
            chips(pieces, key=f"concept_pieces_{number}", here=HERE, label=f"pieces of word {number + 1}")
        elif into:
            st.caption("no pieces that this catalogue knows")


def _add(selection: SearchSelection, atlas: Catalogue) -> None:
    def add() -> None:
        typed = st.session_state["concept_add"] or ""
        st.session_state["concept_add"] = ""
        avoid, word = typed.startswith("-"), typed.removeprefix("-")
        found = [one.token_id for one in atlas.tokens_of(word)] if word else []
        changed = selection.plus(found, avoid=avoid)
        if max(len(changed.added), len(changed.avoided)) > MAX_TOKENS:
            raise AtlasError(f"At most {MAX_TOKENS} tokens can be added.")
        navigation.show(changed)

    st.text_input(
        "Add a token",
        key="concept_add",
        max_chars=MAX_TEXT,
        placeholder="add a token; with a minus before it, one to avoid",
        label_visibility="collapsed",
        on_change=partial(on_click, add, "concept_add"),
        width=360,
    )
    say_what_was_done(key="concept_add")


# What was found: a sentence, a page of it as a table, where in the model its neurons are, and all of it as files.


def _hit_results(tokens: Sequence[Token], selection: SearchSelection, atlas: Catalogue) -> None:
    """The neurons that have one of the tokens at an end."""
    result = search.find_hits(atlas, tokens, selection)
    _results(result, _hit_columns(result.page.rows, selection, atlas), selection, atlas)


def _concept_results(concept: Concept, selection: SearchSelection, atlas: Catalogue) -> None:
    """The ends of neurons that cover a concept, by their stored tokens or by its direction."""
    if selection.exact:
        result = attempt(partial(search.find_exactly, atlas, concept, selection))
        if result is None:
            off = navigation.href(HERE, replace(selection, exact=False, page=1))
            chips([link("Search the stored lists instead", off)], key="inexact", here=HERE, label="without the model")
            return
    else:
        result = search.find_concept(atlas, concept, selection)
    _results(result, _end_columns(result.page.rows, selection, atlas), selection, atlas)


_Sortable = tuple[lists.ColumnOf[Row], Order | PageOrder | None]
"""A column, and the order that a click on its heading chooses."""


def _results(
    result: Result[Row], columns: Sequence[_Sortable[Row]], selection: SearchSelection, atlas: Catalogue
) -> None:
    page = result.page
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{literal(result.sentence)}**", width="content")
        keep(HERE, selection, navigation.in_a_line(selection.text) or result.sentence, result.sentence, atlas)
    if not page.total:
        st.info(
            f"No neuron has such a token among the {atlas.info.depth} strongest of an end. Widen the layers, allow "
            "both ends, remove conditions, or search for a more common word.",
            icon=":material/search_off:",
        )
        return
    hits = result.by is By.TOKEN
    what = "hits" if hits else "rows, the best of all" if selection.exact else "rows"
    left, right = st.columns([2 if hits else 3, 1], gap="medium")
    with left:
        last = page.first + len(page.rows) - 1
        each = "" if hits else " Each is one end of a neuron: the tokens it promotes, or those it suppresses."
        st.caption(f"{page.first:,} to {last:,} of {page.total:,} {what}.{each} A row opens its neuron.")
        headed = _headed(columns, selection, result.by)
        lists.table(
            page.rows, headed, lambda row: lists.neuron_link(row.neuron), key="hits", here=HERE, label="found neurons"
        )
        legend("ffn", "attention", "promotes", "suppresses")
        lists.pager(page.number, page.pages, lambda at: navigation.href(HERE, replace(selection, page=at)), here=HERE)
    with right:
        title = "Found neurons by layer" if hits else f"The best {min(search.BEST, page.total)} by layer"
        name = "found_by_layer" if hits else "best_by_layer"
        show(catalogue_charts.layer_distribution(result.by_layer, atlas.info.layers, name=name, title=title))
    frame = result.frame(page.rows)
    folded("This page as a data table", lambda: data_table(frame, "this_page"), key="this_page")
    _downloads(result, selection, atlas)


def _headed(columns: Sequence[_Sortable[Row]], selection: SearchSelection, by: By) -> list[lists.ColumnOf[Row]]:
    """The columns with links in their headings: a click sorts, a second click reverses the order."""
    possible, current = orders(selection, by), order_of(selection, by)

    def heading(column: Column, order: Order | PageOrder | None) -> Column:
        if order is None or order not in possible:
            return column
        here = order is current
        best = None if order is possible[0] else order
        to = replace(selection, order=best, reverse=here and not selection.reverse, page=1)
        upwards = ORDERS[order].ascending != selection.reverse
        state: Literal["ascending", "descending"] = "ascending" if upwards else "descending"
        return replace(column, href=navigation.href(HERE, to), sorted=state if here else "")

    return [(heading(column, order), cell) for (column, cell), order in columns]


def _hit_columns(rows: Sequence[Hit], selection: SearchSelection, atlas: Catalogue) -> list[_Sortable[Hit]]:
    strongest = atlas.strongest_tokens([hit.neuron for hit in rows], 6)
    by_logit = order_of(selection, By.TOKEN) is Order.LOGIT
    return [
        (lists.named(strongest, atlas), PageOrder.NEURON),
        (lists.token("▲ among the neuron’s highest logits, ▼ among its lowest"), PageOrder.SIGN),
        (lists.text("rank", "number", lambda hit: f"{hit.rank}", lists.RANK_HINT), Order.RANK),
        (lists.bar("logit", rows, lambda hit: hit.logit, signed, "of the value vector alone"), Order.LOGIT)
        if by_logit
        else (lists.bar("z-score", rows, lambda hit: hit.z, signed, lists.Z_HINT), Order.Z),
        (lists.strongest_tokens(strongest), None),
    ]


_SCORE = (
    "Sum over the matched tokens of weight × √|z|; the spellings of a word share one weight. Comparable within a search"
)
_MEAN_Z = "Weighted mean of z over all of the concept’s tokens, whether stored or not"


def _end_columns(
    rows: Sequence[ConceptNeuron], selection: SearchSelection, atlas: Catalogue
) -> list[_Sortable[ConceptNeuron]]:
    strongest = atlas.strongest_tokens([row.neuron for row in rows], 8)
    name, hint = ("mean z", _MEAN_Z) if selection.exact else ("score", _SCORE)
    matched = Column("matched", "list", "the concept’s tokens among the stored ones of that end")
    return [
        (lists.named(strongest, atlas), PageOrder.NEURON),
        (lists.bar(name, rows, lambda row: row.score, lambda value: f"{value:.2f}", hint), PageOrder.SCORE),
        ((matched, _matched), PageOrder.MATCHED),
        (lists.strongest_tokens(strongest, "strongest", "list", "its first tokens at that end"), None),
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
