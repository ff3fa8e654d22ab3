"""One step further into a prompt: the table of drill-downs.

A row says what a drill-down is called, how the shell asks for it, how it is worked out, and what results. Its JSON
follows from the result's fields and is the same everywhere: as the shell prints it, and as it is kept beside a saved
analysis under

    details = {"positions": {"L23.H4": ...}, "lens": {"": ...}, "flow": {"": ...}, "neuron": {"L29.F864": ...}, ...}

To add one: a function that works it out, the fields of its result in :mod:`app.attribution.results`, and a row here.
Reading needs no torch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.attribution import form, measured
from app.attribution.measured import Measured
from app.attribution.results import (
    Activations,
    Analysis,
    Flow,
    HeadPattern,
    HeadPositions,
    Keys,
    LogitLens,
    OwnQuery,
    ThroughHead,
    ValueNeuron,
    Within,
)
from db import command_line
from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import Head, Neuron, NeuronAt, Part
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution import analysis as analyses
    from app.attribution import heads, query
    from app.attribution.run import PromptRun, Ranges
else:
    analyses, heads = lazy_import("app.attribution.analysis"), lazy_import("app.attribution.heads")
    query = lazy_import("app.attribution.query")

DETAILS = "details"
"""The key beside an analysis' own under which answers one step further are kept."""
TOP = "top"
"""The key for how many neurons of each kind were asked for."""
Json = Mapping[str, Any]


@dataclass(frozen=True)
class DrillDown:
    """A question that is asked of a prompt that was run.

    Attributes:
        name: under `details`.
        result: its type.
        compute: from the run, what is asked about, and what a catalogue knows of the neurons' extreme logits.
        parse: what is asked about, from what was typed.
        option: of the shell; empty where it has none. Rows of one option make one object together.
        key: in the shell's JSON.
        metavar, help: of the shell's option.
        many: the option can be given several times; else it is given once, with a count or alone.
        earlier: from how it was kept at first, and the label it was kept under, to today's JSON.
    """

    name: str
    result: Any
    compute: "Callable[[PromptRun, Any, Ranges | None], Any]"
    parse: Callable[[str], Any]
    option: str = ""
    key: str = ""
    metavar: str = ""
    help: str = ""
    many: bool = True
    earlier: Callable[[Any, str], Any] = lambda given, _label: given


def parse_through(text: str) -> tuple[Neuron, Head]:
    """A query neuron and a head, with a colon between: L11.F1229:L23.H4.

    Raises:
        AtlasError: it is none.
    """
    label, colon, head = text.partition(":")
    if not colon:
        raise AtlasError(f"“{shorten(text, 60)}” names no head. Write a neuron and a head, as L11.F1229:L23.H4.")
    return Neuron.parse(label), Head.parse(head)


def parse_measured(text: str) -> int | str:
    """How many neurons to measure from each end of each score, or "all"."""
    return text if text == measured.ALL else command_line.whole_number(1)(text)


def label_of(what: Any) -> str:
    """What is asked about, as it is typed: a head, a neuron, a part, several with a colon between, or nothing.

    >>> label_of(Head(23, 4)), label_of(NeuronAt(Neuron.parse("L29.H1.N46"), 4)), label_of(None)
    ('L23.H4', 'L29.H1.N46@4', '')
    """
    if what is None:
        return ""
    if isinstance(what, tuple) and not isinstance(what, Head | NeuronAt):
        return ":".join(map(label_of, what))
    return getattr(what, "label", None) or str(what)


# How answers were kept at first: three as tables of what is shown, two as lists.


def _earlier_positions(given: Any, label: str) -> Any:
    if not isinstance(given, Mapping) or "position" not in given:
        return given
    names = ("position", "token", "score", "attention_weight", "input_tokens", "key_tokens", "value_tokens")
    rows = zip(*(given[name] for name in names), strict=True)
    return {**Head.parse(label)._asdict(), "positions": [dict(zip(names, row, strict=True)) for row in rows]}


def _earlier_pattern(given: Any, label: str) -> Any:
    if not isinstance(given, Mapping) or "weight" not in given:
        return given
    size = 1 + max(given["query"])
    pattern = [[0.0] * size for _ in range(size)]
    for query, key, weight in zip(given["query"], given["key"], given["weight"], strict=True):
        pattern[query][key] = weight
    return {**Head.parse(label)._asdict(), "pattern": pattern}


def _earlier_lens(given: Any, _label: str) -> Any:
    if not isinstance(given, Mapping) or "layer" not in given:
        return given
    width = 1 + max(given["position"])
    names = ("top", "top_probability", "target_probability")
    return {name: [given[name][start : start + width] for start in range(0, len(given[name]), width)] for name in names}


def _earlier_flow(given: Any, _label: str) -> Any:
    names = ("layer", "head", "position", "score", "attention_weight")
    moves = [one if isinstance(one, Mapping) else dict(zip(names, one, strict=True)) for one in given["moves"]]
    return {**given, "moves": moves}


def _earlier_own(given: Any, _label: str) -> Any:
    if not isinstance(given, Mapping) or "one" not in given:
        return given
    layers = given["query_layers"]
    up = {"query_layers_up": layers["ffn_up"]} if "ffn_up" in layers else {}
    return {**given, **given["one"], "query_layers": layers["attention"], **up}


def _earlier_through(given: Any, _label: str) -> Any:
    ends = ("promotes", "suppresses", "directly_promotes", "directly_suppresses")
    if not isinstance(given, Mapping) or any(f"{end}_ids" in given for end in ends):
        return given
    found: dict[str, Any] = dict(given)
    displays: dict[Any, Any] = {}
    for end in ends:
        ids, texts, shown = zip(*given[end], strict=True)
        found |= {end: list(texts), f"{end}_ids": list(ids)}
        displays |= dict(zip(ids, shown, strict=True))
    return found | {form.DISPLAYS: [{"id": token_id, "display": display} for token_id, display in displays.items()]}


MOVES = 40
"""Source positions of a whole prompt that are shown unless told otherwise; more make a picture that nobody can read."""

TABLE = (
    DrillDown(
        "through",
        ThroughHead,
        lambda run, what, _: heads.through_head(run.model, what[0], *what[1]),
        parse_through,
        option="through",
        key="through_heads",
        metavar="L11.F1229:L23.H4",
        help="also a query neuron read through a head",
        earlier=_earlier_through,
    ),
    DrillDown(
        "positions",
        HeadPositions,
        lambda run, head, _: HeadPositions(head.layer, head.head, heads.source_positions(run, *head)),
        Head.parse,
        option="head",
        key="head_details",
        metavar="L23.H4",
        help="also a head's source positions and attention pattern",
        earlier=_earlier_positions,
    ),
    DrillDown(
        "pattern",
        HeadPattern,
        lambda run, head, _: HeadPattern(head.layer, head.head, run.tokens, heads.head_pattern(run, *head).numpy()),
        Head.parse,
        option="head",
        key="head_details",
        earlier=_earlier_pattern,
    ),
    DrillDown(
        "lens",
        LogitLens,
        lambda run, _what, _: heads.logit_lens(run),
        lambda _text: None,
        option="lens",
        key="logit_lens",
        help="also the logit lens over layers and positions",
        many=False,
        earlier=_earlier_lens,
    ),
    DrillDown(
        "flow",
        Flow,
        lambda run, count, _: heads.moves(run, count or MOVES),
        command_line.whole_number(0),
        option="flow",
        key="flow",
        metavar="N",
        help=f"also which heads moved what from where: the strongest N over all layers (default: {MOVES})",
        many=False,
        earlier=_earlier_flow,
    ),
    DrillDown(
        "within",
        Within,
        lambda run, part, ranges: analyses.within(run, part, run.settings.top, ranges),
        Part.parse,
        option="within",
        key="within",
        metavar="L23.H4@3",
        help="also a part's own strongest neurons: of L23, L23.ffn, L23.H4 or L23.H4@3",
    ),
    DrillDown(
        "effects",
        Measured,
        lambda run, count, ranges: measured.most_effective(run, count, ranges, measured.kept_folder()),
        parse_measured,
        option="effects",
        key="effects",
        metavar="N",
        help=f"also what was measured to do most, of the N neurons at each end of each score ({MOVES}); or all",
        many=False,
    ),
    DrillDown(
        "own",
        OwnQuery,
        lambda run, what, _: query.own_query(run, *what),
        NeuronAt.parse,
        option="query-of",
        key="own_queries",
        metavar="L29.H1.N46@4",
        help="also what switched on one value neuron alone",
        earlier=_earlier_own,
    ),
    DrillDown("neuron", tuple[ValueNeuron, ...], lambda run, one, _: run.value_neurons(one), Neuron.parse),
    DrillDown("active", Activations, lambda run, one, _: query.activations(run, one), Neuron.parse),
    DrillDown("keys", Keys, lambda run, one, _: query.keys(run.model, one), Neuron.parse),
)
NAMED = {row.name: row for row in TABLE}
NAMES = tuple(NAMED)
"""The questions whose answers can be stored."""


def answer(run: "PromptRun", name: str, what: Any, ranges: "Ranges | None" = None) -> Any:
    """A drill-down's result.

    Args:
        run: the prompt.
        name: of a row of the table.
        what: what is asked about, as the row's `parse` reads it.
        ranges: what a catalogue knows of the neurons' extreme logits.

    Raises:
        AtlasError: there is no such head, neuron, part or position.
    """
    return NAMED[name].compute(run, what, ranges)


def to_json(value: Any) -> Any:
    """A result as JSON."""
    return form.written(value)


def from_json(name: str, given: Any, analysis: Analysis, label: str = "") -> Any:
    """The result that `to_json` wrote, now or in an earlier version.

    Args:
        name: of a row of the table.
        given: the JSON.
        analysis: the one it stands beside; its tokens say what can be.
        label: what it is about, as `label_of` writes it; the earlier form of some answers does not say.

    Raises:
        AtlasError: it is damaged.
    """
    row = NAMED[name]
    try:
        found = form.read(row.result, row.earlier(given, label), analysis.tokens)
        if found == ():
            raise ValueError("it is empty")
    except (AtlasError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise AtlasError(f"What was stored of this analysis is damaged ({name}: {str(error)[:120]}).") from error
    return found


def kept(
    asked: Iterable[tuple[str, Any]], ask: Callable[[str, Any], Any], failed: Callable[[str, AtlasError], None]
) -> dict[str, dict[str, Any]]:
    """Answers as they are kept under `DETAILS`; `failed` is told of one that cannot be had, and it is left out."""
    found: dict[str, dict[str, Any]] = {}
    for name, what in asked:
        try:
            found.setdefault(name, {})[label_of(what)] = to_json(ask(name, what))
        except AtlasError as error:
            failed(name, error)
    return found


# The shell.


def add_options(add: Callable[..., Any]) -> None:
    """Add the options of all rows to a parser, given its `add_argument`."""
    for row in TABLE:
        if row.help and row.many:
            add(f"--{row.option}", action="append", metavar=row.metavar, help=row.help)
        elif row.help and row.metavar:
            add(f"--{row.option}", type=row.parse, nargs="?", const=MOVES, metavar=row.metavar, help=row.help)
        elif row.help:
            add(f"--{row.option}", action="store_true", help=row.help)


Asked = list[tuple[DrillDown, tuple[Any, ...]]]


def asked_for(options: Mapping[str, Any]) -> Asked:
    """The rows that the shell's options ask for, and about what.

    Raises:
        AtlasError: a label is none.
    """
    found: Asked = []
    for row in TABLE:
        given = options.get(row.option.replace("-", "_"))
        if given:
            found.append((row, tuple(map(row.parse, given)) if row.many else (None if given is True else given,)))
    return found


def answers_json(asked: Asked, ask: Callable[[DrillDown, Any], Any]) -> dict[str, Any]:
    """What was asked for, by the keys of the shell's JSON; `ask` yields the result of a row, given what it is about.

    Raises:
        AtlasError: there is no such head, neuron, part or position.
    """
    found: dict[str, Any] = {}
    for row, about in asked:
        answers = [to_json(ask(row, what)) for what in about]
        earlier = found.get(row.key, [{}] * len(answers))
        joined = [one | other for one, other in zip(earlier, answers, strict=True)]
        found[row.key] = joined if row.many else joined[0]
    return found
