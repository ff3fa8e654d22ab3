"""What the search, token and overview pages ask: pages of results, their order and the sentence above them; the map.

Answers come from the catalogue; only an exact search, which ranks every neuron, needs the model.
"""

import base64
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from app.attribution.frames import activated_frame
from app.serving import resources
from app.serving.access import require_allowed
from app.serving.settings import public
from app.serving.worker import Report
from app.state.selections import PAGE_ROWS, By, PageOrder, SearchSelection
from db.catalogue.concepts import WIDEN, without_families
from db.catalogue.export import frame_of
from db.catalogue.store import Catalogue
from db.errors import NotFoundError
from db.groups import Group, GroupedBy, MapShade, NeuronMap, find_group
from db.lazy import lazy_import
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import ConceptSearch, Filters, Order, Search, parameters, shell_options, texts_of, token_words
from db.records import Concept, ConceptNeuron, Hit, MatchedToken, PeakedNeuron, Token, TokenFavour, TokenMatches

if TYPE_CHECKING:
    from app.attribution import activated
    from app.attribution.activated import ActivatedBy, ActivatedNeuron
    from indexer import directions
else:
    activated, directions = lazy_import("app.attribution.activated"), lazy_import("indexer.directions")

MAX_WHOLE = 100_000
"""Most rows of a result that are sorted or exported."""
MAX_RANKED = 20_000
"""Most ends of neurons that an exact search keeps."""
BEST = 200
"""Neurons of a concept whose layers are counted: beyond the best there are many that share one token by chance."""

Row = TypeVar("Row", Hit, ConceptNeuron, "ActivatedNeuron")
SortKey = Callable[[Any], tuple[float | str, ...]]


# The orders of a search, each described once.


@dataclass(frozen=True, slots=True)
class Ranking:
    """One order of the results, with its sort key in each kind of search; None where that search does not have it."""

    label: str
    """In the menu."""
    words: str
    """In the sentence above the results, after “by”."""
    hits: SortKey | None = None
    """Of a search for tokens."""
    ends: SortKey | None = None
    """Of a search for a concept."""
    exact: SortKey | None = None
    """Of an exact search for a concept."""

    def key(self, by: By, exact: bool) -> SortKey | None:
        """The sort key in a kind of search."""
        return self.hits if by is By.TOKEN else self.exact if exact or by is By.TEXT else self.ends


def as_found(_row: object) -> tuple[float | str, ...]:
    """The order in which the catalogue, or the model, returns the rows."""
    return ()


def _place(row: Hit | ConceptNeuron) -> tuple[float | str, ...]:
    neuron = row.neuron
    within = neuron.head if neuron.expert is None else neuron.expert
    return neuron.layer, str(neuron.kind), -1 if within is None else within, neuron.index


def _end(row: Hit | ConceptNeuron) -> tuple[float | str, ...]:
    return (0 if row.sign is Sign.PROMOTES else 1,)


ORDERS: dict[Order | PageOrder, Ranking] = {
    PageOrder.SCORE: Ranking("score", "score", ends=as_found, exact=as_found),
    PageOrder.MATCHED: Ranking("tokens matched", "number of tokens", ends=lambda row: (-len(row.matched), -row.score)),
    Order.Z: Ranking(
        "z-score", "largest |z|", hits=as_found, ends=lambda row: (-max(abs(one.z) for one in row.matched), -row.score)
    ),
    Order.RANK: Ranking(
        "rank",
        "best rank",
        hits=as_found,
        ends=lambda row: (min(one.rank for one in row.matched), -row.score),
    ),
    Order.LOGIT: Ranking("logit", "logit", hits=as_found),
    PageOrder.NEURON: Ranking("neuron", "place in the model", _place, _place, _place),
    PageOrder.SIGN: Ranking("end", "end", _end, _end, _end),
}
"""In the order of the menu; a search ranks by the first of its own unless another is chosen."""


def orders(selection: SearchSelection, by: By) -> tuple[Order | PageOrder, ...]:
    """The orders that a search has, its own best-first order first."""
    return tuple(order for order, ranking in ORDERS.items() if ranking.key(by, selection.exact) is not None)


def order_of(selection: SearchSelection, by: By) -> Order | PageOrder:
    """The order of the results; the search's own where it does not have the one that is asked for."""
    possible = orders(selection, by)
    return selection.order if selection.order in possible else possible[0]


def _sort_key(selection: SearchSelection, by: By) -> SortKey:
    return ORDERS[order_of(selection, by)].key(by, selection.exact) or as_found


def _sorted(rows: tuple[Row, ...], selection: SearchSelection, by: By) -> tuple[Row, ...]:
    key = _sort_key(selection, by)
    ordered = rows if key is as_found else tuple(sorted(rows, key=key))
    return ordered[::-1] if selection.reverse else ordered


def hits_sentence(tokens: Sequence[Token], selection: SearchSelection) -> str:
    """What is shown of tokens, such as “FFN neurons that promote “␣Paris”, by z”."""
    order = order_of(selection, By.TOKEN)
    words = str(order) if ORDERS[order].hits is as_found else ORDERS[order].words
    return _sentence(selection.conditions.sentence(token_words(tokens)), words, selection)


def concept_sentence(concept: Concept, selection: SearchSelection) -> str:
    """What is shown of a concept, such as “FFN neurons that promote “␣red”, “␣blue” and 30 more, by score”."""
    conditions = replace(selection.conditions, max_rank=None) if selection.exact else selection.conditions
    order = order_of(selection, By.CONCEPT)
    words = "weighted mean z" if selection.exact and order is PageOrder.SCORE else ORDERS[order].words
    return _sentence(conditions.sentence(concept.describe()), words, selection)


def _sentence(conditions: str, order: str, selection: SearchSelection) -> str:
    return f"{conditions}, by {order}" + (", reversed" if selection.reverse else "")


# What a search looks for.


def searches_by(selection: SearchSelection, matches: TokenMatches | None) -> By:
    """Token or concept: as chosen, else by what the text is."""
    if selection.by is not None:
        return selection.by
    if selection.tokens is not None or (matches is not None and matches.matched):
        return By.TOKEN
    chosen = selection.added or selection.avoided
    return By.CONCEPT if selection.text.strip() or chosen else By.TOKEN


def concept_of(atlas: Catalogue, selection: SearchSelection) -> Concept:
    """The concept that the text stands for, without the tokens left out and with those added.

    Raises:
        AtlasError: a text that holds no word, or too many.
    """
    chosen = atlas.concept_of({**dict.fromkeys(selection.added, 1.0), **dict.fromkeys(selection.avoided, -1.0)})
    if not selection.text.strip():
        return chosen
    text, widen = selection.text, 0 if selection.narrow else WIDEN
    found = resources.remembered((atlas.info.build_id, "words", text, widen), lambda: atlas.concept(text, widen=widen))
    left = without_families(found.without(selection.dropped), atlas.tokens(selection.families).values())
    return left.with_tokens(chosen.tokens)


def with_word(text: str, word: str, instead: str) -> str:
    """A text with another word in place of one of its own."""
    return re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda _: instead, text, count=1)


# The three searches.


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of a result."""

    rows: tuple[Row, ...]
    number: int
    """From 1."""
    total: int
    """Rows of the whole result."""

    @property
    def pages(self) -> int:
        """How many there are."""
        return -(-self.total // PAGE_ROWS)

    @property
    def first(self) -> int:
        """The number of its first row, from 1."""
        return PAGE_ROWS * (self.number - 1) + 1


@dataclass(frozen=True, slots=True)
class Result(Generic[Row]):
    """What a search found."""

    by: By
    sentence: str
    page: Page[Row]
    by_layer: pd.DataFrame
    """How many neurons of each layer and kind, for a concept among its :data:`BEST`. Columns: layer, kind, neurons."""
    whole: Callable[[], tuple[Row, ...]]
    """Makes all rows, at most :data:`MAX_WHOLE`."""
    frame: Callable[[Sequence[Row]], pd.DataFrame]
    """Rows as a data frame."""


def find_hits(atlas: Catalogue, tokens: Sequence[Token], selection: SearchSelection) -> Result[Hit]:
    """The neurons that have one of the tokens at an end."""
    ids = [token.token_id for token in tokens]
    order = order_of(selection, By.TOKEN)
    stored = order if isinstance(order, Order) else Order.Z
    asked = replace(selection.conditions, order=stored)

    def whole() -> tuple[Hit, ...]:
        def make() -> tuple[Hit, ...]:
            return _sorted(atlas.search_token(ids, asked, limit=MAX_WHOLE), selection, By.TOKEN)

        return resources.remembered(_key(atlas, selection, ids), make)

    if _best_first(selection, By.TOKEN):
        total = atlas.count_hits(ids, selection.conditions)
        page = _page(selection, total, lambda at: atlas.search_token(ids, asked, limit=PAGE_ROWS, offset=at))
    else:
        page = _page_of(whole(), selection)
    counts = atlas.layer_counts(ids, selection.conditions)
    return Result(By.TOKEN, hits_sentence(tokens, selection), page, counts, whole, partial(frame_of, Hit))


def find_concept(atlas: Catalogue, concept: Concept, selection: SearchSelection) -> Result[ConceptNeuron]:
    """The ends of neurons whose stored tokens cover a concept."""
    key = _key(atlas, selection, concept.token_ids)

    def ends(limit: int, offset: int = 0) -> tuple[ConceptNeuron, ...]:
        return atlas.concept_neurons(concept, selection.conditions, limit=limit, offset=offset)

    def whole() -> tuple[ConceptNeuron, ...]:
        return resources.remembered(key, lambda: _sorted(ends(MAX_WHOLE), selection, By.CONCEPT))

    best = resources.remembered(("best", *key), lambda: ends(BEST))
    if _best_first(selection, By.CONCEPT):
        total = resources.remembered(("count", *key), lambda: atlas.count_concept(concept, selection.conditions))
        page = _page(
            selection,
            total,
            lambda at: best[at : at + PAGE_ROWS] if at + PAGE_ROWS <= BEST else ends(PAGE_ROWS, at),
        )
    else:
        page = _page_of(whole(), selection)
    counts = count_by_layer([one.neuron for one in best])
    return Result(
        By.CONCEPT, concept_sentence(concept, selection), page, counts, whole, partial(frame_of, ConceptNeuron)
    )


def find_exactly(
    atlas: Catalogue, concept: Concept, selection: SearchSelection, watch: Report | None = None
) -> Result[ConceptNeuron]:
    """All neurons by the concept's direction; scores are mean z, and matched tokens those that are stored.

    Raises:
        AtlasError: the model is not here.
    """
    ends = (ConceptNeuron(end.neuron, end.sign, end.mean_z, ()) for end in _ranked(atlas, concept, selection, watch))
    whole = _sorted(tuple(ends), selection, By.CONCEPT)
    page = _page_of(whole, selection)
    weights = {entry.token.token_id: entry.weight for entry in concept.tokens}
    stored = atlas.strongest_tokens([row.neuron for row in page.rows], atlas.info.depth)
    rows = (replace(row, matched=_of_concept(stored[row.neuron].at(row.sign), weights)) for row in page.rows)
    return Result(
        By.CONCEPT,
        f"{concept_sentence(concept, selection)}, of all {atlas.info.neurons:,} neurons",
        replace(page, rows=tuple(rows)),
        count_by_layer([row.neuron for row in whole[:BEST]]),
        lambda: whole,
        partial(frame_of, ConceptNeuron),
    )


def why_no_texts(atlas: Catalogue) -> str | None:
    """Why no text can be searched by, and what would help; None where one can."""
    try:
        texts_of(atlas)
    except NotFoundError as error:
        return public(str(error))
    return None


def find_activated(
    atlas: Catalogue, selection: SearchSelection, watch: Report | None = None
) -> "tuple[ActivatedBy, Result[ActivatedNeuron]]":
    """The neurons that the selection's passage activates far more than the corpus does, by falling z.

    Raises:
        AtlasError: there are no texts to compare with, the model is not here, or the passage is too long.
    """
    require_allowed(selection.passage)
    conditions = replace(selection.conditions, max_rank=None)
    texts = texts_of(atlas)

    def make(report: Report) -> "ActivatedBy":
        model = resources.ready(atlas, report)
        report(f"Reading the text with {atlas.info.neurons:,} neurons …")
        return activated.activated_by(model, texts, selection.passage, conditions)

    key = (atlas.info.build_id, "activated", texts.stamp.texts_id, selection.passage, conditions)
    found: ActivatedBy = resources.workshop().result("direction", key, make, watch)
    sentence = f"{conditions.subject} that the text activates most, by z over {found.corpus}"
    counts = count_by_layer([one.neuron for one in found.neurons[:BEST]])
    whole = _sorted(found.neurons, selection, By.TEXT)
    frame = partial(activated_frame, found.tokens)
    return found, Result(By.TEXT, sentence, _page_of(whole, selection), counts, lambda: whole, frame)


def _of_concept(tokens: Sequence[Token], weights: dict[int, float]) -> tuple[MatchedToken, ...]:
    """The tokens of an end that belong to a concept; their z is not looked up."""
    return tuple(
        MatchedToken(token, weights[token.token_id], rank, 0.0)
        for rank, token in enumerate(tokens, 1)
        if token.token_id in weights
    )


def _ranked(
    atlas: Catalogue, concept: Concept, selection: SearchSelection, watch: Report | None
) -> "tuple[directions.ConceptStrength, ...]":
    """The ends of all neurons by how strongly their value vectors point to the concept, at most :data:`MAX_RANKED`.

    The least z applies to the mean z; stored ranks are ignored.
    """
    weights = concept.shares()
    conditions = selection.conditions
    narrowed = conditions.usual or conditions.head is not None or conditions.expert is not None

    def make(report: Report) -> "tuple[directions.ConceptStrength, ...]":
        model = resources.ready(atlas, report)
        report(f"Ranking all {atlas.info.neurons:,} neurons …")
        found = directions.rank_by_direction(
            model.weights,
            model.unembedding,
            list(weights),
            list(weights.values()),
            atlas.info.neurons if narrowed else MAX_RANKED,
            kind=conditions.kind,
            layers=conditions.layers,
            sign=conditions.sign,
        )
        least, usual = conditions.min_z, atlas.texts.usual_ends if conditions.usual and atlas.texts else None
        return tuple(
            one
            for one in found
            if (least is None or one.mean_z >= least)
            and (usual is None or usual[2 * atlas.layout.neuron_id(one.neuron) + (one.sign is Sign.PROMOTES)] == "1")
            and (conditions.head is None or one.neuron.head == conditions.head)
            and (conditions.expert is None or one.neuron.expert == conditions.expert)
        )[:MAX_RANKED]

    key = (atlas.info.build_id, "concept", tuple(weights.items()), conditions)
    return resources.workshop().result("direction", key, make, watch)


def _best_first(selection: SearchSelection, by: By) -> bool:
    """Whether the rows come sorted, so that one page can be asked for alone."""
    return not selection.reverse and _sort_key(selection, by) is as_found


def _page(selection: SearchSelection, total: int, rows: Callable[[int], tuple[Row, ...]]) -> Page[Row]:
    """The page that is asked for, or the last one; `rows` gives those from an offset on."""
    number = min(selection.page, max(1, -(-total // PAGE_ROWS)))
    return Page(rows(PAGE_ROWS * (number - 1)), number, total)


def _page_of(rows: tuple[Row, ...], selection: SearchSelection) -> Page[Row]:
    return _page(selection, len(rows), lambda at: rows[at : at + PAGE_ROWS])


def _key(atlas: Catalogue, selection: SearchSelection, ids: Sequence[int]) -> tuple[object, ...]:
    """What a whole result depends on: the build, the question and its order, but not the page."""
    question = {name: value for name, value in selection.params().items() if name != "page"}
    return atlas.info.build_id, tuple(sorted(question.items())), tuple(ids)


def count_by_layer(neurons: Sequence[Neuron]) -> pd.DataFrame:
    """How many neurons of each layer and kind. Columns: layer, kind, neurons."""
    frame = pd.DataFrame({"layer": [one.layer for one in neurons], "kind": [str(one.kind) for one in neurons]})
    return frame.groupby(["layer", "kind"]).size().reset_index(name="neurons")


# What the token page and the overview ask.

_LISTED = 30


def other_spellings(atlas: Catalogue, token: Token) -> tuple[Token, ...]:
    """The other tokens that are this one in another spelling."""
    text = token.text.strip()
    found = atlas.resolve(text).matched if 0 < len(text) <= 1000 else ()
    return tuple(one for one in found if one.token_id != token.token_id)


def overview(atlas: Catalogue) -> pd.DataFrame:
    """See :meth:`Catalogue.overview`."""
    return resources.remembered((atlas.info.build_id, "overview"), atlas.overview)


def most_peaked(atlas: Catalogue, conditions: Filters) -> tuple[PeakedNeuron, ...]:
    """See :meth:`Catalogue.most_peaked`."""
    key = (atlas.info.build_id, "peaked", conditions)
    return resources.remembered(key, lambda: atlas.most_peaked(conditions, limit=_LISTED))


def favourites(atlas: Catalogue) -> tuple[TokenFavour, ...]:
    """See :meth:`Catalogue.favourites`."""
    return resources.remembered((atlas.info.build_id, "favourites"), lambda: atlas.favourites(limit=_LISTED))


# The map of the overview: where neurons lie, how each is shaded, and what is told of it.

_NONE = 255  # the shade of what has no value
_SHADES = 254
_TOLD_OF = 100_000
"""Neurons up to which each is told of by its tokens; of more, by its label alone."""


def shades(
    atlas: Catalogue, found: NeuronMap, shade: MapShade
) -> tuple[NDArray[np.uint8], tuple[str, str, str] | None]:
    """How each neuron of a map is shaded, from 0 to 254, 255 for none; and low end, high end and title of the legend.

    By groups a shade is a group's, and there is no legend.
    """
    match shade:
        case MapShade.GROUP:
            kinds = (found.group - 1) % _SHADES
            return np.where(found.group > 0, kinds, _NONE).astype(np.uint8), None
        case MapShade.LAYER:
            values, title = _layers(atlas, found).astype(float), "layer"
        case MapShade.SHARPNESS:
            values, title = found.sharpness.astype(float), "the larger |z| of its two first tokens"
        case MapShade.RATE:
            rates, title = _rates(atlas, found), "share of tokens at which it is active, logarithmic"
            values = np.log10(np.where(rates > 0, rates, np.nan))
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(values), _NONE, np.uint8), None
    low, high = np.quantile(values[known], (0, 1) if shade is MapShade.LAYER else (0.01, 0.99))
    steps = np.clip((values - low) / (high - low or 1.0), 0, 1) * _SHADES
    ends = (f"{10**low:.1%}", f"{10**high:.1%}") if shade is MapShade.RATE else (f"{low:.3g}", f"{high:.3g}")
    return np.where(known, np.nan_to_num(steps).round(), _NONE).astype(np.uint8), (*ends, title)


def cloud(atlas: Catalogue, by: GroupedBy, shade: MapShade, group: Group | None) -> dict[str, Any]:
    """What the browser draws: places and shades as packed numbers, and a line of text for each neuron."""
    found = atlas.maps[by]
    shaded, scale = shades(atlas, found, shade)
    chosen = found.group == (group.number if group is not None else -1)
    packed = {
        "x": (found.x * 65535).round().astype("<u2"),
        "y": (found.y * 65535).round().astype("<u2"),
        "shade": shaded,
        "chosen": chosen.astype(np.uint8),
    }
    data: dict[str, Any] = {name: base64.b64encode(one.tobytes()).decode() for name, one in packed.items()}
    data["names"] = _lines(atlas, found)
    data |= {"map": f"{by} of {atlas.info.build_id}", "kinds": shade is MapShade.GROUP}
    if scale is not None:
        data["scale"] = dict(zip(("low", "high", "title"), scale, strict=True))
    return data


def _layers(atlas: Catalogue, found: NeuronMap) -> NDArray[np.int64]:
    firsts = [atlas.layout.block(layer, NeuronKind.FFN).first for layer in range(atlas.layout.layers)]
    return np.searchsorted(firsts, found.neuron_ids, side="right") - 1


def _rates(atlas: Catalogue, found: NeuronMap) -> NDArray[np.float64]:
    """Share of tokens at which each neuron is active; NaN where there are no texts."""
    texts = atlas.texts
    if texts is None:
        return np.full(len(found.neuron_ids), np.nan)

    def made() -> NDArray[np.float64]:
        marks = texts.marks_by_id(found.neuron_ids.tolist())
        usual = [mark.usual if (mark := marks.get(one)) else None for one in found.neuron_ids.tolist()]
        return np.array([one.rate if one else np.nan for one in usual])

    key = (atlas.info.build_id, "rates", texts.stamp.texts_id)
    return resources.remembered(key, made)


def _lines(atlas: Catalogue, found: NeuronMap) -> str:
    """A line for each neuron, which begins with its label."""

    def made() -> str:
        layout = atlas.layout
        labels = [
            Neuron.in_row(layer, NeuronKind.FFN, row, layout.sizes(layer)).label
            for layer in range(layout.layers)
            for row in range(layout.block(layer, NeuronKind.FFN).size)
        ]
        if len(labels) > _TOLD_OF:
            return "\n".join(labels)
        return "\n".join(f"{label}  {words}" for label, words in zip(labels, found.words, strict=True))

    return resources.remembered((atlas.info.build_id, "names on the map"), made)


def chosen_group(atlas: Catalogue, name: str) -> Group | None:
    """The group of a name; None where none is chosen.

    Raises:
        NotFoundError: there is no such group.
    """
    return find_group(atlas.maps, name) if name else None


# The shell commands that write the same.

MAX_BUILD_BYTES = 300_000_000
"""A larger build is not handed through the page; it is copied where it lies."""


def command(selection: SearchSelection, by: By, model: str) -> str | None:
    """The shell command that exports the same rows; None where the shell cannot ask for them."""
    if not selection.text or selection.tokens is not None or selection.avoided or selection.exact:
        return None
    conditions = {one.field: getattr(selection.conditions, one.field) for one in parameters(Filters)}
    if by is By.TOKEN:
        question: Search | ConceptSearch = Search(text=selection.text, **conditions)
    else:
        question = ConceptSearch(
            text=selection.text,
            widen=0 if selection.narrow else WIDEN,
            add=selection.added,
            drop=selection.dropped,
            drop_family=selection.families,
            **conditions,
        )
    what = "search" if by is By.TOKEN else "concept"
    words = ["python", "-m", "db", "export", what, "--model", model, *shell_options(question)]
    return " ".join(map(shlex.quote, [*words, "--to", "neurons.csv", "--", selection.text]))


def copy_command(path: Path, model: str) -> str:
    """The shell command that copies a whole build."""
    return " ".join(map(shlex.quote, ["python", "-m", "db", "export", "--model", model, "--build", path.name]))
