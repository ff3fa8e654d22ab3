"""Many prompts: what is typed or opened, and what is shown of it."""

import io
import json
from dataclasses import replace
from random import Random
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch

from app.answers import batches
from app.answers.batches import MAX_PROMPTS, aggregate_of, as_lines, compared_of, neurons, parse_lines, read_upload
from app.attribution import Settings, analyse, load
from app.attribution.batch import analyse_sets
from app.attribution.frames import aggregate
from app.attribution.prompt import PromptLine
from app.attribution.results import to_json
from app.attribution.run import StoredRanges
from app.attribution.sets import specificity
from app.gallery import READY
from app.serving import resources
from app.serving.settings import configuration
from app.state.selections import ListOrder, ManySelection
from app.words import nats, percent
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.records import Generic
from tests.pages import component, texts

TEXT = "The river runs to\nThe hill is\t the\n\nThe road"
ROW = {"prompt": "a", "model": "m", "ffn_value_neurons": [{"neuron": "L1.F2", "score": 0.5, "activation": -1.0}]}


def test_the_aggregate_is_the_librarys(small_page, small_folders):
    model = load(str(small_folders[0] / "llama"))
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        ranges = StoredRanges(atlas)
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
        "Against a second set: which neurons are particular to the prompts above",
        "Or open a file of analyses",
        "1 could not be explained",
    ]


def test_why_it_cannot_be_names_no_folder_of_the_server(small_page, monkeypatch):
    app = small_page("many")
    folder = configuration().models.absolute()

    def damaged(*_arguments, **_settings):
        raise AtlasError(f"The weights in {folder}/llama are damaged.")

    monkeypatch.setattr("app.attribution.analyse", damaged)
    assert not app.exception
    (row,) = batches.rows(resources.catalogue(), [PromptLine("The sea")], False, lambda *_: None)
    assert row == {"prompt": "The sea", "error": f"The weights in {folder.name}/llama are damaged."}


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


def test_what_fails_leaves_no_bar(small_page, monkeypatch):
    def fails(_atlas, _lines, _measure, tell):
        tell(0.5, "half of it")
        raise AtlasError("The model is gone.")

    monkeypatch.setattr(batches, "aggregate", fails)
    app = small_page("many", ps=TEXT)
    assert "The model is gone." in texts(app)
    assert not app.get("progress")


def test_only_so_many_are_explained():
    found, beyond = parse_lines("\n".join("line" for _ in range(MAX_PROMPTS + 3)))
    assert (len(found), beyond) == (MAX_PROMPTS, 3)


@pytest.mark.parametrize("name", READY)
def test_ready_sets_are_short_enough(name):
    assert 3 < len(READY[name]) <= MAX_PROMPTS


def test_a_ready_set_is_chosen_for_either_side_and_the_other_stays(small_page):
    name, other = list(READY)[:2]
    app = small_page("many", ps="The river\nThe hill", layers="0-1")
    first, second = (component(app, key)["items"] for key in ("ready", "other_ready"))
    assert not [
        one.proto.id for one in app.get("bidi_component") if one.proto.form_id
    ]  # a form keeps back their clicks
    assert [one["text"] for one in first] == [one["text"] for one in second] == list(READY)
    kept = {key: parse_qs(urlsplit(one["href"]).query) for key, one in (("A", first[0]), ("B", second[1]))}
    assert kept["A"]["set"] == [name]
    assert not {"ps", "set2"} & set(kept["A"])
    assert kept["B"]["set2"] == [other]
    assert kept["B"]["ps"] == ["The river\nThe hill"]
    app = small_page("many", ps="The river\nThe hill", set2=other)
    assert other not in [one["text"] for one in component(app, "ready")["items"]]
    assert app.text_area(key="many_other").value == as_lines(READY[other])


@pytest.mark.parametrize(
    "params",
    [{"set": "none"}, {"set2": "none", "ps": "The"}, {"role": "none", "ps": "The"}, {"least": "0"}, {"ps": "x" * 9000}],
)
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
    for inside in ("/tmp", "_Row", "_FullRow", "_Token", "Input should", "Field required"):
        assert inside not in str(refused.value)


def test_a_file_of_prompts_is_told_where_prompts_go():
    for row in ({"prompt": "a", "target": " Paris"}, {"prompt": "a"}, {"neuron": "L0.F1", "difference": 0.5}, [1]):
        with pytest.raises(AtlasError, match=r"row 1.*prompts themselves go into the field above"):
            read_upload("x.jsonl", json.dumps(row).encode())


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


SECOND = "The sea is\nA road to the sea\nThe rain\nThe river ends"


def small_figures(small_folders, tmp_path, measure, bos=True):
    """What the library makes of both sets."""
    model = load(str(small_folders[0] / "llama"))
    first, second = (parse_lines(text)[0] for text in (TEXT, SECOND))
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        settings = Settings(suppressing=True, measure=measure, bos=bos)
        ranges = StoredRanges(atlas)
        rows, count, figures = analyse_sets(model, first, second, settings, tmp_path / "x.jsonl", ranges=ranges)
    return specificity(figures, np.arange(7) < count), rows


@pytest.mark.parametrize("measure", [0, 1])
def test_two_sets_are_held_against_each_other(small_page, small_folders, tmp_path, measure):
    expected, rows = small_figures(small_folders, tmp_path, measure, bos=not measure)
    asked = {"effects": "1", "bos": "0"} if measure else {}
    app = small_page("many", ps=TEXT, ps2=SECOND, **asked)
    shown = component(app, "particular")
    assert [row["cells"][0]["text"] for row in shown["rows"]] == expected["neuron"].head(200).tolist()
    titles = [column["title"] for column in shown["columns"]]
    assert ("measured A − B (nats)" in titles) == bool(measure)
    places = {name: titles.index(name) for name in ("A − B (nats)", "p", "q")}
    names = ("effect_p", "effect_q") if measure else ("p", "q")
    for row, (_, one) in zip(shown["rows"], expected.iterrows(), strict=False):
        assert row["cells"][places["A − B (nats)"]]["text"] == nats(one["difference"])
        assert row["cells"][places["p"]]["text"] == f"{one[names[0]]:.2g}"
        assert row["cells"][places["q"]]["text"] == f"{one[names[1]]:.2g}"
        if measure:
            assert row["cells"][1]["text"] == nats(one["effect_difference"])
            assert row["cells"][2]["text"] == nats(one["effect_of_mean_difference"])
    assert titles[2] == ("at its mean" if measure else "score in A")
    held = [one.value.replace("\\", "") for one in app.caption if "most particular to A" in one.value]
    if measure:
        lost = [
            f"an answer of {name} loses "
            + ", without as many random ones of the same layers ".join(
                f"{nats(np.mean(some))} ± {np.std(some):.3f}"
                for some in (
                    [row["together"]["ffn"]["effect"] for row in part],
                    [np.mean(row["together"]["ffn"]["controls"]) for row in part],
                )
            )
            for name, part in (("A", rows[:3]), ("B", rows[3:]))
        ]
        assert f"without the ten FFN neurons most particular to A {', and '.join(lost)};" in held[0]
    assert bool(held) == bool(measure)
    assert any("p can be no smaller than 0.029" in one.value.replace("\\", "") for one in app.caption)
    assert [row["cells"][1]["text"] for row in component(app, "said")["rows"]] == ["A"] * 3 + ["B"] * 4
    assert app.toggle(key="many_bos").value == (not measure)
    app = small_page("many", ps=TEXT, ps2=SECOND, role="ffn", layers="0-1", sort="p", **asked)
    labels = [row["cells"][0]["text"] for row in component(app, "particular")["rows"]]
    kept = expected[(expected["kind"] == "ffn") & expected["neuron"].str.match("L[01]\\.")]
    assert labels == kept.sort_values(names[0], kind="stable")["neuron"].head(200).tolist()


VALUE = "ffn_value_neurons"


def at_its_mean(model, neuron, prompt, rows):
    """What a prompt's answer loses with a neuron at its mean over all prompts, by a hook."""
    module = model.module.get_submodule(f"model.layers.{neuron.layer}.mlp.down_proj")
    seen: list[float] = []
    fixed: list[float] = []

    def hook(_module, args):
        changed = args[0].clone()
        seen.append(changed[0, -1, neuron.index].item())
        if fixed:
            changed[0, -1, neuron.index] = fixed[0]
        return (changed,)

    def answer(text):
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            return model.module(ids).logits[0, -1].log_softmax(-1)

    with module.register_forward_pre_hook(hook):
        for one in rows:
            answer(one["prompt"])
        clean = answer(prompt)
        fixed.append(float(np.mean(seen[: len(rows)])))
        return (clean - answer(prompt))[clean.argmax()].item()


def test_effects_are_measured_where_that_is_asked_for(small_page, small_folders):
    model = load(str(small_folders[0] / "llama"))
    app = small_page("many", ps="The river runs to\nThe road", effects="1", sort="effect")
    shown = component(app, "aggregate")
    assert shown["columns"][2]["sorted"] == "descending"
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        ranges = StoredRanges(atlas)
        settings = Settings(suppressing=True, measure=300)
        rows = [to_json(analyse(model, one, settings, ranges=ranges)) for one in ("The river runs to", "The road")]
    expected = aggregate(rows)
    values = expected[expected["role"] == "FFN value"].sort_values("mean_effect", ascending=False, kind="stable")
    listed = [(row["cells"][0]["text"], row["cells"][2]["text"]) for row in shown["rows"]]
    assert listed == [(one["neuron"], nats(one["mean_effect"])) for _, one in values.head(200).iterrows()]
    together = [row["together"]["ffn"] for row in rows]
    lost = np.array([[one["effect"], np.mean(one["controls"])] for one in together])
    means, spread = (nats(x) for x in lost.mean(axis=0)), lost.std(axis=0)
    words = [f"{mean} ± {off:.3f}" for mean, off in zip(means, spread, strict=True)]
    caption = next(one.value for one in app.caption if "ten strongest" in one.value).replace("\\", "")
    assert f"without the ten strongest FFN neurons of its list an answer loses {words[0]}, " in caption
    assert f"random ones of the same layers {words[1]}" in caption
    at_mean = [column["title"] for column in shown["columns"]].index("at its mean")
    for row in shown["rows"][:3]:
        listing = [one for one in rows if row["cells"][0]["text"] in {each["neuron"] for each in one[VALUE]}]
        effects = [at_its_mean(model, Neuron.parse(row["cells"][0]["text"]), one["prompt"], rows) for one in listing]
        assert row["cells"][at_mean]["text"] == nats(float(np.mean(effects)))
    assert app.toggle(key="many_measure").value
    app.toggle(key="many_bos").set_value(False)
    app.text_area(key="many_other").set_value("The hill")
    app.button[0].click().run()
    kept = {name: app.query_params[name] for name in ("effects", "bos", "ps2")}
    assert kept == {"effects": "1", "bos": "0", "ps2": "The hill"}


def test_where_there_are_no_means_the_page_says_why(small_page, monkeypatch):
    monkeypatch.setattr("app.attribution.batch.why_fixed", lambda _model: "A norm stands there.")
    for other in ({}, {"ps2": "The hill"}):
        app = small_page("many", ps="The rain\nThe road", effects="1", **other)
        captions = [one.value.replace("\\", "") for one in app.caption]
        assert "No neuron was replaced by its mean. A norm stands there." in captions
        shown = component(app, "particular" if other else "aggregate")
        assert "at its mean" not in [column["title"] for column in shown["columns"]]


def test_generic_neurons_are_marked(small_page, small_folders, monkeypatch):
    label = component(small_page("many", ps=TEXT), "aggregate")["rows"][0]["cells"][0]["text"]
    monkeypatch.setattr(Catalogue, "generic", Generic("", "", 50, {label: 46}))
    remark = "generic: in the lists on 46 of 50 prompts"
    prompt = TEXT.partition("\n")[0]
    for page, key in ((small_page("many", ps=TEXT), "aggregate"), (small_page("prompt", p=prompt), "neurons_ffn")):
        rows = [row["cells"] for row in component(page, key)["rows"]]
        marked = [cells[0]["text"] for cells in rows if any(remark in cell.get("remark", "") for cell in cells)]
        assert marked == [label]
    rows = component(small_page("many", ps=TEXT, ps2=SECOND, has=label), "particular")["rows"]
    assert [row["cells"][-1]["remark"] for row in rows] == [remark]
    captions = [one.value for one in small_page("neuron", n=label).caption]
    assert any(one.startswith("Generic: in the lists on 46 of 50 prompts") for one in captions)


def test_files_are_compared_by_their_lists():
    lists = [("L1.F2", 0.5), ("L1.F3", 0.25)], [("L1.F2", 0.25)], [("L1.F3", 0.75)]
    rows = [ROW | {"ffn_value_neurons": [{"neuron": one, "score": score} for one, score in some]} for some in lists]
    found = compared_of(rows[:2], [*rows[2:], {"prompt": "b", "error": "unusable"}])
    table = found.frame.set_index("neuron")
    assert not found.everywhere
    assert "it counts as 0" in found.how
    assert list(table[["mean_a", "mean_b"]].loc["L1.F2"]) == [0.375, 0.0]
    assert list(table[["mean_a", "mean_b"]].loc["L1.F3"]) == [0.125, 0.75]
    assert found.second.failed == (("b", "unusable"),)
    with pytest.raises(AtlasError, match="different models"):
        compared_of(rows[:1], [ROW | {"model": "n"}])
    with pytest.raises(AtlasError, match="at least one prompt"):
        compared_of(rows, [{"prompt": "b", "error": "unusable"}])


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
