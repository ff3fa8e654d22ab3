import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.token_text import display, readable, readings, shorten

NASTY = st.sampled_from("␣↵⇥␍⟨⟩◌ \n\t\r\u200b\u0301\u202e\ufe0fU+E4…é").map(str.encode)
DATA = st.one_of(
    st.binary(), st.text().map(str.encode), st.lists(st.one_of(NASTY, st.binary(max_size=3))).map(b"".join)
)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b" Paris", "␣Paris"),
        (b"a\nb\tc\rd", "a↵b⇥c␍d"),
        ("a\u200bb".encode(), "a⟨U+200B⟩b"),
        ("\u202e\u00ad\u00a0\u2028".encode(), "⟨U+202E⟩⟨U+00AD⟩⟨U+00A0⟩⟨U+2028⟩"),
        (b"\x00\x1b", "⟨U+0000⟩⟨U+001B⟩"),
        (b"\xe4", "⟨E4⟩"),
        (b"ok\xffok", "ok⟨FF⟩ok"),
        (b"\xed\xa0\x80", "⟨ED⟩⟨A0⟩⟨80⟩"),  # a surrogate in UTF-8's clothes
        ("␣".encode(), "⟨U+2423⟩"),
        ("⟨E4⟩".encode(), "⟨U+27E8⟩E4⟨U+27E9⟩"),
        ("\u0301".encode(), "◌\u0301"),
        (" \u0301".encode(), "␣◌\u0301"),
        ("e\u0301".encode(), "e\u0301"),
        ("◌\u0301".encode(), "⟨U+25CC⟩◌\u0301"),
        ("日本".encode(), "日本"),
        ("\ue000\U000e0041".encode(), "⟨U+E000⟩⟨U+E0041⟩"),
        (b"", "⟨empty⟩"),
    ],
)
def test_display(data: bytes, shown: str) -> None:
    assert display(data) == shown


@given(DATA.filter(bool))
def test_a_display_form_can_be_read_back(data: bytes) -> None:
    """Of what has no marks the text itself is the first reading; else the display form is among them."""
    assert data in readings(display(data))


@pytest.mark.parametrize(
    ("text", "also"),
    [
        ("Paris", ()),
        ("␣Paris", (b" Paris",)),
        ("ĠParis", (b" Paris",)),
        ("▁New▁York", (b" New York",)),
        ("Ċ", (b"\n",)),
        ("↵", (b"\n",)),
        ("⟨0A⟩", (b"\n",)),
        ("<0x0A>", (b"\n",)),
        ("<0xe4>", (b"\xe4",)),
        ("⟨E4⟩⟨BD⟩", (b"\xe4\xbd",)),
        ("⟨D800⟩", ()),
        ("⟨U+D800⟩", ("⟨U+D800⟩".encode(),)),  # no character
        ("⟨U+110000⟩", ("⟨U+110000⟩".encode(),)),
        ("Ġ日", ()),  # no byte-level vocabulary writes that
        ("\\n", (b"\n",)),
        ("◌", ()),
    ],
)
def test_what_a_pasted_token_may_mean(text: str, also: tuple[bytes, ...]) -> None:
    assert readings(text) == tuple(dict.fromkeys((text.encode(), *also)))


@given(DATA)
def test_display_is_printable(data: bytes) -> None:
    shown = display(data)
    assert shown
    for character in shown:
        assert unicodedata.category(character)[0] != "C"
        assert not character.isspace()


@given(DATA)
def test_display_is_injective_because_it_can_be_read_back(data: bytes) -> None:
    assert _read_back(display(data)) == data


@given(DATA, DATA)
def test_display_is_injective(first: bytes, second: bytes) -> None:
    assert (display(first) == display(second)) == (first == second)


def _read_back(shown: str) -> bytes:
    """The inverse, written without looking at the original."""
    if shown == "⟨empty⟩":
        return b""
    data, rest = b"", shown.replace("◌", "")
    while rest:
        if rest[0] == "⟨":
            code, rest = rest[1:].split("⟩", 1)
            data += chr(int(code[2:], 16)).encode() if code.startswith("U+") else bytes.fromhex(code)
        else:
            data += {"␣": " ", "↵": "\n", "⇥": "\t", "␍": "\r"}.get(rest[0], rest[0]).encode()
            rest = rest[1:]
    return data


def test_plain() -> None:
    assert readable(b" Paris\n") == " Paris\n"
    assert readable(b"\xe4x") == "⟨E4⟩x"


def test_shorten() -> None:
    assert shorten("short") == "short"
    assert shorten("a" * 41) == "a" * 39 + "…"
    assert shorten("abc⟨U+200B⟩def", 8) == "abc…"
    assert shorten("abce\u0301def", 5) == "abc…"
    with pytest.raises(ValueError, match="at least 1"):
        shorten("abc", 0)


@given(DATA, st.integers(1, 30))
def test_shorten_keeps_the_limit_and_whole_escapes(data: bytes, limit: int) -> None:
    shown = display(data)
    short = shorten(shown, limit)
    assert len(short) <= limit
    assert short == shown or (short.endswith("…") and shown.startswith(short[:-1]))
    assert short.count("⟨") == short.count("⟩")
