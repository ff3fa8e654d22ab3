"""What the neuron page asks: where a neuron ranks in its layer, and which others are near it or similar to it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from app import gallery
from app.answers import search
from app.serving import resources
from app.serving.worker import Report
from app.words import figure, nats, percent, signed, whole_percent
from db.catalogue.store import EVERYTHING, Catalogue
from db.errors import NotFoundError
from db.lazy import lazy_import
from db.neuron import Neuron, Part, Sign, Sizes, width_of
from db.records import NeuronCard
from db.texts.records import Excerpt, NeuronTexts, Usual
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.results import Analysis, ValueNeuron
    from indexer import directions
else:
    directions = lazy_import("indexer.directions")

_EACH_SIDE = 4
FIGURES = ("norm", "std", "top_z", "bottom_z")
"""Columns of ``Catalogue.layer_statistics`` by which a neuron is ranked."""


def texts_command(neuron: Neuron, model: str) -> str:
    """The shell command that prints the texts of a neuron."""
    return shlex.join(["python", "-m", "db", "texts", neuron.label, "--model", model, "--json"])


def examples(atlas: Catalogue) -> tuple[str, ...]:
    """Labels of neurons to look at: those chosen of the gallery's model, of any other the most peaked."""
    if gallery.of_model(atlas.info.model, atlas.info.checkpoint):
        return gallery.NEURONS
    peaked = dict.fromkeys(one.neuron.label for one in search.most_peaked(atlas, EVERYTHING))
    return tuple(peaked)[: len(gallery.NEURONS)]


@dataclass(frozen=True, slots=True)
class LayerRank:
    """A neuron among the others of ``Catalogue.layer_statistics``."""

    figures: dict[str, float]
    """Its own, by the name of the column."""
    exceeds: dict[str, float]
    """By the same names: the share of the layer's other neurons that it exceeds in size, from 0 to 1."""
    before: Neuron | None
    after: Neuron | None


def rank_in_layer(neuron: Neuron, layer: pd.DataFrame, sizes: Sizes) -> LayerRank:
    """Rank a neuron among those of its layer and kind.

    Args:
        neuron: which.
        layer: all neurons of its layer and kind, in neuron order; columns index, head and :data:`FIGURES`.
        sizes: of the model.
    """
    place, count = neuron.row(sizes), len(layer)
    others = max(count - 1, 1)
    figures = {name: float(layer[name].iloc[place]) for name in FIGURES}
    return LayerRank(
        figures,
        {name: float((layer[name].abs() < abs(figures[name])).sum()) / others for name in FIGURES},
        Neuron.in_row(neuron.layer, neuron.kind, place - 1, sizes) if place else None,
        Neuron.in_row(neuron.layer, neuron.kind, place + 1, sizes) if place + 1 < count else None,
    )


def rank_sentence(card: NeuronCard, rank: LayerRank) -> str:
    """Mean and spread of the neuron's logits, and how sharp its sharper end is."""
    sharper, end = max((rank.exceeds["top_z"], "promotes"), (rank.exceeds["bottom_z"], "suppresses"))
    return (
        f"Over the vocabulary its logits have mean {signed(card.mean)} and standard deviation {card.std:.2f}. Its "
        f"first token stands out most sharply at the end it {end}: more than in {percent(sharper)} of the others. A "
        "sharp end points to a few tokens; a blunt one is spread over many and hard to read."
    )


@dataclass(frozen=True, slots=True)
class NeuronPeak:
    """A neuron and the larger of the z-scores of its two first tokens in size, with its sign."""

    neuron: Neuron
    z: float


def head_by_peak(neuron: Neuron, layer: pd.DataFrame) -> tuple[NeuronPeak, ...]:
    """The other neurons of an attention neuron's head, the largest peak first. For `layer` see `rank_in_layer`."""
    own = layer[(layer["head"] == neuron.head) & (layer["index"] != neuron.index)]
    peaks = own["top_z"].where(own["top_z"].abs() >= own["bottom_z"].abs(), own["bottom_z"])
    order = peaks.abs().sort_values(ascending=False, kind="stable").index
    return tuple(NeuronPeak(replace(neuron, index=int(own.loc[at, "index"])), float(peaks[at])) for at in order)


def layer_neighbours(atlas: Catalogue, neuron: Neuron) -> tuple[Neuron, ...]:
    """The neuron with those next to it in its layer, or in its head or expert."""
    width = width_of(Part.of(neuron), atlas.layout.sizes(neuron.layer))
    places = range(max(0, neuron.index - _EACH_SIDE), min(width, neuron.index + _EACH_SIDE + 1))
    return tuple(replace(neuron, index=place) for place in places)


def similar_by_value(
    atlas: Catalogue, neuron: Neuron, count: int, watch: Report | None = None
) -> "tuple[directions.NeuronCosine, ...]":
    """The neurons whose value vectors have the largest cosine with this one's, in either direction.

    Raises:
        AtlasError: the model is not here.
    """

    def make(report: Report) -> "tuple[directions.NeuronCosine, ...]":
        model = resources.ready(atlas, report)
        report(f"Comparing {neuron.label} with all {atlas.info.neurons:,} neurons …")
        return tuple(directions.similar_by_value(model.weights, neuron, count))

    return resources.workshop().result("direction", (atlas.info.build_id, "similar", neuron, count), make, watch)


# What a neuron does over a corpus, in words, and the texts that activate it.

_USUALLY, _LESS_OFTEN, _RARELY = 0.6, 0.4, 0.1


def how_often(usual: Usual, sign: Sign) -> str:
    """How often a neuron is active so that it raises the tokens of one end.

    >>> usual = Usual(Sign.PROMOTES, 0.96, 0.03)
    >>> how_often(usual, Sign.PROMOTES), how_often(usual, Sign.SUPPRESSES)
    ('usually: in 96 % of its activations', 'rarely: active this way in 4 % of its activations')
    """
    share = usual.share if usual.sign is sign else 1 - usual.share
    if share >= _USUALLY:
        return f"usually: in {whole_percent(share)} of its activations"
    if share >= _LESS_OFTEN:
        return f"in {whole_percent(share)} of its activations"
    words = "rarely" if share < _RARELY else "less often"
    return f"{words}: active this way in {whole_percent(share)} of its activations"


def texts_of(atlas: Catalogue, neuron: Neuron) -> NeuronTexts | None:
    """What activates a neuron; None where no texts were read, or not for it."""
    try:
        return None if atlas.texts is None else atlas.texts.of(neuron)
    except NotFoundError:
        return None


def bins_frame(found: NeuronTexts) -> pd.DataFrame:
    """The histogram of its activations, from the lowest. Columns: low, high, tokens."""
    bins = [(one.low, one.high, one.count) for one in found.histogram]
    return pd.DataFrame(bins, columns=["low", "high", "tokens"])


def activity(found: NeuronTexts) -> str:
    """How often a neuron is active over the corpus, and what it then usually does."""
    share = found.active_positive_share
    if found.usual is None or share is None:
        return "It is not active anywhere in these texts."
    sign, most = ("positive", share) if found.usual is Sign.PROMOTES else ("negative", 1 - share)
    does = f"it usually raises the tokens it {found.usual} and lowers those it {found.usual.other}"
    if most < _USUALLY:
        does = "it raises the tokens of either end about as often as it lowers them"
    return f"Active on {percent(found.rate)} of tokens; {sign} in {whole_percent(most)} of its activations: {does}."


def described(found: NeuronTexts) -> str:
    """What a language model said of it, for a sentence; empty where none was asked."""
    if found.description is None:
        return ""
    means = "The score is the rank correlation of what the words predict with texts that model was not shown"
    told = found.description.line
    return f"{told[0].upper()}{told[1:]}." + ("" if found.description.score is None else f" {means}.")


def clearly_usual(found: NeuronTexts) -> Sign | None:
    """The end that is usually active; None for a neuron that is active with both, or with neither."""
    share = found.active_positive_share
    return None if share is None or max(share, 1 - share) < _USUALLY else found.usual


def spread(found: NeuronTexts) -> str:
    """The figures of its activations."""
    return (
        f"Over {found.tokens_seen:,} tokens its activation has mean {figure(found.mean)}, standard deviation "
        f"{found.std:.3g}, highest {figure(found.highest)}, lowest {figure(found.lowest)}; it is positive on "
        f"{percent(found.positive_share)} of them. Active means {found.active_above:.3g} or more in size."
    )


def case_rows(found: NeuronTexts) -> list[tuple[str, ...]]:
    """The sign cases of a gated FFN neuron in words, under :data:`CASE_COLUMNS`."""
    words = {"+": "positive", "-": "negative"}
    return [
        (
            f"gate {words[one.gate]}, up {words[one.up]}: {'positive' if one.gate == one.up else 'negative'}",
            percent(one.share) if one.share else "never",
            "–" if one.mean is None else figure(one.mean),
            "–" if one.strongest is None else figure(one.strongest),
        )
        for one in found.cases
    ]


CASE_COLUMNS = ("signs: activation", "of all tokens", "mean", "strongest")


def text_up_to_peak(atlas: Catalogue, one: Excerpt) -> str:
    """An excerpt as a prompt: what the neuron writes at the peak shows in what the model says next."""
    tokens = [token for token in one.tokens[: one.peak_at + 1] if token.token_id < atlas.info.vocabulary]
    known = atlas.bytes_by_id({token.token_id for token in tokens})
    return b"".join(known[token.token_id] for token in tokens).decode("utf-8", "ignore")


# A neuron on a prompt, in words.


def part_in_prompt(one: "ValueNeuron", analysis: "Analysis") -> tuple[str, str]:
    """Its score, and the rest of a sentence: where it took what it wrote from, and which tokens that raised."""
    source = "" if one.position is None else f" from position {one.position} “{analysis.tokens[one.position].display}”"
    raised = "promoted" if one.activation > 0 else "suppressed"
    routed = "" if one.router is None else f", the router’s weight {one.router:.2f} in it"
    rest = f"{source}, activation {signed(one.activation)}{routed}: it raised its {raised} tokens."
    return f"{nats(one.score)} nats", rest


def most_active(tokens: Sequence[str], activation: Sequence[float]) -> str:
    """Where in a text a neuron is most active, and which tokens that raises and lowers."""
    place = max(range(len(tokens)), key=lambda one: abs(activation[one]))
    value = activation[place]
    if not value:
        return "It is not active anywhere in this text."
    raised, lowered = ("promotes", "suppresses") if value > 0 else ("suppresses", "promotes")
    return (
        f"Most active at position {place}, “{shorten(tokens[place], 40)}”: {signed(value)}. There it raises the tokens "
        f"it {raised} and lowers those it {lowered}."
    )


def router_in_words(tokens: Sequence[str], router: Sequence[float], neuron: Neuron) -> str:
    """Where in a text the router chose a neuron's expert, and with which weight most."""
    chosen = [place for place, weight in enumerate(router) if weight]
    if not chosen:
        return f"The router of layer {neuron.layer} chose expert {neuron.expert} nowhere in this text."
    most = max(chosen, key=lambda place: router[place])
    return (
        f"The router of layer {neuron.layer} chose expert {neuron.expert} at {len(chosen)} of {len(tokens)} positions, "
        f"with the most weight, {router[most]:.2f}, at position {most}, “{shorten(tokens[most], 40)}”. At the others "
        "the neuron is not active."
    )


def reads_what_it_writes(cosine: float) -> str:
    """How alike what a neuron reads and what it writes are, from the cosine of the two vectors.

    >>> reads_what_it_writes(-0.25)
    'what it writes (its value vector) is partly the opposite of what it reads here (cosine −0.25)'
    """
    alike = "the same as" if cosine > 0 else "the opposite of"
    size = abs(cosine)
    how = f"nearly {alike}" if size >= 0.7 else f"largely {alike}" if size >= 0.4 else f"partly {alike}"
    if size < 0.1:
        how = "unrelated to"
    return f"what it writes (its value vector) is {how} what it reads here (cosine {signed(cosine)})"
