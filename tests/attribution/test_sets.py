"""One set of prompts against another: by brute force, in plain loops, and on a model."""

import json
import shutil
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from app.attribution import Settings, analyse, load, measured, run_prompt
from app.attribution.__main__ import main
from app.attribution.batch import analyse_sets, read_rows
from app.attribution.frames import said_frame, said_of
from app.attribution.prompt import PromptLine
from app.attribution.results import LISTS, ValueNeuron, to_json
from app.attribution.run import StoredRanges
from app.attribution.sets import (
    Figures,
    false_discoveries,
    generic_neurons,
    least_p,
    listed_figures,
    permutation_p,
    specificity,
)
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from tests import families, models
from tests.attribution.test_effects import fill, mean_inputs, plain_effect, plain_effects, silence

FIRST = ["The river runs to the sea", "The river runs to the hill", "The rain runs to the river"]
SECOND = ["The road is long", "The hill is far from", "A blue river and a long road", "The road ends"]


def values_of(prompts, neurons, seed=1):
    return np.random.default_rng(seed).normal(size=(prompts, neurons))


def brute_force_p(values, size):
    """Every split, one by one."""
    rows = range(len(values))

    def difference(chosen):
        inside = [values[one] for one in chosen]
        outside = [values[one] for one in rows if one not in chosen]
        return abs(sum(inside) / len(inside) - sum(outside) / len(outside))

    observed = difference(tuple(range(size)))
    splits = list(combinations(rows, size))
    return sum(difference(one) >= observed - 1e-9 for one in splits) / len(splits)


@pytest.mark.parametrize(("size", "total"), [(3, 7), (1, 5), (4, 8)])
def test_p_is_the_share_of_all_splits(size, total):
    values = values_of(total, 12)
    values[:size, 0] += 9
    values[:, 1] = 2.0  # alike everywhere
    found = permutation_p(values, np.arange(total) < size)
    assert found == pytest.approx([brute_force_p(values[:, one], size) for one in range(12)])
    assert found[0] == pytest.approx(least_p(size, total - size))
    assert found[1] == 1


def test_p_does_not_depend_on_the_order_of_the_prompts():
    values, first = values_of(9, 4), np.array([1, 0, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    order = np.argsort(~first, kind="stable")
    assert permutation_p(values, first).tolist() == permutation_p(values[order], first[order]).tolist()


def test_many_splits_are_drawn_and_repeatable():
    values, first = values_of(24, 40), np.arange(24) < 12
    values[:12, 0] += 5
    found = permutation_p(values, first)
    assert found.tolist() == permutation_p(values, first).tolist()
    assert found[0] == least_p(12, 12) == 1 / 10_001


def test_what_is_drawn_comes_near_to_all_splits(monkeypatch):
    values, first = values_of(12, 40), np.arange(12) < 6
    exact = permutation_p(values, first)
    monkeypatch.setattr("app.attribution.sets.DEALS", 900)  # fewer than the 924 ways
    drawn = permutation_p(values, first)
    assert (drawn != exact).any()
    assert np.abs(drawn - exact).max() < 4 * 0.5 / 30  # four standard errors of a share


def test_false_discoveries_by_the_definition():
    p = np.random.default_rng(3).random(30) ** 3
    ranked = sorted(p)

    def q(one):
        return min(1.0, *(30 * other / (1 + place) for place, other in enumerate(ranked) if other >= one))

    assert false_discoveries(p) == pytest.approx([q(one) for one in p])
    assert false_discoveries(np.empty(0)).size == 0


def test_chance_alone_finds_little():
    """No neuron differs: the p-values are spread evenly, and no q is small."""
    values = values_of(16, 400, seed=8)
    p = permutation_p(values, np.arange(16) < 8)
    assert 0.02 < (p <= 0.05).mean() < 0.09
    assert false_discoveries(p).min() > 0.05


def test_means_differences_and_order():
    neurons = tuple(Neuron.ffn(0, index) for index in range(4))
    scores, effects = values_of(7, 4), values_of(7, 4, seed=2)
    first = np.arange(7) < 3
    table = specificity(Figures(neurons, scores, None, True), first)
    assert "effect_a" not in table
    for row in table.itertuples():
        own = scores[:, Neuron.parse(str(row.neuron)).index]
        assert (row.mean_a, row.mean_b) == pytest.approx((own[:3].mean(), own[3:].mean()))
        assert row.difference == pytest.approx(own[:3].mean() - own[3:].mean())
    assert table["difference"].is_monotonic_decreasing
    measured = specificity(Figures(neurons, scores, effects, True), first)
    assert measured["effect_difference"].is_monotonic_decreasing
    assert measured["effect_difference"].tolist() == pytest.approx(
        sorted(effects[:3].mean(0) - effects[3:].mean(0), reverse=True)
    )
    place = {label: at for at, label in enumerate(measured["neuron"])}
    expected = permutation_p(effects, first)
    assert [measured["effect_p"][place[one.label]] for one in neurons] == expected.tolist()
    effects[:3, 1] = np.nan  # measured in one set only: no difference, and no p for any
    partly = specificity(Figures(neurons, scores, effects, False), first).set_index("neuron")
    assert "effect_p" not in partly
    assert pd.isna(partly["effect_difference"]["L0.F1"])
    assert partly["effect_b"]["L0.F1"] == pytest.approx(effects[3:, 1].mean())
    with pytest.raises(AtlasError, match="at least one prompt"):
        specificity(Figures(neurons, scores, None, True), np.ones(7, dtype=bool))


def test_what_lists_lack_counts_as_nothing_and_positions_add_up():
    rows = [
        {
            "ffn_value_neurons": [{"neuron": "L0.F1", "score": 0.5, "effect": 0.25}],
            "attention_value_neurons": [{"neuron": "L0.H0.N1", "score": 0.25}, {"neuron": "L0.H0.N1", "score": 0.5}],
            "query_ffn_neurons": [{"neuron": "L0.F9", "score": 5.0}],
        },
        {"ffn_suppressing_neurons": [{"neuron": "L0.F1", "score": -0.25}, {"neuron": "L0.F2", "score": -0.125}]},
    ]
    found = listed_figures(rows)
    table = dict(zip([one.label for one in found.neurons], found.scores.T.tolist(), strict=True))
    assert table == {"L0.F1": [0.5, -0.25], "L0.F2": [0.0, -0.125], "L0.H0.N1": [0.75, 0.0]}
    assert found.effects is not None
    assert found.effects[0, found.neurons.index(Neuron.ffn(0, 1))] == 0.25
    assert np.isnan(found.effects).sum() == 5
    assert [one.label for one in listed_figures(rows, 1).neurons] == ["L0.F1", "L0.H0.N1"]  # most varied of each kind
    assert listed_figures(rows[::-1]).neurons == found.neurons  # whichever set a prompt is in
    assert listed_figures([{}]).neurons == ()


def test_every_neuron_is_scored_and_measured_on_every_prompt(tmp_path):
    model = models.language_model("llama")
    first, second = ([PromptLine(one) for one in some] for some in (FIRST, SECOND))
    asked = Settings(top=6, measure=1, suppressing=True)
    rows, count, figures = analyse_sets(model, first, second, asked, tmp_path / "x.jsonl")
    assert (len(rows), count) == (7, 3)
    assert figures.everywhere
    assert figures.effects is not None
    assert figures.of_means is not None
    inputs = mean_inputs(run_prompt(model, FIRST[0], Settings()), FIRST + SECOND)
    listed = {one["neuron"] for row in rows for one in row["ffn_value_neurons"] + row["ffn_suppressing_neurons"]}
    assert {one.label for one in figures.neurons if one.kind is NeuronKind.FFN} == listed
    for place, prompt in enumerate(FIRST + SECOND):
        run = run_prompt(model, prompt, Settings())
        for at, one in enumerate(figures.neurons[::7]):
            entries = run.entries(one.kind)
            numbers = torch.tensor(entries.numbers(one))
            whole = entries.contributions(numbers).sum(dim=0)
            base = run.bases(one.kind)
            score = base.importance(whole[None], torch.tensor([one.layer]))
            assert figures.scores[place, 7 * at] == pytest.approx(float(score), abs=1e-5)
            if place > 1:
                continue
            row = one.row(model.dimensions)
            expected = plain_effect(run, one.kind, one.layer, silence(row))
            assert figures.effects[place, 7 * at] == pytest.approx(expected, abs=1e-4)
            change = fill(row, inputs[one.kind, one.layer][row])
            assert figures.of_means[place, 7 * at] == pytest.approx(
                plain_effect(run, one.kind, one.layer, change), abs=1e-4
            )
    # The ten of the table's top, all at once, beside others of their layers.
    table = specificity(figures, np.arange(7) < count)
    for kind in NeuronKind:
        ten = [Neuron.parse(label) for label in table["neuron"][table["kind"] == kind.value][:10]]
        changes = [(kind, one.layer, silence(one.row(model.dimensions))) for one in ten]
        for prompt, analysed in zip(FIRST + SECOND, rows, strict=True):
            held = analysed["together"][kind.value]
            assert held["parts"] == [one.label for one in ten]
            assert held["effect"] == pytest.approx(
                plain_effects(run_prompt(model, prompt, Settings()), changes), abs=1e-4
            )
            assert len(set(held["controls"])) == 5


@pytest.mark.parametrize("kind", NeuronKind)
def test_a_random_neuron_is_as_active_from_all_sources_together(kind):
    run = run_prompt(models.language_model("llama"), FIRST[0], Settings(top=4))
    chosen = [ValueNeuron(one.neuron, None, 0.0, active(run, one.neuron)) for one in run.raising(kind, 4)[0]]
    drawn = measured._like(run, chosen, 0)
    assert {part.position for part in drawn} == {None}
    assert not {part.neuron for part in drawn} & {one.neuron for one in chosen}
    for part, one in zip(drawn, chosen, strict=True):
        assert part.neuron is not None
        assert part.layer == one.neuron.layer
        size = run.model.dimensions
        rows = range(size.ffn_neurons(part.layer) if kind is NeuronKind.FFN else size.attention_width)
        apart = [
            abs(abs(active(run, Neuron.in_row(part.layer, kind, row, size))) - abs(one.activation)) for row in rows
        ]
        assert sum(each < apart[part.neuron.row(size)] for each in apart) < measured.NEAREST + 2 * len(chosen)


def active(run, neuron):
    """What the output matrix is given of a neuron at the last position."""
    if neuron.kind is NeuronKind.FFN:
        return float(run.stream.ffn_activation[neuron.layer, -1, neuron.index])
    return float(run.stream.attention_activation(neuron.layer)[neuron.head, :, neuron.index].sum())


def test_a_family_without_means_says_so(tmp_path, capsys):
    for name, some in (("a.txt", FIRST[:1]), ("b.txt", SECOND[:1])):
        (tmp_path / name).write_text("\n".join(some))
    asked = ["--prompts", str(tmp_path / "a.txt"), "--against-prompts", str(tmp_path / "b.txt"), "--top", "2"]
    asked += [
        "--model",
        str(families.language_model("gemma2").checkpoint.folder),
        "--out",
        str(tmp_path / "out.csv"),
        "--measure",
        "1",
    ]
    assert main(asked) == 0
    shown = capsys.readouterr()
    assert "No neuron was replaced by its mean. In models of the family “gemma2” a norm" in shown.err
    assert "most particular to A an answer of A loses" in shown.out
    assert "effect_of_mean" not in (tmp_path / "out.csv").read_text()


def test_from_the_shell(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(FIRST))
    (tmp_path / "b.txt").write_text("\n".join(SECOND))
    folder, out = str(models.folder("llama")), tmp_path / "out.json"
    asked = ["--prompts", str(tmp_path / "a.txt"), "--against-prompts", str(tmp_path / "b.txt"), "--model", folder]
    asked += ["--top", "6", "--out", str(out)]
    assert main([*asked, "--measure", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(out.read_text())
    assert (shown["first"], shown["second"], shown["least_p"]) == (3, 4, pytest.approx(1 / 35))
    model = models.language_model("llama")
    first, second = ([PromptLine(one) for one in some] for some in (FIRST, SECOND))
    settings = Settings(top=6, measure=1, suppressing=True)
    made, count, figures = analyse_sets(model, first, second, settings, tmp_path / "x.jsonl")
    expected = specificity(figures, np.arange(7) < count)
    assert [one["neuron"] for one in shown["neurons"]] == expected["neuron"].tolist()
    assert [one["effect_q"] for one in shown["neurons"]] == pytest.approx(expected["effect_q"].tolist())
    of_means = expected["effect_of_mean_difference"].tolist()
    assert [one["effect_of_mean_difference"] for one in shown["neurons"]] == pytest.approx(of_means)
    held = [[row["together"]["ffn"] for row in some] for some in (made[:count], made[count:])]
    for name, some in zip(("first", "second"), held, strict=True):
        pairs = [[one["effect"], np.mean(one["controls"])] for one in some]
        assert np.array(shown["together"][name]["ffn"]) == pytest.approx(np.array(pairs))
    rows = list(read_rows(tmp_path / "out.json.analyses.jsonl"))
    said = said_frame(map(said_of, rows))
    assert [one["says"] for one in shown["prompts"]] == said["says"].tolist()
    assert [one["set"] for one in shown["prompts"]] == ["first"] * 3 + ["second"] * 4
    asked[-1] = str(tmp_path / "out.csv")
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert "p can be no less than 0.029" in text
    assert FIRST[0] in text
    assert f"{shown['prompts'][0]['says']}" in text
    assert len(pd.read_csv(asked[-1])) == len(expected)
    assert main(["a", *asked[2:]]) == 2
    assert "--prompts" in capsys.readouterr().err


def test_generic_neurons_are_in_more_than_half_of_the_lists():
    def row(raised, lowered=(), query=()):
        lists = {"ffn_value_neurons": raised, "attention_suppressing_neurons": lowered, "query_ffn_neurons": query}
        return {name: [{"neuron": one, "score": 1.0} for one in some] for name, some in lists.items()}

    rows = [
        row(["L0.F1", "L0.F2"], ["L0.H0.N1", "L0.H0.N1"], ["L0.F9"]),
        {"prompt": "a", "error": "too long"},
        row(["L0.F1"], ["L0.H0.N1"], ["L0.F9"]),
        row(["L0.F1", "L0.F2"], [], ["L0.F9"]),
        row([], ["L0.H0.N1"]),
    ]
    assert generic_neurons(rows) == (4, {"L0.F1": 3, "L0.H0.N1": 3})  # L0.F2 in half of them


def test_the_command_finds_them_once_and_keeps_them(tmp_path, small_folders, monkeypatch, capsys):
    models_folder, builds_folder = small_folders
    place = tmp_path / "catalogue"
    shutil.copytree(builds_folder, place)
    varied = tmp_path / "varied.txt"
    varied.write_text("\n".join(FIRST))
    monkeypatch.setattr("app.attribution.batch.VARIED", varied)
    asked = ["--generic", "--model", str(models_folder / "llama"), "--catalogue", str(place), "--top", "5"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with Catalogue.open(find_catalogue(place, "llama")) as atlas:
        model, ranges = load(str(models_folder / "llama")), StoredRanges(atlas)
        settings = Settings(top=5, suppressing=True)
        rows = [to_json(analyse(model, one, settings, ranges=ranges)) for one in FIRST]
        lists = [{one["neuron"] for name in LISTS for one in row[name]} for row in rows]
        expected = {one: sum(one in some for some in lists) for one in set().union(*lists)}
        assert found["prompts"] == 3
        assert found["neurons"] == {one: count for one, count in expected.items() if count > 1}
        assert found["neurons"]
        label, count = next(iter(found["neurons"].items()))
        neuron = Neuron.parse(label)
        assert (atlas.generic.of(neuron), atlas.generic.of(Neuron.ffn(0, 0))) == (count, expected.get("L0.F0"))
        assert atlas.generic.words(neuron) == f"generic: in the lists on {count} of 3 prompts"
        monkeypatch.setattr("app.attribution.batch.find_generic", lambda *_: pytest.fail("found again"))
        assert main(asked) == 0
        capsys.readouterr()
        assert main([FIRST[0], *asked[1:], "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)["generic"]
        own = {one: count for one, count in found["neurons"].items() if one in lists[0]}
        assert shown == {"prompts": 3, "neurons": own}
        kept = atlas.path.parent / "generic.json"
        data = json.loads(kept.read_text())
        for damaged in (json.dumps(data | {"checkpoint": "sha256 0"}), json.dumps(data | {"neurons": {"x": 1}}), "{"):
            kept.write_text(damaged)
            assert atlas.generic.of(neuron) is None  # another model's, or not to be read
            assert atlas.generic.words(neuron) == ""
