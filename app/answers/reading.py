"""What of an analysis is shown: the increases of the target, or with a distractor its contrast; and how sure it is."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pandas as pd

from app.attribution import measured
from app.attribution.frames import positions_frame
from app.attribution.prompt import Method
from app.attribution.results import Analysis, Certificate, Contrast, Flow, HeadPositions, Query, ValueNeuron
from app.state.selections import ListOrder, Place, Show
from app.words import nats, percent, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronKind
from db.records import NeuronTokens
from db.token_text import display

FILTER_DEPTH = 5
"""How many of a neuron's strongest tokens of each end a list is searched by: those that it shows."""


MEANINGS = {
    Method.ADDED: "change of the target’s log-probability where that part is added to the residual stream",
    Method.REMOVED: "log-probability that the target would lose if that part were taken out of the final hidden state",
    Method.GRADIENT: "first-order estimate, gradient × activation, of what that part does to the target’s "
    "log-probability through all later layers",
}
"""What a score is, in half a sentence, by the method."""
BY = {
    Method.ADDED: "log-probability increase",
    Method.REMOVED: "log-probability lost by removal",
    Method.GRADIENT: "gradient × activation",
}
"""The same in a few words."""


@dataclass(frozen=True)
class Reading:
    """An analysis, as the page shows it."""

    analysis: Analysis
    source: Analysis | Contrast
    """Where layers and heads are taken from."""
    lists: dict[tuple[Show, NeuronKind], tuple[ValueNeuron, ...]]
    unit: str
    meaning: str
    """What a score is, in half a sentence."""
    words: dict[Show, str]
    """What each list of neurons is called."""
    sides: tuple[str, str]
    """What a negative and a positive score mean, in a few words."""
    answer: str
    """What a measured effect is nats of, such as “the target’s log-probability”."""

    def found(self, show: Show, kind: NeuronKind, place: Place) -> tuple[ValueNeuron, ...]:
        """A list, or the part of it that belongs to a place: the layer, for attention the head and source position."""
        return tuple(one for one in self.lists[show, kind] if _within(one, place))

    def head_score(self, head: Head) -> float:
        """Of one head."""
        return float(self.source.heads[head])

    def head_effect(self, head: Head) -> float | None:
        """Of one head, measured; None where it was not."""
        return None if self.source.head_effects is None else float(self.source.head_effects[head])

    def source_positions(self, found: HeadPositions) -> pd.DataFrame:
        """What a head took from each source position, in their order; see `positions_frame`."""
        frame, contrast = positions_frame(found), self.analysis.contrast
        if contrast is None:
            return frame
        return frame.assign(score=contrast.positions[found.layer, found.head, : len(frame)])

    def sum_in_words(self) -> str:
        """What adds up to the difference of logits, such as “+1.20 embedding, …”; empty without a distractor."""
        contrast = self.analysis.contrast
        if contrast is None:
            return ""
        parts = {
            "embedding": contrast.embedding,
            "attention": float(contrast.layers.attention.sum()),
            "FFN": float(contrast.layers.ffn.sum()),
            "constant": contrast.constant,
        }
        return ", ".join(f"{signed(value)} {name}" for name, value in parts.items())


def in_words(analysis: Analysis, *, coming: bool = False) -> tuple[str, ...]:
    """The sentences above the lists; see `measured.in_words`."""
    return measured.in_words(analysis, nats, percent, coming=coming)


def reading_of(analysis: Analysis) -> Reading:
    """The contrast where there is one, else the increases."""
    target = f"“{analysis.target.token.display}”"
    contrast, method = analysis.contrast, analysis.method
    if contrast is None:
        lists = {
            (Show.RAISED, NeuronKind.FFN): analysis.ffn_value_neurons,
            (Show.RAISED, NeuronKind.ATTENTION): analysis.attention_value_neurons,
            (Show.LOWERED, NeuronKind.FFN): analysis.ffn_suppressing_neurons,
            (Show.LOWERED, NeuronKind.ATTENTION): analysis.attention_suppressing_neurons,
        }
        words = {Show.RAISED: f"raised {target} most", Show.LOWERED: f"lowered {target} most"}
        answer = "the target’s log-probability"
        return Reading(analysis, analysis, lists, "score (nats)", MEANINGS[method], words, ("lowers", "raises"), answer)
    other = f"“{contrast.distractor.token.display}”"
    lists = {
        (Show.RAISED, NeuronKind.FFN): contrast.ffn_neurons,
        (Show.RAISED, NeuronKind.ATTENTION): contrast.attention_neurons,
        (Show.LOWERED, NeuronKind.FFN): contrast.ffn_opposing,
        (Show.LOWERED, NeuronKind.ATTENTION): contrast.attention_opposing,
    }
    words = {
        Show.RAISED: f"favoured {target} over {other} most",
        Show.LOWERED: f"favoured {other} over {target} most",
    }
    meaning = f"share of the difference of logits between {target} and {other}"
    sides, answer = (f"favours {other}", f"favours {target}"), f"log p({target}) − log p({other})"
    return Reading(analysis, contrast, lists, "share (nats)", meaning, words, sides, answer)


def _within(one: ValueNeuron, place: Place) -> bool:
    if place.layer is not None and one.neuron.layer != place.layer:
        return False
    if one.neuron.kind is NeuronKind.FFN or place.head is None:
        return True
    return one.neuron.head == place.head[1] and place.source in (None, one.position)


def most(found: Sequence[ValueNeuron]) -> float:
    """The largest score, to draw the others against."""
    return max((abs(one.score) for one in found), default=1.0) or 1.0


# Lists of neurons: which of them are shown, and in what order.


class OfNeuron(Protocol):
    """A row about a neuron; most kinds have figures besides, such as a score or an activation."""

    @property
    def neuron(self) -> Neuron: ...


Row = TypeVar("Row", bound=OfNeuron)
_ABSENT = float("-inf")
_RANKS: dict[ListOrder, Callable[[Any], Any]] = {
    ListOrder.SCORE: lambda row: -row.score,
    ListOrder.ACTIVATION: lambda row: -_figure(row, "activation"),
    ListOrder.LAYER: lambda row: (
        *(row.neuron.layer, row.neuron.kind, row.neuron.head or 0),
        *(-1 if row.neuron.expert is None else row.neuron.expert, row.neuron.index),
    ),
    ListOrder.SOURCE: lambda row: _figure(row, "position"),
    ListOrder.PROMPTS: lambda row: -_figure(row, "prompts"),
    ListOrder.EFFECT: lambda row: -_figure(row, "effect"),
    ListOrder.DIFFERENCE: lambda row: -_figure(row, "difference"),
    ListOrder.CHANCE: lambda row: row.p,
}
"""Of each order, what comes first: the largest figure, the first layer, the first position."""


def _figure(row: Any, name: str) -> float:
    value = getattr(row, name, None)
    return _ABSENT if value is None else value


def arranged(rows: Sequence[Row], order: ListOrder | None, reverse: bool) -> tuple[Row, ...]:
    """The rows in an order; None leaves them as they are. Equal ones stay as they were."""
    found = list(rows) if order is None else sorted(rows, key=_RANKS[order])
    return tuple(found[::-1] if reverse else found)


OPPOSITE_NATS = 0.01
"""A score and an effect of other signs disagree where both are at least so large."""
MUCH, MUCH_NATS = 3.0, 0.05
"""So many times as large as the other, and the larger at least so many nats: they disagree in size."""
_PARTS = dict(enumerate(("third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"), 3))
DISAGREEMENT = (
    f"A row says where the two disagree: other signs, both at least {OPPOSITE_NATS:g} nats; or one {MUCH:g} times the "
    f"other or more, and at least {MUCH_NATS:g} nats."
)


def disagreement(score: float, effect: float | None) -> str:
    """Where a measured effect differs much from the score, how, in a few words; else nothing.

    >>> disagreement(0.359, -0.02), disagreement(1.82, 0.16), disagreement(0.09, 0.37), disagreement(0.2, 0.1)
    ('the opposite', 'a tenth of it', '4 times as much', '')
    """
    if effect is None:
        return ""
    large, small = max(abs(score), abs(effect)), min(abs(score), abs(effect))
    if score * effect < 0 and small >= OPPOSITE_NATS:
        return "the opposite"
    if large < MUCH_NATS or large < MUCH * small:
        return ""
    times = round(large / small) if small else 0
    if abs(effect) < abs(score):
        return f"a{'n' * (times == 8)} {_PARTS[times]} of it" if times in _PARTS else "next to nothing"
    return f"{times} times as much" if times in _PARTS else "far more"


def by_effect(rows: Sequence[ValueNeuron], *, lowered: bool) -> tuple[ValueNeuron, ...]:
    """Those that did most of what the list is about first, as measured; those that were not measured last."""
    sign = -1 if lowered else 1
    return tuple(sorted(rows, key=lambda one: -(_ABSENT if one.effect is None else sign * one.effect)))


def exists(neuron: Neuron, atlas: Catalogue) -> bool:
    """Whether the catalogue has it; a file of analyses may be of another model."""
    with suppress(AtlasError):
        atlas.layout.neuron_id(neuron)
        return True
    return False


def having(rows: Sequence[Row], text: str, atlas: Catalogue | None) -> tuple[Row, ...]:
    """The rows whose neuron a text names: by its label, by the beginning of it (a layer such as L23 or 23, or a head),
    or by a part of one of its strongest tokens of either end, whatever the case. All where the text is blank; without a
    catalogue no tokens are known.
    """
    asked = text.casefold().strip()
    if not asked:
        return tuple(rows)
    within = f"l{asked.removeprefix('l')}."
    part = display(text.encode("utf-8", "replace")).casefold() if text.lstrip() != text else asked
    strongest: dict[Neuron, NeuronTokens] = {}
    if atlas is not None:
        known = [row.neuron for row in rows if exists(row.neuron, atlas)]
        strongest = atlas.strongest_tokens(known, FILTER_DEPTH)

    def named(neuron: Neuron) -> bool:
        if f"{neuron.label}.".casefold().startswith(within):
            return True
        ends = strongest.get(neuron)
        return ends is not None and any(part in one.display.casefold() for one in (*ends.promotes, *ends.suppresses))

    return tuple(row for row in rows if named(row.neuron))


# How sure an analysis is, in words: how each list was found, and how long that took.

_NAMES = {NeuronKind.FFN: "FFN neurons", NeuronKind.ATTENTION: "attention neurons × positions"}
_BOUNDS = {
    "concavity": "the concavity of the log-probability",
    "catalogue": "a bound from the catalogue’s stored extreme logits",
    "norms": "a bound from norms alone",
}


def certainty_lines(reading: Reading) -> list[tuple[str, str]]:
    """What is said of each list: a lead word, and the rest of the sentence without its full stop."""
    analysis, lines = reading.analysis, []
    if analysis.contrast is not None:
        lines.append(("Shares", "a difference of logits is linear: every neuron’s share was computed, exactly"))
    for words, certificates in (("Raised", analysis.certificates), ("Lowered", analysis.suppressing_certificates)):
        if certificates and analysis.contrast is None:
            method = analysis.method
            lines.append((words, "; ".join(how_found(certificates[kind], _NAMES[kind], method) for kind in _NAMES)))
    if reading.source.head_effects is not None:
        lines.append(("Measured", f"{MEASURED} of {reading.answer}. {DISAGREEMENT.removesuffix('.')}"))
    seconds = analysis.seconds
    if seconds.total:
        lines.append(("Time", f"{seconds.total:.2f} s, of which {seconds.forward:.2f} s for the model’s forward pass"))
    return lines


def query_sentence(query: Query) -> str:
    """What the query neurons of an analysis and their charts are."""
    attention, ffn = query.readers
    skipped = f" {query.skipped} were left out, since what they read adds up to nothing." if query.skipped else ""
    return (
        f"A value neuron is switched on by what it reads. These FFN neurons wrote most of what the {attention} "
        f"strongest attention value neurons read; the charts split what they and the {ffn} strongest FFN value neurons "
        f"read over the layers below.{skipped}"
    )


def moves_sentence(found: Flow, reading: Reading) -> str:
    """What the picture of a prompt's flow shows, and how its moves were found."""
    method = reading.analysis.method
    by = BY[method] if reading.analysis.contrast is None else "share of the difference of logits"
    return (
        "An arc is what one head moved from a position to the explained one, as thick as its nats. "
        f"The {len(found.moves)} strongest heads × source positions, by the size of their {by}: "
        f"{how_found(found.certificate)}."
    )


MEASURED = (
    "the model was run again without each part at the explained position, from its layer on; the effect is what that "
    "cost, in nats"
)


def how_found(one: Certificate, names: str = "", method: Method = Method.ADDED) -> str:
    """What a certificate says: how many were scored of how many, how exactly, and what rules out the others."""
    every = f"{one.total:,} {names}".rstrip()
    if method is Method.GRADIENT and one.bound == "linear":
        return f"all {every} were estimated, so none is missing; the estimate itself is first order and proves nothing"
    if one.bound == "linear":
        return f"all {every} are known exactly"
    scored = f"{one.scored:,} of {every} scored " + (f"to {one.tolerance:.5f} nats" if one.tolerance else "exactly")
    return scored if one.scored == one.total else f"{scored}; {_BOUNDS.get(one.bound, one.bound)} rules out the others"
