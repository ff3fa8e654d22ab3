"""Answers as text for a terminal, and as the JSON that scripts read."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.catalogue.builds import BuildFile
from db.catalogue.concepts import Concept
from db.neuron import Neuron, NeuronKind, Sign
from db.records import (
    ConceptNeuron,
    Hit,
    Neighbour,
    NeuronCard,
    PeakedNeuron,
    SimilarNeuron,
    Token,
    TokenFavour,
    TokenLogit,
    TokenMatches,
)
from db.token_text import shorten

if TYPE_CHECKING:
    import pandas as pd


_KIND_NAMES = {NeuronKind.FFN: "FFN", NeuronKind.ATTENTION: "attention"}


def hits_json(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """One object a hit, in the order given; ``token`` is plain text."""
    return [
        {
            "neuron": hit.neuron.label,
            "sign": str(hit.sign),
            "token": hit.token.text,
            "token_id": hit.token.token_id,
            "rank": hit.rank,
            "logit": hit.logit,
            "z": hit.z,
        }
        for hit in hits
    ]


def card_json(card: NeuronCard) -> dict[str, Any]:
    """One neuron; the most extreme token first at both ends."""

    def entries(end: Sequence[TokenLogit]) -> list[dict[str, Any]]:
        return [
            {"token_id": entry.token.token_id, "token": entry.token.text, "logit": entry.logit, "z": entry.z}
            for entry in end
        ]

    return {
        "neuron": card.neuron.label,
        "kind": str(card.neuron.kind),
        "layer": card.neuron.layer,
        "mean": card.mean,
        "std": card.std,
        "norm": card.norm,
        "top": entries(card.top),
        "bottom": entries(card.bottom),
    }


def builds_json(builds: Sequence[tuple[str, BuildFile]]) -> list[dict[str, Any]]:
    """One object a build, given with its model's name."""
    return [
        {
            "model": model,
            "current": build.current,
            "build_id": build.stamp.build_id if build.stamp else None,
            "created_at": build.stamp.created_at if build.stamp else None,
            "neurons": build.stamp.neurons if build.stamp else None,
            "depth": build.stamp.depth if build.stamp else None,
            "bytes": build.size,
            "path": str(build.path),
            "problem": build.problem,
        }
        for model, build in builds
    ]


def matches_text(matches: TokenMatches) -> str:
    """Which tokens a search text stood for."""
    return "matched " + ", ".join(f"“{shorten(token.display)}” ({token.token_id})" for token in matches.matched)


def hits_text(hits: Sequence[Hit]) -> str:
    """A table of hits."""
    head = ("neuron", "sign", "token", "rank", "logit", "z")
    rows = [
        (
            hit.neuron.label,
            str(hit.sign),
            shorten(hit.token.display),
            str(hit.rank),
            f"{hit.logit:.4g}",
            f"{hit.z:+.2f}",
        )
        for hit in hits
    ]
    return table(head, rows, right={3, 4, 5})


def card_text(card: NeuronCard) -> str:
    """A neuron: its statistics, then both ends beside each other."""
    title = f"{card.neuron.label}: {_KIND_NAMES[card.neuron.kind]} neuron of layer {card.neuron.layer}"
    figures = f"logits over the vocabulary: mean {card.mean:.4g}, std {card.std:.4g}; norm {card.norm:.4g}"
    head = ("rank", "promotes", "logit", "z", "suppresses", "logit", "z")
    rows = [
        (str(rank), *_entry(top), *_entry(bottom))
        for rank, (top, bottom) in enumerate(zip(card.top, card.bottom, strict=True), start=1)
    ]
    return "\n".join((title, figures, "", table(head, rows, right={0, 2, 3, 5, 6})))


def _entry(entry: TokenLogit) -> tuple[str, str, str]:
    return shorten(entry.token.display, 28), f"{entry.logit:.4g}", f"{entry.z:+.2f}"


def builds_text(builds: Sequence[tuple[str, BuildFile]]) -> str:
    """A table of builds, the current one of each model marked."""
    rows = []
    for model, build in builds:
        mark = "current" if build.current else ""
        size = f"{build.size / 1e6:,.1f} MB"
        stamp = build.stamp
        if stamp is None:
            rows.append((model, build.path.name, mark, "", "", size, "unreadable"))
            continue
        figures = (f"{stamp.neurons:,}", size, f"{stamp.depth} tokens an end")
        rows.append((model, stamp.build_id, mark, stamp.created_at, *figures))
    return table(("model", "build", "", "created", "neurons", "size", ""), rows, right={4, 5})


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns aligned as a terminal draws them: wide characters take two cells, combining ones none."""
    widths = [max(map(_cells, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        padded = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _cells(cell))
            padded.append(space + cell if place in right else cell + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cells(text: str) -> int:
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


# Concepts, similar neurons, tokens and overviews as text for a terminal, and as the JSON that scripts read.

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
