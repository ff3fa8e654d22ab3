"""The start page's example: one prompt, from its answer back to what switched the answer's neurons on.

Everything comes from the prompt's own analysis; only the prompt is written down. What the model alone can tell (the
query neuron read through a head) is left out where there is no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.answers import explain
from app.attribution.results import Analysis, QueryNeuron, ValueNeuron
from app.gallery.examples import WALKTHROUGH_PROMPT
from app.serving.worker import Report
from app.state.selections import PromptSelection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, Sign
from db.records import NeuronTokens

QUESTION = PromptSelection(WALKTHROUGH_PROMPT)
_DEPTH = 8
_CANDIDATES = 10


@dataclass(frozen=True)
class Shown:
    """A neuron on the prompt, and the tokens that it raised there.

    Attributes:
        neuron: which.
        position: an attention neuron's source position.
        score: nats; a query neuron's is its share of what it switched on.
        activation: signed.
        end: the end of its tokens that the activation raised.
        raised: the strongest tokens of that end, in display form.
    """

    neuron: Neuron
    position: int | None
    score: float
    activation: float
    end: Sign
    raised: tuple[str, ...]


@dataclass(frozen=True)
class Walkthrough:
    """The example.

    Attributes:
        analysis: of the prompt.
        first: the FFN value neuron that raised the target most.
        naming: another of the strongest FFN value neurons, one whose raised tokens name the target; None without.
        carrying: one of the strongest attention value neurons, one that names the target if there is one.
        query: the query neuron that did most to switch that one on; None where the model is not at hand.
        through: the tokens that the attention neuron's head raises from the query neuron, in display form.
    """

    analysis: Analysis
    first: Shown
    naming: Shown | None
    carrying: Shown
    query: Shown | None
    through: tuple[str, ...]


def walkthrough(atlas: Catalogue, watch: Report | None = None) -> Walkthrough:
    """The example on this catalogue's model.

    Raises:
        AtlasError: there is neither the model nor a stored result, or the model has no value neurons to show.
    """
    analysis = explain.analysis(atlas, QUESTION, watch)
    ffn = _shown(analysis.ffn_value_neurons[:_CANDIDATES], atlas)
    attention = _shown(analysis.attention_value_neurons[:_CANDIDATES], atlas)
    if not ffn or not attention:
        raise AtlasError("The example shows value neurons, and the analysis found none.")
    target = analysis.target.token.display
    later = [one for one in attention if one.neuron.layer]  # no neuron comes before one in layer 0
    carrying = _naming(later, target) or (*later, attention[0])[0]
    query, through = _query(atlas, carrying, watch)
    return Walkthrough(analysis, ffn[0], _naming(ffn[1:], target), carrying, query, through)


def _shown(found: Sequence[ValueNeuron], atlas: Catalogue) -> list[Shown]:
    tokens = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    return [_one(one, one.position, one.activation, tokens[one.neuron]) for one in found]


def _one(one: ValueNeuron | QueryNeuron, position: int | None, activation: float, tokens: NeuronTokens) -> Shown:
    end, raised = (Sign.PROMOTES, tokens.promotes) if activation > 0 else (Sign.SUPPRESSES, tokens.suppresses)
    return Shown(one.neuron, position, one.score, activation, end, tuple(token.display for token in raised))


def _naming(found: Sequence[Shown], target: str) -> Shown | None:
    """The first that raised the target's own token among its strongest."""
    return next((one for one in found if target in one.raised), None)


def _query(atlas: Catalogue, one: Shown, watch: Report | None) -> tuple[Shown | None, tuple[str, ...]]:
    """The strongest query neuron of an attention neuron, and what it says through that one's head."""
    neuron, position = one.neuron, one.position
    if neuron.head is None or position is None:
        return None, ()
    try:
        behind = explain.detail(atlas, QUESTION, "own", NeuronAt(neuron, position)).ffn_neurons
        if not behind:
            return None, ()
        found = behind[0]
        _, active = explain.activations(atlas, QUESTION.prompt, found.neuron, watch)
        through = explain.detail(atlas, QUESTION, "through", (found.neuron, Head(neuron.layer, neuron.head)))
    except AtlasError:
        return None, ()
    activation = active.activation[position]
    tokens = atlas.strongest_tokens([found.neuron], _DEPTH)[found.neuron]
    shown = _one(found, position, activation, tokens)
    said = through.promotes if activation > 0 else through.suppresses
    return shown, tuple(token.display for token in said)
