"""From words to a concept, which is weighted tokens: how words are spelt, and how their neighbours widen it.

A word's own tokens have weight 1. A neighbour n of a token s has

    0.8 · cos(s, n) / √(r(s) · r(n)),   r = mean cosine of a token with its own ten nearest,

at most 1, which is large where the two are closer than either is to others: so the frequent tokens that are near
everything stay out. Only mutual neighbours count (each is in the other's list), and only tokens that are words. The
best neighbours of the first step are widened once more, at half weight.

Then the neurons answer, twice: of the ends that cover the tokens best so far, those tokens are taken in that several of
them hold, by how much they stand out there and how rare they are; and neighbours that few of them hold lose weight.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from db.errors import AtlasError
from db.records import Concept, Origin, Token, UnmatchedWord, WeightedToken
from db.token_text import COMMAS, MINUSES, SEPARATORS, readings, stem

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
ASKED_ENDS = 20
"""Ends of neurons from which the tokens are taken in that keep a concept's company."""
_COMPANY = 0.3  # weight of the first of them
_ROUNDS = 2
_HELD = 3  # ends that have to hold a neighbour for its full weight; half of it is its own
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


def best_share(strength: Mapping[int, float], count: int) -> dict[int, float]:
    """The ``count`` strongest as shares of the first; ties by id."""
    ordered = sorted((item for item in strength.items() if item[1] > 0), key=lambda item: (-item[1], item[0]))[:count]
    return {token_id: value / ordered[0][1] for token_id, value in ordered}


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


_JOINING = (  # of English, then of German, French, Spanish, Italian and Portuguese; none is another English word
    "a an the of at in on to for from by with about into onto upon as and or than then that this these those is are "
    "was were be been being am do does did has have had it its his her their our my your we you they them he she i "
    "which whose there some such via per "
    "der das den dem des ein eine einen einem einer eines und oder von vom zu zum zur im auf aus bei mit nach für über "
    "ist sind le la les un une du de et ou au aux dans avec el los las del y en es il lo gli dei della delle nel nella "
    "di che os um uma dos das da do na em com"
)
FUNCTION_WORDS = frozenset(_JOINING.split())
"""Words that join others. Among them they are passed over; alone, listed with commas, quoted or in capitals they count.
"""
_QUOTED = "|".join(
    rf"[{first}](?!\s*[{last}])[^{first}{last}]+[{last}]"
    for first, last in (('"', '"'), ("“„", "”“"), ("«", "»"), ("「", "」"))
)
_PART = re.compile(
    rf"(?P<comma>[{COMMAS}])|[{MINUSES}{_DASHES}]*(?P<quoted>{_QUOTED})(?![^{COMMAS}\s])|[^{COMMAS}\s\u200b\ufeff]+"
)
"""A comma, a phrase in quotation marks with the minus before it, or anything else that is written in one."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a concept, or several that were quoted together."""

    text: str
    negative: bool = False
    """To be avoided: it was written with a minus before it."""
    idle: bool = False
    """A function word among others, which is passed over."""
    quoted: bool = False


def parse(text: str) -> tuple[Word, ...]:
    """The words of a text, each once; white space, commas and semicolons of any script separate, a minus before
    a word makes it negative, quotation marks keep several together.

    Raises:
        AtlasError: the text is too long, not valid Unicode, holds no word or too many.
    """
    words: dict[Word, None] = {}
    entry: list[Word] = []
    negative = False
    for part in [*_PART.finditer(checked(text)), None]:
        if part is None or part["comma"]:
            words.update(dict.fromkeys(_marked(entry)))
            entry = []
            continue
        whole, phrase = part[0], _phrase(part["quoted"] or "")
        bare = phrase or whole.lstrip(MINUSES + _DASHES)
        negative = negative or whole.startswith(tuple(MINUSES + (_DASHES if bare else "")))
        if bare:
            entry.append(Word(bare, negative, quoted=bool(phrase)))
            negative = False
    if not words:
        raise AtlasError("The concept has no word in it: give one or several, such as “programming languages, -snake”.")
    count = sum(len(word.text.split()) for word in words)
    if count > MAX_WORDS:
        raise AtlasError(f"The concept has {count} words; at most {MAX_WORDS} are searched for at once.")
    if all(word.idle or word.negative for word in words):
        return tuple(dict.fromkeys(replace(word, idle=False) for word in words))
    return tuple(words)


def _phrase(quoted: str) -> str:
    """The words within quotation marks, with single spaces."""
    parts = (part.strip(MINUSES + _DASHES) for part in SEPARATORS.split(quoted[1:-1]))
    return " ".join(filter(None, parts))


def _marked(entry: Sequence[Word]) -> list[Word]:
    """The words between two commas, with those marked that only join the others."""
    return [
        replace(word, idle=len(entry) > 1 and not (word.negative or word.quoted) and _joins_others(word.text))
        for word in entry
    ]


def _joins_others(word: str) -> bool:
    return word.lower() in FUNCTION_WORDS and not word[1:].isupper()


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


# The spellings and inflections of a word, together.


def families(concept: Concept) -> list[tuple[WeightedToken, ...]]:
    """The tokens by word, with all spellings and inflections of one together; wanted and avoided ones apart."""
    found: dict[tuple[str, bool], list[WeightedToken]] = {}
    for entry in concept.tokens:
        found.setdefault((stem(entry.token.text), entry.weight > 0), []).append(entry)
    return [tuple(entries) for entries in found.values()]


def without_families(concept: Concept, tokens: Iterable[Token]) -> Concept:
    """A concept less every spelling and inflection of the words of some tokens."""
    stems = {stem(token.text) for token in tokens}
    return replace(concept, tokens=tuple(entry for entry in concept.tokens if stem(entry.token.text) not in stems))


# Words and their neighbours to a concept, asked of a catalogue.


def concept_of_words(catalogue: "Catalogue", words: Sequence[Word], widen: int = WIDEN) -> Concept:
    """The tokens that some words stand for, widened by at most ``widen`` neighbours."""
    looked_for, shut_out = (
        [text for word in words if word.negative == negative and not word.idle for text in _as_typed(catalogue, word)]
        for negative in (False, True)
    )
    positive, lost = _own_tokens(catalogue, looked_for)
    negative, also_lost = _own_tokens(catalogue, shut_out)
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
    passed_over = tuple(word.text for word in words if word.idle)
    concept = Concept(tuple(entries), (*lost, *also_lost), has, passed_over)
    return _with_company(catalogue, concept, widen // 2) if near else concept


def _as_typed(catalogue: "Catalogue", word: Word) -> list[str]:
    """A quoted phrase as one token where it is one; else its words."""
    return [word.text] if catalogue.tokens_by_text(spellings(word.text)) else word.text.split()


def _with_company(catalogue: "Catalogue", concept: Concept, count: int) -> Concept:
    """With at most ``count`` tokens in each round that several of the best ends hold, each of which has its tokens
    weighted by √|z|, its score and their rarity².
    """
    near = {entry.token.token_id: entry.weight for entry in concept.tokens if entry.origin is Origin.NEIGHBOUR}
    for _ in range(_ROUNDS):
        scores = catalogue.best_ends(concept, ASKED_ENDS)
        rows = catalogue.tokens_of_neurons(sorted({neuron_id for neuron_id, _ in scores}))
        held, gain = Counter[int](), defaultdict[int, float](float)
        texts: dict[int, str] = {}
        for neuron_id, sign, token_id, z, text, special in rows:
            if (neuron_id, sign) in scores:
                held[token_id] += 1
                gain[token_id] += scores[neuron_id, sign] * math.sqrt(max(0.0, z * sign))
                if is_word(text) and not special:
                    texts[token_id] = text
        known = set(concept.token_ids)
        wanted = _whole_words(catalogue, {one: texts[one] for one in texts if held[one] > 1 and one not in known})
        rarity = catalogue.rarity(sorted(wanted))
        found = best_share({one: gain[one] * rare**2 for one, rare in rarity.items()}, count)
        tokens = catalogue.tokens(found)
        kept = [
            replace(
                entry, weight=near[entry.token.token_id] * (0.5 + 0.5 * min(1.0, held[entry.token.token_id] / _HELD))
            )
            if entry.origin is Origin.NEIGHBOUR and entry.weight > 0
            else entry
            for entry in concept.tokens
        ]
        kept += [WeightedToken(tokens[one], _COMPANY * share, Origin.COMPANY) for one, share in found.items()]
        concept = replace(concept, tokens=tuple(kept))
    return concept


def _whole_words(catalogue: "Catalogue", texts: Mapping[int, str]) -> set[int]:
    """Those tokens that are no fragments: what begins with a small letter and never follows a space is the end of
    longer words. In a vocabulary that tells no beginnings of words, all are whole.
    """
    spaced = {one: [f" {text}", f" {text.capitalize()}"] for one, text in texts.items() if text[:1].islower()}
    wanted = sorted({text for both in spaced.values() for text in both})
    there = {token.text for token in catalogue.tokens_by_text(wanted)} if wanted else set()
    return {one for one in texts if not there or one not in spaced or there & set(spaced[one])}


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
            beginnings = catalogue.tokens_beginning(word) or catalogue.beginning_like(word)
            pieces, rowless = catalogue.split(word)
            lost.append(UnmatchedWord(word, pieces, beginnings, rowless, catalogue.spelt_like(word)))
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
    rows = [
        row
        for row in catalogue.mutual_neighbours(list(sources))
        if is_word(row[3]) and not row[4] and row[1] not in known and row[1] not in shut
    ]
    whole = _whole_words(catalogue, {target: text for _, target, _, text, _ in rows})
    links = [Link(source, target, cosine) for source, target, cosine, *_ in rows if target in whole]
    ids = sorted({link.target for link in links} | set(sources))
    return nearness(links, catalogue.closeness(ids), sources)
