"""What an analysis, and every step further into it, yields: each field once, with its shape and unit.

Plain numbers and numpy arrays: what was stored is read and shown without torch. JSON (:mod:`app.attribution.form`) and
data frames (:mod:`app.attribution.frames`) follow from the fields. Scores are in nats, activations signed, neurons the
most extreme first.

Legend: L = layers, L1 = L + 1, H = heads, T = tokens up to the analysed one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from app.attribution import form
from app.attribution.form import described
from app.attribution.prompt import Method, PromptToken
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronKind, Part
from indexer.architecture import Conventions

SCORE_TOLERANCE = 5e-5
"""Nats by which a score may be off where it comes from bf16 products; float32 log-probabilities differ by as much with
the order of a sum."""


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

    @staticmethod
    def unnamed(data: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of what `named` gave."""
        layers = range((len(data) - 1) // 2)
        parts = {part: [data[f"{part} {layer}"] for layer in layers] for part in ("attention", "ffn")}
        return {"embedding": data["embedding"], **parts}


@dataclass(frozen=True)
class Certificate:
    """How the k entries of highest (or lowest) score were found, and so what can be said of the list.

    The search stops when the k-th best score found is at least the bound of every entry left out, or all are scored. So
    the list is that of an exhaustive search, but that entries whose scores lie within twice the tolerance of the k-th
    may stand for one another.

    Attributes:
        scored: entries whose score was computed.
        total: entries there are (neurons; for attention, neurons x source positions).
        bound: what bounds the entries left out: "concavity" (top k of contributions added, bottom k of contributions
            removed), "catalogue" (the other ends, with stored extreme logits), "norms" (those without a catalogue), or
            "linear" (differences of logits, which need no bound).
        tolerance: nats by which a computed score may be off, beyond the rounding of float32.
    """

    scored: int
    total: int
    bound: str = "concavity"
    tolerance: float = SCORE_TOLERANCE

    also_written: ClassVar[dict[str, Any]] = {"proven": True}
    """A key that version 1 of the JSON has, and that readers may look for: no search ends otherwise than said above."""


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
        effect: nats that the target's log-probability (in a contrast: the difference) lost when the contribution was
            taken out at the analysed position and the later layers were run again; None where it was not measured.
        rank: of the target among all tokens by how far the contribution raises their logits, 1 the most; None where
            nothing was measured.
        router: of an expert's neuron, the router's weight for it, which is part of the activation; 0 where it was not
            chosen.
    """

    neuron: Neuron
    position: int | None
    score: float
    activation: float
    effect: float | None = None
    rank: int | None = None
    router: float | None = None

    @staticmethod
    def check(found: dict[str, Any]) -> None:
        """Refuse an attention neuron without its source position; an FFN neuron has none."""
        if found["neuron"].kind is NeuronKind.FFN:
            found["position"] = None
        elif found["position"] is None:
            raise ValueError(f"{found['neuron'].label} has no position")


@dataclass(frozen=True)
class Together:
    """The strongest neurons of a list, taken out at once at the analysed position, beside random ones.

    Attributes:
        parts: the neurons, those of attention with their source positions.
        by: "effect" or "score": what made them the strongest.
        effect: nats that the target's log-probability lost.
        controls: the same of draws of as many random neurons of the same layers and about the same |activation|.
    """

    parts: tuple[Part, ...]
    by: str
    effect: float
    controls: tuple[float, ...]


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
        layers: sub-layers behind the top FFN value neurons ("ffn": by the only key or the gate; "ffn_up": by the up row
            of gated FFNs) and behind the top attention value neurons ("attention").
        skipped: value neurons left out of any of these for a vanishing denominator.
        readers: attention value neurons, and FFN value neurons, that were read from.
    """

    ffn_neurons: tuple[QueryNeuron, ...] = field(metadata=described(name="query_ffn_neurons"))
    layers: dict[str, QueryShares] = field(metadata=described(name="query_layers"))
    skipped: int = field(metadata=described(name="query_skipped"))
    readers: tuple[int, ...] = field(metadata=described(name="query_readers"))

    @staticmethod
    def check(found: dict[str, Any]) -> None:
        """Leave out what did nothing: earlier versions filled the list up with it, later layers' neurons included."""
        found["ffn_neurons"] = tuple(one for one in found["ffn_neurons"] if one.score)

    @property
    def attention_layers(self) -> QueryShares:
        """Sub-layers behind the top attention value neurons."""
        return self.layers["attention"]

    @property
    def ffn_layers(self) -> tuple[QueryShares, ...]:
        """Sub-layers behind the top FFN value neurons: by the only key or the gate, and by the up row of gated FFNs."""
        return tuple(self.layers[name] for name in ("ffn", "ffn_up") if name in self.layers)


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
        head_effects, layer_effects, together: as of an analysis, but of the difference of log-probabilities; see
            `Effects.minus`.
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
    ffn_opposing: tuple[ValueNeuron, ...] = field(metadata=described(name="ffn_opposing_neurons"))
    attention_opposing: tuple[ValueNeuron, ...] = field(metadata=described(name="attention_opposing_neurons"))
    head_effects: Float[np.ndarray, "L H"] | None = None
    layer_effects: SublayerScores | None = None
    together: dict[NeuronKind, Together] = field(default_factory=dict)


@dataclass(frozen=True)
class Seconds:
    """load: reading the model; forward: the hooked pass; total: the whole analysis with its pass, without loading."""

    load: float
    forward: float
    total: float


LISTS = ("ffn_value_neurons", "attention_value_neurons", "ffn_suppressing_neurons", "attention_suppressing_neurons")
CONTRAST_LISTS = ("ffn_neurons", "attention_neurons", "ffn_opposing", "attention_opposing")
"""The fields of an analysis, and of its contrast, that list neurons by their score."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Analysis:
    """What one prompt yields.

    Attributes:
        checkpoint: the model's identity, `Checkpoint.identity`; None in what older versions wrote.
        heads: [L, H].
        ffn_value_neurons, attention_value_neurons: those that raised the target most.
        ffn_suppressing_neurons, attention_suppressing_neurons: those that lowered it most; empty where not asked for.
        certificates: how each kind's top k was found; `suppressing_certificates` likewise, empty where not asked for.
        query: None where neurons were left out.
        contrast: None without a distractor.
        method: by which neurons, heads and sub-layers were scored.
        head_effects, layer_effects: measured as `ValueNeuron.effect` is; None where nothing was to be measured.
        together: by kind, the ten strongest of those that raised the target; empty where nothing was to be measured.
        bos: whether what the tokenizer puts before a text was put there.
        chat: whether the prompt is a user's message that was put into the model's chat template.
        notices: how the text and the tokens that were named were read, where that is not plain; one sentence each.
    """

    model: str
    family: str
    checkpoint: str | None = None
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
    certificates: dict[NeuronKind, Certificate] = field(metadata=described(name="certificate"))
    ffn_suppressing_neurons: tuple[ValueNeuron, ...] = ()
    attention_suppressing_neurons: tuple[ValueNeuron, ...] = ()
    suppressing_certificates: dict[NeuronKind, Certificate] = field(
        default_factory=dict, metadata=described(name="suppressing_certificate")
    )
    query: Query | None = field(default=None, metadata=described(inline=True))
    contrast: Contrast | None = None
    method: Method = Method.ADDED
    head_effects: Float[np.ndarray, "L H"] | None = None
    layer_effects: SublayerScores | None = None
    together: dict[NeuronKind, Together] = field(default_factory=dict)
    bos: bool = True
    chat: bool = False
    notices: tuple[str, ...] = ()
    seconds: Seconds

    def head_after(self, neuron: Neuron) -> Head | None:
        """The head to read a query neuron through unless another is chosen: that of the strongest attention value
        neuron which comes after it, else the last head; None for a neuron of the last layer.
        """
        for one in self.attention_value_neurons:
            if one.neuron.layer > neuron.layer and one.neuron.head is not None:
                return Head(one.neuron.layer, one.neuron.head)
        layers, heads = self.heads.shape
        return Head(layers - 1, heads - 1) if neuron.layer < layers - 1 else None

    @property
    def also_written(self) -> dict[str, Any]:
        """What follows from the rest and is written with it."""
        overlapping = {} if self.query is None else {"query_value_overlap": overlap(self)}
        return {"value_layer_counts": value_layer_counts(self)} | overlapping


def value_layer_counts(analysis: Analysis) -> dict[str, list[int]]:
    """How many of the top value neurons stand in each layer, by kind; attention ones count once a source position."""
    kinds = {"ffn": analysis.ffn_value_neurons, "attention": analysis.attention_value_neurons}
    counted = {kind: Counter(one.neuron.layer for one in found) for kind, found in kinds.items()}
    return {kind: [counts[layer] for layer in range(len(analysis.heads))] for kind, counts in counted.items()}


def overlap(analysis: Analysis) -> dict[str, list[str]]:
    """FFN neurons that stand in the value list only, in the query list only, or in both; each in its list's order."""
    value = [one.neuron.label for one in analysis.ffn_value_neurons]
    query = [] if analysis.query is None else [one.neuron.label for one in analysis.query.ffn_neurons]
    return {
        "both": [label for label in value if label in set(query)],
        "value_only": [label for label in value if label not in set(query)],
        "query_only": [label for label in query if label not in set(value)],
    }


def to_json(analysis: Analysis) -> dict[str, Any]:
    """One JSON object, which `from_json` reads back exactly. Token texts are the exact ones; `displays` has the display
    form of every token in it by id.
    """
    found: dict[str, Any] = form.written(analysis)
    return found


def from_json(data: Any) -> Analysis:
    """The analysis that an object stands for; scores in nats.

    Args:
        data: what `to_json` returned, possibly after it was written and read again. Further keys are ignored.

    Raises:
        AtlasError: the object is no analysis, or one that was written before tokens kept their ids.
    """
    if not isinstance(data, Mapping) or "prompt" not in data:
        raise AtlasError("This is not an analysis of a prompt as `python -m app.attribution “…” --json` writes one.")
    if "token_ids" not in data:
        raise AtlasError("This analysis was written by an older version and lacks its token ids. Analyse it again.")
    try:
        found: Analysis = form.read(Analysis, data)
    except AtlasError as error:
        raise AtlasError(f"The stored analysis is damaged: {error}.") from error
    return found


# One step further into a prompt.


@dataclass(frozen=True)
class SourcePosition:
    """What a head took from one position.

    Attributes:
        position, token: where.
        score: log-probability increase of the head's contribution from here, nats.
        attention_weight: 0 to 1.
        input_tokens: strongest tokens of the layer's input here (the logit lens).
        key_tokens: strongest tokens of what a query must hold to attend here: the key, mapped back through the key
            matrix.
        value_tokens: strongest tokens of what the head writes when it attends here: value times output matrix.
    """

    position: int
    token: PromptToken = field(metadata=described(prompt="position"))
    score: float
    attention_weight: float
    input_tokens: tuple[PromptToken, ...]
    key_tokens: tuple[PromptToken, ...]
    value_tokens: tuple[PromptToken, ...]


@dataclass(frozen=True)
class HeadPositions:
    """What a head took from each position, in their order."""

    layer: int
    head: int
    positions: tuple[SourcePosition, ...]


@dataclass(frozen=True, eq=False)
class HeadPattern:
    """A head's attention.

    Attributes:
        tokens: of the prompt.
        pattern: [T, T]; from each position (row) to each position (column), 0 to 1; rows add up to 1.
    """

    layer: int
    head: int
    tokens: tuple[PromptToken, ...] = field(metadata=described(tokens=True))
    pattern: Float[np.ndarray, "T T"]


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Each layer's input read as if it were the last, the final norm taken at its own scale.

    Attributes:
        tokens: of the prompt.
        top: [L1][T]; the most probable token; row l enters layer l, row L is the model's own output.
        top_probability: [L1, T]; its probability.
        target_probability: [L1, T]; the target's.
    """

    tokens: tuple[PromptToken, ...] = field(metadata=described(tokens=True))
    top: tuple[tuple[PromptToken, ...], ...]
    top_probability: Float[np.ndarray, "L1 T"]
    target_probability: Float[np.ndarray, "L1 T"]


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
    token: PromptToken = field(metadata=described(prompt="position"))
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
    certificate: Certificate = field(metadata=described(inline=True))


@dataclass(frozen=True)
class Within:
    """A part's own strongest neurons.

    Attributes:
        part: which.
        found: by kind and sign: "ffn_raising", "attention_lowering"; in a contrast "ffn_favouring", "ffn_opposing", …
    """

    part: Part
    found: dict[str, Found] = field(metadata=described(inline=True))


@dataclass(frozen=True, eq=False)
class OwnQuery:
    """What switched one chosen value neuron on. Scores add up to its own.

    Attributes:
        one: the neuron on this prompt.
        ffn_neurons: FFN neurons behind it; behind one that lowered the target, those of the most negative score.
        layers: the sub-layers behind it; of a gated FFN, by the gate.
        skipped: 1 where a denominator vanishes and the shares mean nothing, else 0.
        layers_up: by the up row of a gated FFN.
    """

    one: ValueNeuron = field(metadata=described(inline=True))
    ffn_neurons: tuple[QueryNeuron, ...] = field(metadata=described(name="query_ffn_neurons"))
    layers: QueryShares = field(metadata=described(name="query_layers"))
    skipped: int = field(metadata=described(name="query_skipped"))
    layers_up: QueryShares | None = field(default=None, metadata=described(name="query_layers_up"))

    check = staticmethod(Query.check)

    @property
    def query(self) -> Query:
        """The same as of many value neurons."""
        layers, is_ffn = {"attention": self.layers}, self.one.neuron.kind is NeuronKind.FFN
        if is_ffn:
            layers = {"ffn": self.layers} | layers | ({} if self.layers_up is None else {"ffn_up": self.layers_up})
        return Query(self.ffn_neurons, layers, self.skipped, (0, 1) if is_ffn else (1, 0))


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
class KeyToken:
    """A token and what the key reads from its embedding.

    Attributes:
        token: which.
        reading: before any non-linearity; of an attention neuron the value itself.
        z: (reading - mean) / standard deviation over the vocabulary; 0 for a constant key.
    """

    token: PromptToken
    reading: float
    z: float


@dataclass(frozen=True, slots=True)
class KeySide:
    """One key vector of a neuron, in tokens.

    Attributes:
        name: "key" (an FFN without a gate), "gate", "up", or "value" (an attention neuron's row of the value
            projection).
        mean, std: of the readings over the vocabulary, population standard deviation.
        norm: of the key vector, its norm's weight folded in.
        cosine: of this neuron's key and value vectors; positive where it writes what it reads. For an attention neuron
            of the value-projection row, for a gated FFN of each row.
        highest, lowest: the tokens of the highest and the lowest reading, the most extreme first.
    """

    name: str = field(metadata=described(name="key"))
    mean: float
    std: float
    norm: float
    cosine: float
    highest: tuple[KeyToken, ...]
    lowest: tuple[KeyToken, ...]


@dataclass(frozen=True)
class Keys:
    """What switches a neuron on: one side for each of its key vectors, gate before up."""

    neuron: Neuron
    sides: tuple[KeySide, ...] = field(metadata=described(name="keys"))


@dataclass(frozen=True)
class Activations:
    """How active one neuron is at every position of a prompt, up to the analysed one.

    Attributes:
        neuron: which.
        activation: one for each position, signed. Of an FFN neuron what its value vector is multiplied by there; of an
            attention neuron the value v there, before any attention.
        attention_weight: of an attention neuron, the analysed position's attention to each position, 0 to 1.
        arriving: of an attention neuron, attention weight x value: what multiplies its value vector at the analysed
            position.
        router: of an expert's neuron, the router's weight for the expert at each position, which is part of the
            activation; 0 where it was not chosen.
    """

    neuron: Neuron
    activation: tuple[float, ...]
    attention_weight: tuple[float, ...] | None = None
    arriving: tuple[float, ...] | None = None
    router: tuple[float, ...] | None = None
