"""A concept: weighted tokens that stand for some words, and how the words' neighbours widen it. No database here.

A word's own tokens have weight 1. A neighbour n of a token s has

    0.8 · cos(s, n) / √(r(s) · r(n)),   r = mean cosine of a token with its own ten nearest,

at most 1, which is large where the two are closer than either is to others: so the frequent tokens that are near
everything stay out. Only mutual neighbours count (each is in the other's list), and only tokens that are words. The
best neighbours of the first step are widened once more, at half weight.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from db.answers import Token
from db.token_text import shorten

WIDEN = 40
"""Tokens that neighbours add to the words' own."""
NEGATIVE_WIDEN = 8
"""The same for words to be avoided: what is merely like them may belong to the concept."""
STEPPING_STONES = 20
"""Neighbours that are widened once more."""
BEGINNING_WEIGHT = 0.7
_NEAR = 0.8
_SECOND_STEP = 0.5
_SUPPORT = 0.1  # of what further tokens of the concept add to the nearest one


class Origin(StrEnum):
    """How a token came into a concept."""

    WORD = "word"
    BEGINNING = "beginning"
    """The word is no token of the model; this one begins like it."""
    NEIGHBOUR = "neighbour"
    CHOSEN = "chosen"
    """Added by its id."""


@dataclass(frozen=True, slots=True)
class WeightedToken:
    """A token of a concept."""

    token: Token
    weight: float
    """From −1 to 1; negative where neurons with this token are to be avoided."""
    origin: Origin = Origin.CHOSEN


@dataclass(frozen=True, slots=True)
class UnmatchedWord:
    """A word that is no token of the model in any spelling."""

    text: str
    pieces: tuple[Token, ...]
    """What the model's tokenizer splits it into."""
    beginnings: tuple[Token, ...]
    """Tokens that begin like it and stand in for it."""


@dataclass(frozen=True, slots=True)
class Concept:
    """What a search for a concept looks for. A value: tokens are dropped and added by making another."""

    tokens: tuple[WeightedToken, ...]
    """By falling weight, the words' own first; each token once."""
    unmatched: tuple[UnmatchedWord, ...] = ()
    widened: bool = False
    """Whether the build holds neighbours to widen by."""

    @property
    def token_ids(self) -> list[int]:
        """In the order of the tokens."""
        return [entry.token.token_id for entry in self.tokens]

    def shares(self) -> dict[int, float]:
        """What each token weighs in a search, by id: its weight / √(the spellings of its word in the concept).

        “ Red”, “red” and “RED” say one thing, and not three. Tokens without weight are left out.
        """
        words = [(entry.token.text.strip().casefold() or entry.token.text, entry.weight > 0) for entry in self.tokens]
        spelt = Counter(words)
        return {
            entry.token.token_id: entry.weight / math.sqrt(spelt[word])
            for entry, word in zip(self.tokens, words, strict=True)
            if entry.weight
        }

    def without(self, token_ids: Iterable[int]) -> "Concept":
        """The concept less some tokens."""
        dropped = set(token_ids)
        return replace(self, tokens=tuple(entry for entry in self.tokens if entry.token.token_id not in dropped))

    def with_tokens(self, tokens: Iterable[WeightedToken]) -> "Concept":
        """The concept and further tokens; one that was there takes the new weight."""
        added = {entry.token.token_id: entry for entry in tokens}
        kept = [entry for entry in self.tokens if entry.token.token_id not in added]
        return replace(self, tokens=(*kept, *added.values()))

    def describe(self) -> str:
        """The tokens as part of a sentence, such as “␣red”, “␣blue” and 30 more, but not “␣wine”."""
        ends = [[entry for entry in self.tokens if (entry.weight > 0) == wanted] for wanted in (True, False)]
        named = [", ".join(f"“{shorten(entry.token.display)}”" for entry in end[:3]) for end in ends]
        named = [
            text + (f" and {len(end) - 3} more" if len(end) > 3 else "") for text, end in zip(named, ends, strict=True)
        ]
        return (named[0] or "no token") + (f", but not {named[1]}" if named[1] else "")


@dataclass(frozen=True, slots=True)
class Link:
    """Two tokens, each among the other's neighbours."""

    source: int
    target: int
    cosine: float


def is_word(text: str | None) -> bool:
    """Letters only, at least three of them in scripts that write words with an alphabet.

    >>> is_word(" Paris"), is_word(" ("), is_word(" re"), is_word("日本"), is_word(None)
    (True, False, False, True, False)
    """
    bare = (text or "").strip()
    return bare.isalpha() and (len(bare) >= 3 or ord(bare[0]) >= 0x2E80)


def nearness(links: Iterable[Link], own: Mapping[int, float], weights: Mapping[int, float]) -> dict[int, float]:
    """Weight of every target: what its nearest source gives it, and a little of what others do.

    Args:
        links: from the tokens of ``weights``.
        own: r of every token of a link.
        weights: of the sources.
    """
    found: dict[int, list[float]] = {}
    for link in links:
        scale = own.get(link.source, 0.0) * own.get(link.target, 0.0)
        if scale > 0 and link.cosine > 0:
            value = weights[link.source] * _NEAR * link.cosine / math.sqrt(scale)
            found.setdefault(link.target, []).append(value)
    return {target: max(values) + _SUPPORT * (sum(values) - max(values)) for target, values in found.items()}


def best(weights: Mapping[int, float], count: int) -> dict[int, float]:
    """The ``count`` heaviest, none above 1; ties by id."""
    ordered = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return {token_id: min(1.0, weight) for token_id, weight in ordered[:count]}


def second_step(first: Mapping[int, float], further: Mapping[int, float]) -> dict[int, float]:
    """Both steps together, the second at half weight."""
    return {**{token_id: _SECOND_STEP * weight for token_id, weight in further.items()}, **first}
