"""Links last: every link that was ever passed on opens the same state, and the build that it names.

``tests/state/links/version_N.json`` holds links of form N with the states they stand for. A file is added when the form
changes; entries may be added, and none is ever changed: people have these links.
"""

import json
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as some

from app.state.address import (
    LONGEST_PACKED,
    LONGEST_PLAIN,
    VERSION,
    Limits,
    LongText,
    NamedBuild,
    Reader,
    address,
    long_text,
    named_build,
    pack,
    shared,
    size,
    stamp,
    unpack,
)
from app.state.selections import ManySelection, NeuronSelection, SearchSelection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from tests.catalogues import make_catalogue
from tests.pages import component, texts
from tests.state.selections import SELECTIONS

FOLDER = Path(__file__).parent / "links"
LIMITS = Limits(vocabulary=49152, layers=30, heads=9, experts=8)
RECORDED = [
    pytest.param(entry, id=f"{path.stem}-{number}-{entry['link'][:30]}")
    for path in sorted(FOLDER.glob("version_*.json"))
    for number, entry in enumerate(json.loads(path.read_text("utf-8")))
]


def plainly(value):
    """What of a state is not at its default, in the terms of JSON."""
    if isinstance(value, StrEnum):
        return str(value)
    if hasattr(value, "label") and not isinstance(value, NeuronSelection | tuple):
        return value.label
    if isinstance(value, tuple):
        return [plainly(one) for one in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    ordinary = type(value)()
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {recorded_as(name): plainly(one) for name, one in found.items() if one != getattr(ordinary, name)}


def recorded_as(field):
    """What the recorded links call a field; a field may be renamed in the code, an entry never changes."""
    return {"similar_by": "alike"}.get(field, field)


def opened(link):
    parts = urlsplit(link)
    page = SELECTIONS[parts.path]
    return page.read(dict(parse_qsl(parts.query, keep_blank_values=True)), LIMITS)


@pytest.mark.parametrize("entry", RECORDED)
def test_a_recorded_link_opens_its_state_for_ever(entry):
    selection, notices = opened(entry["link"])
    assert plainly(selection) == entry["state"]
    assert not notices


@pytest.mark.parametrize("entry", RECORDED)
def test_a_recorded_link_written_anew_opens_the_same(entry):
    selection, _ = opened(entry["link"])
    again = address(urlsplit(entry["link"]).path, selection.params())
    assert opened(again) == (selection, [])


def test_every_form_and_every_page_has_recorded_links():
    for version in range(1, VERSION + 1):
        entries = json.loads((FOLDER / f"version_{version}.json").read_text("utf-8"))
        assert {urlsplit(entry["link"]).path for entry in entries} >= set(SELECTIONS)


def test_every_parameter_of_every_page_is_recorded():
    entries: list[Any] = [parameter.values[0] for parameter in RECORDED]
    for page, kind in SELECTIONS.items():
        recorded = {name for entry in entries if urlsplit(entry["link"]).path == page for name in entry["state"]}
        lacking = {recorded_as(field.name) for field in fields(kind)} - recorded
        assert not lacking, f"no recorded link of {page} has {lacking}"


# Forms


def test_a_newer_form_is_read_as_far_as_it_is_known():
    selection, (notice,) = SearchSelection.read({"q": "Paris", "v": "77"}, LIMITS)
    assert selection == SearchSelection("Paris")
    assert "newer version" in notice


@pytest.mark.parametrize("form", ["", "0", "-1", "1.0", "x" * 10_000, "99999999", "١", "<b>"])
def test_a_form_that_is_none_is_named(form):
    _, (notice,) = SearchSelection.read({"v": form}, LIMITS)
    assert notice.startswith("In the address, v is not a number")
    assert "<b>" not in notice


# Long texts

TEXTS = some.text(some.characters(exclude_categories=["Cs"]), max_size=2000)


@given(TEXTS)
def test_a_text_comes_back_from_its_packed_form(text):
    assert unpack(pack(text), 2000) == text
    assert Reader(long_text("p", text), LIMITS).take("p", LongText(2000), "") == text


def test_a_long_list_of_prompts_fits_an_address():
    lines = "\n".join(f"The capital of the country with number {number} in the list is\t Paris" for number in range(50))
    assert len(lines) > 3000
    selection = ManySelection(text=lines)
    assert selection.fits
    assert size(selection.params()) < 900
    assert ManySelection.read(selection.params(), LIMITS) == (selection, [])


def test_a_short_text_stays_readable():
    assert long_text("p", "The capital of France is") == {"p": "The capital of France is"}
    assert long_text("p", "a" * LONGEST_PLAIN) == {"p": "a" * LONGEST_PLAIN}
    assert list(long_text("p", "a" * (LONGEST_PLAIN + 1))) == ["pz"]


def squeezed(data: bytes) -> str:
    import base64
    import zlib

    return base64.urlsafe_b64encode(zlib.compress(data, 9)).rstrip(b"=").decode()


BOMB = squeezed(b"a" * 4_000_000)


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (BOMB, "unpacks to more than the 40,000 characters"),
        (squeezed(b"a" * 40_001), "unpacks to more than"),
        (squeezed("é".encode() * 40_001), "unpacks to more than"),
        ("A" * (LONGEST_PACKED + 1), "at most 7,000"),
        (squeezed(b"\xff\xfe"), "not a packed text"),
        (pack("hello world")[:-4], "cut short"),
        (pack("hello") + "AAAA", "something follows"),
        ("", "not a packed text"),
        ("A", "not a packed text"),
        ("!!!", "not a packed text"),
        ("a\x00b", "not a packed text"),
        ("é", "not a packed text"),
    ],
)
def test_what_cannot_be_unpacked_is_left_out_and_named(packed, expected):
    selection, (notice,) = ManySelection.read({"psz": packed}, LIMITS)
    assert selection == ManySelection()
    assert expected in notice
    assert len(notice) < 250


def test_a_bomb_is_never_unpacked():
    import tracemalloc

    assert len(BOMB) < LONGEST_PACKED
    tracemalloc.start()
    with pytest.raises(AtlasError):
        unpack(BOMB, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


# Builds


@pytest.fixture
def two_builds(toy_page, tmp_path, monkeypatch):
    """A catalogue whose first build, aaaa…, was replaced by a second with other figures."""
    old = make_catalogue(tmp_path, build_id="aaaa567890abcdef", seed=1, created_at="2026-01-02T03:04:05Z")
    new = make_catalogue(tmp_path, build_id="bbbb567890abcdef", seed=2, created_at="2027-02-03T04:05:06Z")
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    return old, new


def link_of(build, token=3):
    parts = urlsplit(shared(SearchSelection(tokens=(token,)), build.stamp))
    return dict(parse_qsl(parts.query))


def rows(app):
    return [row["cells"][0]["text"] for row in component(app, "hits")["rows"]]


def expected_rows(build, token=3):
    with Catalogue.open(build.path) as atlas:
        return [hit.neuron.label for hit in atlas.search_token([token], limit=50)]


def test_a_shared_link_names_the_model_and_the_build(two_builds):
    assert link_of(two_builds[0]) == {"t": "3", "model": "toy", "b": "aaaa5678~20260102"}
    assert stamp(two_builds[1].stamp) == "bbbb5678~20270203"


def test_a_replaced_build_that_is_still_there_is_shown(two_builds, toy_page):
    old, new = two_builds
    assert expected_rows(old) != expected_rows(new)
    app = toy_page("search", **link_of(old))
    assert rows(app) == expected_rows(old)
    said = texts(app)
    assert "catalogue aaaa5678 of 2026-01-02, and that one is shown" in said
    assert "The current one is bbbb5678 of 2027-02-03" in said
    (change,) = component(app, "build")["items"]
    assert dict(parse_qsl(change["href"].removeprefix("?"))) == {"t": "3", "model": "toy"}
    assert "b=aaaa5678" in component(app, "hits")["rows"][0]["href"], "the next page shows that build too"


def test_a_link_to_the_current_build_says_nothing_and_is_not_carried_on(two_builds, toy_page):
    app = toy_page("search", **link_of(two_builds[1]))
    assert rows(app) == expected_rows(two_builds[1])
    assert not app.warning
    assert "b=" not in component(app, "hits")["rows"][0]["href"]


def test_of_a_build_that_is_gone_the_notice_says_so_once(two_builds, toy_page):
    old, new = two_builds
    old.path.unlink()
    app = toy_page("search", **link_of(old))
    assert rows(app) == expected_rows(new)
    assert "catalogue aaaa5678 of 2026-01-02, which is no longer here. The current one is shown, bbbb5678" in texts(app)
    assert len(app.warning) == 1
    assert "b=" not in component(app, "hits")["rows"][0]["href"]


def test_of_a_build_that_is_damaged_the_notice_says_why(two_builds, toy_page):
    old, new = two_builds
    old.path.write_bytes(b"not a catalogue")
    app = toy_page("search", **link_of(old))
    assert rows(app) == expected_rows(new)
    assert "cannot be read any more" in texts(app)


@pytest.mark.parametrize("given_name", ["../aaaa", "/etc/passwd", "a" * 500, "\x00", "~", "<b>", "aaaa~x", "", "build"])
def test_a_name_that_is_no_builds_changes_nothing(two_builds, toy_page, given_name):
    app = toy_page("search", **{**link_of(two_builds[1]), "b": given_name})
    assert rows(app) == expected_rows(two_builds[1])
    assert "fault of ours" not in texts(app)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, None),
        ({"b": ""}, None),
        ({"b": "1a2b"}, NamedBuild("1a2b", "")),
        ({"b": "1a2b~20260102"}, NamedBuild("1a2b", "2026-01-02")),
        ({"b": "1a2b~2026"}, None),
        ({"b": "../x"}, None),
        ({"b": "a/b"}, None),
        ({"b": ".hidden"}, None),
        ({"b": "a" * 101}, None),
    ],
)
def test_what_names_a_build(params, expected):
    assert named_build(params) == expected
