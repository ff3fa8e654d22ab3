import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.catalogue.concepts import (
    MAX_CONCEPT,
    MAX_WORDS,
    Link,
    Word,
    best,
    families,
    forms,
    is_word,
    nearness,
    parse,
    without_families,
)
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind, Sign, labels, parse_list
from db.questions import Filters, read_span
from db.records import Concept, ConceptNeuron, Origin, Token, WeightedToken
from db.token_text import stem
from tests.catalogues import TOKENS, ToyCatalogue, make_catalogue


def brute_force(
    toy: ToyCatalogue, shares: dict[int, float], filters: Filters
) -> list[tuple[float, str, str, set[int]]]:
    """(score, label, sign, matched ids), best first, from the full matrix of logits."""
    found, rarity = [], rarities(toy)
    for neuron, logits in zip(toy.neurons, toy.logits, strict=True):
        if filters.kind not in (None, neuron.kind) or (filters.head is not None and neuron.head != filters.head):
            continue
        if filters.layers and not filters.layers[0] <= neuron.layer <= filters.layers[1]:
            continue
        z = (logits - logits.mean()) / logits.std()
        for sign, order in ((1, (-logits).argsort(kind="stable")), (-1, logits.argsort(kind="stable"))):
            name = "promotes" if sign > 0 else "suppresses"
            depth = min(toy.stamp.depth, filters.max_rank or toy.stamp.depth)
            held = [int(token) for token in order[:depth] if int(token) in shares]
            held = [token for token in held if filters.min_z is None or sign * z[token] >= filters.min_z]
            score = sum(shares[token] * rarity[token] * math.sqrt(max(0.0, sign * z[token])) for token in held)
            if score > 0 and filters.sign in (None, name):
                found.append((score, neuron.label, name, set(held)))
    return sorted(found, key=lambda row: -row[0])


def rarities(toy: ToyCatalogue) -> dict[int, float]:
    """ln(1 + ends / ends that hold it) of every token that an end holds, as a share of ln(1 + ends)."""
    ends = [order[: toy.stamp.depth] for row in toy.logits for order in (row.argsort(), (-row).argsort())]
    held = Counter(int(token) for end in ends for token in end)
    return {token: math.log(1 + len(ends) / count) / math.log(1 + len(ends)) for token, count in held.items()}


def rows(found: tuple[ConceptNeuron, ...]) -> list[tuple[str, str, set[int]]]:
    return [(end.neuron.label, str(end.sign), {entry.token.token_id for entry in end.matched}) for end in found]


CONCEPT_FILTERS = [
    Filters(),
    Filters(sign=Sign.SUPPRESSES),
    Filters(kind=NeuronKind.ATTENTION, head=1),
    Filters(head=0, layers=(1, 2)),
    Filters(layers=(1, 2), kind=NeuronKind.FFN),
    Filters(max_rank=2, min_z=1.5),
]


@pytest.mark.parametrize("filters", CONCEPT_FILTERS, ids=lambda filters: filters.describe(()))
@pytest.mark.parametrize("weights", [{1: 1.0}, {0: 1.0, 1: 1.0, 6: 0.5, 30: -0.7}, dict.fromkeys(range(40), 0.3)])
def test_neurons_equal_brute_force(
    toy: ToyCatalogue, catalogue: Catalogue, weights: dict[int, float], filters: Filters
) -> None:
    concept = catalogue.concept_of(weights)
    expected = brute_force(toy, concept.shares(), filters)
    found = catalogue.concept_neurons(concept, filters, limit=1000)
    assert [row[0] for row in expected] == pytest.approx([end.score for end in found], abs=1e-4)
    assert sorted(map(repr, rows(found))) == sorted(repr(row[1:]) for row in expected)
    assert catalogue.count_concept(concept, filters) == len(expected)
    assert catalogue.concept_neurons(concept, filters, limit=3, offset=2) == found[2:5]
    for end in found:
        assert [entry.rank for entry in end.matched] == sorted(entry.rank for entry in end.matched)


def test_spellings_share_their_word(catalogue: Catalogue) -> None:
    shares = catalogue.concept_of(
        {0: 1.0, 1: 1.0, 2: -1.0, 6: 0.5, 9: 0.0}
    ).shares()  # Python, " Python", python, Paris
    assert shares == pytest.approx({0: 1 / math.sqrt(2), 1: 1 / math.sqrt(2), 2: -1.0, 6: 0.5})


def test_words_and_their_forms() -> None:
    assert parse("a, b;c\n d") == tuple(map(Word, "abcd"))
    assert parse("king - man, -queen jiu-jitsu a a") == (
        Word("king"),
        Word("man", True),
        Word("queen", True),
        Word("jiu-jitsu"),
        Word("a", idle=True),
    )
    assert forms("cities")[:2] == ["cities", "city"]
    assert forms("city") == ["city", "citys", "cities"]
    assert forms("boxes") == ["boxes", "box", "boxe"]
    assert forms("C++") == ["C++"]
    assert forms("日本語")[0] == "日本語"


COMMAS_AND_SPACES = ",;，；、､،؛﹐﹔\u037e\u3000\u00a0\u2009\u2028\u0085\u200b\ufeff\n\t "
MINUSES = "-－−–‐‑﹣—"


@pytest.mark.parametrize("separator", [*COMMAS_AND_SPACES, "， ", " ; ", "、、"])
def test_words_are_separated_as_any_keyboard_writes_it(separator: str) -> None:
    assert parse(separator.join(["赤", "أحمر", "red"])) == (Word("赤"), Word("أحمر"), Word("red"))


@pytest.mark.parametrize("minus", MINUSES)
def test_a_minus_is_one_however_it_is_written(minus: str) -> None:
    assert parse(f"king，{minus}queen {minus}{minus}man") == (Word("king"), Word("queen", True), Word("man", True))
    assert parse(f"jiu{minus}jitsu") == (Word(f"jiu{minus}jitsu"),)


def test_a_long_dash_between_words_is_a_pause_and_a_short_one_a_minus() -> None:
    assert parse("red — green") == (Word("red"), Word("green"))
    assert parse("red – green") == parse("red − green") == (Word("red"), Word("green", True))


@pytest.mark.parametrize(
    ("text", "looked_for", "passed_over"),
    [
        ("anger at injustice", ["anger", "injustice"], ["at"]),
        ("The days of the week", ["days", "week"], ["The", "of", "the"]),
        ("Wörter und Zahlen", ["Wörter", "Zahlen"], ["und"]),
        ("who of the", ["who"], ["of", "the"]),
        ("of the", ["of", "the"], []),
        ("red, of", ["red", "of"], []),
        ('anger "at" injustice', ["anger", "at", "injustice"], []),
        ("IT in the US", ["IT", "US"], ["in", "the"]),
        ("war and peace", ["war", "peace"], ["and"]),
    ],
)
def test_function_words_do_not_lead(text: str, looked_for: list[str], passed_over: list[str]) -> None:
    words = parse(text)
    assert [word.text for word in words if not word.idle] == looked_for
    assert [word.text for word in words if word.idle] == passed_over


@pytest.mark.parametrize("marks", ['""', "“”", "„“", "«»", "「」"])
def test_quotation_marks_keep_words_together(marks: str) -> None:
    first, last = marks[0], marks[1]
    assert parse(f"b {first}New   York{last}, -{first}of the{last}") == (
        Word("b"),
        Word("New York", quoted=True),
        Word("of the", negative=True, quoted=True),
    )
    assert parse(f"{first} {last} it{first}s") == tuple(dict.fromkeys(map(Word, (first, last, f"it{first}s"))))


def edits(one: str, other: str) -> int:
    """Single letters that have to be put in, taken out, replaced or swapped with the next, written out from the
    definition.
    """
    if not one or not other:
        return len(one) + len(other)
    least = min(edits(one[1:], other) + 1, edits(one, other[1:]) + 1, edits(one[1:], other[1:]) + (one[0] != other[0]))
    return min(least, edits(one[2:], other[2:]) + 1) if one[1:2] + one[0] == other[:2] else least


@pytest.mark.parametrize(
    "typed", ["Pariss", "pyton", "PYTHOM", "Pyhton", "cdoe", "cod", "codee", "parq", "nothing", "w", "x"]
)
def test_suggestions_are_the_words_a_few_edits_away(catalogue: Catalogue, typed: str) -> None:
    most = 1 if len(typed) < 5 else 2
    texts = {data.decode(errors="replace").lower() for data in TOKENS}
    near = {text for text in texts if is_word(text.strip()) and edits(typed.lower(), text.strip()) <= most}
    whole = {text for text in near if text.startswith(" ")} or near  # others may be pieces of words
    expected = {text.strip() for text in whole} if is_word(typed) else set()
    assert {word.lower() for word in catalogue.spelt_like(typed)} == expected


def test_a_typo_is_told_wherever_it_is_typed(catalogue: Catalogue) -> None:
    assert catalogue.resolve("Pariss").suggestions == ("Paris",)
    assert "Did you mean “Paris”?" in catalogue.resolve("Pariss").no_match()
    (told,) = catalogue.concept("Pariss, code").suggestions
    assert (told.word, told.meant) == ("Pariss", ("Paris",))
    assert catalogue.resolve("Paris").suggestions == ()
    assert catalogue.spelt_like("cdoe")[0] == "code"


def test_families_are_spellings_and_inflections(catalogue: Catalogue) -> None:
    concept = catalogue.concept("Python code", widen=0)
    together = [[entry.token.text for entry in family] for family in families(concept)]
    assert together == [["Python", " Python", "python", " python", "PYTHON"], ["code", " code"]]
    python = concept.tokens[1].token
    assert [entry.token.text for entry in without_families(concept, [python]).tokens] == ["code", " code"]
    words = ["love", "Loves", " loved", "LOVING"], ["cities", "city"], ["running", "runs"], ["red", " Reds"]
    assert [len({stem(word) for word in family}) for family in words] == [1, 1, 1, 1]
    assert len({stem(word) for word in ("red", "read", "bed", "king", "kin", "us", "use", "new", "sing")}) == 9


def test_ranges_and_lists_of_parts_take_the_same_signs() -> None:
    assert {read_span(f"20{minus}29") for minus in MINUSES if minus != "—"} == {(20, 29)}
    assert labels(parse_list("L1.H2，L3.F4、ffn:2；L5.ffn")) == "L1.H2,L3.F4,ffn:2,L5.ffn"


@given(st.text(max_size=200))
def test_any_text_is_words_or_refused(text: str) -> None:
    try:
        words = parse(text)
    except AtlasError:
        return
    assert 0 < len(words) <= MAX_WORDS
    assert all(word.text and not word.text.startswith("-") for word in words)
    assert all(forms(word.text)[0] == word.text for word in words)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        (" , - ", "no word"),
        ("a" * 1001, "at most 1,000"),
        ("\udce4", "not valid Unicode"),
        (" ".join(f"w{number}" for number in range(21)), "has 21 words; at most 20"),
    ],
)
def test_refused_texts(catalogue: Catalogue, text: str, problem: str) -> None:
    with pytest.raises(AtlasError, match=problem):
        catalogue.concept(text)


HOSTILE = [
    "'; DROP TABLE token; --x",
    "%",
    "_",
    "\\",
    "\x00",
    "100%_",
    "x' OR '1'='1",
    "日本",
    "\u202e",
    '"',
    "%s",
    "%%%",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_words_like_any(catalogue: Catalogue, text: str) -> None:
    concept = catalogue.concept(text)
    assert len(catalogue.concept_neurons(concept)) <= 100
    for word in concept.unmatched:
        assert all(token.text.strip().lower().startswith(word.text.lower()) for token in word.beginnings)


def test_own_tokens_come_first(catalogue: Catalogue) -> None:
    concept = catalogue.concept("python, code", widen=0)
    assert [entry.token.text for entry in concept.tokens] == [
        "python",
        " python",
        "PYTHON",
        "Python",
        " Python",
        "code",
        " code",
    ]
    assert {entry.weight for entry in concept.tokens} == {1.0}
    assert concept.unmatched == ()
    assert concept.describe() == "“python”, “␣python”, “PYTHON” and 4 more"


def test_unmatched_words(catalogue: Catalogue) -> None:
    concept = catalogue.concept("pytho codecode", widen=0)
    assert [word.text for word in concept.unmatched] == ["pytho", "codecode"]
    beginnings = {token.text for token in concept.unmatched[0].beginnings}
    assert beginnings == {"Python", " Python", "python", " python", "PYTHON"}
    assert {token.text for token in concept.unmatched[1].beginnings} == {"code", " code"}  # half of it, and no more
    assert {entry.token.text for entry in concept.tokens} == beginnings | {"code", " code"}
    assert {entry.origin for entry in concept.tokens} == {Origin.BEGINNING}
    assert [token.text for token in concept.unmatched[1].pieces] == ["code", "code"]
    assert catalogue.concept_neurons(catalogue.concept("absent")) == ()
    assert catalogue.count_concept(catalogue.concept("absent")) == 0


def test_widening(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    concept = catalogue.concept("python", widen=4)
    own = {entry.token.token_id for entry in concept.tokens if entry.origin is Origin.WORD}
    added = [entry for entry in concept.tokens if entry.origin is Origin.NEIGHBOUR]
    assert concept.widened
    assert 0 < len(added) <= 4
    assert [entry.weight for entry in added] == sorted((entry.weight for entry in added), reverse=True)
    for entry in added:
        assert 0 < entry.weight <= 1
        assert is_word(entry.token.text)
        assert not entry.token.special
        assert entry.token.token_id not in own
    avoided = added[0].token.text
    without = catalogue.concept(f"python -{avoided.strip()}", widen=40)
    weights = {entry.token.text: entry.weight for entry in without.tokens}
    assert weights[avoided] == -1.0
    assert all(weight > 0 for text, weight in weights.items() if text.lower().strip() == "python")


def test_widened_by_any_number_but_a_negative_one(catalogue: Catalogue) -> None:
    assert catalogue.concept("python", widen=2**70) == catalogue.concept("python", widen=len(TOKENS))
    with pytest.raises(AtlasError, match="widened by 0 tokens or more; -1 were asked for"):
        catalogue.concept("python", widen=-1)


def test_company_is_what_the_best_ends_share(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    concept = catalogue.concept("python", widen=2)
    company = [entry for entry in concept.tokens if entry.origin is Origin.COMPANY]
    assert 0 < len(company) <= 2
    others = Concept(tuple(entry for entry in concept.tokens if entry.origin is not Origin.COMPANY))
    held = Counter(
        int(token)
        for _, label, sign, _ in brute_force(toy, others.shares(), Filters())
        for row in [toy.logits[[neuron.label for neuron in toy.neurons].index(label)]]
        for token in (row if sign == "suppresses" else -row).argsort(kind="stable")[: toy.stamp.depth]
    )
    for entry in company:
        assert 0 < entry.weight <= 0.3
        assert is_word(entry.token.text)
        assert held[entry.token.token_id] > 1
    assert not [entry for entry in catalogue.concept("python", widen=0).tokens if entry.origin is Origin.COMPANY]


def test_without_neighbours(tmp_path: Path) -> None:
    with Catalogue.open(make_catalogue(tmp_path, neighbours=0).path) as catalogue:
        concept = catalogue.concept("python -x")
        assert not concept.widened
        assert not catalogue.has_neighbours
        assert {entry.origin for entry in concept.tokens} == {Origin.WORD}
        assert concept.describe().endswith(", but not “x”")
        assert catalogue.concept_neurons(concept)
        assert catalogue.neighbours(1) == ()
        assert catalogue.neighbour_of(1) == 0


def test_tokens_are_dropped_and_added(catalogue: Catalogue) -> None:
    concept = catalogue.concept("python", widen=0)
    changed = concept.without([2, 3]).with_tokens(
        [WeightedToken(catalogue.token(9), 0.5), WeightedToken(catalogue.token(0), -1)]
    )
    assert {entry.token.token_id: entry.weight for entry in changed.tokens} == {1: 1.0, 4: 1.0, 9: 0.5, 0: -1}
    assert concept == catalogue.concept("python", widen=0)
    only_negative = catalogue.concept_of({1: -1.0})
    assert catalogue.concept_neurons(only_negative) == ()


def test_refused_concepts(catalogue: Catalogue) -> None:
    for weights, problem in (
        ({1: 1.5}, "from -1 to 1"),
        ({1: float("nan")}, "from -1 to 1"),
        ({99: 1.0}, "vocabulary"),
    ):
        with pytest.raises(AtlasError, match=problem):
            catalogue.concept_of(weights)
    with pytest.raises(AtlasError, match="layers 0–2"):
        catalogue.concept_neurons(catalogue.concept("python"), Filters(layers=(0, 3)))
    with pytest.raises(AtlasError, match="count from 0"):
        catalogue.concept_neurons(catalogue.concept("python"), limit=-1)
    many = Concept(tuple(WeightedToken(Token(i % 40, str(i), str(i), False), 1.0) for i in range(MAX_CONCEPT + 1)))
    assert catalogue.count_concept(many) > 0  # the ids repeat: forty tokens


def test_nearness_is_large_where_both_are_closer_than_usual() -> None:
    own = {1: 0.6, 2: 0.6, 3: 0.9}
    found = nearness([Link(1, 2, 0.6), Link(1, 3, 0.6)], own, {1: 1.0})
    assert found[2] == pytest.approx(0.8)  # 0.8 · 0.6 / 0.6
    assert found[3] < found[2]  # 3 is near everything
    assert nearness([Link(1, 2, -0.5), Link(1, 4, 0.5)], own, {1: 1.0}) == {}
    assert best({5: 0.5, 3: 0.5, 1: 2.0}, 2) == {1: 1.0, 3: 0.5}


def test_neighbours(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    unit = toy.logits / ((toy.logits**2).sum(axis=0) ** 0.5)
    near = catalogue.neighbours(7)
    assert [entry.rank for entry in near] == list(range(1, 13))
    for entry in near:
        assert entry.cosine == pytest.approx(float(unit[:, 7] @ unit[:, entry.token.token_id]), abs=1e-5)
    total = sum(catalogue.neighbour_of(token_id) for token_id in range(len(TOKENS)))
    assert total == 12 * len(TOKENS)
    with pytest.raises(AtlasError, match="vocabulary"):
        catalogue.neighbours(99)
