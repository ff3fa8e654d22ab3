from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tokenizers import Tokenizer

from db.catalogue.export import card_frame, frame_of
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Filters, Order
from db.records import Hit
from tests.catalogues import SPECIAL, TOKENS, ToyCatalogue, tokenizer_json


def brute_force(toy: ToyCatalogue, token_ids: list[int], filters: Filters) -> list[tuple[str, str, int, int]]:
    """(label, sign, rank, token id), best first, from the full matrix of logits."""
    found = []
    for neuron, logits in zip(toy.neurons, toy.logits, strict=True):
        mean, std = logits.mean(), logits.std()
        order = np.argsort(-logits, kind="stable")
        for sign, ranked in ((1, order), (-1, order[::-1])):
            for rank, token in enumerate(ranked[: toy.stamp.depth], start=1):
                if token not in token_ids or filters.sign not in (None, Sign.PROMOTES if sign > 0 else Sign.SUPPRESSES):
                    continue
                if filters.kind not in (None, neuron.kind) or (
                    filters.head is not None and neuron.head != filters.head
                ):
                    continue
                if filters.layers and not filters.layers[0] <= neuron.layer <= filters.layers[1]:
                    continue
                if filters.max_rank is not None and rank > filters.max_rank:
                    continue
                strength = sign * (logits[token] - mean) / std
                if filters.min_z is not None and strength < filters.min_z:
                    continue
                key = {
                    Order.Z: (-strength, rank),
                    Order.RANK: (rank, -strength),
                    Order.LOGIT: (-sign * logits[token], rank),
                }
                name = "promotes" if sign > 0 else "suppresses"
                found.append((key[filters.order], (neuron.label, name, rank, int(token))))
    return [row for _, row in sorted(found)]


def rows(hits: tuple[Hit, ...]) -> list[tuple[str, str, int, int]]:
    return [(hit.neuron.label, str(hit.sign), hit.rank, hit.token.token_id) for hit in hits]


FILTERS = [
    *(Filters(sign=sign, order=order) for sign, order in product([None, *Sign], Order)),
    *(Filters(kind=kind) for kind in NeuronKind),
    Filters(layers=(1, 2)),
    Filters(layers=(1, 1), kind=NeuronKind.FFN, sign=Sign.PROMOTES),
    Filters(head=1),
    Filters(min_z=1.8),
    Filters(min_z=1.8, sign=Sign.SUPPRESSES),
    Filters(max_rank=1, order=Order.RANK),
    Filters(min_z=99),
]


@pytest.mark.parametrize("filters", FILTERS, ids=lambda filters: filters.describe(()))
def test_search_equals_brute_force(toy: ToyCatalogue, catalogue: Catalogue, filters: Filters) -> None:
    for ids in ([1], [0, 1, 2, 3, 30], list(range(len(TOKENS)))):
        expected = brute_force(toy, ids, filters)
        assert rows(catalogue.search_token(ids, filters, limit=1000)) == expected
        assert catalogue.count_hits(ids, filters) == len(expected)
        assert rows(catalogue.search_token(ids, filters, limit=4, offset=3)) == expected[3:7]
        counts = catalogue.layer_counts(ids, filters)
        assert list(counts.columns) == ["layer", "kind", "sign", "neurons"]
        distinct = {(label, sign) for label, sign, _, _ in expected}
        assert counts["neurons"].sum() == len(distinct)
        for row in counts.itertuples():
            here = [
                label
                for label, sign in distinct
                if Neuron.parse(label).layer == row.layer and Neuron.parse(label).kind == row.kind and sign == row.sign
            ]
            assert len(here) == row.neurons


def test_search_figures(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    for hit in catalogue.search_token([1, 2, 3]):
        logits = toy.logits[toy.neurons.index(hit.neuron)]
        assert hit.logit == pytest.approx(logits[hit.token.token_id], abs=1e-5)
        assert hit.z == pytest.approx((hit.logit - logits.mean()) / logits.std(), abs=1e-5)
    assert catalogue.search_token([]) == ()
    assert catalogue.count_hits([]) == 0
    assert catalogue.layer_counts([]).empty
    assert catalogue.search_token([1, 1]) == catalogue.search_token([1])


def test_neuron(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    for neuron, logits in zip(toy.neurons, toy.logits, strict=True):
        card = catalogue.neuron(neuron)
        assert card.neuron == neuron
        assert (card.mean, card.std) == pytest.approx((logits.mean(), logits.std()), abs=1e-5)
        order = np.argsort(-logits, kind="stable")
        assert [entry.token.token_id for entry in card.top] == list(order[:5])
        assert [entry.token.token_id for entry in card.bottom] == list(order[::-1][:5])
        for entry in (*card.top, *card.bottom):
            assert entry.logit == logits[entry.token.token_id]
            assert entry.z == pytest.approx((entry.logit - card.mean) / card.std, abs=1e-5)


@pytest.mark.parametrize("label", ["L3.F0", "L0.F7", "L0.H2.N0", "L0.H0.N3", "L9999.H0.N0"])
def test_unknown_neuron(catalogue: Catalogue, label: str) -> None:
    with pytest.raises(AtlasError, match=r"layers 0–2, FFN neurons 0–6, heads 0–1 with dimensions 0–2"):
        catalogue.neuron(Neuron.parse(label))


def test_strongest_tokens(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    chosen = toy.neurons[::-2]
    strongest = catalogue.strongest_tokens(chosen, depth=2)
    assert list(strongest) == chosen
    for neuron, tokens in strongest.items():
        card = catalogue.neuron(neuron)
        assert tokens.promotes == tuple(entry.token for entry in card.top[:2])
        assert tokens.suppresses == tuple(entry.token for entry in card.bottom[:2])
    assert catalogue.strongest_tokens([]) == {}
    assert catalogue.strongest_tokens([chosen[0]], depth=0)[chosen[0]].promotes == ()


def test_extremes_and_layer_statistics(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    for layer, kind in product(range(3), NeuronKind):
        here = [i for i, neuron in enumerate(toy.neurons) if (neuron.layer, neuron.kind) == (layer, kind)]
        highest, lowest = catalogue.extremes(layer, kind)
        assert highest.dtype == np.float32
        np.testing.assert_array_equal(highest, toy.logits[here].max(axis=1))
        np.testing.assert_array_equal(lowest, toy.logits[here].min(axis=1))
        statistics = catalogue.layer_statistics(layer, kind)
        assert list(statistics["index"]) == [toy.neurons[i].index for i in here]
        assert list(statistics["head"].fillna(-1)) == [-1 if kind == "ffn" else toy.neurons[i].head for i in here]
        z = (toy.logits[here] - toy.logits[here].mean(1, keepdims=True)) / toy.logits[here].std(1, keepdims=True)
        np.testing.assert_allclose(statistics["top_z"], z.max(axis=1), atol=1e-5)
        np.testing.assert_allclose(statistics["bottom_z"], z.min(axis=1), atol=1e-5)
    with pytest.raises(AtlasError, match=r"no ffn neurons in layer 3: this catalogue has layers 0–2"):
        catalogue.extremes(3, NeuronKind.FFN)
    with pytest.raises(AtlasError, match="layer -1"):
        catalogue.layer_statistics(-1, NeuronKind.ATTENTION)


def test_tokens(catalogue: Catalogue) -> None:
    tokens = catalogue.tokens(reversed(range(len(TOKENS))))
    assert list(tokens) == list(reversed(range(len(TOKENS))))
    assert {token_id for token_id, token in tokens.items() if token.special} == SPECIAL
    assert len({token.display for token in tokens.values()}) == len(TOKENS)
    assert tokens[TOKENS.index(b" Paris")].text == " Paris"
    assert catalogue.token(TOKENS.index(b"ok\xff")).text == "ok⟨FF⟩"
    assert catalogue.tokens([]) == {}
    for unknown in (-1, len(TOKENS), 2**40):
        with pytest.raises(AtlasError, match="vocabulary of toy is 0–39"):
            catalogue.token(unknown)
        with pytest.raises(AtlasError, match="vocabulary"):
            catalogue.search_token([1, unknown])


def texts(catalogue: Catalogue, text: str) -> list[str]:
    return [token.text for token in catalogue.resolve(text).matched]


def test_resolve_matches_every_spelling_once_exact_first(catalogue: Catalogue) -> None:
    assert texts(catalogue, "Python") == ["Python", " Python", "python", " python", "PYTHON"]
    assert texts(catalogue, " python") == [" python", "python", "PYTHON", " Python", "Python"]
    assert texts(catalogue, "pYTHON") == ["python", " python", "PYTHON", "Python", " Python"]
    assert texts(catalogue, " ") == [" "]
    assert texts(catalogue, "  ") == ["  ", " "]
    assert texts(catalogue, "%") == ["%"]
    assert texts(catalogue, "_") == ["_"]
    assert texts(catalogue, "'; DROP TABLE token; --") == ["'; DROP TABLE token; --"]
    assert texts(catalogue, "\x00") == ["\x00"]
    assert texts(catalogue, "absent") == []


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("␣Paris", b" Paris"),
        ("ĠParis", b" Paris"),
        ("▁Paris", b" Paris"),
        ("↵", b"\n"),
        ("⟨0A⟩", b"\n"),
        ("<0x0A>", b"\n"),
        ("⟨E4⟩", b"\xe4"),
        ("⟨E4⟩⟨BD⟩", b"\xe4\xbd"),
        ("ok⟨FF⟩", b"ok\xff"),
        ("◌\u0301", "\u0301".encode()),
        ("⟨U+0000⟩", b"\0"),
        ("␣", "␣".encode()),  # a token of its own here, and what is typed exactly wins
        ("⟨U+200B⟩", "⟨U+200B⟩".encode()),
        ("#7", TOKENS[7]),
    ],
)
def test_resolve_reads_what_was_pasted(catalogue: Catalogue, text: str, data: bytes) -> None:
    first = catalogue.resolve(text).matched[0]
    assert TOKENS[first.token_id] == data
    if "#" not in text and data not in (b"\n", b"\0"):  # white space and NUL are no words
        assert data in [TOKENS[entry.token.token_id] for entry in catalogue.concept(text, widen=0).tokens]


def test_a_tokenizer_s_truncation_and_padding_do_not_count(toy: ToyCatalogue) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json())
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=5)
    with Catalogue.open(toy.path) as opened:
        opened.__dict__["info"] = replace(opened.info, tokenizer_json=tokenizer.to_str())
        assert [token.text for token in opened.split("Paris codex")[0]] == ["Paris", " code", "x"]


def test_resolve_splits_with_the_model_s_tokenizer(catalogue: Catalogue) -> None:
    assert [token.text for token in catalogue.resolve("Python code").pieces] == ["Python", " code"]
    assert [token.text for token in catalogue.resolve(" Python code \n").pieces] == [" Python", " code"]
    assert [token.text for token in catalogue.resolve("codecode").pieces] == ["code", "code"]
    assert "splits into “Python”, “␣code”" in catalogue.resolve("Python code").no_match()


def test_resolve_refuses(catalogue: Catalogue) -> None:
    for text, problem in (("", "empty"), ("a" * 1001, "at most 1,000"), ("\udce4", "not valid Unicode")):
        with pytest.raises(AtlasError, match=problem):
            catalogue.resolve(text)


def test_filters_beyond_the_model(catalogue: Catalogue) -> None:
    with pytest.raises(AtlasError, match="layers 0–2"):
        catalogue.search_token([1], Filters(layers=(1, 3)))
    with pytest.raises(AtlasError, match="heads 0–1"):
        catalogue.count_hits([1], Filters(head=2))
    with pytest.raises(AtlasError, match="count from 0"):
        catalogue.search_token([1], limit=-1)


def test_frames(catalogue: Catalogue) -> None:
    frame = frame_of(Hit, catalogue.search_token([1, 2], limit=7))
    assert len(frame) == 7
    assert all(name.isascii() for name in frame.columns)
    assert frame_of(Hit, ()).empty
    assert list(card_frame(catalogue.neuron(Neuron.ffn(0, 0)))["rank"]) == [1, 2, 3, 4, 5] * 2


def test_threads_share_a_catalogue(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    def ask(number: int) -> bool:
        neuron = toy.neurons[number % len(toy.neurons)]
        top = catalogue.neuron(neuron).top[0].token.token_id
        hits = catalogue.search_token([top], Filters(sign=Sign.PROMOTES, max_rank=1), limit=1000)
        return top == int(toy.logits[toy.neurons.index(neuron)].argmax()) and neuron in {hit.neuron for hit in hits}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(120)))


def test_closed_catalogue(toy: ToyCatalogue) -> None:
    with Catalogue.open(toy.path) as opened:
        assert opened.info == toy.stamp
    with pytest.raises(AtlasError, match="was closed"):
        opened.token(1)
