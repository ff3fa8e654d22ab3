"""Whatever stands in an address: every page reads it without failing, to the same state again and again.

The parsers get more than 10,000 addresses; some hundred go through whole pages.
"""

import math
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from app.state.address import Limits, address, pack
from tests.pages import texts
from tests.state.selections import SELECTIONS, names

pytestmark = pytest.mark.fuzz
LIMITS = Limits(vocabulary=40, layers=3, heads=2)
SHARED = ["model", "b", "v"]
WORDS = [
    *(
        "",
        "0",
        "1",
        "2",
        "3",
        "-1",
        "39",
        "40",
        "1e3",
        "0x1",
        "١",
        "99999999999999999999",
        "nan",
        "inf",
        "none",
        "None",
    ),
    *(
        "0-2",
        "2-0",
        "0-99",
        "-",
        "1-",
        "0,1,2",
        ",,",
        "1,1,1",
        "L0.F1",
        "l1.h1.n2",
        "L1.H1",
        "L9999.F99999",
        "L0.H0.N1@2",
    ),
    *("exact", "notebook", "promotes", "suppresses", "ffn", "attention", "z", "rank", "score", "token", "concept"),
    *("heads", "lens", "flow", "raised", "lowered", "query", "value", "capitals", "FFN query", "L0.H0,L1.F2", "5 ffn"),
    *(
        "<script>alert(1)</script>",
        "$x$",
        ":red[a]",
        "\x00",
        "\u202e",
        "\ud800",
        "../../etc/passwd",
        "'; DROP--",
        "%",
        "\\",
    ),
    *("The river runs", "a\tb\n\nc", "x" * 9000, "é" * 700, "A" * 8000, "eJw", pack("hello"), pack("x" * 50_000)),
]
VALUES = some.one_of(
    some.sampled_from(WORDS),
    some.text(max_size=40),
    some.integers(-5, 10**12).map(str),
    some.lists(some.integers(-2, 45), max_size=70).map(lambda ids: ",".join(map(str, ids))),
    some.from_regex(r"L[0-9]{1,3}\.(F[0-9]{1,3}|H[0-9](\.N[0-9]{1,2}(@[0-9]{1,4})?)?)", fullmatch=True),
    some.text(max_size=900).filter(str.isprintable).map(pack),
)


def parameters(page: str) -> list[str]:
    return [*names(page), *SHARED]


def addresses(page: str) -> some.SearchStrategy[dict[str, str]]:
    known = some.sampled_from(parameters(page)) | some.text(max_size=6)
    return some.dictionaries(known, VALUES, max_size=9)


def of_every_page() -> some.SearchStrategy[dict[str, dict[str, str]]]:
    """An address for each page: the same values under its own parameters, as to draw them is nearly all the work."""
    most = math.lcm(*(len(parameters(page)) for page in SELECTIONS))
    known = some.integers(0, most - 1) | some.text(max_size=6)

    def addressed(drawn: dict[int | str, str]) -> dict[str, dict[str, str]]:
        def name(page: str, one: int | str) -> str:
            return one if isinstance(one, str) else parameters(page)[one % len(parameters(page))]

        return {page: {name(page, one): value for one, value in drawn.items()} for page in SELECTIONS}

    return some.dictionaries(known, VALUES, max_size=9).map(addressed)


def as_sent(params: dict[str, str]) -> dict[str, str]:
    """What of these an address can hold: half a character, such as a lone surrogate, never arrives."""
    pairs = {name or "x": value for name, value in params.items()}
    return {
        name.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
        for name, value in pairs.items()
    }


def assert_read(page: str, params: dict[str, str]) -> None:
    kind = SELECTIONS[page]
    selection, notices = kind.read(params, LIMITS)
    assert kind.read(selection.params(), LIMITS) == (selection, []), "what was read is written and read again"
    assert len(address(page, selection.params())) < 120_000
    for notice in notices:
        assert len(notice) < 400
        assert not any(unicodedata.category(one) in ("Cc", "Cf", "Cs") for one in notice), notice


@settings(max_examples=1500, deadline=None)
@given(of_every_page())
def test_any_address_is_read_and_comes_back(addresses):
    for page, params in addresses.items():
        assert_read(page, params)


@pytest.mark.parametrize("page", SELECTIONS)
def test_every_word_in_every_parameter(page):
    for name in (*names(page), *SHARED):
        for word in WORDS:
            assert_read(page, {name: word})


@pytest.mark.parametrize("page", ["start", *SELECTIONS])
def test_any_address_opens_a_page(toy_page, page):
    """On a catalogue without its model, as most hosts of a catalogue would be asked."""

    @settings(
        max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(addresses(page) if page in SELECTIONS else addresses("search"))
    def every(params):
        app = toy_page(page, **as_sent(params))
        assert app.title
        assert "fault of ours" not in texts(app), params

    every()


@pytest.mark.parametrize("page", ["prompt", "neuron", "compare"])
def test_any_address_of_a_prompt_is_explained_or_refused(small_page, page):
    @settings(
        max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(addresses(page))
    def every(params):
        params = {**params, "p": "The river runs to", "k": "5", **({"n": "L1.F2"} if page == "neuron" else {})}
        app = small_page(page, **as_sent(params))
        assert app.title
        assert "fault of ours" not in texts(app), params

    every()
