"""What the map of the overview shows: where neurons lie, how each is shaded, and what is told of it."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.serving import resources
from db.catalogue.store import Catalogue
from db.groups import Group, GroupedBy, MapShade, NeuronMap, find_group
from db.neuron import Neuron, NeuronKind

_NONE = 255  # the shade of what has no value
_STEPS = 254
_TOLD_OF = 100_000
"""Neurons up to which each is told of by its tokens; of more, by its label alone."""


def shades(
    atlas: Catalogue, found: NeuronMap, shade: MapShade
) -> tuple[NDArray[np.uint8], tuple[str, str, str] | None]:
    """How each neuron of a map is shaded, from 0 to 254, 255 for none; and low end, high end and title of the legend.

    By groups a shade is a group's, and there is no legend.
    """
    match shade:
        case MapShade.GROUP:
            kinds = (found.group - 1) % _STEPS
            return np.where(found.group > 0, kinds, _NONE).astype(np.uint8), None
        case MapShade.LAYER:
            values, title = _layers(atlas, found).astype(float), "layer"
        case MapShade.SHARPNESS:
            values, title = found.sharpness.astype(float), "the larger |z| of its two first tokens"
        case MapShade.RATE:
            rates, title = _rates(atlas, found), "share of tokens at which it is active, logarithmic"
            values = np.log10(np.where(rates > 0, rates, np.nan))
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(values), _NONE, np.uint8), None
    low, high = np.quantile(values[known], (0, 1) if shade is MapShade.LAYER else (0.01, 0.99))
    steps = np.clip((values - low) / (high - low or 1.0), 0, 1) * _STEPS
    ends = (f"{10**low:.1%}", f"{10**high:.1%}") if shade is MapShade.RATE else (f"{low:.3g}", f"{high:.3g}")
    return np.where(known, np.nan_to_num(steps).round(), _NONE).astype(np.uint8), (*ends, title)


def cloud(atlas: Catalogue, by: GroupedBy, shade: MapShade, group: Group | None) -> dict[str, Any]:
    """What the browser draws: places and shades as packed numbers, and a line of text for each neuron."""
    found = atlas.maps[by]
    shaded, scale = shades(atlas, found, shade)
    chosen = found.group == (group.number if group is not None else -1)
    packed = {
        "x": (found.x * 65535).round().astype("<u2"),
        "y": (found.y * 65535).round().astype("<u2"),
        "shade": shaded,
        "chosen": chosen.astype(np.uint8),
    }
    data: dict[str, Any] = {name: base64.b64encode(one.tobytes()).decode() for name, one in packed.items()}
    data["names"] = _names(atlas, found)
    data |= {"map": f"{by} of {atlas.info.build_id}", "kinds": shade is MapShade.GROUP}
    if scale is not None:
        data["scale"] = dict(zip(("low", "high", "title"), scale, strict=True))
    return data


def _layers(atlas: Catalogue, found: NeuronMap) -> NDArray[np.int64]:
    firsts = [atlas.layout.block(layer, NeuronKind.FFN).first for layer in range(atlas.layout.layers)]
    return np.searchsorted(firsts, found.neuron_ids, side="right") - 1


def _rates(atlas: Catalogue, found: NeuronMap) -> NDArray[np.float64]:
    """Share of tokens at which each neuron is active; NaN where there are no texts."""
    texts = atlas.texts
    if texts is None:
        return np.full(len(found.neuron_ids), np.nan)

    def made() -> NDArray[np.float64]:
        marks = texts.marks_by_id(found.neuron_ids.tolist())
        usual = [mark.usual if (mark := marks.get(one)) else None for one in found.neuron_ids.tolist()]
        return np.array([one.rate if one else np.nan for one in usual])

    key = (atlas.info.build_id, "rates", texts.stamp.texts_id)
    return resources.remembered(key, made)


def _names(atlas: Catalogue, found: NeuronMap) -> str:
    """A line for each neuron, which begins with its label."""

    def made() -> str:
        layout = atlas.layout
        labels = [
            Neuron.in_row(layer, NeuronKind.FFN, row, layout.sizes(layer)).label
            for layer in range(layout.layers)
            for row in range(layout.block(layer, NeuronKind.FFN).size)
        ]
        if len(labels) > _TOLD_OF:
            return "\n".join(labels)
        return "\n".join(f"{label}  {words}" for label, words in zip(labels, found.words, strict=True))

    return resources.remembered((atlas.info.build_id, "names on the map"), made)


def chosen_group(atlas: Catalogue, name: str) -> Group | None:
    """The group of a name; None where none is chosen.

    Raises:
        NotFoundError: there is no such group.
    """
    return find_group(atlas.maps, name) if name else None
