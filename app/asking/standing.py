"""Where one neuron stands among the neurons of its layer and kind. Pure: a data frame in, a small result out."""

from dataclasses import dataclass

import pandas as pd

from db.neuron import Neuron

FIGURES = ("norm", "std", "top_z", "bottom_z")


@dataclass(frozen=True, slots=True)
class Standing:
    """A neuron among the others of ``Catalogue.layer_statistics``."""

    figures: dict[str, float]
    """Its own, by the name of the column."""
    larger: dict[str, float]
    """By the same names: the share of the layer's other neurons that it exceeds in size, from 0 to 1."""
    before: Neuron | None
    after: Neuron | None


def standing_of(neuron: Neuron, layer: pd.DataFrame) -> Standing:
    """Place a neuron.

    Args:
        neuron: which.
        layer: all neurons of its layer and kind, in neuron order; columns index, head and :data:`FIGURES`.
    """
    labels = [
        Neuron(neuron.layer, neuron.kind, None if pd.isna(head) else int(head), int(index))
        for head, index in zip(layer["head"], layer["index"], strict=True)
    ]
    place = labels.index(neuron)
    others = max(len(labels) - 1, 1)
    figures = {name: float(layer[name].iloc[place]) for name in FIGURES}
    larger = {name: float((layer[name].abs() < abs(figures[name])).sum()) / others for name in FIGURES}
    return Standing(
        figures,
        larger,
        labels[place - 1] if place else None,
        labels[place + 1] if place + 1 < len(labels) else None,
    )
