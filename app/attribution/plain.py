"""From the engine's tensors to the plain numbers of a result."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from app.attribution.layers import LayerScores
from app.attribution.query import QueryLayers
from app.attribution.results import QueryShares, SublayerScores


def array(tensor: Tensor) -> Float[np.ndarray, "..."]:
    """The same numbers as a numpy array, in the same precision."""
    numbers: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return numbers


def sublayer_scores(scores: LayerScores) -> SublayerScores:
    """Scores of sub-layers, without tensors."""
    return SublayerScores(array(scores.attention), array(scores.ffn))


def query_shares(shares: QueryLayers) -> QueryShares:
    """Shares in what was read, without tensors."""
    return QueryShares(shares.embedding, array(shares.attention), array(shares.ffn))
