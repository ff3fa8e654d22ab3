"""An Analysis from the JSON object that `forms.to_json` made of it. Exact, and without torch."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from app.attribution.prompt import PromptToken
from app.attribution.results import (
    Analysis,
    Certificate,
    Contrast,
    Prediction,
    Query,
    QueryNeuron,
    QueryShares,
    Seconds,
    SublayerScores,
    Target,
    ValueNeuron,
)
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from indexer.conventions import Conventions

T = TypeVar("T")
Json = Mapping[str, Any]


def from_json(data: Any) -> Analysis:
    """The analysis that an object stands for; scores in nats.

    Args:
        data: what `forms.to_json` returned, possibly after it was written and read again. Further keys are ignored.

    Raises:
        AtlasError: the object is no analysis, or one that was written before tokens kept their ids.
    """
    if not isinstance(data, Mapping) or "prompt" not in data:
        raise AtlasError("This is no analysis of a prompt: an object as `python -m app.attribution --json` writes it.")
    if "token_ids" not in data:
        raise AtlasError("This analysis was written by an older version and lacks its token ids. Analyse it again.")
    try:
        return _analysis(data)
    except (AtlasError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise AtlasError(f"The stored analysis is damaged: {reason[:160]}.") from error


def _analysis(data: Json) -> Analysis:
    displays = {_whole(one["id"]): _text(one["display"]) for one in data["displays"]}
    heads = _array(data["heads"], 2)
    pairs = zip(data["token_ids"], data["tokens"], strict=True)
    tokens = tuple(_token(token_id, text, displays) for token_id, text in pairs)
    layers = len(heads)
    position = _whole(data["position"])
    if position >= len(tokens):
        raise ValueError(f"position {position} of {len(tokens)} tokens")
    return Analysis(
        model=_text(data["model"]),
        family=_text(data["family"]),
        unembedding_hash=_text(data["unembedding_hash"]),
        conventions=Conventions(data["conventions"]),
        prompt=_text(data["prompt"]),
        tokens=tokens,
        position=position,
        target=_target(data["target"], displays),
        predictions=tuple(_prediction(one, displays) for one in data["predictions"]),
        layers=_layers(data["layers"], layers),
        heads=heads,
        ffn_value_neurons=_neurons(data["ffn_value_neurons"]),
        attention_value_neurons=_neurons(data["attention_value_neurons"], len(tokens)),
        ffn_suppressing_neurons=_neurons(data.get("ffn_suppressing_neurons", ())),
        attention_suppressing_neurons=_neurons(data.get("attention_suppressing_neurons", ()), len(tokens)),
        certificates=_certificates(data["certificate"]),
        suppressing_certificates=_certificates(data.get("suppressing_certificate", {})),
        query=query_from_json(data, layers) if "query_ffn_neurons" in data else None,
        contrast=_optional(data.get("contrast"), lambda one: _contrast(one, displays, heads.shape, len(tokens))),
        seconds=Seconds(*(_number(data["seconds"][name]) for name in ("load", "forward", "total"))),
    )


def query_from_json(data: Json, layers: int) -> Query:
    """The query neurons and layers; `query_layers` has the up row of gated FFNs where there is one.

    Raises:
        AtlasError, KeyError, TypeError, ValueError: a part is missing or damaged.
    """
    named = data["query_layers"]
    behind_ffn = [named[name] for name in ("ffn", "ffn_up") if name in named]
    attention, ffn = map(_whole, data["query_readers"])
    return Query(
        ffn_neurons=tuple(
            QueryNeuron(Neuron.parse(one["neuron"]), _number(one["score"])) for one in data["query_ffn_neurons"]
        ),
        attention_layers=_shares(named["attention"], layers),
        ffn_layers=tuple(_shares(one, layers) for one in behind_ffn),
        skipped=_whole(data["query_skipped"]),
        readers=(attention, ffn),
    )


def _shares(named: Mapping[str, float], layers: int) -> QueryShares:
    """What `QueryShares.named` gave."""
    parts = ([_number(named[f"{part} {layer}"]) for layer in range(layers)] for part in ("attention", "ffn"))
    return QueryShares(_number(named["embedding"]), *(_array(part, 1) for part in parts))


def _contrast(data: Json, displays: Mapping[int, str], shape: tuple[int, ...], tokens: int) -> Contrast:
    heads, positions = _array(data["heads"], 2), _array(data["positions"], 3)
    if heads.shape != shape or positions.shape[:2] != shape:
        raise ValueError("the contrast has another shape than the heads")
    return Contrast(
        distractor=_target(data["distractor"], displays),
        logit_difference=_number(data["logit_difference"]),
        embedding=_number(data["embedding"]),
        constant=_number(data["constant"]),
        layers=_layers(data["layers"], shape[0]),
        heads=heads,
        positions=positions,
        ffn_neurons=_neurons(data["ffn_neurons"]),
        attention_neurons=_neurons(data["attention_neurons"], tokens),
        ffn_opposing=_neurons(data["ffn_opposing_neurons"]),
        attention_opposing=_neurons(data["attention_opposing_neurons"], tokens),
    )


def _layers(data: Json, layers: int) -> SublayerScores:
    attention, ffn = _array(data["attention"], 1), _array(data["ffn"], 1)
    if len(attention) != layers or len(ffn) != layers:
        raise ValueError(f"scores of {len(attention)} and {len(ffn)} sub-layers in {layers} layers")
    return SublayerScores(attention, ffn)


def _neurons(rows: Sequence[Json], tokens: int = 0) -> tuple[ValueNeuron, ...]:
    return tuple(value_neuron_from_json(row, tokens) for row in rows)


def value_neuron_from_json(row: Json, tokens: int) -> ValueNeuron:
    """One neuron of a list.

    Raises:
        AtlasError, KeyError, TypeError, ValueError: it is none, or its source position is not in the prompt.
    """
    neuron = Neuron.parse(row["neuron"])
    position = None if neuron.kind is NeuronKind.FFN else _whole(row["position"])
    if position is not None and position >= tokens:
        raise ValueError(f"{neuron.label} at position {position} of {tokens} tokens")
    return ValueNeuron(neuron, position, _number(row["score"]), _number(row["activation"]))


def _certificates(data: Json) -> dict[NeuronKind, Certificate]:
    return {NeuronKind(kind): certificate_from_json(one) for kind, one in data.items()}


def certificate_from_json(data: Json) -> Certificate:
    """How a list was found.

    Raises:
        KeyError, TypeError, ValueError: a part is missing or damaged.
    """
    return Certificate(_whole(data["scored"]), _whole(data["total"]), data["proven"] is True, _text(data["bound"]))


def _target(data: Json, displays: Mapping[int, str]) -> Target:
    token = _token(data["id"], data["text"], displays)
    return Target(token, _number(data["probability"]), _number(data["log_probability"]))


def _prediction(data: Json, displays: Mapping[int, str]) -> Prediction:
    return Prediction(_token(data["id"], data["text"], displays), _number(data["probability"]))


def _token(token_id: Any, text: Any, displays: Mapping[int, str]) -> PromptToken:
    return PromptToken(_whole(token_id), _text(text), displays[token_id])


def _array(numbers: Any, dimensions: int) -> Float[np.ndarray, "..."]:
    array = np.array(numbers, dtype=np.float32)
    if array.ndim != dimensions or not np.isfinite(array).all():
        raise ValueError(f"no {dimensions}-dimensional array of finite numbers")
    return array


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"{str(value)[:40]} is no finite number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]} is no whole number from 0")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]} is no text")
    return value


def _optional(value: Any, read: Callable[[Any], T]) -> T | None:
    return None if value is None else read(value)
