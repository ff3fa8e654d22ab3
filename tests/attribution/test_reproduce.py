"""The comparison with published figures: its plumbing, on a stand-in; the checkpoints themselves are rarely at hand."""

import pytest

from app.attribution import reproduce
from app.attribution.reproduce import PUBLISHED, Published, compare, main, published_for
from db.errors import AtlasError
from db.neuron import Neuron
from tests import models


def test_every_published_label_is_a_label_within_its_model():
    for one in PUBLISHED:
        for label in (*one.ffn, *one.attention, *one.query):
            assert Neuron.parse(label.partition("@")[0]).layer < one.shape[0]


def test_a_model_without_published_figures_is_refused(capsys):
    with pytest.raises(AtlasError, match="GPT2-large"):
        published_for("gpt2", (12, 768))
    assert main([str(models.folder("gpt2"))]) == 2
    assert "36 layers of 1280" in capsys.readouterr().err


def test_ours_stand_beside_the_published(monkeypatch, capsys):
    stand_in = Published(
        "stand-in", "gpt2", (models.LAYERS, models.D_MODEL), " river", 1.0, 2.0,
        {"L1.H2": 0.1}, {"L2.F3": 0.2}, {"L1.H2.N3@1": 0.3}, {"L0.F4": 0.4},
    )  # fmt: skip
    monkeypatch.setattr(reproduce, "PUBLISHED", (stand_in,))
    monkeypatch.setattr(reproduce, "PROMPT", models.PROMPT)
    rows = compare(str(models.folder("gpt2")))
    assert [published for _, published, _ in rows] == [1.0, 2.0, 0.1, 0.2, 0.3, 0.4]
    assert len({ours for _, _, ours in rows}) == len(rows)
    assert main([str(models.folder("gpt2"))]) == 0
    assert "value neuron L1.H2.N3@1" in capsys.readouterr().out
