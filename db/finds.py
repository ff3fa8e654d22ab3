"""Concepts, similar neurons, tokens and overviews as text for a terminal, and as the JSON that scripts read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.answers import ConceptNeuron, Hit, Neighbour, PeakedNeuron, SimilarNeuron, Token, TokenFavour
from db.concepts import Concept
from db.neuron import Neuron, Sign
from db.terminal import hits_json, table
from db.token_text import shorten

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 8  # tokens of a row


@dataclass(frozen=True, slots=True)
class TokenPage:
    """What is shown of one token."""

    token: Token
    neighbours: tuple[Neighbour, ...]
    neighbour_of: int
    ends: Mapping[Sign, tuple[Hit, ...]]
    layers: "pd.DataFrame"
    """See :meth:`db.catalogue.Catalogue.layer_counts`."""


def concept_json(concept: Concept, neurons: Sequence[ConceptNeuron]) -> dict[str, Any]:
    """The concept's tokens with their weights, words that are no token, and the neurons, best first."""
    return {
        "tokens": [
            {"token_id": entry.token.token_id, "token": entry.token.text, "weight": round(entry.weight, 6)}
            for entry in concept.tokens
        ],
        "unmatched": [word.text for word in concept.unmatched],
        "neurons": [
            {
                "neuron": found.neuron.label,
                "sign": str(found.sign),
                "score": found.score,
                "matched": [entry.token.text for entry in found.matched],
            }
            for found in neurons
        ],
    }


def concept_text(concept: Concept, neurons: Sequence[ConceptNeuron], total: int) -> str:
    """The concept in words, then a table of neurons."""
    lines = ["tokens " + _listed([entry.token for entry in concept.tokens if entry.weight > 0], 16)]
    avoided = [entry.token for entry in concept.tokens if entry.weight < 0]
    if avoided:
        lines.append("avoided " + _listed(avoided, 16))
    for word in concept.unmatched:
        instead = f"; taken for it: {_listed(word.beginnings, 8)}" if word.beginnings else ""
        pieces = f", it splits into {_listed(word.pieces, 8)}" if word.pieces else ""
        lines.append(f"“{shorten(word.text)}” is not one token of this model{pieces}{instead}")
    if not concept.widened:
        lines.append("This build holds no neighbours of tokens: the words are not widened.")
    lines += [f"{len(neurons)} of {total:,} ends of neurons that hold some of them", ""]
    rows = [
        (
            found.neuron.label,
            str(found.sign),
            f"{found.score:.2f}",
            str(len(found.matched)),
            _listed([entry.token for entry in found.matched]),
        )
        for found in neurons
    ]
    return "\n".join([*lines, table(("neuron", "sign", "score", "tokens", "matched"), rows, right={2, 3})])


def similar_json(found: Sequence[SimilarNeuron]) -> list[dict[str, Any]]:
    """One object a neuron, most alike first."""
    return [
        {
            "neuron": other.neuron.label,
            "similarity": other.similarity,
            "opposite": other.opposite,
            "shared": [token.text for token in other.shared],
        }
        for other in found
    ]


def similar_text(neuron: Neuron, found: Sequence[SimilarNeuron]) -> str:
    """A table of similar neurons."""
    rows = [
        (
            other.neuron.label,
            f"{other.similarity:.3f}",
            "opposite ends" if other.opposite else "same ends",
            str(len(other.shared)),
            _listed(other.shared),
        )
        for other in found
    ]
    head = ("neuron", "similarity", "", "shared", "tokens")
    return f"Neurons that share tokens with {neuron.label}\n\n{table(head, rows, right={1, 3})}"


def token_json(page: TokenPage) -> dict[str, Any]:
    """A token: neighbours, the strongest neurons of both signs, and how many neurons have it by layer."""
    return {
        "token_id": page.token.token_id,
        "token": page.token.text,
        "neighbours": [
            {"token_id": near.token.token_id, "token": near.token.text, "cosine": round(near.cosine, 3)}
            for near in page.neighbours
        ],
        "neighbour_of": page.neighbour_of,
        "promotes": hits_json(page.ends[Sign.PROMOTES]),
        "suppresses": hits_json(page.ends[Sign.SUPPRESSES]),
        "layers": page.layers.to_dict(orient="records"),
    }


def token_text(page: TokenPage, *, has_neighbours: bool) -> str:
    """A token in words and two tables."""
    lines = [f"“{shorten(page.token.display)}” ({page.token.token_id})"]
    if has_neighbours:
        near = ", ".join(f"“{shorten(near.token.display)}” {near.cosine:.2f}" for near in page.neighbours)
        lines.append(f"near {near}; itself near {page.neighbour_of:,} tokens")
    else:
        lines.append("This build holds no neighbours of tokens.")
    ends = [page.ends[sign] for sign in Sign]
    rows = [
        tuple(
            cell for end in ends for cell in ((end[i].neuron.label, f"{end[i].z:+.2f}") if i < len(end) else ("", ""))
        )
        for i in range(max(map(len, ends)))
    ]
    counts: dict[tuple[int, str], dict[str, int]] = {}
    for layer, kind, sign, count in page.layers.itertuples(index=False):
        counts.setdefault((layer, kind), {})[sign] = count
    layers = [
        (str(layer), kind, *(str(found.get(str(sign), 0)) for sign in Sign)) for (layer, kind), found in counts.items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            table(("promoted by", "z", "suppressed by", "z"), rows, right={1, 3}),
            "",
            table(("layer", "kind", "promoted by", "suppressed by"), layers, right={0, 2, 3}),
        ]
    )


def overview_json(
    layers: "pd.DataFrame", peaked: Sequence[PeakedNeuron], favourites: Sequence[TokenFavour]
) -> dict[str, Any]:
    """Layers with quantiles, the most peaked ends, the tokens that most ends favour."""
    return {
        "layers": layers.to_dict(orient="records"),
        "peaked": [
            {"neuron": end.neuron.label, "sign": str(end.sign), "z": end.z, "token": end.token.text} for end in peaked
        ],
        "favourites": [
            {
                "token_id": entry.token.token_id,
                "token": entry.token.text,
                "sign": str(entry.sign),
                "first": entry.first,
                "stored": entry.stored,
            }
            for entry in favourites
        ],
    }


def overview_text(layers: "pd.DataFrame", peaked: Sequence[PeakedNeuron], favourites: Sequence[TokenFavour]) -> str:
    """Three tables."""
    figures = ("norm_5", "norm_50", "norm_95", "peak_5", "peak_50", "peak_95")
    by_layer = [
        (str(row["layer"]), row["kind"], f"{row['neurons']:,}", *(f"{row[figure]:.2f}" for figure in figures))
        for _, row in layers.iterrows()
    ]
    ends = [(end.neuron.label, str(end.sign), f"{end.z:+.1f}", shorten(end.token.display)) for end in peaked]
    tokens = [
        (shorten(entry.token.display), str(entry.sign), f"{entry.first:,}", f"{entry.stored:,}") for entry in favourites
    ]
    return "\n".join(
        [
            "Quantiles in percent; peak: the larger |z| of a neuron's first token at either end",
            table(("layer", "kind", "neurons", *figures), by_layer, right=set(range(9)) - {1}),
            "",
            "The most peaked neurons",
            table(("neuron", "sign", "z", "token"), ends, right={2}),
            "",
            "The tokens that most neurons favour",
            table(("token", "sign", "first", "stored"), tokens, right={2, 3}),
        ]
    )


def _listed(tokens: Sequence[Token], shown: int = _SHOWN) -> str:
    named = " ".join(f"“{shorten(token.display, 24)}”" for token in tokens[:shown])
    return named + (f" and {len(tokens) - shown} more" if len(tokens) > shown else "")
