"""Search by text: the neurons that a passage activates far more than a corpus does.

A neuron's activation at a token is compared with its mean and deviation over the corpus that its texts were gathered
from: z = (activation - mean) / deviation. A passage is read as a window of the corpus is, so that the figures of the
corpus' own windows are the stored ones. Legend: T = tokens of the passage, n = neurons of a layer's kind.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from app.attribution.prompt import PromptToken, TooLongError, token_of, tokenise
from db.catalogue.schema import Block
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Filters
from db.texts.publish import Window
from db.texts.store import Statistics, Texts
from indexer.activations import Activations, Batch, Reader
from indexer.language_model import LanguageModel

RAISED = 6
"""Tokens that are shown of the end that a neuron raises."""
MOST = 1000
"""Neurons that are kept with their activations at every token."""


@dataclass(frozen=True)
class ActivatedNeuron:
    """A neuron that a passage activates.

    Attributes:
        neuron: which.
        sign: the end whose tokens it raises at its peak: promotes where the activation is positive.
        z: of its peak, the token where |z| is largest; by how many deviations that exceeds the corpus' mean in the
            direction of the sign.
        position: of the peak.
        activation: at the peak, signed.
        mean: over the corpus.
        std: likewise, population standard deviation.
        activations: at every token of the passage.
        raises: the first tokens of that end.
        usual: the end that is usually active, where it ever is.
        name: the neuron's, where it has a clear one.
    """

    neuron: Neuron
    sign: Sign
    z: float
    position: int
    activation: float
    mean: float
    std: float
    activations: tuple[float, ...]
    raises: tuple[PromptToken, ...] = ()
    usual: Sign | None = None
    name: str | None = None


@dataclass(frozen=True)
class ActivatedBy:
    """What a passage activates.

    Attributes:
        text: the passage.
        tokens: its tokens, without what the tokenizer adds.
        neurons: by falling z.
        compared: how many neurons were looked at.
        corpus: what they were compared with, for a sentence.
    """

    text: str
    tokens: tuple[PromptToken, ...]
    neurons: tuple[ActivatedNeuron, ...]
    compared: int
    corpus: str


def activated_by(
    model: LanguageModel, texts: Texts, text: str, conditions: Filters | None = None, limit: int = MOST
) -> ActivatedBy:
    """The neurons that a passage activates far more than the corpus does, by falling z; one forward pass.

    Args:
        model: that the texts were gathered with.
        texts: of its catalogue.
        text: the passage, at most as long as a window of the corpus.
        conditions: kind, layers, head, expert, sign, usual ends and least z; the others do not count.
        limit: how many neurons at most.

    Raises:
        AtlasError: the passage is empty or too long, or a condition names what the model or the texts lack.
    """
    chosen, stamp = conditions or Filters(), texts.stamp
    texts.catalogue.checked((), chosen)
    if not text:
        raise AtlasError("The text is empty: type or paste a passage.")
    try:
        ids = tokenise(model, text, stamp.window, bos=False)
    except TooLongError:
        raise AtlasError(
            f"The text has more than {stamp.window} tokens, and the corpus was read in windows of so many. Shorten it."
        ) from None
    if chosen.kind is NeuronKind.ATTENTION and not stamp.attention:
        raise AtlasError(
            "The texts of this catalogue were gathered without attention neurons. Gather them anew with `python -m "
            "indexer texts MODEL --corpus TEXTS --attention`, or search among the FFN neurons."
        )
    attention = stamp.attention and chosen.kind is not NeuronKind.FFN
    found = _Strongest(texts, chosen, limit)
    window = Window(0, 0, 0, tuple(ids))
    Reader(model, attention=attention).run(Batch(0, (window,)), found.add)
    tokens = tuple(token_of(model, token_id) for token_id in ids)
    return ActivatedBy(text, tokens, found.neurons(), found.compared, stamp.words)


class _Strongest:
    """The neurons with the largest z so far, layer after layer."""

    def __init__(self, texts: Texts, conditions: Filters, limit: int) -> None:
        self._texts, self._conditions, self._limit = texts, conditions, limit
        self._found: list[ActivatedNeuron] = []
        self._spans = texts.catalogue.layout.spans(conditions)
        self.compared = 0

    def add(self, layer: Activations) -> None:
        """Look at the neurons of a layer."""
        for kind, activation in ((NeuronKind.FFN, layer.ffn), (NeuronKind.ATTENTION, layer.attention)):
            if activation is not None and self._conditions.kind in (None, kind):
                self._found += self._of(layer.layer, kind, activation.float().cpu().numpy())
        self._found.sort(key=lambda one: -one.z)
        del self._found[self._limit :]

    def neurons(self) -> tuple[ActivatedNeuron, ...]:
        """By falling z; ties as they stand in the model."""
        neurons = [one.neuron for one in self._found]
        marks, tokens = self._texts.marks(neurons), self._texts.catalogue.strongest_tokens(neurons, RAISED)
        return tuple(
            replace(
                one,
                raises=tuple(
                    PromptToken(each.token_id, each.text, each.display) for each in tokens[one.neuron].at(one.sign)
                ),
                usual=None if mark.usual is None else mark.usual.sign,
                name=mark.name.text,
            )
            for one, mark in zip(self._found, (marks[neuron] for neuron in neurons), strict=True)
        )

    def _of(
        self, layer: int, kind: NeuronKind, activation: Float[NDArray[np.float32], "T n"]
    ) -> Iterator[ActivatedNeuron]:
        layout = self._texts.catalogue.layout
        block, sizes = layout.block(layer, kind), layout.sizes(layer)
        activation = activation[:, : block.size]
        known = self._texts.statistics(layer, kind)
        wanted = self._within(block) & (known.std > 0)
        self.compared += int(wanted.sum())
        z, positive = strength(activation, known, self._ends(block))
        z[~wanted] = 0.0
        weakest = self._found[-1].z if self._found and len(self._found) >= self._limit else 0.0
        least = max(self._conditions.min_z or 0.0, weakest)
        best = np.argsort(-z, kind="stable")[: self._limit]
        for row in best[(z[best] > 0) & (z[best] >= least)].tolist():
            own, sign = activation[:, row], Sign.of(float(positive[row]))
            at = int(own.argmax() if positive[row] else own.argmin())
            figures = float(own[at]), float(known.mean[row]), float(known.std[row])
            neuron = Neuron.in_row(layer, kind, row, sizes)
            yield ActivatedNeuron(neuron, sign, float(z[row]), at, *figures, tuple(own.tolist()))

    def _ends(self, block: Block) -> Bool[NDArray[np.bool_], "n 2"]:
        """Which ends of a block's neurons the conditions leave: the one it suppresses, then the one it promotes."""
        ends = np.ones((block.size, 2), dtype=bool)
        if self._conditions.usual:
            ends = (np.frombuffer(self._texts.usual_ends.encode(), np.uint8) == ord("1")).reshape(-1, 2)
            ends = ends[block.first : block.first + block.size]
        sign = self._conditions.sign
        return ends & [sign in (None, Sign.SUPPRESSES), sign in (None, Sign.PROMOTES)]

    def _within(self, block: Block) -> NDArray[np.bool_]:
        """Which neurons of a block the conditions' spans of ids hold."""
        ids = np.arange(block.first, block.first + block.size)
        if self._spans is None:
            return np.ones(block.size, dtype=bool)
        within = np.zeros(block.size, dtype=bool)
        for first, last in self._spans:
            within |= (first <= ids) & (ids <= last)
        return within


def strength(
    activation: Float[NDArray[np.float32], "T n"], corpus: Statistics, ends: Bool[NDArray[np.bool_], "n 2"]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How far each neuron's peak exceeds the corpus' mean, in deviations, and whether the activation is positive there.

    ends: which of each neuron's count: the one it suppresses, then the one it promotes.

    An activation counts in its own direction: a positive one that lies below the mean is no sign of activity.

    Returns:
        z, [n], 0 where there is no such peak; and [n].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        highest, lowest = activation.max(axis=0), activation.min(axis=0)
        up = np.where(ends[:, 1] & (highest > 0), (highest - corpus.mean) / corpus.std, 0.0)
        down = np.where(ends[:, 0] & (lowest < 0), (corpus.mean - lowest) / corpus.std, 0.0)
    return np.maximum(np.maximum(up, down), 0.0), up >= down
