"""Many prompts: what is typed or opened, and what is shown of it."""

import io
import json
from dataclasses import replace
from random import Random
from urllib.parse import parse_qs, urlsplit

import pytest

from app.answers.batches import MAX_PROMPTS, aggregate_of, neurons, parse_lines, read_upload
from app.attribution import Settings, analyse, load
from app.attribution.frames import aggregate
from app.attribution.results import to_json
from app.attribution.run import stored_ranges
from app.gallery import READY
from app.state.selections import ListOrder, ManySelection
from app.words import percent
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from tests.pages import component, texts

TEXT = "The river runs to\nThe hill is\t the\n\nThe road"
ROW = {"prompt": "a", "model": "m", "ffn_value_neurons": [{"neuron": "L1.F2", "score": 0.5, "activation": -1.0}]}


def test_the_aggregate_is_the_librarys(small_page, small_folders):
    model = load(str(small_folders[0] / "llama"))
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        ranges = stored_ranges(atlas)
        settings = [Settings(suppressing=True, target=target) for target in (None, " the", None)]
        prompts = ["The river runs to", "The hill is", "The road"]
        rows = [to_json(analyse(model, *pair, ranges=ranges)) for pair in zip(prompts, settings, strict=True)]
    expected = aggregate(rows)
    app = small_page("many", ps=TEXT)
    shown = component(app, "aggregate")["rows"]
    values = expected[expected["role"] == "FFN value"].head(200)
    assert [row["cells"][0]["text"] for row in shown] == values["neuron"].tolist()
    assert [row["cells"][1]["text"] for row in shown] == values["prompts"].astype(str).tolist()
    app = small_page("many", ps=TEXT, role="FFN query", layers="0-1", least="2")
    labels = [row["cells"][0]["text"] for row in component(app, "aggregate")["rows"]]
    query = expected[(expected["role"] == "FFN query") & (expected["prompts"] >= 2)]
    assert labels == [label for label in query["neuron"] if label.startswith(("L0.", "L1."))][:200]


def test_a_prompt_that_cannot_be_explained_is_named(small_page):
    app = small_page("many", ps="The river\nThe hill\tno such token at all")
    assert [one.label for one in app.expander] == [
        "Or open a file of analyses",
        "1 could not be explained",
    ]


def test_filters_go_into_the_address_and_analyse_nothing_anew(small_page, monkeypatch):
    app = small_page("many", ps=TEXT)
    monkeypatch.setattr("app.attribution.analyse", lambda *_, **__: pytest.fail("analysed anew"))
    app.number_input(key="many_least").set_value(2).run()
    assert app.query_params["least"] == "2"
    app.slider(key="many_layers").set_value((1, 2)).run()
    assert app.query_params["layers"] == "1-2"
    assert not app.exception


def test_typed_prompts_go_into_the_address_unless_they_are_long(small_page):
    app = small_page("many")
    app.text_area(key="many_text").set_value("The river")
    app.button[0].click().run()
    assert app.query_params["ps"] == "The river"
    long = "\n".join(f"The river {number} " + "runs " * 25 for number in range(MAX_PROMPTS))
    app.text_area(key="many_text").set_value(long)
    app.button[0].click().run()
    packed = app.query_params["psz"]
    assert len(packed) < 400
    assert component(small_page("many", psz=packed), "aggregate")["rows"]
    random = Random(0)
    long = "\n".join("".join(random.choices("abcdefghijklmnopqrstuvwxyz ", k=400)) for _ in range(MAX_PROMPTS))
    app.text_area(key="many_text").set_value(long)
    app.button[0].click().run()
    assert not {"ps", "psz"} & set(app.query_params)
    assert any("too long for the address" in caption.value for caption in app.caption)


def test_only_so_many_are_explained():
    found, beyond = parse_lines("\n".join("line" for _ in range(MAX_PROMPTS + 3)))
    assert (len(found), beyond) == (MAX_PROMPTS, 3)


@pytest.mark.parametrize("name", READY)
def test_ready_sets_are_short_enough(name):
    assert 3 < len(READY[name]) <= MAX_PROMPTS


@pytest.mark.parametrize("params", [{"set": "none"}, {"role": "none", "ps": "The"}, {"least": "0"}, {"ps": "x" * 9000}])
def test_a_wrong_address_is_survived(small_page, params):
    app = small_page("many", **params)
    assert app.title
    assert "fault of ours" not in texts(app)


def test_a_file_of_the_shell_is_opened():
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [ROW, {"prompt": "b", "error": "unusable"}]
    lines = "\n".join(map(json.dumps, rows)).encode()
    assert read_upload("x.jsonl", lines) == rows
    packed = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"error": None, **ROW}]), packed)
    assert read_upload("x.PARQUET", packed.getvalue()) == [ROW]


BAD = [
    ("x.txt", b"hello"),
    ("x.jsonl", b""),
    ("x.jsonl", b"\xff\xfe"),
    ("x.jsonl", b"{not json"),
    ("x.jsonl", b"[1]"),
    ("x.jsonl", b"[" * 100_000),
    ("x.jsonl", b'{"prompt": "a"}'),
    ("x.jsonl", b'{"prompt": "a", "model": "m", "ffn_value_neurons": 5}'),
    ("x.jsonl", b'{"prompt": "a", "model": "m", "ffn_value_neurons": [{"neuron": "<b>", "score": 1}]}'),
    ("x.jsonl", b'{"prompt": "a", "model": "m", "ffn_value_neurons": [{"neuron": "L0.F1", "score": NaN}]}'),
    ("x.jsonl", b'{"prompt": "a", "model": "m", "ffn_value_neurons": [{"neuron": "L0.F1", "score": "x"}]}'),
    ("x.jsonl", b'{"prompt": "a", "model": "m", "ffn_value_neurons": ["x"]}'),
    ("x.parquet", b"PAR1 nonsense PAR1"),
]


@pytest.mark.parametrize(("name", "data"), BAD)
def test_any_other_file_is_refused_in_words(name, data):
    with pytest.raises(AtlasError) as refused:
        read_upload(name, data)
    assert "/tmp" not in str(refused.value)


def test_each_prompt_says_what_the_model_says(small_page, small_folders):
    model = load(str(small_folders[0] / "llama"))
    found = [analyse(model, "The river runs to"), analyse(model, "The hill is", Settings(target=" the"))]
    rows = component(small_page("many", ps="The river runs to\nThe hill is\t the"), "said")["rows"]
    assert [row["cells"][0]["text"] for row in rows] == ["The river runs to", "The hill is"]
    for row, one in zip(rows, found, strict=True):
        top, target = one.predictions[0], one.target
        chips = [row["cells"][place]["chips"][0] for place in (1, 2)]
        assert [chip["text"] for chip in chips] == [top.token.display, target.token.display]
        assert [chip["note"] for chip in chips] == [percent(top.probability), percent(target.probability)]
    asked = [parse_qs(urlsplit(row["href"]).query) for row in rows]
    assert asked == [{"p": ["The river runs to"]}, {"p": ["The hill is"], "target": [str(found[1].target.token.id)]}]


def test_what_a_file_does_not_say_is_not_shown():
    row = ROW | {"predictions": [{"id": 3, "text": " a", "probability": 0.25}], "target": {"id": 3}}
    with pytest.raises(AtlasError, match="target"):
        read_upload("x.jsonl", json.dumps(row).encode())
    (one,) = aggregate_of(read_upload("x.jsonl", json.dumps(ROW).encode())).said
    assert (one.prompt, one.top, one.target) == ("a", None, None)
    del row["target"]
    (one,) = aggregate_of(read_upload("x.jsonl", json.dumps(row).encode())).said
    assert (one.top, one.top_probability, one.target) == ("␣a", 0.25, None)


@pytest.mark.parametrize(
    ("order", "column", "ascending"),
    [("score", "mean_score", False), ("activation", "mean_activation", False), ("layer", "layer", True)],
)
def test_the_neurons_are_ordered_and_searched_as_asked(small_folders, order, column, ascending):
    rows = [
        ROW | {"ffn_value_neurons": [{"neuron": label, "score": score, "activation": activation}]}
        for label, score, activation in (("L1.F2", 0.5, -1.0), ("L0.F3", 0.7, 2.0), ("L2.F1", 0.1, 0.5))
    ]
    found = aggregate_of(rows)
    asked = ManySelection(role="FFN value", order=ListOrder(order))
    frame = found.frame.assign(layer=found.frame["neuron"].str[1].astype(int))
    expected = frame.sort_values(column, ascending=ascending)["neuron"].tolist()
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        assert [one.neuron.label for one in neurons(found.frame, asked, atlas)] == expected
        backwards = replace(asked, reverse=True)
        assert [one.neuron.label for one in neurons(found.frame, backwards, atlas)] == expected[::-1]
        assert [one.neuron.label for one in neurons(found.frame, replace(asked, having="L2"), atlas)] == ["L2.F1"]
