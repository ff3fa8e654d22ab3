"""What was found one step further into a prompt, as JSON beside its analysis, and back. Without torch.

    details = {"positions": {"L23.H4": ...}, "pattern": {...}, "lens": {"": ...}, "flow": {"": ...},
               "neuron": {"L29.F864": ...}, "own": {"L29.H1.N46@4": ...}, "through": {"L11.F1229:L23.H4": ...}}

Kept under ``details`` in the object that `forms.to_json` makes; whoever reads only the analysis passes it over.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from app.attribution.frames import neurons_json, query_json
from app.attribution.prompt import PromptToken
from app.attribution.results import (
    Analysis,
    Flow,
    Move,
    ThroughHead,
    certificate_from_json,
    query_from_json,
    value_neuron_from_json,
)
from db.errors import AtlasError
from db.neuron import Neuron

DETAILS = "details"
"""The key beside an analysis' own under which answers one step further are kept; see `details_form`."""
TOP = "top"
"""The key for how many neurons of each kind were asked for."""
Json = Mapping[str, Any]


def label_of(what: Any) -> str:
    """What was asked about, in a word: a head, a neuron, a neuron at a source position, or nothing.

    >>> label_of((23, 4)), label_of((Neuron.parse("L29.H1.N46"), 4)), label_of(None)
    ('L23.H4', 'L29.H1.N46@4', '')
    """
    match what:
        case None:
            return ""
        case Neuron():
            return what.label
        case (Neuron() as neuron, int(position)):
            return f"{neuron.label}@{position}"
        case (Neuron() as neuron, None):
            return neuron.label
        case (Neuron() as neuron, (int(layer), int(head))):
            return f"{neuron.label}:L{layer}.H{head}"
        case (int(layer), int(head)):
            return f"L{layer}.H{head}"
    return repr(what)


def to_json(name: str, value: Any) -> Any:
    """One answer as JSON.

    Args:
        name: which question, a key of `NAMES`.
        value: what `app.answers.explain` answers.
    """
    return _FORMS[name].write(value)


def from_json(name: str, given: Any, analysis: Analysis) -> Any:
    """The answer that `to_json` wrote.

    Args:
        name: which question.
        given: the JSON.
        analysis: the one it stands beside; its tokens and layers say what can be.

    Raises:
        AtlasError: it is damaged.
    """
    try:
        return _FORMS[name].read(given, analysis)
    except (AtlasError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise AtlasError(f"What was stored of this analysis is damaged ({name}: {str(error)[:120]}).") from error


def _write_frame(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): column.tolist() for name, column in frame.items()}


def _read_frame(columns: tuple[str, ...]) -> Callable[[Json, Analysis], pd.DataFrame]:
    def read(given: Json, _analysis: Analysis) -> pd.DataFrame:
        frame = pd.DataFrame({name: given[name] for name in columns})
        if frame.empty:
            raise ValueError("it has no rows")
        return frame

    return read


def _write_flow(found: Flow) -> Json:
    moves = [[one.layer, one.head, one.position, one.score, one.attention_weight] for one in found.moves]
    return {"moves": moves, "certificate": vars(found.certificate)}


def _read_flow(given: Json, analysis: Analysis) -> Flow:
    moves = tuple(
        Move(layer, head, position, analysis.tokens[position], float(score), float(weight))
        for layer, head, position, score, weight in given["moves"]
    )
    return Flow(moves, certificate_from_json(given["certificate"]))


def _read_neurons(given: Any, analysis: Analysis) -> Any:
    found = tuple(value_neuron_from_json(row, len(analysis.tokens)) for row in given)
    if not found:
        raise ValueError("it has no rows")
    return found


def _write_own(answer: Any) -> Json:
    one, query = answer
    return {"one": neurons_json((one,))[0]} | query_json(query)


def _read_own(given: Json, analysis: Analysis) -> Any:
    one = value_neuron_from_json(given["one"], len(analysis.tokens))
    return one, query_from_json(given, len(analysis.heads))


_ENDS = ("promotes", "suppresses", "directly_promotes", "directly_suppresses")


def _write_through(found: ThroughHead) -> Json:
    ends = {name: [[one.id, one.text, one.display] for one in getattr(found, name)] for name in _ENDS}
    return {"neuron": found.neuron.label, "layer": found.layer, "head": found.head, **ends}


def _read_through(given: Json, _analysis: Analysis) -> ThroughHead:
    ends = {name: tuple(PromptToken(int(i), str(text), str(shown)) for i, text, shown in given[name]) for name in _ENDS}
    return ThroughHead(Neuron.parse(given["neuron"]), int(given["layer"]), int(given["head"]), **ends)


class _Form(NamedTuple):
    write: Callable[[Any], Any]
    read: Callable[[Any, Analysis], Any]


_POSITIONS = ("position", "token", "score", "attention_weight", "input_tokens", "key_tokens", "value_tokens")
_LENS = ("layer", "position", "token", "top", "top_probability", "target_probability")
_FORMS = {
    "positions": _Form(_write_frame, _read_frame(_POSITIONS)),
    "pattern": _Form(_write_frame, _read_frame(("query", "key", "query_token", "key_token", "weight"))),
    "lens": _Form(_write_frame, _read_frame(_LENS)),
    "flow": _Form(_write_flow, _read_flow),
    "neuron": _Form(neurons_json, _read_neurons),
    "own": _Form(_write_own, _read_own),
    "through": _Form(_write_through, _read_through),
}
NAMES = tuple(_FORMS)
"""The questions whose answers can be stored."""
