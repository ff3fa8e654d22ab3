"""Labels of neurons, heads and other parts are read as they are written, and what a model lacks is refused."""

from typing import Any

import pytest

from db.errors import AtlasError, NotFoundError
from db.neuron import Head, ModelSizes, Neuron, NeuronAt, NeuronKind, Part, check_exists, parse_wanted

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
        assert neuron.row(12) == row
        assert Neuron.in_row(1, neuron.kind, row, 12) == neuron
