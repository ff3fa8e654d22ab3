"""Words, colours, charts and the place of a neuron in its layer: pure functions, no page."""

import tomllib
from pathlib import Path

import pandas as pd
import pytest

from app import charts
from app.answers.neuron import rank_in_layer
from app.charts import catalogue_charts, shade
from app.report.contents import template
from app.ui.components.charts import domain
from app.ui.neuron_lists import raised_first
from app.ui.pages import ACCOUNT, PAGES
from app.words import isolated, literal, nats, percent, signed
from db.neuron import ModelSizes, Neuron, Sign
from db.records import NeuronTokens, Token

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("$x$", r"\$x\$"),
        (":red[x]", r"\:red\[x\]"),
        (":smile:", "\\:\u2060smile\\:"),
        ("<b>\n</b>", r"\<b\> \<\/b\>"),
        ("`a` *b* _c_ [d](e)", r"\`a\` \*b\* \_c\_ \[d\]\(e\)"),
        ("␣Paris – 日本", "␣Paris – 日本"),
    ],
)
def test_literal_leaves_nothing_for_markdown_to_read(text, shown):
    assert literal(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("“␣\u05d0” (23.7 %), then “\u05d1” (5 %)", "“␣<\u05d0>” (23.7 %), then “<\u05d1>” (5 %)"),
        ("“\u05d0”, “\u05d1”", "“<\u05d0>”, “<\u05d1>”"),
        # A prompt keeps its order.
        ("\u0628 1948 \u062c, \u062f · 2026-11-29", "<\u0628 1948 \u062c, \u062f> · 2026-11-29"),
        ("\u05d0 b \u05d0", "<\u05d0> b <\u05d0>"),
        ("a (1)", "a (1)"),
    ],
)
def test_what_is_written_from_right_to_left_takes_nothing_along(text, shown):
    marked = shown.replace("<", "\u2067").replace(">", "\u2069")
    assert isolated(text) == marked
    assert literal(text).replace("\\", "") == marked


def test_a_rank_stands_behind_a_token_from_right_to_left_too():
    card = pd.DataFrame(
        {"sign": "promotes", "rank": [7], "token_id": [5], "token": ["␣\u05d0"], "logit": 2.0, "z": 0.0}
    )
    rows = catalogue_charts.token_bars(card, Sign.PROMOTES, 10).altair.data
    assert isinstance(rows, pd.DataFrame)
    assert rows["label"].tolist() == ["␣\u2067\u05d0\u2069 \u20077"]


def test_in_a_report_too_and_no_mark_of_the_texts_own_is_obeyed():
    sentence = template().environment.filters["sentence"]
    assert sentence("“\u05d0” <b> \u202e") == "“\u2067\u05d0\u2069” &lt;b&gt; ⟨U+202E⟩"


def test_numbers():
    assert [signed(-3.256), signed(0.5), signed(-0.001)] == ["−3.26", "+0.50", "0.00"]
    assert [nats(0.2634), nats(-1.204)] == ["+0.263", "−1.20"]
    assert [percent(0.7712), percent(0.0031), percent(0.00001)] == ["77.1 %", "0.31 %", "< 0.01 %"]


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["PROMOTES", "SUPPRESSES", "ATTENTION", "FFN", "NEUTRAL", "MARK"])
def test_every_colour_stands_out_on_the_page(theme, name):
    config = tomllib.loads((CHECKOUT / ".streamlit" / "config.toml").read_text())
    pair = sorted(map(_luminance, (getattr(charts, name), config["theme"][theme]["backgroundColor"])))
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def test_a_token_that_repeats_keeps_a_bar_of_its_own():
    card = pd.DataFrame(
        {
            "sign": "promotes",
            "rank": [1, 2],
            "token_id": [5, 6],
            "token": ["x" * 40, "x" * 41],
            "logit": [2.0, 1.0],
            "z": 0.0,
        }
    )
    rows = catalogue_charts.token_bars(card, Sign.PROMOTES, 10).altair.data
    assert isinstance(rows, pd.DataFrame)
    assert rows["label"].nunique() == 2


def test_colours_are_even_around_zero_and_zero_has_none():
    assert shade(-0.2, 0.2) == -shade(0.2, 0.2) == -1
    assert shade(0.0, 0.2) == shade(0.1, 0.0) == shade(float("nan"), 1.0) == 0
    assert 0 < shade(0.01, 0.2) < shade(0.1, 0.2) < 1


@pytest.mark.parametrize("values", [[], [0.0], [-0.3, 4.2], [-1e-6], [1234.5], [0.1, -7.0], [float("inf"), 1.0]])
def test_an_axis_holds_zero_and_every_value_and_is_marked_with_round_numbers(values):
    low, high, marks = domain(values)
    assert all(low <= value <= high for value in values if value != float("inf"))
    assert low <= 0 <= high
    assert 0.0 in marks
    assert 2 <= len(marks) <= 8
    assert marks == sorted(set(marks))


def test_charts_of_nothing_are_still_charts():
    pattern = pd.DataFrame(columns=["query", "key", "query_token", "key_token", "weight"])
    layers = pd.DataFrame({"part": [], "layer": pd.array([], "Int64"), "score": []})
    charts = (catalogue_charts.attention_pattern(pattern), catalogue_charts.query_layers(layers, "none", name="none"))
    for chart in charts:
        drawn = chart.altair.to_dict()
        assert drawn["title"]
        assert not any(drawn["datasets"].values())


def test_a_pattern_keeps_repeated_tokens_apart():
    frame = pd.DataFrame({"query": [0, 1, 1], "key": [0, 0, 1], "query_token": "a", "key_token": "a", "weight": 0.5})
    x = catalogue_charts.attention_pattern(frame).altair.to_dict()["encoding"]["x"]
    assert x["scale"]["domain"] == [0, 1]
    assert '"0": "0 a"' in x["axis"]["labelExpr"]
    assert '"1": "1 a"' in x["axis"]["labelExpr"]


def _layer(heads: list[int | None]) -> pd.DataFrame:
    frame = pd.DataFrame({"index": range(len(heads)), "head": pd.array(heads, "Int64"), "norm": [1.0, 3.0, 2.0]})
    return frame.assign(std=1.0, top_z=[4.0, 5.0, 6.0], bottom_z=[-9.0, -1.0, -2.0])


def test_where_a_neuron_stands():
    rank = rank_in_layer(Neuron.ffn(4, 2), _layer([None] * 3), ModelSizes(5, 2, 2, 3))
    assert rank.exceeds == {"norm": 0.5, "std": 0.0, "top_z": 1.0, "bottom_z": 0.5}
    assert (rank.before, rank.after) == (Neuron.ffn(4, 1), None)


def test_the_neighbour_of_a_heads_last_dimension_is_the_next_heads_first():
    layer = _layer([0, 0, 1]).assign(index=[0, 1, 0])
    found = rank_in_layer(Neuron.attention(1, 0, 1), layer, ModelSizes(5, 2, 2, 3))
    assert found.after == Neuron.attention(1, 1, 0)


def test_the_sign_of_the_activation_says_which_end_comes_first():
    ends = NeuronTokens((Token(0, "up", "up", False),), (Token(1, "down", "down", False),))
    positive, negative = raised_first(ends, 2.0).chips, raised_first(ends, -2.0).chips
    assert [(one.text, one.faint) for one in positive] == [("up", False), ("down", True)]
    assert [(one.text, one.faint) for one in negative] == [("down", False), ("up", True)]


def test_every_page_has_its_file():
    assert all((CHECKOUT / "app" / page.file).is_file() for page in (*PAGES.values(), ACCOUNT))


def test_activations_near_zero_are_one_bar() -> None:
    edges = [-8.0, -4.0, -0.001, 0.0, 0.001, 0.002, 8.0, 16.0]
    frame = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "tokens": [1, 2, 4, 8, 16, 32, 64]})
    frame = frame.drop(index=[1, 5])  # which are no octaves
    rows = catalogue_charts.activation_histogram(frame, linear=True).altair.to_dict()["datasets"]
    (rows,) = rows.values()
    found = [(row["side"], row["low"], row["high"], row["tokens"]) for row in rows]
    assert found == [("negative", -8, -4, 1), ("near zero", -0.001, 0.002, 28), ("positive", 8, 16, 64)]
