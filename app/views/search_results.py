"""What a search found: a sentence, a page of neurons, where in the model they are, and the whole of it as files."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from app import navigation
from app.asking import finding
from app.asking.ranking import Page, concept_sentence, hits_sentence
from app.drawing import charts
from app.drawing.components import chips, legend, link
from app.drawing.wording import literal
from app.notices import fail
from app.state.selection import By, SearchSelection
from app.views.pictures import shown
from app.views.search_files import as_data, exports
from app.views.search_tables import ends_table, hits_table
from app.views.shared import progress
from db.answers import ConceptNeuron, Hit, Token
from db.catalogue import Catalogue
from db.concepts import Concept
from db.errors import AtlasError
from db.frames import concept_frame, hits_frame

HERE = "search"
_SCORE = (
    "Sum over the matched tokens of weight × √|z|, a word’s spellings sharing one weight; comparable within a search"
)
_MEAN_Z = "Weighted mean of z over all of the concept’s tokens, whether stored or not"


def hit_results(selection: SearchSelection, tokens: Sequence[Token], atlas: Catalogue) -> None:
    """The neurons that have one of the tokens at an end."""
    ids = [token.token_id for token in tokens]
    page = finding.hits_page(atlas, ids, selection)
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
        chart = charts.layer_distribution(counts, atlas.info.layers)
        shown("found_by_layer", chart, counts, "Found neurons by layer")
    as_data(hits_frame(page.rows))
    exports(page.total, selection, By.TOKEN, atlas, lambda: hits_frame(finding.all_hits(atlas, ids, selection)))


def concept_results(selection: SearchSelection, concept: Concept, atlas: Catalogue) -> None:
    """The ends of neurons whose stored tokens cover the concept."""
    page = finding.concept_page(atlas, concept, selection)
    st.markdown(f"**{literal(concept_sentence(concept, selection))}**")
    if not page.total:
        _nothing(atlas)
        return
    _ends(page, selection, atlas, "score", _SCORE, finding.best_by_layer(atlas, concept, selection))
    as_data(concept_frame(page.rows))

    def whole() -> pd.DataFrame:
        return concept_frame(finding.all_of_concept(atlas, concept, selection))

    exports(page.total, selection, By.CONCEPT, atlas, whole)


def exact_results(selection: SearchSelection, concept: Concept, atlas: Catalogue) -> None:
    """All neurons by the concept's direction."""
    try:
        with progress() as watch:
            page = finding.exact_page(atlas, concept, selection, watch)
    except AtlasError as error:
        fail(error)
        off = link("Search the stored lists instead", navigation.href(HERE, replace(selection, exact=False, page=1)))
        chips([off], key="inexact", here=HERE, label="without the model")
        return
    st.markdown(f"**{literal(concept_sentence(concept, selection))}, of all {atlas.info.neurons:,} neurons**")
    if not page.total:
        _nothing(atlas)
        return
    whole = finding.all_exact(atlas, concept, selection)
    counts = finding.layers_of([row.neuron for row in whole[: finding.BEST]])
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
        best = min(finding.BEST, page.total)
        chart = charts.layer_distribution(counts, atlas.info.layers, f"The best {best} by layer")
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
