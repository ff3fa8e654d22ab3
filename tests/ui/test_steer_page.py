"""The page that steers, without a browser: its state in the address, and its figures and texts are the library's."""

from urllib.parse import parse_qs, urlsplit

import pytest

from app.answers import two_runs as answers
from app.attribution import Settings, load
from app.attribution.intervene import Steered, steer
from app.attribution.prompt import Sampling
from app.report import contents
from app.serving.settings import configuration
from app.serving.worker import RefusedError
from app.state.address import Limits
from app.state.selections import MAX_PROMPT, CompareSelection, PromptSelection, SteerSelection
from app.words import literal
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import MAX_PARTS, parse_interventions, parse_list
from tests.pages import component, texts

PROMPT = "The river runs to"
DO = "L1.F7=4,L1.H2=0,L0.F3:=2"
LIMITS = Limits(323, 3, 4)


@pytest.fixture(scope="module")
def library(small_folders):
    model = load(str(small_folders[0] / "llama"))
    return lambda do, sampling, **asked: steer(model, PROMPT, Settings(**asked), parse_interventions(do), sampling)


def params_of(href):
    return {name: values[0] for name, values in parse_qs(urlsplit(href).query).items()}


def shown(app):
    return " ".join(element.value for element in (*app.markdown, *app.caption))


@pytest.mark.parametrize(
    "selection",
    [
        SteerSelection(),
        SteerSelection(
            PROMPT, 4, 2, interventions=parse_interventions("L1.H2=-0.5,L2.F3:=1e5,L0.ffn=0,attention:20=2,L1.H0.N3")
        ),
        SteerSelection(PROMPT, tokens=7, temperature=0.8, top_p=0.95, seed=12, chat=True),
        SteerSelection("long " * 900, bare=True),
    ],
)
def test_the_state_is_read_back_from_the_address(selection):
    assert SteerSelection.read(selection.params(), LIMITS) == (selection, [])


@pytest.mark.parametrize(
    ("params", "kept", "said"),
    [
        ({"do": "L1.H2:=2"}, SteerSelection(), "Head L1.H2 has many activations"),
        ({"do": ",".join(f"L1.F{one}" for one in range(MAX_PARTS + 1))}, SteerSelection(), "at most 64"),
        ({"do": "L1.F1=2,L1.F1=3"}, SteerSelection(), "named 2 times"),
        ({"n": "101", "temp": "-1"}, SteerSelection(), "n=101"),
        ({"bos": "0", "chat": "1"}, SteerSelection(chat=True), "chat template"),
    ],
)
def test_what_is_unusable_is_left_out(params, kept, said):
    found, notices = SteerSelection.read(params, LIMITS)
    assert found == kept
    assert said in " ".join(notices)


@pytest.mark.parametrize(
    ("params", "sampling"),
    [
        ({"n": "9"}, {"tokens": 9}),
        ({"n": "9", "temp": "1.5", "seed": "5"}, {"tokens": 9, "temperature": 1.5, "seed": 5}),
    ],
)
def test_figures_and_texts_are_the_librarys(small_page, library, params, sampling):
    app, found = (
        small_page("steer", p=PROMPT, do=DO, target="70", **params),
        library(DO, Sampling(**sampling), target=70),
    )
    assert not app.error
    rows = component(app, "changed")["rows"]
    assert [row["cells"][0]["text"] for row in rows] == [one.token.display for one in found.predictions[: len(rows)]]
    assert f"rank {found.before.rank} → {found.after.rank}" in shown(app).replace("\\", "")
    for one in found.continuations:
        lines = [literal(line) for line in one.text.splitlines()]
        assert all(line in shown(app) for line in lines)
        assert lines
    assert [one["text"] for one in component(app, "changes")["items"]] == DO.split(",")
    assert "neuron L1.F7 scaled by 4, head L1.H2 zeroed and neuron L0.F3 clamped to 2" in shown(app).replace("\\", "")


def test_another_factor_writes_the_plain_text_no_second_time(small_page, library, monkeypatch):
    sides = []

    def counted(self, sampling, *, steered):
        sides.append(steered)
        return own(self, sampling, steered=steered)

    own = Steered.continued
    monkeypatch.setattr(Steered, "continued", counted)
    first, second = (small_page("steer", p=PROMPT, do=f"L1.F7={amount}", n="8") for amount in (3, 5))
    assert sides == [False, True, True]
    for app, amount in ((first, 3), (second, 5)):
        for one in library(f"L1.F7={amount}", Sampling(tokens=8)).continuations:
            assert all(literal(line) in shown(app) for line in one.text.splitlines())


def test_each_amount_can_be_changed_and_taken_back(small_page):
    app = small_page("steer", p=PROMPT, do=DO, n="2")
    hrefs = [params_of(one["href"])["do"] for one in component(app, "changes")["items"]]
    assert hrefs == ["L1.H2=0,L0.F3:=2", "L1.F7=4,L0.F3:=2", "L1.F7=4,L1.H2=0"]
    app.number_input(key="steer_amount_L0.F3_True").set_value(-1.5).run()
    assert app.query_params["do"] == "L1.F7=4,L1.H2=0,L0.F3:=-1.5"
    app.number_input(key="steer_amount_L1.F7_False").set_value(0).run()
    assert app.query_params["do"] == "L1.F7=0,L1.H2=0,L0.F3:=-1.5"
    assert not app.exception


def test_without_interventions_the_text_goes_on_and_changes_are_offered(small_page, library):
    app = small_page("steer", p=PROMPT, n="5")
    (only,) = library("", Sampling(tokens=5)).continuations
    assert literal(only.text.strip()) in shown(app)
    offered = [params_of(one["href"])["do"] for one in component(app, "suggestions")["items"]]
    assert offered == ["ffn:1=0", "ffn:1=5", "ffn:10=0", "L2.attention=0.5"]
    app = small_page("steer", p=PROMPT, n="2", do="ffn:1=5")
    assert not app.error


def test_the_form_asks_and_what_is_wrong_is_said(small_page):
    app = small_page("steer", p=PROMPT, target="70", do="L1.F7=4", n="2")
    assert app.text_input(key="steer_do").value == "L1.F7=4"
    app.text_input(key="steer_do").set_value("L1.H2:=3")
    app.button[0].click().run()
    assert "Head L1.H2 has many activations" in texts(app)
    assert app.query_params["do"] == "L1.F7=4"
    assert app.text_input(key="steer_do").value == "L1.H2:=3"
    app.text_input(key="steer_do").set_value("L1.H2 = 3, L1.F7")
    app.text_area(key="steer_prompt").set_value("The sea")
    app.number_input(key="steer_temperature").set_value(0.5)
    app.number_input(key="steer_seed").set_value(9)
    app.button[0].click().run()
    assert dict(app.query_params.items()) == {
        **{"p": "The sea", "do": "L1.H2=3,L1.F7=0", "n": "2", "temp": "0.5", "seed": "9"}
    }
    assert not app.exception


def test_what_is_too_long_is_said_and_stays(small_page):
    app = small_page("steer")
    app.text_area(key="steer_prompt").set_value("a" * (MAX_PROMPT + 1))
    app.button[0].click().run()
    assert "The prompt has 8,001 characters; at most 8,000 are read." in texts(app)
    assert len(app.text_area(key="steer_prompt").value) == MAX_PROMPT + 1


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"do": "L9.H0=2"}, "There is no head L9.H0"),
        ({"at": "99"}, "There is no position 99"),
        ({"n": "100"}, "takes 64 tokens"),
    ],
)
def test_a_question_that_makes_no_sense_gets_one_notice(small_page, params, said):
    app = small_page("steer", p=PROMPT, **params)
    assert said in texts(app)
    assert len(app.error) == 1


def test_this_server_bounds_how_much_is_written(monkeypatch):
    monkeypatch.setenv("ATLAS_MAX_CONTINUED", "10")
    configuration.cache_clear()
    try:
        assert answers.sampling_of(SteerSelection(PROMPT, tokens=10)) == Sampling(tokens=10)
        with pytest.raises(RefusedError, match="at most 10 tokens, and 11 were asked for"):
            answers.sampling_of(SteerSelection(PROMPT, tokens=11))
    finally:
        configuration.cache_clear()


def test_other_pages_lead_here_and_back(small_page):
    app = small_page("prompt", p=PROMPT, head="L1.H2", target="70")
    *_, onward = component(app, "close_head")["items"]
    assert params_of(onward["href"]) == {"p": PROMPT, "target": "70", "do": "L1.H2=0"}
    *_, onward = component(app, "compare")["items"]
    assert params_of(onward["href"]) == {"p": PROMPT, "target": "70"}
    row = component(small_page("prompt", p=PROMPT), "neurons_ffn")["rows"][0]
    *_, onward, back = component(small_page("neuron", **params_of(row["href"])), "paths")["items"]
    assert params_of(onward["href"]) == {"p": PROMPT, "do": f"{row['cells'][0]['text']}=4"}
    assert params_of(back["href"]) == {"p": PROMPT}
    *_, onward = component(small_page("neuron", n="L1.H2.N3"), "paths")["items"]
    assert params_of(onward["href"])["do"] == "L1.H2.N3=4"
    (onward,) = component(small_page("compare", p=PROMPT, zero="L1.H2,ffn:2"), "to_steer")["items"]
    assert params_of(onward["href"]) == {"p": PROMPT, "do": "L1.H2=0,ffn:2=0"}
    app = small_page("steer", p=PROMPT, do=DO, n="2", target="70")
    asked = PromptSelection(PROMPT, 70)
    hrefs = [params_of(one["href"]) for one in component(app, "further")["items"]]
    assert hrefs == [asked.params(), CompareSelection.of(asked, parse_list("L1.H2")).params()]


def test_the_report_holds_what_was_changed_and_both_texts(library, small_folders):
    asked = SteerSelection(PROMPT, 70, interventions=parse_interventions(DO), tokens=6, temperature=0.7, seed=2)
    found = library(DO, Sampling(6, 0.7, 1.0, 2), target=70)
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        page = contents.steered_html(found, asked, atlas.info, "https://atlas.example/sub/").decode()
    assert "neuron L1.F7 scaled by 4" in page
    assert page.count('<p class="prompt"') == 3
    assert "https://atlas.example/sub/steer?p=The+river+runs+to" in page
    assert "--scale L1.F7=4,L1.H2=0 --clamp L0.F3:=2 --generate 6 --temperature 0.7 --top-p 1 --seed 2" in page
    assert "<script" not in page


def test_without_a_model_the_page_says_so(toy_page):
    app = toy_page("steer", p=PROMPT, do="L0.H0=2")
    assert len(app.error) == 1
