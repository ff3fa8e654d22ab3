"""The key side of a neuron: which tokens' embeddings switch it on most, exact over the whole vocabulary.

A neuron reads the residual stream through the norm in front of it. Were a token's embedding x all that stands there,
the row k that reads it (an FFN's gate or up row, an attention neuron's row of the value projection) would yield

    reading(x) = x · key / s(x) + constant

with key = k ⊙ γ (centred under LayerNorm), s(x) the norm's own scale at x, and constant = k · β + the row's bias. That
is the model's own arithmetic on a made-up residual stream: in the first layer nearly what happens, in later ones a
description of the key vector in tokens. Position embeddings are left out.

Legend: V = vocabulary, d = d_model.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from app.attribution.prompt import PromptToken, token_of
from app.attribution.query import key_vector
from db.neuron import Neuron, NeuronKind, check_exists
from db.token_text import shorten
from indexer.families import NormKind
from indexer.language_model import LanguageModel
from indexer.weights import Weights

SHOWN = 30
_ROWS = 8192  # embeddings normalised at once: 19 MB at d = 576


@dataclass(frozen=True, slots=True)
class KeyToken:
    """A token and what the key reads from its embedding.

    Attributes:
        token: which.
        reading: before any non-linearity; of an attention neuron the value itself.
        z: (reading - mean) / standard deviation over the vocabulary; 0 for a constant key.
    """

    token: PromptToken
    reading: float
    z: float


@dataclass(frozen=True, slots=True)
class KeySide:
    """One key vector of a neuron, in tokens.

    Attributes:
        name: "key" (an FFN without a gate), "gate", "up", or "value" (an attention neuron's row of the value
            projection).
        highest, lowest: the tokens of the highest and the lowest reading, the most extreme first.
        mean, std: of the readings over the vocabulary, population standard deviation.
        norm: of the key vector, its norm's weight folded in.
        cosine: of this neuron's key and value vectors; positive where it writes what it reads. For an attention neuron
            of the value-projection row, for a gated FFN of each row.
    """

    name: str
    highest: tuple[KeyToken, ...]
    lowest: tuple[KeyToken, ...]
    mean: float
    std: float
    norm: float
    cosine: float


def key_sides(model: LanguageModel, neuron: Neuron, shown: int = SHOWN) -> tuple[KeySide, ...]:
    """What switches a neuron on: one side for each of its key vectors, gate before up.

    Args:
        model: the model.
        neuron: an FFN or attention neuron.
        shown: how many tokens of each end.

    Raises:
        AtlasError: there is no such neuron.
    """
    check_exists(neuron, model.dimensions, model.name)
    names = key_names(model, neuron.kind)
    keys = torch.stack([key_vector(model.weights, neuron, key=place) for place in range(len(names))])
    constants = [_constant(model.weights, neuron, place) for place in range(len(names))]
    readings = _products(model, keys)
    value = _value_vector(model.weights, neuron)
    return tuple(
        _side(model, name, readings[:, place] + constants[place], keys[place], value, shown)
        for place, name in enumerate(names)
    )


def key_names(model: LanguageModel, kind: NeuronKind) -> tuple[str, ...]:
    """What the key vectors of a kind of neuron are called in this family."""
    if kind is NeuronKind.ATTENTION:
        return ("value",)
    return ("gate", "up") if len(model.architecture.ffn_keys) > 1 else ("key",)


def _products(model: LanguageModel, keys: Float[Tensor, "keys d"]) -> Float[Tensor, "V keys"]:
    """x · key / s(x) for the embedding x of every token."""
    embedding = model.weights.tensor(f"{model.architecture.embedding}.weight")
    parts = []
    for start in range(0, embedding.shape[0], _ROWS):
        rows = embedding[start : start + _ROWS]
        # The scale of the final norm's kind and ε is that of every norm of these families.
        parts.append((rows @ keys.T) / model.unembedding.scale(rows))
    return torch.cat(parts)


def _constant(weights: Weights, neuron: Neuron, place: int) -> float:
    """k · β + the row's bias: the same for every token."""
    row, bias, norm = _row(weights, neuron, place)
    beta = None
    if weights.architecture.norm is NormKind.LAYER:
        beta = weights.optional(f"{weights.architecture.layers}.{neuron.layer}.{norm}.bias")
    return (0.0 if beta is None else float(row @ beta)) + bias


def _row(weights: Weights, neuron: Neuron, place: int) -> tuple[Float[Tensor, " d"], float, str]:
    """The row that reads, norm not folded in; its bias; and the name of the norm in front."""
    architecture, size = weights.architecture, weights.dimensions
    if neuron.head is None:
        part, index, first = architecture.ffn_keys[place], neuron.index, 0
        row, norm = weights.ffn_keys(neuron.layer)[place][index], architecture.ffn_norm
    else:
        part, index = architecture.value, neuron.head // size.group * size.head_dim + neuron.index
        first = 2 * size.d_model if architecture.fused_value else 0
        row, norm = weights.attention_keys(neuron.layer)[index], architecture.attention_norm
    bias = weights.optional(f"{architecture.layers}.{neuron.layer}.{part}.bias")
    return row, 0.0 if bias is None else float(bias[first + index]), norm


def _value_vector(weights: Weights, neuron: Neuron) -> Float[Tensor, " d"]:
    if neuron.head is None:
        return weights.ffn_values(neuron.layer)[neuron.index]
    return weights.attention_values(neuron.layer)[neuron.head * weights.dimensions.head_dim + neuron.index]


def _side(
    model: LanguageModel,
    name: str,
    readings: Float[Tensor, " V"],
    key: Float[Tensor, " d"],
    value: Float[Tensor, " d"],
    shown: int,
) -> KeySide:
    mean, std = float(readings.mean()), float(readings.std(correction=0))

    def end(largest: bool) -> tuple[KeyToken, ...]:
        found = readings.topk(min(shown, len(readings)), largest=largest)
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return tuple(
            KeyToken(token_of(model, token_id), reading, (reading - mean) / std if std else 0.0)
            for token_id, reading in pairs
        )

    cosine = float(torch.nn.functional.cosine_similarity(key, value, dim=0))
    return KeySide(name, end(True), end(False), mean, std, float(key.norm()), cosine)


def keys_frame(sides: tuple[KeySide, ...]) -> pd.DataFrame:
    """Columns: key (see `KeySide.name`), end ("highest" or "lowest"), rank, token_id, token (display form), reading,
    z.
    """
    rows = [
        (side.name, end, rank, one.token.id, one.token.display, one.reading, one.z)
        for side in sides
        for end, found in (("highest", side.highest), ("lowest", side.lowest))
        for rank, one in enumerate(found, 1)
    ]
    return pd.DataFrame(rows, columns=["key", "end", "rank", "token_id", "token", "reading", "z"])


def keys_json(neuron: Neuron, sides: tuple[KeySide, ...]) -> dict[str, Any]:
    """The neuron's label and, for each key vector, its figures and both ends."""

    def tokens(found: tuple[KeyToken, ...]) -> list[dict[str, Any]]:
        return [{"id": one.token.id, "text": one.token.text, "reading": one.reading, "z": one.z} for one in found]

    figures = ("mean", "std", "norm", "cosine")
    return {
        "neuron": neuron.label,
        "keys": [
            {"key": side.name}
            | {name: getattr(side, name) for name in figures}
            | {"highest": tokens(side.highest), "lowest": tokens(side.lowest)}
            for side in sides
        ],
    }


def keys_text(neuron: Neuron, sides: tuple[KeySide, ...], rows: int = 12) -> str:
    """For a terminal."""
    lines = [f"{neuron.label}: tokens whose embeddings its keys read the most from (reading, z)"]
    for side in sides:
        lines.append(f"{side.name}: mean {side.mean:+.3f}, standard deviation {side.std:.3f}")
        for name, found in (("highest", side.highest), ("lowest", side.lowest)):
            shown = "  ".join(f"{shorten(one.token.display, 16)} {one.reading:+.2f}" for one in found[:rows])
            lines.append(f"  {name:8} {shown}")
    return "\n".join(lines)
