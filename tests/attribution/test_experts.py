"""Mixtures of experts: files by expert or whole, the router's weights, interventions, the catalogue and its labels."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.attribution import frames
from app.attribution.ablation import Changes, Effects, changed, without
from app.attribution.analysis import explain
from app.attribution.compare import changes_frame, compare, neurons_frame
from app.attribution.measured import Means, Sweep
from app.attribution.prompt import Method, Settings
from app.attribution.query import activations
from app.attribution.results import QueryNeuron
from app.attribution.run import StoredRanges, run_prompt
from db.catalogue.export import frame_of, to_json
from db.catalogue.store import Catalogue
from db.errors import AtlasError, NotFoundError
from db.neuron import Intervention, Neuron, NeuronKind, Part, Sign
from db.questions import Filters
from db.records import Hit
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.estimate import estimate
from indexer.experts import as_in_transformers
from indexer.language_model import load_model
from indexer.verify import verify
from tests import families

MIXED = "qwen2_moe"
"""Layer 1 alone has experts: 5 of 20 neurons, 2 chosen, and a shared one of 28 with a gate; the others have 48."""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    path = build(families.language_model(MIXED).checkpoint, tmp_path_factory.mktemp("experts"), depth=6).path
    with Catalogue.open(path) as found:
        yield found


def copied(folder: Path, to: Path) -> dict[str, torch.Tensor]:
    """The folder without its weights, which are returned."""
    to.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (to / path.name).write_bytes(path.read_bytes())
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["qwen2_moe", "mixtral", "phimoe", "granitemoe"])
def test_experts_are_read_whole_or_one_by_one(name, tmp_path):
    """Files as transformers writes them, and as its models hold them."""
    model = families.language_model(name)
    tensors = copied(model.checkpoint.folder, tmp_path / "whole")
    assert any(".experts.0." in key for key in tensors) == (name != "granitemoe")
    save_file(
        {key: one.contiguous() for key, one in model.module.state_dict().items()}, tmp_path / "whole/model.safetensors"
    )
    for checkpoint in (model.checkpoint, Checkpoint("whole", tmp_path / "whole")):
        weights = checkpoint.weights()
        for layer in range(3):
            assert torch.equal(weights.ffn_values(layer), model.weights.ffn_values(layer))
            some = torch.tensor([47, 0, 3, 40])
            assert torch.equal(weights.ffn_values(layer, some), weights.ffn_values(layer)[some])
            for place in (0, 1):
                assert torch.equal(weights.ffn_keys(layer, place), model.weights.ffn_keys(layer, place))
                some_keys = weights.ffn_keys(layer, place, some)
                assert torch.equal(some_keys, weights.ffn_keys(layer, place)[some])
    assert load_model(Checkpoint("whole", tmp_path / "whole")).dimensions == model.dimensions


@pytest.mark.parametrize(
    ("expert", "said"), [("1.down_proj", "not all of"), ("4.gate_proj", "not all of"), ("4", "promises")]
)
def test_a_missing_expert_is_refused(expert, said, tmp_path):
    tensors = copied(families.language_model(MIXED).checkpoint.folder, tmp_path / "less")
    left = {key: one for key, one in tensors.items() if f"layers.1.mlp.experts.{expert}." not in key}
    assert len(left) < len(tensors)
    save_file(left, tmp_path / "less/model.safetensors")
    with pytest.raises(AtlasError, match=said):
        _ = Checkpoint("less", tmp_path / "less").stored


def test_the_router_s_weights_are_those_that_are_applied():
    run = families.run_of(MIXED)
    assert run.stream.routing is not None
    router = run.model.module.get_submodule("model.layers.1.mlp.gate")
    kept = []
    handle = router.register_forward_hook(lambda _module, _args, output: kept.append(output))
    run.model.forward(list(run.token_ids))
    handle.remove()
    _, weights, index = kept[0]
    dense = torch.zeros(len(run.token_ids), 5).scatter(1, index, weights)
    assert torch.equal(run.stream.routing[1], dense)
    assert not run.stream.routing[[0, 2]].any()
    assert float(dense.sum(dim=1).max()) < 0.99, "weights that are not normalised do not add up to 1"
    of_experts = run.stream.ffn_activation[1, :, 28:].view(-1, 5, 20)
    assert torch.equal((of_experts != 0).any(dim=2), dense > 0)
    at = run.stream.position
    for one in run.raising(NeuronKind.FFN, 20, Part.parse("L1"))[0]:
        expert = one.neuron.expert
        assert one.router == (None if expert is None else pytest.approx(float(dense[at, expert])))
    silent = Neuron.ffn(1, 3, int((dense[at] == 0).nonzero()[0]))
    (found,) = run.value_neurons(silent)
    assert (found.score, found.activation, found.router) == (0.0, 0.0, 0.0)
    assert activations(run, silent).router == pytest.approx(dense[:, silent.expert].tolist())
    assert activations(run, Neuron.ffn(0, 3)).router is None


def test_lists_end_where_nothing_is_active():
    """What no chosen expert has is 0, and stands before all that is below 0: as the exhaustive list, without zeros."""
    run = families.run_of(MIXED)
    entries, layer = run.ffn, Part.parse("L1")
    every = torch.arange(entries.per_layer, 2 * entries.per_layer)[:128]
    contributions = entries.contributions(every)
    scores = run.scores(contributions, [NeuronKind.FFN], [entries.layer(every)])
    scores = torch.where(contributions.any(dim=1), scores, 0.0)
    found, certificate = run.raising(NeuronKind.FFN, 100, layer)
    expected = scores.topk(100).values
    assert [one.score for one in found] == pytest.approx(expected[expected != 0].tolist(), abs=1e-5)
    assert certificate.total == 128 > certificate.scored
    lowest, _ = run.lowering(NeuronKind.FFN, 100, None, layer)
    expected = -(-scores).topk(100).values
    assert [one.score for one in lowest] == pytest.approx(expected[expected != 0].tolist(), abs=1e-5)
    whole, certificate = run.raising(NeuronKind.FFN, 500)
    assert certificate.total == 48 + 128 + 48
    assert {one.neuron.layer for one in whole} == {0, 1, 2}
    chosen = next(one.neuron for one in whole if one.neuron.expert is not None)
    of_expert, _ = run.raising(NeuronKind.FFN, 5, Part(1, NeuronKind.FFN, expert=chosen.expert))
    own = [one for one in run.raising(NeuronKind.FFN, 500, layer)[0] if one.neuron.expert == chosen.expert]
    assert [one.neuron for one in of_expert] == [one.neuron for one in own][:5]


def plain(run, neuron: Neuron, amount: float | None, factor: float = 1.0) -> float:
    """log p of the target, in transformers' own code, with an activation set or multiplied at every position."""
    model, row = run.model, run.model.architecture
    block = model.module.get_submodule("model.layers.1")
    value = model.weights.ffn_values(1)[neuron.row(model.dimensions)]
    seen = []
    handle = block.mlp.register_forward_pre_hook(lambda _module, args: seen.append(args[0][0]))

    def hook(module, _args, output):
        hidden = seen[-1]
        if neuron.expert is None:
            shared = module.shared_expert
            inner = shared.act_fn(shared.gate_proj(hidden)) * shared.up_proj(hidden)
            active = inner[:, neuron.index] * torch.sigmoid(module.shared_expert_gate(hidden))[:, 0]
        else:
            _, weights, chosen = module.gate(hidden)
            gate, up = (hidden @ module.experts.gate_up_proj[neuron.expert].T).chunk(2, dim=-1)
            active = (module.experts.act_fn(gate) * up)[:, neuron.index] * (weights * (chosen == neuron.expert)).sum(-1)
        wanted = factor * active if amount is None else torch.full_like(active, amount)
        return output + (wanted - active)[:, None] * value

    other = block.mlp.register_forward_hook(hook)
    with as_in_transformers(model.module):
        found = families._log_p(model, list(run.token_ids), run.target_id)
    handle.remove()
    other.remove()
    assert row.mixture is not None
    return found


@pytest.mark.parametrize("label", ["L1.F5", "L1.E0.F3", "L1.E1.F3", "L1.E2.F3", "L1.E3.F3", "L1.E4.F3"])
def test_scaled_and_clamped_as_in_a_plain_run(label):
    """Also where the expert is not chosen: its neurons' activations are 0 there, or the value."""
    run = families.run_of(MIXED)
    model, neuron = run.model, Neuron.parse(label)
    for text, expected in ((f"{label}=3", plain(run, neuron, None, 3.0)), (f"{label}:=0.7", plain(run, neuron, 0.7))):
        with changed(model, Changes.of(model.dimensions, [Intervention.parse(text)])):
            found = families._log_p(model, list(run.token_ids), run.target_id)
        assert found == pytest.approx(expected, abs=1e-4), text
    assert abs(plain(run, neuron, 0.7) - float(run.log_probabilities[run.target_id])) > 1e-4


def test_an_expert_as_a_whole_is_zeroed_or_taken_out_here():
    run = families.run_of(MIXED)
    model, at = run.model, run.stream.position
    assert run.stream.routing is not None
    expert = int(run.stream.routing[1, at].argmax())
    part, router = Part.parse(f"L1.E{expert}"), model.module.get_submodule("model.layers.1.mlp.gate")
    everywhere = torch.ones(len(run.token_ids), 1, dtype=torch.bool)
    expected = []
    for here in (everywhere, torch.arange(len(run.token_ids))[:, None] == at):

        def hook(_module, _args, output, here=here):
            logits, weights, chosen = output
            return logits, torch.where((chosen == expert) & here, 0.0, weights), chosen

        handle = router.register_forward_hook(hook)
        with as_in_transformers(model.module):
            expected.append(families._log_p(model, list(run.token_ids), run.target_id))
        handle.remove()
    found = without(run, [part])
    assert float(found.log_probabilities[run.target_id]) == pytest.approx(expected[0], abs=1e-4)
    assert not found.stream.ffn_activation[1, :, 28 + 20 * expert : 48 + 20 * expert].any()
    assert not found.model.weights.ffn_values(1)[28 + 20 * expert : 48 + 20 * expert].any()
    assert found.model.weights.ffn_values(1).any(dim=1).sum() == 128 - 20
    lost = float(run.log_probabilities[run.target_id]) - expected[1]
    effects = Effects.of(run)
    assert effects.together([[part]]) == pytest.approx([lost], abs=1e-4)
    assert effects.parts([part]) == pytest.approx([lost], abs=1e-4)


def test_every_ffn_neuron_s_effect():
    """Those of experts that are not chosen are 0 without being run."""
    run = families.run_of(MIXED)
    sweep = Sweep.of(run)
    active = run.stream.ffn_activation[:, run.stream.position] != 0
    assert sweep.done == active.numel() - int(active.sum())
    found = sweep.finish().reshape(active.shape)
    assert not found[~active.numpy()].any()
    assert sweep.strongest(5)["ffn_helping"].total == 48 + 128 + 48
    means = Means.over([run, run_prompt(run.model, "the road to the sea", Settings())])
    best = run.raising(NeuronKind.FFN, 1, Part(1))[0][0].neuron
    row = best.row(run.model.dimensions)
    effect = Effects.of(run, means=means).neurons([run.value_neuron(best)])[0]
    (same,) = Effects.of(run, means=means).together([[Part.of(best)]])
    at = run.stream.position
    more = run.stream.ffn_activation[1, at, row] - means.ffn[1, row]
    assert float(more)
    assert effect == pytest.approx(same, abs=1e-4)


def test_the_catalogue_of_a_mixture(catalogue):
    """Every neuron under its label, and the same logits as from the files alone."""
    checkpoint = families.language_model(MIXED).checkpoint
    tensors = {key: one.double() for key, one in load_file(checkpoint.folder / "model.safetensors").items()}
    folded = tensors["lm_head.weight"] * tensors["model.norm.weight"]
    names = {
        "L0.F47": ("model.layers.0.mlp.down_proj.weight", 47),
        "L1.F27": ("model.layers.1.mlp.shared_expert.down_proj.weight", 27),
        "L1.E0.F0": ("model.layers.1.mlp.experts.0.down_proj.weight", 0),
        "L1.E4.F19": ("model.layers.1.mlp.experts.4.down_proj.weight", 19),
    }
    for label, (name, index) in names.items():
        card = catalogue.neuron(Neuron.parse(label))
        logits = (folded @ tensors[name][:, index])[:300]
        assert [one.token.token_id for one in card.top] == logits.topk(6).indices.tolist()
        assert card.top[0].logit == pytest.approx(float(logits.max()), abs=1e-5)
    for label in ("L1.F28", "L0.E0.F0", "L1.E5.F0", "L1.E0.F20", "L0.F48"):
        with pytest.raises(NotFoundError, match=f"There is no neuron {label}"):
            catalogue.neuron(Neuron.parse(label))
    info, size = catalogue.info, families.language_model(MIXED).dimensions
    assert (info.ffn_neurons, info.experts, info.ffn_width) == (48 + 128 + 48, size.experts, 128)
    every = [catalogue.layout.neuron(one) for one in range(info.neurons)]
    assert [catalogue.layout.neuron_id(one) for one in every] == list(range(info.neurons))
    assert len({one.label for one in every}) == info.neurons
    assert verify(catalogue.path, checkpoint, sample=60, seed=1).sampled == 60
    assert estimate(checkpoint, depth=6).neurons == info.neurons


def test_search_filtered_by_expert(catalogue):
    ids = list(range(30))
    every = catalogue.search_token(ids, Filters(), limit=10_000)
    for expert in (0, 4):
        found = catalogue.search_token(ids, Filters(expert=expert), limit=10_000)
        assert found == tuple(one for one in every if one.neuron.expert == expert)
        assert found
    peaked = catalogue.most_peaked(Filters(expert=2, sign=Sign.PROMOTES), limit=100)
    assert {one.neuron for one in peaked} == {Neuron.ffn(1, index, 2) for index in range(20)}
    assert (
        Filters(expert=3, layers=(1, 1)).sentence("x")
        == "FFN neurons of expert 3 of layer 1 that promote or suppress x"
    )
    assert catalogue.count_hits(ids, Filters(expert=3, layers=(0, 0))) == 0
    with pytest.raises(AtlasError, match="experts 0–4"):
        catalogue.search_token(ids, Filters(expert=5))
    with pytest.raises(AtlasError, match="belong to no expert"):
        Filters(expert=1, kind=NeuronKind.ATTENTION)


def test_tables_say_whose_expert_a_neuron_is(catalogue):
    """Only where one is an expert's, whatever the table."""
    run = families.run_of(MIXED)
    found = run.raising(NeuronKind.FFN, 40)[0]
    analysis = explain(replace(run, settings=replace(run.settings, top=40)))
    query = tuple(QueryNeuron(one.neuron, one.score) for one in found)
    comparison = compare(run, without(run, [Part.parse("L2.ffn")]), 40)
    hits = catalogue.search_token(list(range(30)), Filters(), limit=100)
    tables = {
        "value": (frames.value_neurons_frame(analysis, NeuronKind.FFN), analysis.ffn_value_neurons),
        "query": (frames.query_neurons_frame(query), found),
        "compared": (changes_frame(comparison, NeuronKind.FFN), comparison.neurons[NeuronKind.FFN]),
        "hits": (frame_of(Hit, hits), hits),
    }
    for name, (table, rows) in tables.items():
        expected = [one.neuron.expert for one in rows]
        assert len(set(expected)) > 1, name  # some are an expert's, some are not
        assert [row["expert"] for row in json.loads(to_json(table))] == expected, name
    both = neurons_frame(comparison)
    assert [Neuron.parse(label).expert for label in both["neuron"]] == [
        None if one is pd.NA else one for one in both["expert"]
    ]
    dense = tuple(one for one in hits if one.neuron.expert is None)
    assert "expert" not in frame_of(Hit, dense)
    assert "expert" not in frames.value_neurons_frame(analysis, NeuronKind.ATTENTION)


def test_bounds_from_the_catalogue_find_the_same_as_from_norms(catalogue):
    run = families.run_of(MIXED)
    for settings in (run.settings, replace(run.settings, method=Method.REMOVED)):
        own = replace(run, settings=settings)
        for part in (None, Part.parse("L1"), Part.parse("L2")):
            stored, certificate = own.lowering(NeuronKind.FFN, 9, StoredRanges(catalogue), part)
            assert certificate.bound in ("catalogue", "concavity")
            loose, _ = own.lowering(NeuronKind.FFN, 9, None, part)
            assert [one.neuron for one in stored] == [one.neuron for one in loose]
            best, _ = own.raising(NeuronKind.FFN, 9, part, StoredRanges(catalogue))
            assert [one.neuron for one in best] == [one.neuron for one in own.raising(NeuronKind.FFN, 9, part)[0]]
