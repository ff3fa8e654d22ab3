"""What the compare page asks of the model, remembered as in :mod:`app.answers.explain`, and what it says of that."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from app.answers.explain import settings_of
from app.serving import resources
from app.serving.access import require_allowed
from app.serving.worker import Report
from app.state.selections import ComparePlace, CompareSelection
from app.words import nats, percent, signed
from db.catalogue.store import Catalogue
from db.lazy import lazy_import
from db.neuron import Neuron, NeuronKind, Wanted
from db.token_text import display, shorten

if TYPE_CHECKING:
    from app.attribution import compare
    from app.attribution.compare import Change, Comparison, RankedTarget, Side
    from app.attribution.intervene import Steering
else:
    compare = lazy_import("app.attribution.compare")


def comparison(atlas: Catalogue, asked: CompareSelection, watch: Report | None = None) -> "Comparison":
    """Both runs, compared.

    Raises:
        AtlasError: a prompt, position, target or part is unusable; the message says why.
    """
    question = asked.question
    sides = [replace(side, top=question.top) for side in (question.first, question.second)]
    for side in sides:
        require_allowed(side.prompt, side.top)

    def make(report: Report) -> "Comparison":
        model = resources.ready(atlas, report)
        report("Running both, and scoring what changed …")
        ranges = resources.ranges_of(atlas.info.build_id, atlas)
        first, second = ((side.prompt, settings_of(side)) for side in sides)
        return compare.compare_prompts(model, first, second, question.top, zero=question.zero, ranges=ranges)

    return resources.workshop().result("detail", (atlas.info.build_id, "compare", question), make, watch)


# What a comparison says, in plain text: whoever shows it as Markdown makes it literal.

_LISTED = 4


def sentence(found: "Comparison", zero: Sequence[Wanted]) -> str:
    """What is compared with what, and how sure the model is of the target in each run."""
    one, two = found.first, found.second
    less = f" without {listed([part.words for part in zero])}" if zero else ""
    if one.prompt != two.prompt or one.position != two.position:
        return f"{where(one)} against {where(two)}{less}: {_answer(one)}, and {_answer(two)}."
    if one.target.token.id != two.target.token.id:
        return f"{where(one)}: {_answer(one)}, against {_answer(two)}{less}."
    how = f" with and without {listed([part.words for part in zero])}" if zero else " against itself"
    return f"{where(one)}{how}: {moved(one.target, two.target)}."


def moved(one: "RankedTarget", two: "RankedTarget") -> str:
    """What became of the target's probability."""
    change = two.log_probability - one.log_probability
    verb = "rises" if change > 0 else "falls"
    how = "stays where it is" if abs(change) < 0.0005 else f"{verb} by {nats(abs(change))[1:]} nats"
    return (
        f"the log-probability of “{one.token.display}” {how}, from {percent(one.probability)} to "
        f"{percent(two.probability)}"
    )


def listed(every: Sequence[str]) -> str:
    """Parts in words: “head L23.H4 and neuron L29.F864”."""
    words = list(every[:_LISTED])
    if len(every) > _LISTED:
        words.append(f"{len(every) - _LISTED} more")
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def subject(found: "Comparison", zero: Sequence[Wanted]) -> str:
    """What is compared, in few words: a title to start from."""
    one, two = (where(side, 60) for side in (found.first, found.second))
    less = f"without {listed([part.words for part in zero])}" if zero else ""
    if one == two and not less:
        one, two = (f"{one} → “{side.target.token.display}”" for side in (found.first, found.second))
    return " ".join(filter(None, [one, "" if one == two else f"against {two}", less]))


def where(side: "Side | Steering", longest: int = 80) -> str:
    """The prompt, and the position where that is not the last."""
    last = side.position == len(side.tokens) - 1
    place = "" if last else f" at position {side.position}, “{side.tokens[side.position].display}”"
    return f"“{shorten(display(side.prompt.encode('utf-8', 'replace')).replace('␣', ' '), longest)}”{place}"


def _answer(side: "Side") -> str:
    return f"“{side.target.token.display}” has {percent(side.target.probability)}"


def measured(found: "Comparison") -> str:
    """The effect on the model’s own output, and what the scores say of the parts that are zeroed."""
    one, two = found.first.target, found.second.target
    text = (
        f"Measured: log-probability {signed(one.log_probability)} → {signed(two.log_probability)} nats "
        f"({nats(found.log_probability)}), rank {one.rank:,} → {two.rank:,}."
    )
    if not found.zeroed:
        return text
    if len(found.zeroed) == 1:
        (only,) = found.zeroed
        return f"{text} Scored: {only.part.label} {nats(only.score)} nats."
    listed = ", ".join(f"{each.part.label} {nats(each.score)}" for each in found.zeroed[:_LISTED])
    more = f" and {len(found.zeroed) - _LISTED} more" if len(found.zeroed) > _LISTED else ""
    return f"{text} Scored one by one: {listed}{more} nats, {nats(sum(each.score for each in found.zeroed))} together."


def changes_within(found: "Comparison", place: ComparePlace) -> "tuple[Change, ...]":
    """The neurons of the chosen kind in the chosen layer or head, the largest change first."""

    def is_within(neuron: Neuron) -> bool:
        return place.layer in (None, neuron.layer) and (place.head is None or neuron.head in (None, place.head.head))

    return tuple(one for one in found.neurons[place.kind] if is_within(one.neuron))


def neurons_sentence(found: "Comparison", place: ComparePlace, shown: int) -> str:
    """How many neurons there are in a place, of which at most `shown` are shown, and what is proven of them."""
    rows, every = len(changes_within(found, place)), len(found.neurons[place.kind])
    count = f"{rows} of the {every}" if rows < every else f"{every}"
    kind = "FFN" if place.kind is NeuronKind.FFN else "attention"
    first = f", the first {shown} shown" if rows > shown else ""
    above = found.complete_above[place.kind]
    proof = "" if above is None else f" Proven: every neuron whose |Δ| exceeds {above:.2g} nats is among them."
    return f"{count} {kind} neurons that raised or lowered either target most{first}.{proof}"
