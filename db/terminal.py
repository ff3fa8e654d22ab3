"""Answers as text for a terminal, and as the JSON that scripts read."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from db.answers import Hit, NeuronCard, TokenLogit, TokenMatches
from db.builds import BuildFile
from db.neuron import NeuronKind
from db.token_text import shorten

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
