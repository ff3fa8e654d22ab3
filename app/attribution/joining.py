"""A model and a catalogue belong together only if they share the unembedding; otherwise the stored tokens would be
another model's.
"""

from functools import cache

import torch
from torch import Tensor

from app.attribution.run import Ranges
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from indexer.language_model import LanguageModel


def require_same_model(model: LanguageModel, catalogue: Catalogue) -> None:
    """Refuse to join a catalogue with a model whose unembedding differs.

    Raises:
        AtlasError: they differ.
    """
    stored = catalogue.info
    if stored.unembedding_hash != model.unembedding.hash:
        raise AtlasError(
            f"The catalogue of {stored.model} (build {stored.build_id}) was made from another unembedding than that "
            "of the "
            f"model {model.name}: {stored.unembedding_hash[:12]}… against {model.unembedding.hash[:12]}…. Its tokens "
            "would be "
            "wrong. Choose the matching catalogue with --catalogue, or build one: python -m indexer build MODEL."
        )


def stored_ranges(catalogue: Catalogue) -> Ranges:
    """Highest minus lowest logit of every value vector, as the catalogue stores them; each layer is read once."""

    @cache
    def ranges(kind: NeuronKind, layer: int) -> Tensor:
        highest, lowest = catalogue.extremes(layer, kind)
        # Stored logits are float32 products; their last digits may differ from the ones computed here.
        return torch.from_numpy(highest - lowest) * (1 + 1e-5)

    return ranges
