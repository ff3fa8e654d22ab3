"""Groups of neurons: planted ones are found, what is alike by chance is not, and the same seed gives the same map."""

import shutil
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from db.catalogue.store import Catalogue
from db.errors import AtlasError, NotFoundError
from db.groups import FILE, GroupedBy, groups_with, members
from db.neuron import Sign
from db.questions import Groups, OneGroup
from db.records import Token
from db.texts.publish import publish_texts
from indexer import __main__ as command
from indexer import groups
from indexer.build import build
from indexer.checkpoint import Checkpoint
from tests import models
from tests.texts import make_texts


def planted(sizes: list[int], others: int, width: int = 256, seed: int = 1) -> tuple[torch.Tensor, np.ndarray]:
    """Rows of length 1 around so many directions, and others in any direction; the number of each row's direction."""
    generator = torch.Generator().manual_seed(seed)

    def units(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)

    middles = units(len(sizes))
    rows = [middle + 0.4 * units(size) for middle, size in zip(middles, sizes, strict=True)]
    number = np.repeat(range(len(sizes) + 1), [*sizes, others])
    order = torch.randperm(len(number), generator=generator)
    return torch.nn.functional.normalize(torch.cat([*rows, units(others)]), dim=1)[order], number[order.numpy()]


def mapped(rows: torch.Tensor, seed: int = 0):
    class NoWords:
        sharpness, shown = np.zeros(len(rows), np.float32), [""] * len(rows)

        def name(self, _rows):
            return None

    return groups._mapped(GroupedBy.VALUE, np.arange(len(rows), dtype=np.int32), rows, cast(Any, NoWords()), seed, None)


def test_planted_groups_are_found_and_nothing_else():
    rows, number = planted([40, 30, 20, 12], others=300)
    found = mapped(rows)
    assert [group.neurons for group in found.groups] == [40, 30, 20, 12]
    for place, group in enumerate(found.groups):
        assert set(np.flatnonzero(found.group == place + 1)) == set(np.flatnonzero(number == place))
        own = rows[torch.from_numpy(np.flatnonzero(number == place))].double().numpy()
        cosines = (own @ own.T)[~np.eye(len(own), dtype=bool)]
        assert group.alike == pytest.approx(cosines.mean(), abs=1e-5)
    assert (found.closeness[found.group == 0] == 0).all()
    assert 0 <= min(found.x.min(), found.y.min()) <= max(found.x.max(), found.y.max()) <= 1


def test_the_same_seed_gives_the_same_map():
    rows, _ = planted([30, 20], others=60)
    one, same = mapped(rows), mapped(rows)
    for name in ("x", "y", "group", "closeness"):
        assert np.array_equal(getattr(one, name), getattr(same, name))


def test_neurons_alike_by_chance_are_no_group():
    rows, _ = planted([], others=400)
    assert mapped(rows).groups == ()


def test_among_very_many_a_pool_is_chosen_by_parts(monkeypatch):
    rows, _ = planted([40, 30, 20], others=200, width=512)
    cosines = (rows @ rows.T).fill_diagonal_(-2)
    monkeypatch.setattr(groups, "directions", lambda _count, _width: 100)
    monkeypatch.setattr(groups, "_POOL", 60)
    found, nearest = groups.nearest_to_each(rows, 10)
    assert torch.allclose(nearest, cosines.gather(1, found.long()), atol=1e-5)
    grouped = cosines.topk(10).values[:, -1] > 0.5
    assert grouped.sum() == 90
    assert torch.allclose(nearest[grouped], cosines.topk(10).values[grouped], atol=1e-5)


def test_along_some_directions_those_that_were_alike_still_are(monkeypatch):
    weights = models.language_model("llama").weights
    whole = groups.value_directions(weights)
    values = torch.cat([weights.ffn_values(layer) for layer in range(models.LAYERS)])
    assert torch.allclose(whole, values / values.norm(dim=1, keepdim=True), atol=1e-6)
    monkeypatch.setattr(groups, "directions", lambda _count, width: width - 4)
    some = groups.value_directions(weights)
    assert some.shape == (len(whole), models.D_MODEL - 4)
    assert torch.allclose(some.norm(dim=1), torch.ones(len(some)), atol=1e-5)
    assert torch.corrcoef(torch.stack([(whole @ whole.T).flatten(), (some @ some.T).flatten()]))[0, 1] > 0.9


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """A model in whose layers twelve neurons write almost the same, with its catalogue; nothing is grouped yet."""
    folder = models.save("llama", tmp_path_factory.mktemp("models") / "twins")
    root = tmp_path_factory.mktemp("catalogue")
    tensors = load_file(folder / "model.safetensors")
    for layer in range(models.LAYERS):
        down = tensors[f"model.layers.{layer}.mlp.down_proj.weight"]
        down[:, :4] = tensors["model.layers.0.mlp.down_proj.weight"][:, :1] + 0.05 * down[:, 4:8]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    build(Checkpoint("twins", folder), root, depth=10)
    return folder, root


def test_from_the_shell_to_the_answers(catalogue, capsys):
    folder, root = catalogue
    with Catalogue.open(next((root / "twins").glob("build-*.duckdb"))) as atlas:
        with pytest.raises(NotFoundError, match="has no groups of neurons"):
            Groups().answer(atlas)
        assert command.main(["groups", str(folder), "--catalogue", str(root)]) == 0
        assert "groups by value hold" in capsys.readouterr().err
        twins = {f"L{layer}.F{index}" for layer in range(models.LAYERS) for index in range(4)}
        first = next(one for one in Groups().answer(atlas) if one.alike > 0.9)
        answer = OneGroup(group=first.group).answer(atlas)
        assert {one.neuron.label for one in answer.members} == twins
        assert [one.closeness for one in answer.members] == sorted((m.closeness for m in answer.members), reverse=True)
        assert answer.of == first
        assert first.name is not None
        ids, _ = members(atlas.maps, first)
        assert groups_with(atlas.maps, int(ids[0])) == (first,)
        found, card = atlas.maps[GroupedBy.VALUE], atlas.neuron(atlas.layout.neuron(int(ids[0])))
        place = int(np.flatnonzero(found.neuron_ids == ids[0])[0])
        assert found.sharpness[place] == pytest.approx(max(card.top[0].z, -card.bottom[0].z), rel=1e-5)
        assert found.words[place].startswith(f"▲ {card.top[0].token.display}")
        with pytest.raises(NotFoundError, match=r"There is no group “value-99”; there are value-1 to value-"):
            OneGroup(group="value-99").answer(atlas)
        with pytest.raises(NotFoundError, match="no groups by texts"):
            Groups(by=GroupedBy.TEXTS).answer(atlas)
        before = (root / "twins" / FILE).read_bytes()
        (root / "twins" / FILE).write_bytes(before[:100])
        assert not atlas.maps, "a damaged file is as none"


def test_groups_by_texts_belong_to_these_texts(catalogue, tmp_path):
    folder, root = catalogue
    rows, number = planted([20, 12], others=112, width=512, seed=2)
    copy = shutil.copytree(root / "twins", tmp_path / "twins")
    build_file = next(copy.glob("build-*.duckdb"))
    for texts_id in ("first", "second"):
        made = make_texts(build_file, k=1, texts_id=texts_id)
        gathered = replace(made.gathered, sketch=(7 * rows).numpy())
        publish_texts(copy, made.stamp, [gathered], made.windows)
        with Catalogue.open(build_file) as atlas:
            assert GroupedBy.TEXTS not in atlas.maps, "what was made of other texts does not count"
            groups.group_neurons(Checkpoint("twins", folder), tmp_path)
            found = atlas.maps[GroupedBy.TEXTS]
            assert [group.neurons for group in found.groups] == [20, 12]
            assert np.array_equal(found.group == 1, number == 0)
            assert np.array_equal(found.neuron_ids, made.neuron_ids)
            assert atlas.texts is not None
            of_all = atlas.texts.peaks(1)
            for row in range(0, len(rows), 9):
                own = of_all[int(made.neuron_ids[row])]
                places = [
                    (sign.value, made.gathered.window[row, end, 0], made.gathered.position[row, end, 0])
                    for end, sign in enumerate(Sign)
                ]
                assert [(sign.value, token.token_id) for sign, token in own] == [
                    (sign, made.windows[window].token_ids[position]) for sign, window, position in places
                ]


def test_without_a_catalogue_it_says_what_to_do(tmp_path):
    with pytest.raises(AtlasError, match="no catalogue of llama yet: `python -m indexer build"):
        groups.group_neurons(models.checkpoint("llama"), tmp_path)


def test_by_texts_a_name_is_of_the_tokens_at_the_peaks():
    words = groups._Words.__new__(groups._Words)
    token = {text: Token(number, text, text, False) for number, text in enumerate((" There", "there", " the", "x1"))}
    plus, minus = Sign

    class Peaks:
        def peaks(self, _count):
            there = {
                one: [(minus, token[" There"]), (minus, token["there"]), (plus, token[" the"])] for one in range(6)
            }
            return there | {one: [(plus, token[" the"]), (minus, token["x1"])] for one in range(6, 90)}

    named = words.at_peaks(cast(Any, Peaks()), np.arange(100, dtype=np.int32))
    assert named.name(np.arange(6)) == "at there"
    assert named.name(np.arange(95, 100)) is None


def test_a_name_is_of_words_that_many_have_and_few_others():
    words = groups._Words.__new__(groups._Words)
    plus, minus = Sign
    common = {(plus, "the")}
    words._of = [frozenset(common | {(plus, "paris"), (plus, f"own{n}")}) for n in range(5)]
    words._of += [frozenset(common | {(minus, f"other{n}")}) for n in range(95)]
    words._often = Counter(word for own in words._of for word in own)
    assert words.name(np.arange(5)) == "▲ paris"
    assert words.name(np.arange(5, 15)) is None
