"""What an analysis yields: small immutable results. Scores in nats, activations signed, neurons the most extreme
first. Plain numbers and numpy arrays: what was stored is read and shown without torch (`app.attribution.plain` makes
them from tensors).

Legend: L = layers, H = heads, T = tokens.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from app.attribution.prompt import PromptToken
from db.neuron import Neuron, NeuronKind
from indexer.conventions import Conventions


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
