"""The start page's worked example: one prompt, from its answer back to what switched the answer's neurons on.

Everything is asked of the prompt's own analysis; nothing is written down here but the prompt. What only the model can
tell (the query neuron read through its head) is left out where there is no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.answers import explain
from app.gallery.examples import WORKED_PROMPT
from app.serving.worker import Report
from app.state.selections import PromptSelection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Neuron
from db.records import NeuronTokens

if TYPE_CHECKING:
    from app.attribution.results import Analysis, ValueNeuron


QUESTION = PromptSelection(WORKED_PROMPT)
_DEPTH = 8
_CANDIDATES = 10


@dataclass(frozen=True)
class Behind:
    """A query neuron, read through the head of the attention neuron that it switched on.

    Attributes:
        neuron: an FFN neuron.
        score: the share of the attention neuron's score that it accounts for, nats.
        activation: at the attention neuron's source position; signed.
        through: what it says through the head: the tokens that the head raises from it, in display form.
    """

    neuron: Neuron
    score: float
    activation: float
    through: tuple[str, ...]


@dataclass(frozen=True)
class Worked:
    """The example.

    Attributes:
        analysis: of the prompt.
        tokens: the strongest tokens of every neuron named.
        first: the FFN value neuron that raised the target most.
        naming: another of the strongest FFN value neurons, one whose raised tokens name the target; None without.
        reading: one of the strongest attention value neurons, one that names the target if there is one.
        behind: what switched that one on; None where the model is not at hand.
    """

    analysis: "Analysis"
    tokens: dict[Neuron, NeuronTokens]
    first: "ValueNeuron"
    naming: "ValueNeuron | None"
    reading: "ValueNeuron"
    behind: Behind | None


def worked(atlas: Catalogue, watch: Report | None = None) -> Worked:
    """The example on this catalogue's model.

    Raises:
        AtlasError: there is neither the model nor a stored result, or the model has no value neurons to show.
    """
    analysis = explain.analysis(atlas, QUESTION, watch)
    ffn, attention = analysis.ffn_value_neurons, analysis.attention_value_neurons
    if not ffn or not attention:
        raise AtlasError("The example shows value neurons, and the analysis found none.")
    target = analysis.target.token.display
    candidates = [*ffn[:_CANDIDATES], *attention[:_CANDIDATES]]
    tokens = atlas.strongest_tokens([one.neuron for one in candidates], _DEPTH)
    naming = _naming(ffn[1:_CANDIDATES], tokens, target)
    later = [one for one in attention[:_CANDIDATES] if one.neuron.layer]  # behind one in layer 0 there is no neuron
    reading = _naming(later, tokens, target) or (*later, attention[0])[0]
    behind = _behind(atlas, reading, watch)
    if behind is not None:
        tokens |= atlas.strongest_tokens([behind.neuron], _DEPTH)
    return Worked(analysis, tokens, ffn[0], naming, reading, behind)


def _naming(found: "Sequence[ValueNeuron]", tokens: dict[Neuron, NeuronTokens], target: str) -> "ValueNeuron | None":
    """The first that raised the target's own token among its strongest."""
    for one in found:
        ends = tokens[one.neuron]
        raised = ends.promotes if one.activation > 0 else ends.suppresses
        if target in (token.display for token in raised):
            return one
    return None


def _behind(atlas: Catalogue, one: "ValueNeuron", watch: Report | None) -> Behind | None:
    neuron, position = one.neuron, one.position
    if neuron.head is None or position is None:
        return None
    try:
        _, query = explain.own_query(atlas, QUESTION, neuron, position)
        if not query.ffn_neurons:
            return None
        found = query.ffn_neurons[0]
        _, active = explain.activations(atlas, QUESTION.prompt, found.neuron, watch)
        through = explain.through_head(atlas, found.neuron, Head(neuron.layer, neuron.head))
    except AtlasError:
        return None
    activation = active.activation[position]
    said = through.promotes if activation > 0 else through.suppresses
    return Behind(found.neuron, found.score, activation, tuple(token.display for token in said))
