"""Answers as data frames, for notebooks, charts and exports. Column names are ASCII.

``token`` is the display form, in which lists of tokens are separated by one space.
"""

from collections.abc import Sequence

import pandas as pd

from db.answers import ConceptNeuron, Hit, Neighbour, NeuronCard, SimilarNeuron
from db.neuron import Neuron, Sign

_HIT_COLUMNS = ["neuron", "kind", "layer", "head", "index", "sign", "rank", "token_id", "token", "logit", "z"]
_CARD_COLUMNS = ["sign", "rank", "token_id", "token", "logit", "z"]
_NEURON_COLUMNS = ["neuron", "kind", "layer", "head", "index"]


def hits_frame(hits: Sequence[Hit]) -> pd.DataFrame:
    """One row a hit, in the order given; ``head`` is missing for FFN neurons."""
    rows = [
        (
            hit.neuron.label,
            str(hit.neuron.kind),
            hit.neuron.layer,
            hit.neuron.head,
            hit.neuron.index,
            str(hit.sign),
            hit.rank,
            hit.token.token_id,
            hit.token.display,
            hit.logit,
            hit.z,
        )
        for hit in hits
    ]
    return pd.DataFrame(rows, columns=_HIT_COLUMNS).astype({"head": "Int64"})


def card_frame(card: NeuronCard) -> pd.DataFrame:
    """One row a stored token of the neuron: the promoted ones by rank, then the suppressed ones by rank."""
    rows = [
        (str(sign), rank, entry.token.token_id, entry.token.display, entry.logit, entry.z)
        for sign, entries in ((Sign.PROMOTES, card.top), (Sign.SUPPRESSES, card.bottom))
        for rank, entry in enumerate(entries, start=1)
    ]
    return pd.DataFrame(rows, columns=_CARD_COLUMNS)


def concept_frame(neurons: Sequence[ConceptNeuron]) -> pd.DataFrame:
    """One row an end of a neuron, in the order given; ``matched`` lists its tokens of the concept by rank."""
    rows = [
        (
            *_columns(found.neuron),
            str(found.sign),
            found.score,
            len(found.matched),
            " ".join(entry.token.display for entry in found.matched),
        )
        for found in neurons
    ]
    columns = [*_NEURON_COLUMNS, "sign", "score", "tokens", "matched"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int64"})


def similar_frame(found: Sequence[SimilarNeuron]) -> pd.DataFrame:
    """One row a neuron, most alike first; ``shared`` lists the tokens in common."""
    rows = [
        (
            *_columns(other.neuron),
            other.similarity,
            other.opposite,
            len(other.shared),
            " ".join(token.display for token in other.shared),
        )
        for other in found
    ]
    columns = [*_NEURON_COLUMNS, "similarity", "opposite", "tokens", "shared"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int64"})


def neighbours_frame(neighbours: Sequence[Neighbour]) -> pd.DataFrame:
    """One row a neighbour, nearest first."""
    rows = [(near.rank, near.token.token_id, near.token.display, near.cosine) for near in neighbours]
    return pd.DataFrame(rows, columns=["rank", "token_id", "token", "cosine"])


def _columns(neuron: Neuron) -> tuple[str, str, int, int | None, int]:
    return neuron.label, str(neuron.kind), neuron.layer, neuron.head, neuron.index
