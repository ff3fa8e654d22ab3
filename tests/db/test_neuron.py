"""Labels of neurons, heads and other parts are read as they are written, and what a model lacks is refused."""

from typing import Any

import pytest

from db.errors import AtlasError, NotFoundError
from db.neuron import Experts, Head, ModelSizes, Neuron, NeuronAt, NeuronKind, Part, check_exists, parse_wanted

FFN, ATTENTION = NeuronKind.FFN, NeuronKind.ATTENTION
PARTS = {
    "L23": Part(23),
    "L23.ffn": Part(23, FFN),
    "L23.attention": Part(23, ATTENTION),
    "L23.H4": Part(23, ATTENTION, 4),
    "L23.H4@3": Part(23, ATTENTION, 4, position=3),
    "L28.F29": Part(28, FFN, None, 29),
    "L21.H19.N7": Part(21, ATTENTION, 19, 7),
    "L21.H19.N7@4": Part(21, ATTENTION, 19, 7, 4),
}


@pytest.mark.parametrize("label", PARTS)
def test_a_part_is_read_as_it_is_written(label):
    part = Part.parse(f" {label.lower()} ")
    assert part == PARTS[label]
    assert part.label == label


def test_each_name_reads_its_own_labels_and_no_others():
    read: dict[Any, tuple[str, ...]] = {
        Neuron: ("L28.F29", "L21.H19.N7"),
        Head: ("L23.H4",),
        NeuronAt: ("L28.F29", "L21.H19.N7", "L21.H19.N7@4"),
    }
    zeroed = ("L23.ffn", "L23.attention", "L23.H4", "L28.F29", "L21.H19.N7")
    for label in PARTS:
        for name, labels in read.items():
            if label in labels:
                assert name.parse(label).label == label
            else:
                with pytest.raises(AtlasError):
                    name.parse(label)
        if label in zeroed:
            assert parse_wanted(label) == PARTS[label]
        else:
            with pytest.raises(AtlasError, match="names no part"):
                parse_wanted(label)


@pytest.mark.parametrize(
    "wrong", ["", "L", "23", "L1.F", "L1.ffn@2", "L1@2", "L1.F2@3", "L1.H2@", "L1.H-2", "L12345", "L١"]
)
def test_what_is_no_label_is_refused(wrong):
    for read in (Part.parse, Neuron.parse, Head.parse, NeuronAt.parse, parse_wanted):
        with pytest.raises(AtlasError):
            read(wrong)


SIZES = ModelSizes(layers=3, heads=4, head_dim=12, ffn_width=48)


@pytest.mark.parametrize("label", ["L2", "L2.ffn", "L2.attention", "L2.H3", "L2.H3@99", "L2.F47", "L2.H3.N11"])
def test_the_last_of_each_exists(label):
    check_exists(Part.parse(label), SIZES)


@pytest.mark.parametrize(
    ("label", "missing"),
    [
        ("L3", "layer 3"),
        ("L3.ffn", "layer 3"),
        ("L2.H4", "head L2.H4"),
        ("L2.F48", "neuron L2.F48"),
        ("L2.H3.N12", "neuron L2.H3.N12"),
    ],
)
def test_one_more_than_the_last_does_not_exist(label, missing):
    said = f"There is no {missing}: toy has layers 0–2, FFN neurons 0–47, heads 0–3 with dimensions 0–11."
    with pytest.raises(NotFoundError) as refused:
        check_exists(Part.parse(label), SIZES, "toy")
    assert str(refused.value) == said


def test_rows_of_value_vectors_count_head_by_head():
    for neuron, row in ((Neuron.ffn(1, 5), 5), (Neuron.attention(1, 2, 7), 2 * 12 + 7)):
        assert neuron.row(SIZES) == row
        assert Neuron.in_row(1, neuron.kind, row, SIZES) == neuron


MIXED = SIZES._replace(experts=Experts(count=5, width=10, shared=8, dense=48, layers=(1, 2)))


@pytest.mark.parametrize(
    ("label", "row"),
    [("L0.F47", 47), ("L1.F7", 7), ("L1.E0.F0", 8), ("L2.E4.F9", 57), ("l2.e3.f1", 39)],
)
def test_rows_of_experts_neurons_follow_those_of_the_shared_expert(label, row):
    neuron = Neuron.parse(label)
    check_exists(neuron, MIXED)
    assert neuron.label == label.upper()
    assert neuron.row(MIXED) == row
    assert Neuron.in_row(neuron.layer, neuron.kind, row, MIXED) == neuron


@pytest.mark.parametrize("label", ["L0.E0.F0", "L1.F8", "L1.E5.F0", "L1.E5", "L1.E4.F10", "L0.F48", "L3.E0.F0"])
def test_neurons_that_no_expert_has_are_refused_with_what_there_is(label):
    with pytest.raises(NotFoundError) as refused:
        check_exists(Part.parse(label), MIXED, "toy")
    assert str(refused.value) == (
        f"There is no {Part.parse(label).words}: toy has layers 0–2, in layers 1, 2 experts 0–4 with FFN neurons 0–9, "
        "FFN neurons 0–7 of the shared expert, in the other layers FFN neurons 0–47, heads 0–3 with dimensions 0–11."
    )
    with pytest.raises(NotFoundError):
        check_exists(Part.parse("L1.E0.F0"), SIZES)


def test_an_expert_is_a_part():
    part = Part.parse("L5.E12")
    assert (part.label, part.words, part.neuron, part.kinds) == ("L5.E12", "expert L5.E12", None, (NeuronKind.FFN,))
    assert Part.of(Neuron.ffn(5, 88, 12)).label == "L5.E12.F88"
    for text in ("L5.E12.", "L5.E12.N3", "L5.E", "L5.E12@3", "E12.F88"):
        with pytest.raises(AtlasError):
            Part.parse(text)
