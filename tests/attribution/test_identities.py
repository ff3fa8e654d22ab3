"""What one forward pass yields, against the same pass computed again plainly: the identities of every family."""

import math

import pytest
import torch

from app.attribution.score import Bases, base_points, head_contributions, layer_scores
from indexer.architecture import Conventions
from indexer.forward import ResidualStream
from tests import models, oracle

CLOSE = (
    1e-4  # residual streams have entries of the order of 10 and pass through a few float32 sums of some dozens of terms
)


@pytest.fixture(params=models.FAMILIES)
def name(request) -> str:
    return str(request.param)


def ids_of(name: str, prompt: str = models.PROMPT) -> list[int]:
    return list(models.language_model(name).tokenizer(prompt)["input_ids"])


def near(got, expected, atol: float = CLOSE) -> None:
    torch.testing.assert_close(got.double(), expected.double(), atol=atol, rtol=0)


@pytest.mark.parametrize("from_end", [0, 1, 4])
def test_the_stream_is_the_plain_pass(name, from_end):
    model, ids = models.language_model(name), ids_of(name)
    at = len(ids) - 1 - from_end
    stream, expected = model.forward(ids[: at + 1]), oracle.run(models.folder(name), ids, at)
    assert stream.position == at
    near(stream.layer_input, torch.stack(expected.residual)[:, : at + 1])
    for number, layer in enumerate(expected.layers):
        near(stream.attention_output[number], layer.attention_output[: at + 1])
        near(stream.ffn_output[number], layer.ffn_output[: at + 1])
        near(stream.ffn_activation[number, at], layer.ffn_activation)
        near(stream.attention_activation(number).transpose(0, 1), layer.attention_activation.transpose(0, 1))
    near(stream.logits, expected.logits)


@pytest.mark.parametrize("from_end", [0, 1, 4])
def test_neurons_and_biases_add_up_to_what_each_sub_layer_wrote(name, from_end):
    model, ids = models.language_model(name), ids_of(name)
    at = len(ids) - 1 - from_end
    stream, expected = model.forward(ids[: at + 1]), oracle.run(models.folder(name), ids, at)
    for number, layer in enumerate(expected.layers):
        values, bias = model.weights.ffn_values(number), model.weights.ffn_bias(number)
        for position in range(at + 1):
            written = (stream.ffn_activation[number, position, :, None] * values).sum(dim=0)
            near(written + (0 if bias is None else bias), layer.ffn_output[position])

        activation = stream.attention_activation(number)  # [H, T, D]
        values = model.weights.attention_values(number).view(activation.shape[0], 1, activation.shape[2], -1)
        bias = model.weights.attention_bias(number)
        entries = activation[..., None] * values  # [H, T, D, d]
        near(entries.sum(dim=(0, 1, 2)) + (0 if bias is None else bias), layer.attention_output[at])
    near(stream.layer_input[:-1] + stream.attention_output + stream.ffn_output, stream.layer_input[1:])


def test_heads_and_bias_add_up_to_the_attention_output(name):
    model, ids = models.language_model(name), ids_of(name)
    stream, expected = model.forward(ids), oracle.run(models.folder(name), ids)
    heads = head_contributions(stream, model.weights)
    for number, layer in enumerate(expected.layers):
        near(heads[number].sum(dim=0) + layer.attention_bias, layer.attention_output[-1])
        # head by head, so that two exchanged heads are noticed
        mixed = layer.attention_activation.sum(dim=1)
        near(heads[number], (mixed[..., None] * layer.attention_values).sum(dim=1))


@pytest.mark.parametrize("conventions", Conventions)
def test_layer_scores_telescope_from_the_embedding_to_the_model_s_answer(name, conventions):
    model, ids = models.language_model(name), ids_of(name)
    stream, target = model.forward(ids), 270
    hidden = stream.layer_input[-1, -1]
    scale = float(model.unembedding.scale(hidden))
    attention, ffn = (
        Bases.at(points, target, scale, model.unembedding, conventions).log_target for points in base_points(stream)
    )
    final = model.unembedding.logits(hidden, scale, conventions).log_softmax(-1)[target]
    scores = layer_scores(attention, ffn, final)
    embedding = model.unembedding.logits(stream.layer_input[0, -1], scale, conventions).log_softmax(-1)[target]
    near(torch.as_tensor(scores.attention.sum() + scores.ffn.sum()), final - embedding, atol=1e-5)
    if conventions is Conventions.EXACT:
        near(final, stream.logits.log_softmax(-1)[target], atol=1e-5)


def test_layer_scores_by_hand():
    # log p(w) along two layers: 0 -> (attention) 1 -> (FFN) 4 -> (attention) 2 -> (FFN) 9
    scores = layer_scores(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 2.0]), torch.tensor(9.0))
    assert scores.attention.tolist() == [1 - 0, 2 - 4]
    assert scores.ffn.tolist() == [4 - 1, 9 - 2]


def test_query_heads_share_the_values_of_their_group():
    # 4 heads in 2 groups: heads 0 and 1 read key-value head 0, heads 2 and 3 read key-value head 1
    value = torch.tensor([[[[1.0], [10.0]], [[2.0], [20.0]]]])  # [L=1, T=2, KV=2, D=1]
    weight = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.25, 0.75]]])  # [L=1, H=4, T=2]
    nothing = torch.zeros(1, 2, 1)
    stream = ResidualStream(
        torch.tensor([5, 6]), torch.zeros(2, 2, 1), nothing, nothing, nothing, value, weight, torch.zeros(3)
    )
    #             α·v at source 0, α·v at source 1
    by_hand = [
        [1 * 1.0, 0 * 2.0],
        [0.5 * 1.0, 0.5 * 2.0],
        [0 * 10.0, 1 * 20.0],
        [0.25 * 10.0, 0.75 * 20.0],
    ]
    assert stream.attention_activation(0)[..., 0].tolist() == by_hand


def test_every_family_s_top_prediction_is_uncertain_enough_to_prove_something(name):
    model = models.language_model(name)
    stream = model.forward(ids_of(name))
    probabilities = stream.logits.softmax(-1)
    assert math.exp(-5) < float(probabilities.max()) < 0.99
