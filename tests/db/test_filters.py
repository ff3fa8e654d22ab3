import pytest

from db.errors import AtlasError
from db.neuron import NeuronKind, Sign
from db.questions import Filters, Order
from db.records import Token

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
