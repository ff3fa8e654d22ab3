"""What an analysis yields: small immutable results. Scores in nats, activations signed, neurons the most extreme
first. Plain numbers and numpy arrays: what was stored is read and shown without torch (`app.attribution.analysis` makes
them from tensors).

Legend: L = layers, H = heads, T = tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from app.attribution.prompt import PromptToken
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from indexer.families import Conventions


@dataclass(frozen=True, eq=False)
class SublayerScores:
    """Nats of each sub-layer: log-probability increases, or in a contrast shares of the difference of logits.

    Attributes:
        attention: [L].
        ffn: [L].
    """

    attention: Float[np.ndarray, " L"]
    ffn: Float[np.ndarray, " L"]


@dataclass(frozen=True, eq=False)
class QueryShares:
    """Shares of the embedding and of each sub-layer in what value neurons read, in nats.

    Attributes:
        embedding: a number.
        attention: [L].
        ffn: [L].
    """

    embedding: float
    attention: Float[np.ndarray, " L"]
    ffn: Float[np.ndarray, " L"]

    def named(self) -> dict[str, float]:
        """`embedding`, `attention 0`, `ffn 0`, `attention 1`, …"""
        pairs = zip(self.attention.tolist(), self.ffn.tolist(), strict=True)
        shares = {"embedding": self.embedding}
        for layer, (attention, ffn) in enumerate(pairs):
            shares |= {f"attention {layer}": attention, f"ffn {layer}": ffn}
        return shares


@dataclass(frozen=True)
class Certificate:
    """How a top or bottom k was found.

    Attributes:
        scored: entries whose exact score was computed.
        total: entries there are (neurons; for attention, neurons x source positions).
        proven: the k-th best score is at least the bound of every entry left out.
        bound: what the proof rests on: "concavity" (top k), "catalogue" (bottom k, with stored extreme logits),
            "norms" (bottom k without a catalogue), or "linear" (differences of logits, which need no bound).
    """

    scored: int
    total: int
    proven: bool
    bound: str = "concavity"


@dataclass(frozen=True)
class Prediction:
    """A token and its probability of coming next, under the model itself."""

    token: PromptToken
    probability: float


@dataclass(frozen=True)
class Target:
    """The explained token. log_probability in nats."""

    token: PromptToken
    probability: float
    log_probability: float


@dataclass(frozen=True, slots=True)
class ValueNeuron:
    """One neuron on this prompt.

    Attributes:
        neuron: which.
        position: the source position it was active at; None for FFN neurons, which act at the analysed position.
        score: its log-probability increase (in a contrast: its share of the difference of logits), nats.
        activation: what its value vector was multiplied by; signed.
    """

    neuron: Neuron
    position: int | None
    score: float
    activation: float


@dataclass(frozen=True, slots=True)
class QueryNeuron:
    """An FFN neuron and the share of the value neurons' scores that it switched on, nats."""

    neuron: Neuron
    score: float


@dataclass(frozen=True, eq=False)
class Query:
    """What switched the value neurons on.

    Attributes:
        ffn_neurons: FFN neurons behind the top attention value neurons, best first.
        attention_layers: sub-layers behind the top attention value neurons.
        ffn_layers: sub-layers behind the top FFN value neurons, by the only key or the gate, and by the up row of
            gated FFNs.
        skipped: value neurons left out of any of these for a vanishing denominator.
        readers: attention value neurons, and FFN value neurons, that were read from.
    """

    ffn_neurons: tuple[QueryNeuron, ...]
    attention_layers: QueryShares
    ffn_layers: tuple[QueryShares, ...]
    skipped: int
    readers: tuple[int, int]


@dataclass(frozen=True)
class ThroughHead:
    """A neuron's value vector read directly and through a head: the tokens at both ends.

    Attributes:
        promotes, suppresses: strongest tokens after the head, most extreme first, for a positive activation.
        directly_promotes, directly_suppresses: those of the value vector itself.
    """

    neuron: Neuron
    layer: int
    head: int
    promotes: tuple[PromptToken, ...]
    suppresses: tuple[PromptToken, ...]
    directly_promotes: tuple[PromptToken, ...]
    directly_suppresses: tuple[PromptToken, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """What one head moved from one source position to the analysed one.

    Attributes:
        layer, head: the head.
        position, token: the source.
        score: log-probability increase of this part alone (in a contrast: its share of the difference of logits), nats.
        attention_weight: the analysed position's attention to the source, 0 to 1.
    """

    layer: int
    head: int
    position: int
    token: PromptToken
    score: float
    attention_weight: float


@dataclass(frozen=True)
class Flow:
    """The strongest moves of a prompt, by the size of their score, and how they were found."""

    moves: tuple[Move, ...]
    certificate: Certificate


@dataclass(frozen=True)
class Found:
    """A part's neurons of one kind, the most extreme first, and how they were found. Scores in nats."""

    neurons: tuple[ValueNeuron, ...]
    certificate: Certificate


@dataclass(frozen=True, eq=False)
class Contrast:
    """Why the target and not the distractor: shares of log p(w) - log p(w′), a difference of logits, which is linear.

    With the norm frozen, embedding + Σ attention + Σ ffn + constant = logit_difference, exactly.

    Attributes:
        distractor: w′.
        logit_difference: log p(w) - log p(w′), nats; under the notebook convention, of the logits without β.
        embedding, constant: shares of the embedding, and of what does not depend on the prompt (norm and head biases).
        layers: shares of the sub-layers.
        heads: [L, H].
        positions: [L, H, T]; of each head's source positions.
        ffn_neurons, attention_neurons: those that favour the target most, of all neurons.
        ffn_opposing, attention_opposing: those that favour the distractor most.
    """

    distractor: Target
    logit_difference: float
    embedding: float
    constant: float
    layers: SublayerScores
    heads: Float[np.ndarray, "L H"]
    positions: Float[np.ndarray, "L H T"]
    ffn_neurons: tuple[ValueNeuron, ...]
    attention_neurons: tuple[ValueNeuron, ...]
    ffn_opposing: tuple[ValueNeuron, ...]
    attention_opposing: tuple[ValueNeuron, ...]


@dataclass(frozen=True)
class Seconds:
    """load: reading the model; forward: the hooked pass; total: the whole analysis with its pass, without loading."""

    load: float
    forward: float
    total: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """What one prompt yields.

    Attributes:
        heads: [L, H].
        ffn_value_neurons, attention_value_neurons: those that raised the target most.
        ffn_suppressing_neurons, attention_suppressing_neurons: those that lowered it most; empty where not asked for.
        certificates: how each kind's top k was found; `suppressing_certificates` likewise, empty where not asked for.
        query: None where neurons were left out.
        contrast: None without a distractor.
    """

    model: str
    family: str
    unembedding_hash: str
    conventions: Conventions
    prompt: str
    tokens: tuple[PromptToken, ...]
    position: int
    target: Target
    predictions: tuple[Prediction, ...]
    layers: SublayerScores
    heads: Float[np.ndarray, "L H"]
    ffn_value_neurons: tuple[ValueNeuron, ...]
    attention_value_neurons: tuple[ValueNeuron, ...]
    ffn_suppressing_neurons: tuple[ValueNeuron, ...]
    attention_suppressing_neurons: tuple[ValueNeuron, ...]
    certificates: dict[NeuronKind, Certificate]
    suppressing_certificates: dict[NeuronKind, Certificate]
    query: Query | None
    contrast: Contrast | None
    seconds: Seconds


# An Analysis from the JSON object that `forms.to_json` made of it. Exact, and without torch.

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
