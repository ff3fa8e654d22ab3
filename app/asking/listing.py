"""Which lists of neurons the prompt page shows: the overall ones, or those of the part that is looked into."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.asking import explaining
from app.asking.reading import Reading
from app.attribution.scope import Scope
from app.serving.work import Report
from app.state.selection import Place, PromptSelection, Show
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.results import ValueNeuron


@dataclass(frozen=True, slots=True)
class Listed:
    """Neurons of one kind, and in half a sentence how they were found; a part's own are complete."""

    kind: NeuronKind
    neurons: "tuple[ValueNeuron, ...]"
    found: str


def scope_of(place: Place) -> Scope | None:
    """The part that is looked into; None for the whole model.

    >>> scope_of(Place(layer=23, head=(23, 4), source=3)).label
    'L23.H4@3'
    """
    if place.layer is None:
        return None
    return Scope(place.layer, place.ffn, None if place.head is None else place.head[1], place.source)


def listed(reading: Reading, selection: PromptSelection, atlas: Catalogue, watch: Report | None = None) -> list[Listed]:
    """The lists for the place and the sign that are chosen. Where the model cannot be asked (a stored analysis on a
    server without it) a part's list is what the overall one holds of it, and says so.
    """
    show, scope = selection.place.show, scope_of(selection.place)
    if scope is None:
        return [Listed(kind, reading.lists[show, kind], "of the whole model") for kind in NeuronKind]
    lists = []
    for kind in scope.kinds:
        try:
            part = explaining.found_within(atlas, selection, scope, kind, watch, lowered=show is Show.LOWERED)
        except AtlasError as error:
            held, every = reading.found(show, kind, selection.place), len(reading.lists[show, kind])
            words = f"those among the overall {every}, since the part's own list could not be made ({error})"
            lists.append(Listed(kind, held, words))
        else:
            proof = part.certificate
            exactly = "all known exactly" if proof.bound == "linear" else f"{proof.scored:,} scored exactly, proven"
            lists.append(Listed(kind, part.neurons, f"the strongest of the {proof.total:,} of this part, {exactly}"))
    return lists
