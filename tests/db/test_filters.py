from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Filters, Order, Search, shell_options
from db.records import Token
from tests.catalogues import ToyCatalogue, make_catalogue
from tests.texts import give_texts

PARIS = Token(1, " Paris", "␣Paris", False)


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        (
            Filters(sign=Sign.PROMOTES, kind=NeuronKind.FFN, layers=(20, 29)),
            "FFN neurons of layers 20–29 that promote “␣Paris”, by z",
        ),
        (Filters(), "Neurons that promote or suppress “␣Paris”, by z"),
        (
            Filters(sign=Sign.SUPPRESSES, head=3, layers=(7, 7), min_z=3.5, max_rank=10, order=Order.RANK),
            "Attention neurons of head 3 of layer 7 that suppress “␣Paris” among their first 10 tokens with −z ≥ 3.5, "
            "by rank",
        ),
        (
            Filters(kind=NeuronKind.ATTENTION, max_rank=1, min_z=2),
            "Attention neurons that promote or suppress “␣Paris” as their first token with |z| ≥ 2, by z",
        ),
    ],
)
def test_describe(filters: Filters, sentence: str) -> None:
    assert filters.describe([PARIS]) == sentence


def test_describe_names_few_tokens() -> None:
    assert "“␣Paris” or “␣Paris”," in Filters().describe([PARIS] * 2)
    assert "“␣Paris”, “␣Paris”, “␣Paris” or 1 other token," in Filters().describe([PARIS] * 4)
    assert "or 27 other tokens" in Filters().describe([PARIS] * 30)


def test_choices_may_be_text() -> None:
    assert Filters(sign="promotes", kind="ffn", order="rank") == Filters(  # type: ignore[arg-type]
        sign=Sign.PROMOTES, kind=NeuronKind.FFN, order=Order.RANK
    )


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"sign": "up"}, "'promotes' or 'suppresses', not 'up'"),
        ({"kind": "mlp"}, "'ffn' or 'attention'"),
        ({"order": None}, "'z' or 'rank' or 'logit'"),
        ({"layers": (5, 4)}, "no range"),
        ({"layers": (-1, 4)}, "no range"),
        ({"head": -1}, "count from 0"),
        ({"head": 1, "kind": "ffn"}, "no head"),
        ({"min_z": float("nan")}, "must be a number"),
        ({"max_rank": 0}, "1 or more"),
    ],
)
def test_refusals(wrong: dict[str, object], problem: str) -> None:
    with pytest.raises(AtlasError, match=problem):
        Filters(**wrong)  # type: ignore[arg-type]


# Only ends that are usually active.

EVERY = range(40)
USUAL = Filters(usual=True)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalogue, set[tuple[Neuron, Sign]]]]:
    """A catalogue with texts of its FFN neurons, and the usual ends, counted from all activations."""
    toy = make_catalogue(tmp_path_factory.mktemp("texts"))
    made = give_texts(toy.path)
    active = np.abs(made.activations) >= made.gathered.active_above[:, None]
    positive = (active & (made.activations > 0)).sum(axis=1) * 2 >= active.sum(axis=1)
    signs = [Sign.PROMOTES if one else Sign.SUPPRESSES for one in positive]
    with Catalogue.open(toy.path) as catalogue:
        yield catalogue, {(toy.neurons[one], sign) for one, sign in zip(made.neuron_ids, signs, strict=True)}


def test_hits_at_unusual_ends_are_left_out_of_pages_and_counts(
    read: tuple[Catalogue, set[tuple[Neuron, Sign]]],
) -> None:
    catalogue, usual = read
    every = catalogue.search_token(EVERY, limit=10_000)
    wanted = tuple(hit for hit in every if (hit.neuron, hit.sign) in usual)
    assert 0 < len(wanted) < sum(hit.neuron.kind is NeuronKind.FFN for hit in every)
    assert catalogue.search_token(EVERY, USUAL, limit=10_000) == wanted
    assert catalogue.search_token(EVERY, USUAL, limit=7, offset=5) == wanted[5:12]
    assert catalogue.count_hits(EVERY, USUAL) == len(wanted)
    counted = Counter((hit.neuron.layer, hit.sign) for hit in {(hit.neuron, hit.sign): hit for hit in wanted}.values())
    assert {(one.layer, one.sign): one.neurons for one in catalogue.layers_of(EVERY, USUAL)} == counted
    narrow = Filters(usual=True, layers=(1, 1), sign=Sign.SUPPRESSES)
    assert catalogue.search_token(EVERY, narrow, limit=10_000) == tuple(
        hit for hit in wanted if hit.neuron.layer == 1 and hit.sign is Sign.SUPPRESSES
    )


def test_ends_that_cover_a_concept_and_peaked_ones_too(read: tuple[Catalogue, set[tuple[Neuron, Sign]]]) -> None:
    catalogue, usual = read
    concept = catalogue.concept_of(dict.fromkeys(range(0, 40, 3), 1.0))
    every = catalogue.concept_neurons(concept, limit=10_000)
    wanted = tuple(one for one in every if (one.neuron, one.sign) in usual)
    assert 0 < len(wanted) < len(every)
    assert catalogue.concept_neurons(concept, USUAL, limit=10_000) == wanted
    assert catalogue.concept_neurons(concept, USUAL, limit=3, offset=2) == wanted[2:5]
    assert catalogue.count_concept(concept, USUAL) == len(wanted)
    peaked = catalogue.most_peaked(limit=10_000)
    assert catalogue.most_peaked(USUAL, limit=10_000) == tuple(one for one in peaked if (one.neuron, one.sign) in usual)


def test_without_texts_they_are_not_known(toy: ToyCatalogue, catalogue: Catalogue) -> None:
    with pytest.raises(AtlasError, match="No texts were gathered for toy"):
        catalogue.search_token([0], USUAL)
    assert "usually active" in USUAL.sentence("x")
    assert shell_options(Search(text="x", usual=True)) == ["--usual"]
