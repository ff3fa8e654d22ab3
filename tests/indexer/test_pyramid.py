"""A pyramid finds what sorting finds, at both ends, or says that it did not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.projection import FAN, Pyramid, levels_for, padded


@given(
    vocabulary=st.integers(1, 400),
    count=st.integers(1, 60),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    steps=st.sampled_from([2, 10, 10**6]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_both_ends_are_those_of_sorting(vocabulary, count, dtype, steps, seed):
    count = min(count, vocabulary)
    levels = levels_for(vocabulary, count)
    draw = torch.Generator().manual_seed(seed)
    logits = torch.zeros(padded(vocabulary, levels), 3, dtype=dtype)
    logits[:vocabulary] = torch.randint(-steps, steps, (vocabulary, 3), generator=draw).to(dtype)
    before = logits.float()
    pyramid = Pyramid(logits, levels)
    for turned in (before, -before):
        places, least = pyramid.largest(count)
        for column in range(3):
            if least[column] > 0:
                own = places[column].long()
                assert len(set(own.tolist())) == count
                kept = turned[own, column].sort(descending=True).values
                assert kept.tolist() == turned[:, column].sort(descending=True).values[:count].tolist()
                assert least[column] == kept[-1]
            else:
                assert (turned[:, column] > 0).sum() < count
        pyramid.flip()


@pytest.mark.parametrize(("entries", "count"), [(1, 1), (323, 20), (49_152, 250), (50_257, 106), (256_000, 16_000)])
def test_there_is_room_at_the_top(entries, count):
    levels = levels_for(entries, count)
    rows = padded(entries, levels)
    assert 0 <= rows - entries < FAN**levels
    assert rows % FAN**levels == 0
    assert rows // FAN**levels >= count
