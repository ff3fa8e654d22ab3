"""What the page that compares asks of the model, remembered like everything in :mod:`app.answers.explain`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.serving import resources
from app.serving.access import require_allowed
from app.serving.settings import configuration
from app.serving.worker import Report
from app.state.selections import CompareSelection, PromptSelection
from app.words import nats, percent, signed
from db.catalogue.store import Catalogue
from db.neuron import Wanted
from db.token_text import display, shorten

if TYPE_CHECKING:
    from app.attribution import Settings
    from app.attribution.compare import Comparison, Side


def comparison(atlas: Catalogue, asked: CompareSelection, watch: Report | None = None) -> "Comparison":
    """Both runs, compared.

    Raises:
        AtlasError: a prompt, position, target or part is unusable; the message says why.
    """
    question = asked.question
    for side in (question.first, question.second):
        require_allowed(side.prompt, question.top)

    def make(report: Report) -> "Comparison":
        model = resources.ready(atlas, report)
        report("Running both, and scoring what changed …")
        from app.attribution.compare import compare_prompts

        ranges = resources.ranges_of(atlas.info.build_id, atlas)
        first, second = ((side.prompt, _settings(side, question.top)) for side in (question.first, question.second))
        return compare_prompts(model, first, second, question.top, zero=question.zero, ranges=ranges)

    return resources.workshop().result("detail", (atlas.info.build_id, "compare", question), make, watch)


def _settings(side: PromptSelection, top: int) -> "Settings":
    from app.attribution import Conventions, Settings

    return Settings(
        top=top,
        target=side.target,
        position=side.position,
        conventions=Conventions(side.rule.value),
        suppressing=True,
        max_tokens=configuration().max_tokens,
        memory_mb=configuration().memory_mb,
    )


# What a comparison says, in one or two sentences. Pure; whoever shows the text makes it literal.

_LISTED = 4


def without(zero: Sequence[Wanted]) -> str:
    """The parts that are zeroed: “head L23.H4 and neuron L29.F864”."""
    shown = [part.words for part in zero[:_LISTED]]
    if len(zero) > _LISTED:
        shown.append(f"{len(zero) - _LISTED} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def sentence(found: "Comparison", zero: Sequence[Wanted]) -> str:
    """What is compared with what, and what the model makes of it."""
    one, two = found.first, found.second
    same_place = one.prompt == two.prompt and one.position == two.position
    if not same_place:
        second = f"{_named(two)}{f' without {without(zero)}' if zero else ''}"
        return f"{_named(one)} against {second}: {_answer(one)}, and {_answer(two)}."
    if one.target.token.id != two.target.token.id:
        less = f" without {without(zero)}" if zero else ""
        return f"{_named(one)}: {_answer(one)}, against {_answer(two)}{less}."
    how = f" with and without {without(zero)}" if zero else " against itself"
    change = found.log_probability
    moved = (
        "stays where it is"
        if abs(change) < 0.0005
        else f"{'rises' if change > 0 else 'falls'} by {nats(abs(change))[1:]} nats"
    )
    return (
        f"{_named(one)}{how}: the log-probability of “{one.target.token.display}” {moved}, from "
        f"{percent(one.target.probability)} to {percent(two.target.probability)}."
    )


def measured(found: "Comparison") -> str:
    """The effect on the model's own output beside what the scores say of the parts that are zeroed."""
    one, two = found.first.target, found.second.target
    text = (
        f"Measured: log-probability {signed(one.log_probability)} → {signed(two.log_probability)} nats "
        f"({nats(found.log_probability)}), rank {found.first.rank:,} → {found.second.rank:,}."
    )
    if not found.zeroed:
        return text
    if len(found.zeroed) == 1:
        (only,) = found.zeroed
        return f"{text} Scored: {only.part.label} {nats(only.score)} nats."
    listed = ", ".join(f"{each.part.label} {nats(each.score)}" for each in found.zeroed[:_LISTED])
    more = f" and {len(found.zeroed) - _LISTED} more" if len(found.zeroed) > _LISTED else ""
    return f"{text} Scored one by one: {listed}{more} nats, {nats(sum(each.score for each in found.zeroed))} together."


def _named(side: "Side") -> str:
    last = side.position == len(side.tokens) - 1
    place = "" if last else f" at position {side.position}, “{side.tokens[side.position].display}”"
    return f"“{shorten(display(side.prompt.encode('utf-8', 'replace')).replace('␣', ' '), 80)}”{place}"


def _answer(side: "Side") -> str:
    return f"“{side.target.token.display}” has {percent(side.target.probability)}"
