"""From words to a concept, which is weighted tokens: how words are spelt, and how their neighbours widen it.

A word's own tokens have weight 1. A neighbour n of a token s has

    0.8 · cos(s, n) / √(r(s) · r(n)),   r = mean cosine of a token with its own ten nearest,

at most 1, which is large where the two are closer than either is to others: so the frequent tokens that are near
everything stay out. Only mutual neighbours count (each is in the other's list), and only tokens that are words. The
best neighbours of the first step are widened once more, at half weight.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.errors import AtlasError
from db.records import Concept, Origin, UnmatchedWord, WeightedToken
from db.token_text import MINUSES, SEPARATORS, readings

if TYPE_CHECKING:
    from db.catalogue.store import Catalogue


MAX_TEXT = 1000
"""Longest search text, in characters."""
MAX_WORDS = 20
MAX_CONCEPT = 200
"""Most tokens of a concept."""
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


# A concept as it is typed: words to look for, words to avoid, and the forms of each.

_DASHES = "—―"
"""What editors make of two minuses; alone between words, a pause."""
_HISSING = re.compile(r"(s|x|z|ch|sh)es")


def checked(text: str) -> str:
    """The text, if it can be searched for.

    Raises:
        AtlasError: empty, too long, or not valid Unicode.
    """
    if not text:
        raise AtlasError("The search text is empty: give a token such as “ Paris” or “Python”.")
    if len(text) > MAX_TEXT:
        raise AtlasError(f"The search text has {len(text):,} characters; a token search takes at most {MAX_TEXT:,}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise AtlasError("The search text is not valid Unicode: check the encoding of the terminal or file.") from None
    return text


def spellings(text: str) -> list[str]:
    """The text, the same with or without a leading space, then both in other cases; each once, best first.

    >>> spellings("Paris")
    ['Paris', ' Paris', 'paris', ' paris', 'PARIS', ' PARIS']
    """
    core = text.removeprefix(" ")
    leads = (" ", "") if text.startswith(" ") else ("", " ")
    cases = (core, core.lower(), core.upper(), core.capitalize(), core.title())
    return list(dict.fromkeys(lead + case for case in cases for lead in leads if lead + case))


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a concept."""

    text: str
    negative: bool = False
    """To be avoided: it was written with a minus before it."""


def parse(text: str) -> tuple[Word, ...]:
    """The words of a text, each once; white space, commas and semicolons of any script separate, a minus before
    a word makes it negative.

    Raises:
        AtlasError: the text is too long, not valid Unicode, holds no word or too many.
    """
    words: dict[Word, None] = {}
    negative = False
    for part in SEPARATORS.split(checked(text)):
        bare = part.lstrip(MINUSES + _DASHES)
        negative = negative or part.startswith(tuple(MINUSES + (_DASHES if bare else "")))
        if bare:
            words[Word(bare, negative)] = None
            negative = False
    if not words:
        raise AtlasError("The concept has no word in it: give one or several, such as “programming languages, -snake”.")
    if len(words) > MAX_WORDS:
        raise AtlasError(f"The concept has {len(words)} words; at most {MAX_WORDS} are searched for at once.")
    return tuple(words)


def forms(word: str) -> list[str]:
    """The word, and what English would most simply make its singular and plural; nothing hangs on a wrong guess.

    >>> forms("countries"), forms("box"), forms("glass")
    (['countries', 'country', 'countrie'], ['box', 'boxs', 'boxes'], ['glass', 'glasss', 'glasses'])
    """
    lower = word.lower()
    found = [word]
    if not lower.isalpha() or len(lower) < 3:
        return found
    if lower.endswith("s") and not lower.endswith("ss"):
        if lower.endswith("ies"):
            found.append(word[:-3] + "y")
        if _HISSING.fullmatch(lower[-4:]) or _HISSING.fullmatch(lower[-3:]):
            found.append(word[:-2])
        found.append(word[:-1])
    else:
        found.append(word + "s")
        if lower.endswith("y"):
            found.append(word[:-1] + "ies")
        if lower.endswith(("s", "x", "z", "ch", "sh")):
            found.append(word + "es")
    return found


# Words and their neighbours to a concept, asked of a catalogue.


def concept_of_words(catalogue: "Catalogue", words: Sequence[Word], widen: int = WIDEN) -> Concept:
    """The tokens that some words stand for, widened by at most ``widen`` neighbours."""
    positive, lost = _own_tokens(catalogue, [word.text for word in words if not word.negative])
    negative, also_lost = _own_tokens(catalogue, [word.text for word in words if word.negative])
    positive = {token_id: entry for token_id, entry in positive.items() if token_id not in negative}
    has = catalogue.has_neighbours
    near = _widened(catalogue, positive, widen, avoid=negative) if has else {}
    known = {**positive, **dict.fromkeys(near)}
    far = _widened(catalogue, negative, min(widen, NEGATIVE_WIDEN), avoid=known) if has else {}
    tokens = catalogue.tokens([*near, *far])
    entries = [
        *positive.values(),
        *(WeightedToken(tokens[token_id], weight, Origin.NEIGHBOUR) for token_id, weight in near.items()),
        *(WeightedToken(entry.token, -entry.weight, entry.origin) for entry in negative.values()),
        *(WeightedToken(tokens[token_id], -weight, Origin.NEIGHBOUR) for token_id, weight in far.items()),
    ]
    return Concept(tuple(entries), (*lost, *also_lost), has)


def _own_tokens(
    catalogue: "Catalogue", words: Sequence[str]
) -> tuple[dict[int, WeightedToken], tuple[UnmatchedWord, ...]]:
    """Tokens of each word in its spellings and simplest forms; for a word without any, tokens that begin like it."""
    meant = {word: _texts(word) for word in words}
    wanted = {
        word: {spelling for text in texts for form in forms(text) for spelling in spellings(form)}
        for word, texts in meant.items()
    }
    everything = sorted({spelling for texts in wanted.values() for spelling in texts})
    tokens = catalogue.tokens_by_text(everything)
    found: dict[int, WeightedToken] = {}
    lost = []
    for word, texts in wanted.items():
        own = [token for one in meant[word] for text in spellings(one) for token in tokens if token.text == text]
        others = [token for token in tokens if token.text in texts and token not in own]
        if not own and not others:
            own = [token for data in readings(word)[1:] for token in catalogue.tokens_by_bytes(data)]
        found.update((token.token_id, WeightedToken(token, 1.0, Origin.WORD)) for token in (*own, *others))
        if not own and not others:
            beginnings = catalogue.tokens_beginning(word)
            pieces, rowless = catalogue.split(word)
            lost.append(UnmatchedWord(word, pieces, beginnings, rowless))
            for token in beginnings:
                found.setdefault(token.token_id, WeightedToken(token, BEGINNING_WEIGHT, Origin.BEGINNING))
    return found, tuple(lost)


def _texts(word: str) -> list[str]:
    """What a word may stand for, as far as that is text."""
    decoded = [data.decode("utf-8", "ignore") for data in readings(word)]
    return [text for text, data in zip(decoded, readings(word), strict=True) if text.encode() == data]


def _widened(
    catalogue: "Catalogue", seeds: dict[int, WeightedToken], count: int, avoid: Iterable[int]
) -> dict[int, float]:
    if not seeds or count < 1:
        return {}
    shut = set(avoid)
    weights = {token_id: entry.weight for token_id, entry in seeds.items()}
    first = _step(catalogue, weights, weights, shut)
    stones = best(first, STEPPING_STONES)
    further = _step(catalogue, stones, {**weights, **first}, shut) if stones else {}
    return best(second_step(first, further), count)


def _step(
    catalogue: "Catalogue", sources: dict[int, float], known: dict[int, float], shut: set[int]
) -> dict[int, float]:
    """One step from ``sources`` to tokens that are neither known nor shut out."""
    rows = catalogue.mutual_neighbours(list(sources))
    links = [
        Link(source, target, cosine)
        for source, target, cosine, text, special in rows
        if is_word(text) and not special and target not in known and target not in shut
    ]
    ids = sorted({link.target for link in links} | set(sources))
    return nearness(links, catalogue.closeness(ids), sources)
