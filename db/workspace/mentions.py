"""The neurons in an analysis' lists: what is indexed of a result, and what a result must be like to be kept."""

import json
import math
from typing import Any

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace.values import MAX_RESULT

ROLES = {
    "FFN value": "ffn_value_neurons",
    "attention value": "attention_value_neurons",
    "FFN query": "query_ffn_neurons",
    "FFN suppressing": "ffn_suppressing_neurons",
    "attention suppressing": "attention_suppressing_neurons",
}
"""Role -> the list's key in the JSON of an analysis."""

_MAX_LISTED = 5000
_MAX_POSITION = 2**31 - 1


def mentions_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every neuron in every list: role, place (from 0), neuron, position, score, activation.

    Raises:
        AtlasError: a list holds something that is no neuron with a finite score.
    """
    rows = []
    for role, name in ROLES.items():
        listed = result.get(name) or []
        if not isinstance(listed, list) or len(listed) > _MAX_LISTED:
            raise AtlasError(f"The result's {name} is no list of at most {_MAX_LISTED:,} neurons.")
        rows += [{"role": role, "place": place, **_row(one, name)} for place, one in enumerate(listed)]
    return rows


def _row(one: Any, name: str) -> dict[str, Any]:
    try:
        neuron = Neuron.parse(str(one["neuron"])[:40]).label
        score, activation, position = float(one["score"]), one.get("activation"), one.get("position")
        activation = None if activation is None else float(activation)
    except (AtlasError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise AtlasError(f"The result's {name} holds something that is no neuron with a score.") from error
    finite = math.isfinite(score) and (activation is None or math.isfinite(activation))
    if not finite or not (position is None or (type(position) is int and 0 <= position <= _MAX_POSITION)):
        raise AtlasError(f"The result's {name} has for {neuron} a score, activation or position that cannot be.")
    return {"neuron": neuron, "position": position, "score": score, "activation": activation}


def as_text(result: dict[str, Any]) -> str:
    """The result as it is stored: JSON in plain ASCII, so that every database can hold every prompt.

    Raises:
        AtlasError: it is too large, or holds what JSON has no word for.
    """
    try:
        text = json.dumps(result, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise AtlasError(f"The result cannot be written as JSON: {error}.") from error
    if len(text) > MAX_RESULT:
        raise AtlasError(
            f"The result has {len(text):,} characters of JSON; at most {MAX_RESULT:,} are kept. "
            "Ask for fewer neurons, or shorten the prompt."
        )
    return text


def named(result: dict[str, Any]) -> tuple[str, str]:
    """The prompt and the target's text of a result.

    Raises:
        AtlasError: it has none, and is no analysis.
    """
    try:
        prompt, target = result["prompt"], result["target"]["text"]
    except (KeyError, TypeError):
        prompt = target = None
    if not isinstance(prompt, str) or not isinstance(target, str):
        raise AtlasError("The result is no analysis: it has no prompt, or no target.")
    return prompt, target
