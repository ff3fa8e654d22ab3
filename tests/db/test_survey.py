import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Filters
from tests.catalogues import TOKENS, ToyCatalogue


def ends(toy: ToyCatalogue, place: int) -> dict[int, list[int]]:
    """The stored tokens of a neuron by sign, most extreme first."""
    order = np.argsort(-toy.logits[place], kind="stable")
    return {1: [int(i) for i in order[: toy.stamp.depth]], -1: [int(i) for i in order[::-1][: toy.stamp.depth]]}


def z_scores(toy: ToyCatalogue) -> NDArray[np.float32]:
    z: NDArray[np.float32] = (toy.logits - toy.logits.mean(1, keepdims=True)) / toy.logits.std(1, keepdims=True)
    return z


def test_spans_equal_the_conditions(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    for kind, layers, head in product((None, *NeuronKind), (None, (0, 0), (1, 2)), (None, 0, 1)):
        if kind is NeuronKind.FFN and head is not None:
            continue
        spans = catalogue.layout.spans(Filters(kind=kind, layers=layers, head=head))
        inside = [
            spans is None or any(first <= place <= last for first, last in spans) for place in range(len(toy.neurons))
        ]
        for place, neuron in enumerate(toy.neurons):
            wanted = (
                kind in (None, neuron.kind)
                and (head is None or neuron.head == head)
                and (layers is None or layers[0] <= neuron.layer <= layers[1])
            )
            assert inside[place] == wanted


def test_ids_and_neurons(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    assert [catalogue.layout.neuron(place) for place in range(len(toy.neurons))] == toy.neurons
    with pytest.raises(KeyError):
        catalogue.layout.neuron(len(toy.neurons))


def test_similar_equals_brute_force(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    lists = [ends(toy, place) for place in range(len(toy.neurons))]
    held = np.zeros(len(TOKENS))
    for both in lists:
        for tokens in both.values():
            held[tokens] += 1
    rarity = np.log(2 * len(toy.neurons) / np.maximum(held, 1)) ** 2
    asked = 4
    whole = sum(rarity[token] / (rank + 1) for tokens in lists[asked].values() for rank, token in enumerate(tokens))
    expected = {}
    for place, direction in product(range(len(toy.neurons)), (1, -1)):
        score = sum(
            rarity[token] / math.sqrt((rank + 1) * (lists[place][sign * direction].index(token) + 1))
            for sign, tokens in lists[asked].items()
            for rank, token in enumerate(tokens)
            if token in lists[place][sign * direction]
        )
        if score and place != asked:
            expected[toy.neurons[place], direction < 0] = score / whole
    found = catalogue.similar(toy.neurons[asked], limit=1000)
    assert {(other.neuron, other.opposite): other.similarity for other in found} == pytest.approx(expected, abs=1e-5)
    scores = [other.similarity for other in found]
    assert scores == sorted(scores, reverse=True)
    for other in found:
        direction = -1 if other.opposite else 1
        there = lists[toy.neurons.index(other.neuron)]
        shared = {t for sign, tokens in lists[asked].items() for t in tokens if t in there[sign * direction]}
        assert {token.token_id for token in other.shared} == shared
    assert catalogue.similar(toy.neurons[asked], limit=0) == ()
    with pytest.raises(AtlasError, match="no neuron"):
        catalogue.similar(Neuron.ffn(9, 0))


def test_overview(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    overview = catalogue.overview()
    assert list(zip(overview["layer"], overview["kind"], strict=True)) == list(product(range(3), ("ffn", "attention")))
    peak = np.abs(z_scores(toy)).max(axis=1)
    norms = np.linalg.norm(toy.logits, axis=1)
    for _, row in overview.iterrows():
        here = [i for i, neuron in enumerate(toy.neurons) if (neuron.layer, neuron.kind) == (row["layer"], row["kind"])]
        assert row["neurons"] == len(here)
        for percent in (5, 25, 50, 75, 95):
            assert row[f"peak_{percent}"] == pytest.approx(np.percentile(peak[here], percent), abs=1e-4)
            assert row[f"norm_{percent}"] == pytest.approx(np.percentile(norms[here], percent), abs=1e-3)


@pytest.mark.parametrize(
    "filters",
    [Filters(), Filters(sign=Sign.SUPPRESSES), Filters(kind=NeuronKind.FFN, layers=(1, 2)), Filters(head=1, min_z=2)],
    ids=lambda filters: filters.describe(()),
)
def test_most_peaked(toy: ToyCatalogue, catalogue: Catalogue, filters: Filters) -> None:
    z = z_scores(toy)
    expected = []
    for place, neuron in enumerate(toy.neurons):
        if filters.kind not in (None, neuron.kind) or filters.head not in (None, neuron.head):
            continue
        if filters.layers and not filters.layers[0] <= neuron.layer <= filters.layers[1]:
            continue
        for sign, token in ((Sign.PROMOTES, z[place].argmax()), (Sign.SUPPRESSES, z[place].argmin())):
            value = float(z[place][token])
            if filters.sign in (None, sign) and abs(value) >= (filters.min_z or 0):
                expected.append((abs(value), neuron.label, sign, int(token)))
    expected.sort(reverse=True)
    found = catalogue.most_peaked(filters, limit=10)
    assert [(end.neuron.label, end.sign, end.token.token_id) for end in found] == [row[1:] for row in expected[:10]]
    assert [abs(end.z) for end in found] == pytest.approx([row[0] for row in expected[:10]], abs=1e-5)


def test_favourites(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    first: dict[tuple[int, int], int] = {}
    stored: dict[tuple[int, int], int] = {}
    for place in range(len(toy.neurons)):
        for sign, tokens in ends(toy, place).items():
            first[tokens[0], sign] = first.get((tokens[0], sign), 0) + 1
            for token in tokens:
                stored[token, sign] = stored.get((token, sign), 0) + 1
    found = catalogue.favourites(limit=1000)
    assert len(found) == len(stored)
    for entry in found:
        key = (entry.token.token_id, 1 if entry.sign is Sign.PROMOTES else -1)
        assert (entry.first, entry.stored) == (first.get(key, 0), stored[key])
    assert [entry.first for entry in found] == sorted((entry.first for entry in found), reverse=True)


def test_limits(catalogue: Catalogue) -> None:
    for ask in (catalogue.similar, catalogue.most_peaked, catalogue.favourites):
        argument = (Neuron.ffn(0, 0),) if ask == catalogue.similar else ()
        with pytest.raises(AtlasError, match="count from 0"):
            ask(*argument, limit=-1)
    with pytest.raises(AtlasError, match="heads 0–1"):
        catalogue.most_peaked(Filters(head=2))
