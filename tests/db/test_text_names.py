"""Names on made-up neurons: what each rule takes, and what none does."""

from collections.abc import Sequence

import numpy as np
import pytest

from db.texts.names import CLEAR, DEPTH, Label, Places, Stems, names

WORDS = [" chemistry", " chemical", "Chemistry", " red", " blue", " green", " not", " of", " course", "tion", ",", "\n"]
FILLER = [f" w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400)]
TOKENS = [*WORDS, *FILLER]
NEURONS = 200


def label(
    top: Sequence[str], peaks: Sequence[tuple[str, str, str]] = (), near: Sequence[tuple[str, str]] = ()
) -> Label | None:
    """The name of one neuron among two hundred of which nothing is known.

    Args:
        top: its first tokens.
        peaks: in its texts, the tokens before, at and after the peak.
        near: neighbours among the tokens.
    """
    random = np.random.default_rng(0)
    stems = Stems([(token, False) for token in TOKENS])
    tops = random.integers(len(WORDS), len(TOKENS), (NEURONS, DEPTH))
    tops[0, : len(top)] = [TOKENS.index(one) for one in top]
    others = random.integers(len(WORDS), len(TOKENS), ((NEURONS - 1) * DEPTH, 3))
    own = np.array([[TOKENS.index(one) for one in three] for three in peaks], int).reshape(-1, 3)
    rows = np.concatenate([np.zeros(len(own), int), np.repeat(np.arange(1, NEURONS), DEPTH)])
    places = Places(rows, *np.concatenate([own, others]).T)
    keys = np.sort([TOKENS.index(a) * len(TOKENS) + TOKENS.index(b) for a, b in near]).astype(int)
    found = names(tops, places, stems, keys, len(TOKENS))
    assert sum(one is not None for one in found[1:]) < 10
    return found[0]


def test_a_word_in_several_forms() -> None:
    found = label([" chemistry", "Chemistry", " chemistry"])
    assert found
    assert (found.text.lower(), found.rule) == ("chemistry", "tokens")
    assert CLEAR <= found.confidence < 0.6


def test_a_word_that_the_texts_hold_as_well() -> None:
    texts = [(" not", " of", " chemistry")] * 5 + [(" of", " not", " red")] * 5
    found, alone = label([" chemistry"], texts), label([" chemistry"])
    assert found
    assert (found.text, found.rule) == ("chemistry", "tokens and texts")
    assert alone is None


def test_related_tokens() -> None:
    near = [(" red", " blue"), (" red", " green")]
    found = label([" red", " green", " blue"], near=near)
    assert found
    assert (found.text, found.rule) == ("red, green, blue", "related tokens")
    assert label([" red", " green", " blue"]) is None
    # Spellings of one word are one thing, however near.
    assert label([" chemistry", " chemical"], near=[(" chemistry", " chemical")]) is None


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([(" red", " of", " course")] * 9 + [(" not", " of", " blue")], "at “of course”"),
        ([(f"{one}", " not", "\n") for one in FILLER[:10]], "at “not”"),
        ([(f"{one}", ",", f"{one}") for one in FILLER[:10]], "at “,”"),
        ([(" red", " not", " red")] * 3, None),  # too few texts
        ([(" red", one, " blue") for one in FILLER[:10]], None),
        ([(" red", "\n", " blue")] * 10, None),
    ],
)
def test_the_place_of_most_peaks(texts: list[tuple[str, str, str]], expected: str | None) -> None:
    found = label([], texts)
    assert (found and found.text) == expected
    assert found is None or found.rule == "texts"


def test_a_piece_of_a_word_is_no_word() -> None:
    found = label([], [(one, "tion", one) for one in FILLER[:10]])
    assert found
    assert found.text == "at “-tion”"
    found = label([], [(" red", "tion", one) for one in FILLER[:10]])
    assert found
    assert found.text == "at “redtion”"


def test_what_everyone_has_names_nobody() -> None:
    stems = Stems([(token, False) for token in TOKENS])
    tops = np.zeros((NEURONS, DEPTH), int)
    none = np.zeros(0, int)
    assert names(tops, Places(none, none, none, none), stems, None, len(TOKENS)) == [None] * NEURONS


def test_no_end_no_name() -> None:
    stems = Stems([(" red", False), (None, False), (" blue", True), ("\u202e", False)])
    assert stems.of_token.tolist() == [0, -1, -1, -1]
    none = np.zeros(0, int)
    assert names(np.full((2, DEPTH), -1), Places(none, none, none, none), stems, None, 4) == [None, None]
