"""Words and their neighbours to a concept, asked of a catalogue."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from db import concept_questions
from db.concepts import (
    BEGINNING_WEIGHT,
    NEGATIVE_WIDEN,
    STEPPING_STONES,
    WIDEN,
    Concept,
    Link,
    Origin,
    UnmatchedWord,
    WeightedToken,
    best,
    is_word,
    nearness,
    second_step,
)
from db.vocabulary import spellings
from db.words import Word, forms

if TYPE_CHECKING:
    from db.lookups import Lookups


def concept_of_words(catalogue: "Lookups", words: Sequence[Word], widen: int = WIDEN) -> Concept:
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
    catalogue: "Lookups", words: Sequence[str]
) -> tuple[dict[int, WeightedToken], tuple[UnmatchedWord, ...]]:
    """Tokens of each word in its spellings and simplest forms; for a word without any, tokens that begin like it."""
    wanted = {word: {spelling for form in forms(word) for spelling in spellings(form)} for word in words}
    everything = sorted({spelling for texts in wanted.values() for spelling in texts})
    tokens = catalogue.tokens_by_text(everything)
    found: dict[int, WeightedToken] = {}
    lost = []
    for word, texts in wanted.items():
        own = [token for text in spellings(word) for token in tokens if token.text == text]
        others = [token for token in tokens if token.text in texts and token not in own]
        found.update((token.token_id, WeightedToken(token, 1.0, Origin.WORD)) for token in (*own, *others))
        if not own and not others:
            beginnings = catalogue.tokens_beginning(word)
            lost.append(UnmatchedWord(word, catalogue.pieces(word), beginnings))
            for token in beginnings:
                found.setdefault(token.token_id, WeightedToken(token, BEGINNING_WEIGHT, Origin.BEGINNING))
    return found, tuple(lost)


def _widened(
    catalogue: "Lookups", seeds: dict[int, WeightedToken], count: int, avoid: Iterable[int]
) -> dict[int, float]:
    if not seeds or count < 1:
        return {}
    shut = set(avoid)
    weights = {token_id: entry.weight for token_id, entry in seeds.items()}
    first = _step(catalogue, weights, weights, shut)
    stones = best(first, STEPPING_STONES)
    further = _step(catalogue, stones, {**weights, **first}, shut) if stones else {}
    return best(second_step(first, further), count)


def _step(catalogue: "Lookups", sources: dict[int, float], known: dict[int, float], shut: set[int]) -> dict[int, float]:
    """One step from ``sources`` to tokens that are neither known nor shut out."""
    rows = catalogue.rows(concept_questions.mutual_neighbours(list(sources)))
    links = [
        Link(source, target, cosine)
        for source, target, cosine, text, special in rows
        if is_word(text) and not special and target not in known and target not in shut
    ]
    ids = sorted({link.target for link in links} | set(sources))
    own = {token_id: float(mean) for token_id, mean in catalogue.rows(concept_questions.closeness(ids))}
    return nearness(links, own, sources)
