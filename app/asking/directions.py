"""What the search pages ask of the model: all neurons ranked for a concept, and neurons alike by value vector."""

from typing import TYPE_CHECKING

from app.serving import resources
from app.serving.work import Report
from app.state.selection import SearchSelection
from db.catalogue import Catalogue
from db.concepts import Concept
from db.neuron import Neuron

if TYPE_CHECKING:
    from indexer.directions import ConceptStrength, NeuronCosine

MOST = 20_000
"""The best so many ends are kept."""


def ranked(
    atlas: Catalogue, concept: Concept, selection: SearchSelection, watch: Report | None = None
) -> "tuple[ConceptStrength, ...]":
    """The ends of all neurons by how strongly their value vectors point to the concept, at most :data:`MOST`.

    The least z is asked of the mean z; stored ranks do not count.

    Raises:
        AtlasError: the model is not here, or the concept has no token to look for.
    """
    weights = concept.shares()
    conditions = selection.conditions

    def make(report: Report) -> "tuple[ConceptStrength, ...]":
        from indexer.directions import rank_by_direction

        model = resources.ready(atlas, report)
        report(f"Ranking all {atlas.info.neurons:,} neurons …")
        found = rank_by_direction(
            model.weights,
            model.unembedding,
            list(weights),
            list(weights.values()),
            atlas.info.neurons if conditions.head is not None else MOST,
            kind=conditions.kind,
            layers=conditions.layers,
            sign=conditions.sign,
        )
        least = conditions.min_z
        return tuple(
            one
            for one in found
            if (least is None or one.mean_z >= least)
            and (conditions.head is None or one.neuron.head == conditions.head)
        )[:MOST]

    key = (atlas.info.build_id, "concept", tuple(weights.items()), conditions)
    return resources.workshop().result("direction", key, make, watch)


def alike_by_value(
    atlas: Catalogue, neuron: Neuron, count: int, watch: Report | None = None
) -> "tuple[NeuronCosine, ...]":
    """The neurons whose value vectors have the largest cosine with this one's, in either direction.

    Raises:
        AtlasError: the model is not here.
    """

    def make(report: Report) -> "tuple[NeuronCosine, ...]":
        from indexer.directions import similar_by_value

        model = resources.ready(atlas, report)
        report(f"Comparing {neuron.label} with all {atlas.info.neurons:,} neurons …")
        return tuple(similar_by_value(model.weights, neuron, count))

    return resources.workshop().result("direction", (atlas.info.build_id, "alike", neuron, count), make, watch)
