"""The flow picture's geometry, and what the page makes of it: every arc is a head at a source, as the library says."""

from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from app.attribution import Settings, load, run_prompt
from app.attribution.heads import flow as flow_of
from app.attribution.prompt import PromptToken
from app.attribution.results import Move
from app.charts import Flow
from app.charts.prompt_charts import chosen, flow_ffn, flow_moves
from app.state.selections import Place
from app.ui.components.charts import drawn
from db.neuron import Head
from tests.pages import component

PROMPT = "The river runs to"
NOWHERE = Place()


def move(layer, head, position, score, weight=0.5):
    return Move(layer, head, position, PromptToken(1, "a", "a"), score, weight)


def leads(place):
    return f"{place.head and tuple(place.head)} {place.source} {place.layer} {place.ffn}"


def picture(moves=(), ffn=(), place=NOWHERE, tokens=("x",)):
    """What the frontend is handed for a flow."""
    chart = Flow(
        name="flow",
        title="flow",
        label="flow",
        frame=pd.DataFrame(),
        tokens=tuple(tokens),
        moves=flow_moves(moves, place, leads),
        ffn=flow_ffn(ffn, place, leads),
    )
    return drawn(chart)[1]


def test_arcs_grow_with_the_nats_and_tell_the_sign():
    strong, weak = picture([move(2, 1, 0, -2.0), move(1, 0, 3, 0.5)])["moves"][::-1]
    assert (strong["tone"], weak["tone"]) == ("down", "up")
    assert strong["width"] > weak["width"] > 0
    assert strong["strength"] == 1.0 > weak["strength"]
    assert (strong["layer"], strong["position"], strong["lane"]) == (2, 0, 0)
    assert strong["href"] == "(2, 1) 0 2 False"


def test_arcs_of_one_point_have_lanes_of_their_own():
    moves = [move(1, head, 2, 1.0) for head in range(4)] + [move(1, 0, 3, 1.0)]
    arcs = picture(moves)["moves"]
    assert sorted(arc["lane"] for arc in arcs if arc["position"] == 2) == [0, 1, 2, 3]
    assert [arc["lane"] for arc in arcs if arc["position"] == 3] == [0]


def test_what_is_chosen_leads_away_again():
    place = Place(layer=1, head=Head(1, 0), source=2)
    one, other = flow_moves([move(1, 0, 2, 1.0), move(1, 0, 3, 0.5)], place, leads)
    assert one.current
    assert one.href == "None None None False"
    assert not other.current
    assert chosen(Place(layer=1, head=Head(1, 0)), move(1, 0, 3, 0.5))


def test_marks_are_as_long_as_the_ffn_did():
    marks = picture(ffn=[0.5, -2.0, 0.0], place=Place(layer=1, ffn=True))["marks"]
    assert [mark["share"] for mark in marks] == [0.25, 1.0, 0.0]
    assert [mark["tone"] for mark in marks][:2] == ["up", "down"]
    assert [mark.get("current", False) for mark in marks] == [False, True, False]
    assert marks[0]["href"] == "None None 0 True"
    assert picture(ffn=[0.0])["marks"][0]["share"] == 0.0


def test_the_last_position_is_the_explained_one():
    feet = picture(tokens=["x" * 40] * 3)["places"]
    assert [foot["chosen"] for foot in feet] == [False, False, True]
    assert all(len(foot["text"]) <= 18 for foot in feet)
    assert "x" * 40 in feet[0]["hint"]


@pytest.fixture(scope="session")
def moves(small_folders):
    run = run_prompt(load(str(small_folders[0] / "llama")), PROMPT, Settings())
    return flow_of(run).moves


def test_the_page_draws_what_the_library_found(small_page, moves):
    app = small_page("prompt", p=PROMPT)
    data = component(app, "flow")
    arcs = [(arc["layer"], arc["position"], arc["tone"]) for arc in data["moves"]][::-1]
    assert arcs == [(one.layer, one.position, "up" if one.score > 0 else "down") for one in moves]
    names = [row["cells"][0]["text"] for row in component(app, "moves")["rows"]]
    assert names == [f"L{one.layer}.H{one.head}" for one in moves]
    assert [place["chosen"] for place in data["places"]] == [False, False, False, False, True]
    assert len(data["marks"]) == data["layers"] == 3


def test_a_click_on_an_arc_or_a_mark_looks_into_that_part(small_page, moves):
    data = component(small_page("prompt", p=PROMPT), "flow")
    params = {name: value[0] for name, value in parse_qs(urlsplit(data["moves"][-1]["href"]).query).items()}
    first = moves[0]
    assert params == {"p": PROMPT, "head": f"L{first.layer}.H{first.head}", "from": str(first.position)}
    app = small_page("prompt", **params)
    assert sum("current" in arc for arc in component(app, "flow")["moves"]) == 1
    rows = component(app, "neurons_attention")["rows"]
    assert rows
    assert all(row["cells"][0]["text"].startswith(f"L{first.layer}.H{first.head}.N") for row in rows)
    mark = {name: value[0] for name, value in parse_qs(urlsplit(data["marks"][1]["href"]).query).items()}
    assert mark == {"p": PROMPT, "layer": "1", "part": "ffn"}
    app = small_page("prompt", **mark)
    assert all(row["cells"][0]["text"].startswith("L1.F") for row in component(app, "neurons_ffn")["rows"])
    with pytest.raises(AssertionError, match="no component"):
        component(app, "neurons_attention")


def test_tables_stand_beside_the_charts_where_they_are_asked_for(small_page, moves):
    asked = {"p": PROMPT, "open": "flow,layers,map"}
    plain, tabled = small_page("prompt", **asked), small_page("prompt", **asked, tables="1")
    added = len(tabled.dataframe) - len(plain.dataframe)
    assert added == 4  # next tokens, layers, flow and heads; the other tables stand in expanders either way
    scores = [frame.value["score"].tolist() for frame in tabled.dataframe if "attention_weight" in frame.value]
    assert scores == [[one.score for one in moves]]
    plain.toggle(key="prompt_tables").set_value(True).run()
    assert plain.query_params["tables"] == "1"
