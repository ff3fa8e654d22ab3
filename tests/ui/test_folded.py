"""What is folded away is drawn when it is opened, and alone."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.pages import component, unfolded

PROMPT = "The river runs to"


@pytest.mark.parametrize(
    ("page", "params"),
    [
        ("search", {"q": "Python"}),
        ("search", {"q": "Python code", "by": "concept"}),
        ("token", {"t": "3"}),
        ("overview", {}),
    ],
)
def test_a_table_is_drawn_when_it_is_opened(toy_page, page, params):
    app = toy_page(page, **params)
    assert not app.dataframe
    assert len(unfolded(app).dataframe) == 1


@pytest.mark.parametrize(
    ("page", "params", "tables"),
    [
        ("neuron", {"n": "L1.F2"}, 1),
        ("neuron", {"n": "L1.F2", "keys": "1", "try": PROMPT}, 3),
        ("prompt", {"p": PROMPT, "head": "L1.H2", "map": "lens", "show": "query"}, 4),
    ],
)
def test_so_are_those_that_need_the_model(small_page, page, params, tables):
    app = small_page(page, **params)
    assert not app.dataframe
    assert len(unfolded(app).dataframe) == tables


@pytest.mark.parametrize(
    ("section", "more", "shown"),
    [
        ("flow", {}, "moves"),
        ("layers", {}, "layers"),
        ("map", {}, "heads"),
        ("overlap", {"show": "query"}, "overlap_both"),
    ],
)
def test_a_section_is_drawn_where_the_address_says_that_it_is_open(small_page, section, more, shown):
    assert component(small_page("prompt", p=PROMPT, open=section, **more), shown)
    with pytest.raises(AssertionError, match="no component"):
        component(small_page("prompt", p=PROMPT, open="sure", **more), shown)


def test_the_neurons_of_a_prompt_are_data_tables_where_that_section_is_open(small_page):
    app = small_page("prompt", p=PROMPT, open="data")
    assert len(app.dataframe) == 2
    assert {"neuron", "score"} <= set(app.dataframe[0].value)


def test_links_keep_what_is_open(small_page):
    app = small_page("prompt", p=PROMPT, open="layers,sure")
    links = [group["href"] for group in component(app, "layers")["groups"]]
    links += [row["href"] for row in component(app, "neurons_ffn")["rows"]]
    assert {parse_qs(urlsplit(link).query)["open"][0] for link in links} == {"layers,sure"}


def test_with_tables_asked_for_they_are_open(small_page):
    asked = {"p": PROMPT, "head": "L1.H2", "map": "lens", "show": "query"}
    closed, opened = small_page("prompt", **asked), small_page("prompt", **asked, tables="1")
    beside = 3  # next tokens, layers and flow
    assert len(opened.dataframe) - len(closed.dataframe) == 4 + beside


def test_what_was_opened_stays_open_with_another_filter(toy_page):
    app = unfolded(toy_page("search", q="Python"))
    before = app.dataframe[0].value
    app.query_params["sign"] = "promotes"
    app.run()
    after = app.dataframe[0].value
    assert set(after["sign"]) == {"promotes"}
    assert len(before) >= len(after)


def test_the_whole_result_is_offered_when_it_is_opened(toy_page):
    app = toy_page("search", q="Python")
    offered = len(app.get("download_button"))
    assert len(unfolded(app).get("download_button")) > offered


def test_rows_carry_only_what_they_say(toy_page):
    rows = component(toy_page("search", q="Python"), "hits")["rows"]
    values = [value for row in rows for cell in row["cells"] for value in cell.values()]
    values += [
        value for row in rows for cell in row["cells"] for one in cell.get("chips", ()) for value in one.values()
    ]
    assert all(value not in ("", None, False, []) for value in values)
