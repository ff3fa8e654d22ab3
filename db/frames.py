"""Answers as data frames, for notebooks, charts and exports. Column names are ASCII; tokens in display form."""

from collections.abc import Sequence

import pandas as pd

from db.answers import Hit, NeuronCard
from db.neuron import Sign

_HIT_COLUMNS = ["neuron", "kind", "layer", "head", "index", "sign", "rank", "token_id", "token", "logit", "z"]
_CARD_COLUMNS = ["sign", "rank", "token_id", "token", "logit", "z"]


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
