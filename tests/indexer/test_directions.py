import pytest
import torch

from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign
from indexer.directions import rank_by_direction, similar_by_value
from indexer.weights import Unembedding
from tests import models

FAMILIES = ("llama", "gpt2")


def everything(family: str) -> tuple[Unembedding, list[Neuron], torch.Tensor]:
    """The unembedding, and all neurons with their value vectors, layer by layer."""
    checkpoint = models.checkpoint(family)
    weights, size = checkpoint.weights(), checkpoint.dimensions
    neurons, values = [], []
    for layer in range(size.layers):
        neurons += [Neuron.ffn(layer, index) for index in range(size.ffn_width)]
        neurons += [Neuron.attention(layer, h, n) for h in range(size.heads) for n in range(size.head_dim)]
        values += [weights.ffn_values(layer), weights.attention_values(layer)]
    return Unembedding.from_weights(weights, checkpoint.epsilon()), neurons, torch.cat(values)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [None, *NeuronKind])
def test_similar_by_value(family, kind):
    _, neurons, values = everything(family)
    for asked in (Neuron.ffn(1, 3), Neuron.attention(2, 3, 5)):
        own = values[neurons.index(asked)]
        cosines = torch.nn.functional.cosine_similarity(values, own[None])
        ordered = sorted(zip(neurons, cosines.tolist(), strict=True), key=lambda pair: -abs(pair[1]))
        expected = [pair for pair in ordered if pair[0] != asked and kind in (None, pair[0].kind)][:15]
        found = similar_by_value(models.checkpoint(family).weights(), asked, 15, kind=kind)
        assert [entry.neuron for entry in found] == [neuron for neuron, _ in expected]
        assert [entry.cosine for entry in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sign", [None, *Sign])
def test_rank_by_direction_is_the_mean_z_of_the_logits(family, sign):
    unembedding, neurons, values = everything(family)
    logits = values @ unembedding.folded.T
    z = (logits - logits.mean(dim=1, keepdim=True)) / logits.std(dim=1, correction=0, keepdim=True)
    ids, shares = [3, 77, 200], [1.0, 0.5, -0.25]
    mean_z = (z[:, ids] @ torch.tensor(shares) / 1.75).tolist()
    rows = [(neuron, value) for neuron, value in zip(neurons, mean_z, strict=True) if neuron.layer >= 1]
    factor = {None: abs, Sign.PROMOTES: lambda value: value, Sign.SUPPRESSES: lambda value: -value}[sign]
    expected = sorted(rows, key=lambda row: -factor(row[1]))[:20]
    weights = models.checkpoint(family).weights()
    found = rank_by_direction(weights, unembedding, ids, shares, 20, layers=(1, 2), sign=sign)
    assert [(end.neuron, end.sign) for end in found] == [
        (neuron, Sign.PROMOTES if value > 0 else Sign.SUPPRESSES) for neuron, value in expected
    ]
    assert [end.mean_z for end in found] == pytest.approx([abs(value) for _, value in expected], abs=1e-4)


def test_refused():
    unembedding, _, _ = everything("llama")
    weights = models.checkpoint("llama").weights()
    for ids, shares in (([], []), ([1], [0.0]), ([1], [1.0, 2.0])):
        with pytest.raises(AtlasError, match="at least one token"):
            rank_by_direction(weights, unembedding, ids, shares, 5)
    with pytest.raises(AtlasError, match="outside the vocabulary of 0-322"):
        rank_by_direction(weights, unembedding, [323], [1.0], 5)
    for label in ("L3.F0", "L0.F48", "L0.H4.N0", "L0.H0.N12"):
        with pytest.raises(AtlasError, match=r"layers 0–2, FFN neurons 0–47, heads 0–3 with dimensions 0–11"):
            similar_by_value(weights, Neuron.parse(label), 5)
    assert similar_by_value(weights, Neuron.ffn(0, 0), 0) == []
