"""Short labels for neurons, from the tokens of their usual end and the places where they are strongest.

No model is asked. Four rules propose a label each, and the one of highest confidence is kept, if it is high enough:

    tokens and texts    a word among the end's first tokens that texts also hold at the peak or right after it
    tokens              a word in several spellings or forms among the end's first tokens
    related tokens      several first tokens that are neighbours of one of them
    texts               the same word, or two, at the peak of many texts

A confidence is a share (of the first tokens, by 1/√(rank + 2); of the texts) times how specific the label is:
1 − ln(neurons that have it) / ln(all neurons). Words are compared by their stems, whatever their case.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from db.texts.store import inflated

DEPTH = 10
"""First tokens of an end that count."""
CLEAR = 0.2
"""Confidence from which a label is kept."""
_FEWEST_TEXTS = 4
_FEWEST_RELATED = 3
_LISTED = 3
_SHORTEST = 3  # letters of a word that is listed with others
_SHARED = 0.4
"""Share of texts whose peaks have a word, from which it names the neuron."""
_PHRASE = 0.8
"""Share of texts in which a word has the same neighbour, so that both are named."""
_ROWS_AT_ONCE = 20_000
_ENDINGS = re.compile(r"(?<=\w{3})(?:ations?|ings?|edly|ied|ies|ers?|ed|es|ly|s|['’]s)$")
_Ids = NDArray[np.int64]
_Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Places:
    """Where neurons are strongest at their usual end: one row per excerpt, arrays of shape [excerpts]."""

    neuron: _Ids
    """Row of the neuron, not its id."""
    before: _Ids
    """Token before the peak, −1 at the window's beginning."""
    peak: _Ids
    after: _Ids
    """Token after the peak, −1 at the window's end."""


class Label(NamedTuple):
    """A proposal for one neuron."""

    text: str
    rule: str
    confidence: float


def stem(word: str) -> str:
    """What forms of a word have in common, roughly.

    >>> [stem(word) for word in ("colours", "colouring", "is", "cities", "city")]
    ['colour', 'colour', 'is', 'cit', 'cit']
    """
    return re.sub(r"(?<=\w{3})[ey]$", "", _ENDINGS.sub("", word))


class Stems:
    """The stems of a vocabulary, by number."""

    def __init__(self, tokens: Sequence[tuple[str | None, bool]]) -> None:
        """`tokens` in the order of their ids: the text, None where it is not valid UTF-8, and whether it is special."""
        spaced = {text for text, _ in tokens if text is not None and text.startswith(" ")}
        numbers: dict[str, int] = {}
        self._words = ["" if special or text is None else _word(text, spaced) for text, special in tokens]
        self._texts = [text or "" for text, _ in tokens]
        self.of_token = np.array(
            [numbers.setdefault(stem(word.casefold()), len(numbers)) if word else -1 for word in self._words], np.int64
        )
        self.count = len(numbers)
        self.whole = _whole_words(self._words, self._texts)
        """Whether a token is a word by itself, and not a piece of one."""

    def without_pieces(self, tokens: _Ids) -> None:
        """Take for pieces what more often than not goes on in the next token of a text; −1 between texts."""
        piece = np.array([text[:1].isalpha() and text[:1].islower() for text in self._texts] + [False], bool)
        first, after = tokens[:-1], tokens[1:]
        known = (first >= 0) & (first < len(self.whole))
        after = np.where(after < len(self.whole), after, -1)
        seen, goes_on = (np.bincount(first[known], some, len(self.whole)) for some in (None, piece[after[known]]))
        self.whole &= goes_on <= seen / 2

    def of(self, token_ids: _Ids) -> _Ids:
        """Their stems; −1 for no token, and for one that says nothing."""
        known = (token_ids >= 0) & (token_ids < len(self.of_token))
        return np.where(known, self.of_token[np.where(known, token_ids, 0)], -1)

    def phrase(self, token_ids: Sequence[int]) -> str:
        """What tokens spell together."""
        return "".join(self._texts[one] for one in token_ids).strip()

    def spelt(self, token_ids: Sequence[int]) -> str:
        """The commonest spelling among tokens of one stem, the first of those equally common."""
        return Counter(self._words[one] for one in token_ids).most_common(1)[0][0]


def _whole_words(words: Sequence[str], texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which tokens are words. One of a single spelling that is how a longer token begins is a word's first piece."""
    spellings = Counter(word.casefold() for word in words)
    ordered = sorted(spellings)
    longer = {word for word, after in pairwise(ordered) if after.startswith(word)}

    def is_word(word: str, text: str) -> bool:
        low = word.casefold()
        known = spellings[low] > 1 or (text.startswith(" ") and low not in longer)
        return known and len(word) >= _SHORTEST and word.isalpha()

    return np.array([is_word(*one) for one in zip(words, texts, strict=True)], bool)


def _is_spaced(token: str, spaced: set[str]) -> bool:
    return token.startswith(" ") or f" {token}" in spaced


def _word(token: str, spaced: set[str]) -> str:
    """What a token says by itself; a piece of a word begins with a hyphen, and what says nothing is empty."""
    text = token.strip()
    if not text.isprintable() or len(text) > 40:
        return ""
    is_piece = text.isalpha() and text.islower() and not _is_spaced(token, spaced)
    return f"-{text}" if is_piece else text


def named(
    texts: duckdb.DuckDBPyConnection, build: duckdb.DuckDBPyConnection, ids: _Ids, usual: _Ids
) -> list[Label | None]:
    """A label for each neuron; None where none is clear.

    Args:
        texts: a connection to loaded excerpts and windows.
        build: one to the build of the same neurons.
        ids: [neurons] their stored ids, ascending.
        usual: [neurons] 1 or −1, the sign of most active activations; 0 where there are none.
    """
    stems = Stems(build.execute("SELECT text, special <> 0 FROM token ORDER BY token_id").fetchall())
    size = len(stems.of_token)
    near = build.execute("SELECT token_id, neighbour_id FROM token_neighbour").fetchnumpy()
    token, other = (np.asarray(near[name], np.int64) for name in ("token_id", "neighbour_id"))
    neighbours = np.sort(token * size + other)
    tokens, places = _places(texts, ids, usual)
    stems.without_pieces(tokens)
    return names(_tops(build, ids, usual), places, stems, neighbours, size)


def _tops(build: duckdb.DuckDBPyConnection, ids: _Ids, usual: _Ids) -> _Ids:
    query = f"SELECT neuron_id, sign, rank, token_id FROM neuron_token WHERE rank <= {DEPTH}"
    found = build.execute(query).fetchnumpy()
    row = np.minimum(np.searchsorted(ids, found["neuron_id"]), len(ids) - 1)
    good = (ids[row] == found["neuron_id"]) & (usual[row] == found["sign"])
    tops = np.full((len(ids), DEPTH), -1, np.int64)
    tops[row[good], found["rank"][good] - 1] = found["token_id"][good]
    return tops


def _places(texts: duckdb.DuckDBPyConnection, ids: _Ids, usual: _Ids) -> tuple[_Ids, Places]:
    """The tokens of all windows, with −1 around each; and the peaks."""
    stored = texts.execute("SELECT window_id, token_ids FROM text_window ORDER BY window_id").fetchall()
    windows = [inflated(token_ids, "<i4") for _, token_ids in stored]
    gap = np.array([-1], np.int32)
    tokens = np.concatenate([gap, *(part for window in windows for part in (window, gap))]).astype(np.int64)
    starts = 1 + np.cumsum([0, *(len(window) + 1 for window in windows)])
    found = texts.execute("SELECT neuron_id, sign, window_id, position FROM excerpt").fetchnumpy()
    row, numbers = np.searchsorted(ids, found["neuron_id"]), np.array([window_id for window_id, _ in stored], np.int64)
    place = np.minimum(np.searchsorted(numbers, found["window_id"]), max(len(numbers) - 1, 0))
    good = usual[row] == found["sign"]
    good &= (numbers[place] == found["window_id"]) if len(numbers) else False
    at = np.minimum(starts[place[good]] + found["position"][good], len(tokens) - 2)
    return tokens, Places(row[good], *(tokens[at + step] for step in (-1, 0, 1)))


def names(tops: _Ids, places: Places, stems: Stems, neighbours: _Ids | None, vocabulary: int) -> list[Label | None]:
    """A label for each neuron; None where none is clear.

    Args:
        tops: [neurons, DEPTH] the first tokens of the usual end; −1 where there are fewer, or no end is usual.
        places: where they are strongest.
        stems: of the vocabulary.
        neighbours: sorted numbers token · vocabulary + neighbour; None where the build has none.
        vocabulary: tokens.
    """
    count = len(tops)
    ends = _end_shares(tops, stems)
    specific = np.ones(stems.count + 1)
    specific[ends.key % max(stems.count, 1)] = ends.specific
    texts = np.bincount(places.neuron, minlength=count)
    found: list[Label | None] = [None] * count
    at = {
        name: _shares(places.neuron, stems.of(getattr(places, name)), texts, stems.count) for name in ("peak", "after")
    }
    for proposal in (
        _by_tokens(tops, ends, at, texts, stems),
        _by_related(tops, stems, specific, neighbours, vocabulary),
        _by_texts(places, texts, stems, at["peak"], count),
    ):
        for row, label in proposal.items():
            known = found[row]
            if label.confidence >= CLEAR and (known is None or label.confidence > known.confidence):
                found[row] = label
    return found


class _Shared(NamedTuple):
    """Stems of neurons, one row per pair, sorted by neuron and stem."""

    key: _Ids
    """neuron · stems + stem"""
    share: _Shares
    specific: _Shares


def _pairs(neurons: _Ids, what: _Ids, weights: _Shares, kinds: int, total: int) -> _Shared:
    """The summed weights of each neuron's stems, and how specific each stem is."""
    good = what >= 0
    key, place = np.unique(neurons[good] * kinds + what[good], return_inverse=True)
    share = np.bincount(place, weights[good], len(key)).astype(np.float64)
    holders = np.bincount(key % kinds, minlength=kinds)[key % kinds] if len(key) else key
    return _Shared(key, share, 1 - np.log(np.maximum(holders, 1)) / np.log(max(total, 2)))


def _weights(depth: int) -> _Shares:
    """What each rank of an end counts; the sum is 1."""
    weight: _Shares = 1 / np.sqrt(np.arange(3, depth + 3))
    weight /= weight.sum()
    return weight


def _end_shares(tops: _Ids, stems: Stems) -> _Shared:
    weights = np.broadcast_to(_weights(tops.shape[1]), tops.shape)
    neurons = np.repeat(np.arange(len(tops)), tops.shape[1])
    return _pairs(neurons, stems.of(tops).ravel(), weights.ravel(), stems.count, len(tops))


def _shares(neurons: _Ids, what: _Ids, texts: _Ids, kinds: int) -> _Shared:
    """Of each neuron's texts, those with a stem in a place."""
    weights = 1 / np.maximum(texts[neurons], 1)
    return _pairs(neurons, what, weights, kinds, len(texts))


def _look_up(shared: _Shared, key: _Ids) -> _Shares:
    """The shares of pairs, 0 where there is none."""
    if not len(shared.key):
        return np.zeros(len(key))
    place = np.minimum(np.searchsorted(shared.key, key), len(shared.key) - 1)
    return np.where(shared.key[place] == key, shared.share[place], 0.0)


def _by_tokens(tops: _Ids, ends: _Shared, at: dict[str, _Shared], texts: _Ids, stems: Stems) -> dict[int, Label]:
    """Words of the end, which its texts may hold as well."""
    neuron = ends.key // max(stems.count, 1)
    seen = np.maximum(_look_up(at["peak"], ends.key), _look_up(at["after"], ends.key))
    seen = np.where(texts[neuron] >= _FEWEST_TEXTS, seen, 0)
    score = np.minimum(ends.share + seen, 1) * ends.specific
    found = {}
    for place in _best(neuron, score):
        row, kind = int(neuron[place]), int(ends.key[place] % stems.count)
        spelt = [int(one) for one in tops[row] if one >= 0 and stems.of_token[one] == kind]
        rule = "tokens and texts" if seen[place] >= 0.2 else "tokens"
        found[row] = Label(stems.spelt(spelt), rule, float(score[place]))
    return found


def _best(neuron: _Ids, score: _Shares) -> list[int]:
    """The place of each neuron's highest score, if that is clear."""
    order = np.lexsort((-score, neuron))
    first = np.concatenate([[True], np.diff(neuron[order]) > 0]) if len(order) else np.zeros(0, bool)
    return [int(place) for place in order[first] if score[place] >= CLEAR]


def _by_related(
    tops: _Ids, stems: Stems, specific: _Shares, neighbours: _Ids | None, vocabulary: int
) -> dict[int, Label]:
    """Tokens of the end that are neighbours of one of them."""
    if neighbours is None or not len(neighbours):
        return {}
    if len(tops) > _ROWS_AT_ONCE:
        whole: dict[int, Label] = {}
        for start in range(0, len(tops), _ROWS_AT_ONCE):
            some = _by_related(tops[start : start + _ROWS_AT_ONCE], stems, specific, neighbours, vocabulary)
            whole |= {start + row: label for row, label in some.items()}
        return whole
    kinds = np.where(stems.whole[np.maximum(tops, 0)], stems.of(tops), -1)
    pairs = tops[:, :, None] * vocabulary + tops[:, None, :]
    place = np.minimum(np.searchsorted(neighbours, pairs), len(neighbours) - 1)
    near = (neighbours[place] == pairs) & (kinds[:, :, None] != kinds[:, None, :])
    near &= (kinds >= 0)[:, :, None] & (kinds >= 0)[:, None, :]
    worth = _weights(tops.shape[1]) * np.where(kinds >= 0, specific[kinds], 0)
    covered = (near * worth[:, None, :]).sum(axis=2) + worth
    hub = covered.argmax(axis=1)
    best = covered[np.arange(len(tops)), hub]
    found = {}
    for row in np.flatnonzero((best >= CLEAR) & (near.sum(axis=2).max(axis=1) >= _FEWEST_RELATED - 1)):
        members = [int(hub[row]), *np.flatnonzero(near[row, hub[row]]).tolist()]
        words: dict[int, int] = {}
        for member in sorted(members):
            words.setdefault(int(kinds[row, member]), int(tops[row, member]))
        if len(words) >= _FEWEST_RELATED:
            text = ", ".join(stems.spelt([one]) for one in list(words.values())[:_LISTED])
            found[int(row)] = Label(text, "related tokens", float(best[row]))
    return found


def _by_texts(places: Places, texts: _Ids, stems: Stems, peaks: _Shared, count: int) -> dict[int, Label]:
    """The word at most peaks, with the one after or before it where that is shared too."""
    neuron = peaks.key // max(stems.count, 1)
    enough = (texts[neuron] >= _FEWEST_TEXTS) & (peaks.share >= _SHARED)
    score = np.where(enough, peaks.share * peaks.specific, 0)
    best = _best(neuron, score)
    wanted = {int(neuron[place]): place for place in best}
    rows: dict[int, list[tuple[int, int, int]]] = {}
    for row, *three in zip(places.neuron, places.before, places.peak, places.after, strict=True):
        if int(row) in wanted:
            rows.setdefault(int(row), []).append((int(three[0]), int(three[1]), int(three[2])))
    found = {}
    for row, place in wanted.items():
        kind = int(peaks.key[place] % stems.count)
        here = [one for one in rows[row] if stems.of_token[one[1]] == kind]
        word = stems.spelt([one[1] for one in here])
        for places_of in ((1, 2), (0, 1)):
            pair, held = Counter(tuple(one[i] for i in places_of) for one in here).most_common(1)[0]
            if held >= _PHRASE * len(rows[row]) and min(stems.of_token[list(pair)]) >= 0 and min(pair) >= 0:
                word = stems.phrase(pair)
                break
        found[row] = Label(f"at “{word}”", "texts", float(score[place]))
    return found
