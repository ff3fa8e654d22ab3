"""Models that cap their logits: scores are no longer concave, and bounded all the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.attribution.heads import flow, source_contributions
from app.attribution.prompt import Method, Settings
from app.attribution.run import StoredRanges, run_prompt
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from indexer.build import build
from tests import families, models


@pytest.fixture(scope="module", params=["gemma2", "vaultgemma"])
def name(request) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ranges(name, tmp_path_factory) -> Iterator[StoredRanges]:
    folder: Path = tmp_path_factory.mktemp("capped")
    with Catalogue.open(build(families.language_model(name).checkpoint, folder, depth=5).path) as catalogue:
        yield StoredRanges(catalogue)


@pytest.mark.parametrize("method", [Method.ADDED, Method.REMOVED])
@pytest.mark.parametrize("kind", NeuronKind)
def test_bounds_hold_for_every_entry_and_lists_are_those_of_scoring_all(name, kind, method, ranges):
    model, asked = families.language_model(name), Settings(top=7, method=method)
    # Of the least probable token: where its logit is low, the cap bends it upwards.
    least = int(run_prompt(model, families.PROMPT, asked).stream.logits[: models.TOKENS].argmin())
    run = run_prompt(model, families.PROMPT, replace(asked, target=least))
    hidden, at = run.stream.layer_input[-1, run.stream.position], run.stream.position
    entries = run.entries(kind)
    every = torch.arange(entries.per_layer * models.LAYERS)
    layers, contributions = entries.layer(every), entries.contributions(every)

    def log_p(points: torch.Tensor) -> torch.Tensor:
        logits = families.own_logits(run.model, families.frozen(run.model, hidden, points))
        return logits.log_softmax(-1)[:, run.target_id]

    if method is Method.ADDED:
        bases = run.stream.layer_input[:-1, at]
        bases = bases + run.stream.attention_output[:, at] if kind is NeuronKind.FFN else bases
        scores = log_p(bases[layers] + contributions) - log_p(bases)[layers]
    else:
        scores = log_p(hidden[None]) - log_p(hidden - contributions)
    lower, upper = (
        torch.cat([run._bounds(kind, end, ranges)[0](layer) for layer in range(models.LAYERS)]) for end in (False, True)
    )
    assert (lower <= scores + 5e-6).all()
    assert (scores <= upper + 5e-6).all()
    slope = torch.cat([entries.dot(layer, run.gradient(kind, layer)) for layer in range(models.LAYERS)])
    excess = slope - scores if method is Method.REMOVED else scores - slope
    assert excess.max() > 1e-5, "nothing here goes beyond what concavity would allow"
    for found, expected in (
        (run.raising(kind, 7, None, ranges), scores.topk(7).values),
        (run.lowering(kind, 7, ranges), -(-scores).topk(7).values),
    ):
        got = torch.tensor([one.score for one in found[0]]).double()
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
        assert found[1].scored < found[1].total


def test_the_strongest_moves_are_those_of_scoring_all(name):
    run = run_prompt(families.language_model(name), families.PROMPT, Settings(top=7))
    layers, heads, _ = run.stream.attention_weight.shape
    every = torch.cat(
        [
            run.scores(
                source_contributions(run, layer, head),
                [NeuronKind.ATTENTION],
                [torch.full((len(run.token_ids),), layer)],
            )
            for layer in range(layers)
            for head in range(heads)
        ]
    )
    best = every.abs().topk(5).values
    torch.testing.assert_close(torch.tensor([abs(one.score) for one in flow(run, 5).moves]), best, atol=1e-5, rtol=1e-4)


def test_layers_add_up_and_a_difference_of_logits_is_refused(name):
    model = families.language_model(name)
    run = run_prompt(model, families.PROMPT, Settings(target=270))
    scores = run.layer_scores()
    start = run.at_attention.log_target[0]
    end = run.log_probabilities[run.target_id]
    assert float(scores.attention.sum() + scores.ffn.sum()) == pytest.approx(float(end - start), abs=1e-4)
    with pytest.raises(AtlasError, match="caps its logits"):
        run_prompt(model, families.PROMPT, replace(run.settings, distractor=271))
