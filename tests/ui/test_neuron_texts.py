"""The texts that activate a neuron, on its page and in every list: what they show is counted from all activations."""

import json
import shlex

import numpy as np
import pytest

from app.answers import stored
from app.answers.neuron import text_up_to_peak
from app.report import views
from app.state.selections import NeuronSelection, SearchSelection
from app.ui.common import _written
from app.words import figure, whole_percent
from db.__main__ import parser
from db.catalogue.builds import find_catalogue
from db.catalogue.export import as_json, texts_frame
from db.catalogue.store import Catalogue
from db.neuron import Neuron, NeuronKind, Sign
from db.texts.records import Description, Mark, Name, Usual
from db.texts.store import DESCRIPTIONS, add_description
from tests.pages import component, components_of, unfolded
from tests.texts import make_texts

LABELS = ("L0.F0", "L1.F3", "L2.F6")
WORDS = {Sign.PROMOTES: "positive", Sign.SUPPRESSES: "negative"}


@pytest.fixture(scope="module")
def atlas(texts_root):
    with Catalogue.open(find_catalogue(texts_root)) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(atlas):
    return make_texts(atlas.path, k=3)


def counted(made, atlas, label) -> tuple[Sign, float, float]:
    """The usual end of a neuron, its share of the activations, and their rate, from all activations."""
    row = made.neuron_ids.tolist().index(atlas.layout.neuron_id(Neuron.parse(label)))
    one = made.activations[row]
    active = one[np.abs(one) >= made.gathered.active_above[row]]
    share = float((active > 0).mean())
    usual = Sign.PROMOTES if share >= 0.5 else Sign.SUPPRESSES
    return usual, max(share, 1 - share), len(active) / len(one)


def both_usual(made, atlas) -> dict[Sign, str]:
    """A neuron for each usual end, one that is nearly always active with it."""
    found: dict[Sign, str] = {}
    for neuron_id in made.neuron_ids.tolist():
        label = atlas.layout.neuron(neuron_id).label
        usual, share, _ = counted(made, atlas, label)
        if share > 0.6:
            found.setdefault(usual, label)
    assert set(found) == set(Sign)
    return found


def said(app) -> str:
    shown = (*app.markdown, *app.caption, *app.header, *app.title)
    return " ".join(element.value for element in shown).replace("\\", "").replace("\u2060", "")


def lines(app, sign):
    return component(app, f"texts_{sign}")["lines"]


@pytest.mark.parametrize("label", LABELS)
def test_the_strongest_texts_of_both_signs_are_shown_with_every_activation(texts_page, atlas, made, label):
    row = made.neuron_ids.tolist().index(atlas.layout.neuron_id(Neuron.parse(label)))
    found = texts_page("neuron", n=label)
    for end, sign in enumerate((Sign.PROMOTES, Sign.SUPPRESSES)):
        shown = lines(found, sign)
        peaks = made.gathered.peak[row, end]
        assert [line["value"] for line in shown] == [figure(float(peak)) for peak in peaks]
        for rank, line in enumerate(shown):
            window = made.windows[made.gathered.window[row, end, rank]]
            first, position = made.gathered.first[row, end, rank], made.gathered.position[row, end, rank]
            values = made.gathered.activations[row, end, rank]
            values = values[~np.isnan(values)]
            ids = window.token_ids[first : first + len(values)]
            assert [token["text"] for token in line["tokens"]] == [atlas.token(one).display for one in ids]
            assert [token.get("peak", False) for token in line["tokens"]] == [
                place == position for place in range(first, first + len(values))
            ]
            for token, value, token_id in zip(line["tokens"], values.tolist(), ids, strict=True):
                assert token["hint"].split(": ")[-1].startswith(figure(value)[:3])
                share = value / abs(float(peaks[0]))
                assert token.get("share", 0.0) == pytest.approx(min(1.0, max(-1.0, share)), abs=2e-3)
                assert token["href"] == f"token?t={token_id}"
            assert f"document {window.document}" in line["about"]
            assert "gate positive" in line["about"] or "gate negative" in line["about"]
            assert line.get("before", False) is bool(first > 0)


@pytest.mark.parametrize("sign", Sign)
def test_the_end_that_is_usually_active_stands_first_in_words(texts_page, atlas, made, sign):
    label = both_usual(made, atlas)[sign]
    _, share, rate = counted(made, atlas, label)
    app = texts_page("neuron", n=label)
    assert (
        f"{WORDS[sign]} in {whole_percent(share)} of its activations: it usually raises the tokens it {sign}"
        in said(app)
    )
    assert f"Active on {100 * rate:.1f} % of tokens" in said(app)
    heads = [one.value for one in app.header[:2]]
    verbs = ["Promotes", "Suppresses"] if sign is Sign.PROMOTES else ["Suppresses", "Promotes"]
    assert heads == [f"{verbs[0]}, usually raised", f"{verbs[1]}, usually lowered"]
    order = [key for key in components_of(app) if key in ("texts_promotes", "texts_suppresses")]
    assert order[0] == f"texts_{sign}"


def test_which_corpus_it_was_is_said(texts_page, atlas):
    assert f"{atlas.texts.stamp.tokens_seen:,} tokens of the corpus made" in said(texts_page("neuron", n="L0.F0"))


def test_more_and_whole_texts_are_asked_for_in_the_address(texts_page, atlas):
    app = texts_page("neuron", n="L0.F0", texts="1")
    (more,) = component(app, "more_texts")["items"]
    assert more["href"] == "neuron?n=L0.F0"  # all three of each, which is what is shown anyway
    (line,) = lines(app, Sign.PROMOTES)
    whole = line["links"][0]
    number = atlas.texts.of(Neuron.parse("L0.F0")).positive[0].window
    assert whole["href"] == f"neuron?n=L0.F0&texts=1&window={number}"
    (line,) = lines(texts_page("neuron", n="L0.F0", texts="1", window=str(number)), Sign.PROMOTES)
    assert [token["text"] for token in line["tokens"]] == [one.display for one in atlas.texts.tokens_of(number)]
    assert sum(token.get("peak", False) for token in line["tokens"]) == 1
    far = [token for token in line["tokens"] if token["hint"].endswith("activation not stored")]
    assert len(line["tokens"]) - len(far) == len(atlas.texts.of(Neuron.parse("L0.F0")).positive[0].tokens)
    assert line["links"][0]["href"] == "neuron?n=L0.F0&texts=1"


def test_a_text_as_a_prompt_ends_with_its_peak(atlas):
    for one in atlas.texts.of(Neuron.parse("L1.F3")).positive:
        expected = b"".join(atlas.bytes_of(token.token_id) for token in one.tokens[: one.peak_at + 1])
        assert text_up_to_peak(atlas, one) == expected.decode("utf-8", "ignore")


def test_sign_cases_stand_there_in_words(texts_page, atlas):
    found = atlas.texts.of(Neuron.parse("L1.F3"))
    words = said(texts_page("neuron", n="L1.F3"))
    for one in found.cases:
        gate, up = ("positive" if sign == "+" else "negative" for sign in (one.gate, one.up))
        assert (
            f"| gate {gate}, up {up}: {'positive' if gate == up else 'negative'} | {100 * one.share:.1f} % |" in words
        )


@pytest.mark.parametrize("counts", ["log", "linear"])
def test_the_histogram_has_every_token_once(texts_page, made, counts):
    app = texts_page("neuron", n="L1.F3", counts=counts)
    (chart,) = [one for one in app.get("vega_lite_chart") if "activation; each bar" in one.proto.spec]
    assert ('"type": "log"' in json.dumps(json.loads(chart.proto.spec))) is (counts == "log")


def test_files_hold_the_texts_and_json_has_one_form(texts_page, atlas):
    found = atlas.texts.of(Neuron.parse("L1.F3"))
    app = unfolded(texts_page("neuron", n="L1.F3"))
    assert {"Texts as CSV", "Texts as JSON", "Texts as Parquet"} <= {
        one.proto.label for one in app.get("download_button")
    }
    assert json.loads(_written(lambda: texts_frame(found), "json", found)) == json.loads(json.dumps(as_json(found)))
    assert _written(lambda: texts_frame(found), "csv", found).count(b"\r\n") == 1 + 6
    (command,) = [one.value.replace("\\", "") for one in app.caption if one.value.startswith("In the shell")]
    asked = parser().parse_args(shlex.split(command)[6:])
    assert (asked.label, asked.model, asked.json) == ("L1.F3", atlas.info.model, True)


def test_without_texts_one_line_says_how_to_get_them_to_whoever_can(toy_page, monkeypatch):
    app = toy_page("neuron", n="L1.F3")
    assert "“make texts”" in " ".join(one.value for one in app.caption)
    assert "texts_promotes" not in components_of(app)
    assert [one.value for one in app.header[:2]] == ["Promotes", "Suppresses"]
    monkeypatch.setenv("ATLAS_ADD_MODELS", "off")
    from app.serving.settings import configuration

    configuration.cache_clear()
    assert "make texts" not in said(toy_page("neuron", n="L1.F3"))


def test_an_attention_neuron_that_was_left_out_has_its_page(texts_page):
    app = texts_page("neuron", n="L1.H0.N1")
    assert "texts_promotes" not in components_of(app)
    assert "--attention" in said(app)


# In lists.


def test_a_hit_says_how_often_its_neuron_is_active_with_that_end(texts_page, atlas, made):
    app = texts_page("search", t="0,1,2,3", kind="ffn")
    rows = component(app, "hits")["rows"]
    assert rows
    for row in rows:
        usual, share, _ = counted(made, atlas, row["cells"][0]["text"])
        sign = Sign(row["cells"][1]["tone"])
        part = share if sign is usual else 1 - share
        assert f"in {whole_percent(part)} of its activations" in row["cells"][-1]["remark"]
        assert row["cells"][-1]["remark"].startswith("rarely") is (part < 0.1)


@pytest.mark.parametrize("asked", [{"t": "0,1,2,3,4,5,6,7"}, {"q": "Python code", "by": "concept"}])
def test_ends_that_are_seldom_active_can_be_left_out(texts_page, atlas, made, asked):
    every = component(texts_page("search", kind="ffn", **asked), "hits")["rows"]
    some = component(texts_page("search", kind="ffn", usual="1", **asked), "hits")["rows"]

    def end(row):
        tone = row["cells"][1].get("tone") or row["cells"][2]["tone"]
        return row["cells"][0]["text"], Sign(tone)

    wanted = [row for row in every if counted(made, atlas, end(row)[0])[0] is end(row)[1]]
    assert 0 < len(wanted) < len(every)
    assert list(map(end, some)) == list(map(end, wanted))


def test_the_filter_is_offered_where_it_can_be_answered(texts_page):
    assert "search_usual" in {one.key for one in texts_page("search", q="Python").checkbox}


def test_without_texts_a_link_with_the_filter_says_so(toy_page):
    app = toy_page("search", q="Python", usual="1")
    assert "search_usual" not in {one.key for one in app.checkbox}
    assert any("not known" in one.value for one in app.warning)
    assert component(app, "hits")["rows"]


def test_a_list_of_both_ends_begins_with_the_usual_one(texts_page, atlas, made):
    rows = component(texts_page("neuron", n="L1.F3"), "similar")["rows"]
    assert rows
    from app.ui import neuron_lists as lists

    neurons = [Neuron.parse(row["cells"][0]["text"]) for row in rows]
    known = atlas.strongest_tokens(neurons)
    column, cell = lists.both_ends(known)
    assert "usually raises" in column.title
    for neuron in neurons:
        shown = cell(type("Row", (), {"neuron": neuron})())
        if neuron.kind is NeuronKind.ATTENTION:
            assert not shown.remark
            continue
        usual = counted(made, atlas, neuron.label)[0]
        assert [one.text for one in shown.chips[:3]] == [one.display for one in known[neuron].at(usual)[:3]]
        assert shown.remark == "usually raises"


def test_what_a_model_said_of_a_neuron_is_shown_with_its_score_and_by_whom(texts_page, atlas):
    said_of = {"L1.F3": ("odd <b>places</b>", 0.4321), "L2.F6": ("$x$ quiet", None)}
    stamp = atlas.texts.stamp
    try:
        for label, (text, score) in said_of.items():
            told = Description(label, stamp.checkpoint, stamp.texts_id, text, score, "teller-7b")
            add_description(atlas.path.parent, told)
        assert "Described by teller-7b: odd <b>places</b> (score 0.43)." in said(texts_page("neuron", n="L1.F3"))
        assert "Described by teller-7b: $x$ quiet (not scored)." in said(texts_page("neuron", n="L2.F6"))
        assert "Described by" not in said(texts_page("neuron", n="L0.F0"))
        view = views.neuron("L1.F3", NeuronSelection("L1.F3"), atlas)
        assert any("teller-7b: odd <b>places</b> (score 0.43)" in one for one in view.sentences)
        assert b"odd &lt;b&gt;places" in views.html("L1.F3", [view], atlas, "")
        assert as_json(atlas.texts.of(Neuron.parse("L1.F3")))["described_by"] == "teller-7b"
    finally:
        (atlas.path.parent / DESCRIPTIONS).unlink()


def test_saved_neurons_and_notes_have_their_names(texts_page, atlas, monkeypatch):
    first, second, plain = (Neuron.parse(label) for label in LABELS)
    beyond = Neuron.parse("L99.F0")
    names = {first: "<b>seas</b> $x$", second: "rivers"}

    def marks(_atlas, neurons):
        return {one: Mark(None, Name(names.get(one), None, None, None)) for one in neurons}

    monkeypatch.setattr(Catalogue, "marks", marks)
    assert stored.names(atlas, [first, second, plain, beyond]) == names
    workspace, model = stored.workspace_to_write(), atlas.info.model
    kept = workspace.new_collection("mine").id
    for neuron in (first, second, plain, beyond):
        workspace.collect_neuron(kept, model, neuron)
    workspace.write_note(model, first, "what people call it", among=stored.noted_among(workspace, atlas))
    shown = [one.value.replace("\\", "") for one in texts_page("saved", **{"in": kept}).markdown]
    assert [one for one in shown if one in ("what people call it", *names.values())] == [
        "what people call it",
        "rivers",
    ]
    notes = said(texts_page("saved"))
    assert "what people call it" in notes
    assert "named from its tokens and texts: <b>seas</b> $x$" in notes


def test_what_people_call_a_neuron_wins(texts_page, atlas, monkeypatch):
    neuron = Neuron.parse("L1.F3")
    similar = component(texts_page("neuron", n=neuron.label), "similar")["rows"][0]["cells"][0]["text"]
    workspace = stored.workspace_to_write()
    among = stored.noted_among(workspace, atlas)
    for label, text in ((neuron.label, "Rivers and seas\nand more"), (similar, "<b>bold</b> $x$")):
        workspace.write_note(atlas.info.model, Neuron.parse(label), text, among=among)
    app = texts_page("neuron", n=neuron.label)
    assert "L1.F3 “Rivers and seas” · FFN neuron" in said(app)
    cell = component(app, "similar")["rows"][0]["cells"][0]
    assert (cell["text"], cell["called"], cell["own"]) == (similar, "<b>bold</b> $x$", True)


# In a report.


def test_the_report_of_a_neuron_has_its_texts_and_begins_with_the_usual_end(atlas, made):
    for sign, label in both_usual(made, atlas).items():
        view = views.neuron(label, NeuronSelection(label), atlas)
        found = atlas.texts.of(Neuron.parse(label))
        assert view.sheets[0].caption == f"The first tokens it {sign}, which it usually raises"
        assert any("of its activations" in one for one in view.sentences)
        sheet = next(one for one in view.sheets if one.columns[:1] == ("activation",))
        assert f"raises the tokens it {sign}" in sheet.caption
        for row, one in zip(sheet.rows, found.at(sign), strict=True):
            assert row[0] == figure(one.peak)
            assert "".join([str(row[1]), *row[2], str(row[3])]) == "".join(token.display for token in one.tokens)
        page = views.html(label, [view], atlas, "")
        assert b"<svg" in page


def test_the_report_of_a_search_says_how_often(atlas):
    view = views.found_neurons("x", SearchSelection(tokens=(0, 1), kind=NeuronKind.FFN), atlas)
    assert all("of its activations" in row[-1] for row in view.sheets[0].rows)


def test_a_neuron_that_is_active_both_ways_is_not_said_to_prefer_one():
    from app.answers.neuron import how_often

    usual = Usual(Sign.SUPPRESSES, 0.55, 0.1)
    assert how_often(usual, Sign.SUPPRESSES) == "in 55 % of its activations"
    assert how_often(usual, Sign.PROMOTES) == "in 45 % of its activations"
