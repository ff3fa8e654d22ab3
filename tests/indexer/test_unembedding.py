"""The folded unembedding by hand on two dimensions, and at the final hidden state of every family."""

import pytest
import torch

from indexer.architecture import Conventions, NormKind
from indexer.families import ARCHITECTURES
from indexer.weights import Unembedding, Weights
from tests import models, oracle


def of(family: str, **tensors) -> Unembedding:
    """The unembedding of a model that has just these tensors."""
    row = ARCHITECTURES[family]
    names = {
        "gamma": f"{row.final_norm}.weight",
        "beta": f"{row.final_norm}.bias",
        "matrix": f"{row.head}.weight",
        "bias": f"{row.head}.bias",
    }
    held = {names[name]: torch.tensor(values) for name, values in tensors.items()}
    weights = Weights(row, models.language_model("llama").dimensions, held.get)
    return Unembedding.from_weights(weights, epsilon=0.0)


def test_layer_norm_by_hand():
    head = of("gpt2", gamma=[2.0, 3.0], beta=[0.5, -1.0], matrix=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # U·γ: (2,0), (0,3), (2,3); less each row's mean
    assert head.folded.tolist() == [[1.0, -1.0], [-1.5, 1.5], [-0.5, 0.5]]
    # x = (3, 1): mean 2, centred (1, -1), variance 1, s = 1; normed (1·2 + 0.5, -1·3 - 1) = (2.5, -4)
    x = torch.tensor([3.0, 1.0])
    assert head.scale(x).tolist() == [1.0]
    assert head.logits(x, head.scale(x)).tolist() == [2.5, -4.0, 2.5 - 4.0]
    # without β: (2, -3)
    assert head.logits(x, 1.0, Conventions.NOTEBOOK).tolist() == [2.0, -3.0, 2.0 - 3.0]
    # the same with the scale frozen at 2
    assert head.logits(x, 2.0, Conventions.NOTEBOOK).tolist() == [1.0, -1.5, -0.5]


def test_rms_norm_by_hand():
    head = of("llama", gamma=[2.0, 3.0], matrix=[[1.0, 0.0], [1.0, 1.0]])
    assert head.folded.tolist() == [[2.0, 0.0], [2.0, 3.0]]
    # x = (1, 7): mean square (1 + 49)/2 = 25, s = 5; not centred: (2·1, 2·1 + 3·7)/5
    x = torch.tensor([1.0, 7.0])
    assert head.scale(x).tolist() == [5.0]
    assert head.logits(x, head.scale(x)).tolist() == pytest.approx([2 / 5, 23 / 5])
    assert head.constant() is None


def test_epsilon_is_under_the_root():
    head = Unembedding(torch.eye(2), None, None, NormKind.RMS, 0.44)
    # mean square (1 + 1)/2 = 1, 1 + 0.44 = 1.2²
    assert head.scale(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([1.2])


def test_a_head_s_own_bias_belongs_to_both_conventions():
    head = of("gpt2", gamma=[1.0, 1.0], beta=[1.0, 2.0], matrix=[[1.0, 0.0], [0.0, 1.0]], bias=[10.0, 20.0])
    zero = torch.zeros(2)
    assert head.logits(zero).tolist() == [11.0, 22.0]  # U·β + bias
    assert head.logits(zero, 1.0, Conventions.NOTEBOOK).tolist() == [10.0, 20.0]


@pytest.mark.parametrize("name", models.FAMILIES)
def test_at_the_final_hidden_state_it_is_the_model_s_own_output(name):
    model = models.language_model(name)
    ids = model.tokenizer(models.PROMPT)["input_ids"]
    for length in (1, 3, len(ids)):
        run = oracle.run(models.folder(name), ids, length - 1)
        hidden = run.residual[-1][length - 1].float()
        logits = model.unembedding.logits(hidden, model.unembedding.scale(hidden))
        torch.testing.assert_close(logits.double(), run.logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_many_points_at_once_are_the_points_one_by_one(name):
    head = models.language_model(name).unembedding
    points = torch.randn(4, 3, models.D_MODEL, generator=torch.Generator().manual_seed(4))
    together = head.logits(points, head.scale(points))
    assert together.shape == (4, 3, models.VOCABULARY)
    alone = head.logits(points[2, 1], head.scale(points[2, 1]))
    torch.testing.assert_close(together[2, 1], alone, atol=1e-5, rtol=0)


def test_the_hash_notices_one_changed_weight():
    head = models.language_model("llama").unembedding
    folded = head.folded.clone()
    same = Unembedding(folded.clone(), None, None, head.norm, head.epsilon)
    assert same.hash == head.hash
    folded[322, 31] = torch.nextafter(folded[322, 31], torch.tensor(9.0))
    assert Unembedding(folded, None, None, head.norm, head.epsilon).hash != head.hash
    # a view that does not lie in one piece hashes as its values
    assert Unembedding(head.folded.T.contiguous().T, None, None, head.norm, head.epsilon).hash == head.hash
