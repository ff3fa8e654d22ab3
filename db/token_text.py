r"""A token's bytes as text that a reader cannot mistake for another token's.

    >>> display(b" Paris\n")
    '␣Paris↵'
    >>> display("a\u200bb".encode()), display(b"\xe4\xbd")
    ('a⟨U+200B⟩b', '⟨E4⟩⟨BD⟩')

Different bytes always give different text: the marks themselves (␣ ↵ ⇥ ␍ ⟨ ⟩ ◌), where a token really contains them,
are shown by their code points.
"""

import re
import unicodedata
from functools import lru_cache

_MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
_BASE = "◌"
_RESERVED = frozenset("␣↵⇥␍⟨⟩" + _BASE)
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
# Letters, marks and symbols by category, but drawn as nothing.
_INVISIBLE_RANGES = (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
_INVISIBLE = frozenset(map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0))).union(
    *(map(chr, codes) for codes in _INVISIBLE_RANGES)
)


def display(data: bytes) -> str:
    """Printable text that stands for exactly these bytes, in full length.

    Spaces show as ␣, newlines ↵, tabs ⇥, carriage returns ␍; whatever else is invisible, unassigned or private as
    ⟨U+200B⟩; bytes that are not valid UTF-8 as ⟨E4⟩ each. A combining mark with no character before it to sit on gets
    the base ◌. No bytes at all (a row of the unembedding that no token uses) show as ⟨empty⟩.
    """
    if not data:
        return "⟨empty⟩"
    shown: list[str] = []
    has_base = False
    # surrogateescape keeps each undecodable byte as U+DC00 + byte; valid UTF-8 never decodes to a surrogate.
    for character in data.decode("utf-8", "surrogateescape"):
        piece = _piece(character)
        if piece == character and not has_base and unicodedata.category(character).startswith("M"):
            piece = _BASE + character
        has_base = piece[-1] == character
        shown.append(piece)
    return "".join(shown)


def _piece(character: str) -> str:
    if character in _MARKS:
        return _MARKS[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"⟨{code - 0xDC00:02X}⟩"
    if character in _RESERVED or character in _INVISIBLE or unicodedata.category(character) in _ESCAPED_CATEGORIES:
        return f"⟨U+{code:04X}⟩"
    return character


COMMAS = ",;，；﹐﹔､、﹑،؛\u037e՝߸፣፤᠂᠈꓾꘍꛵⸲⸴⸵⹁⹉"
"""What keyboards write for a comma, an enumeration's comma or a semicolon."""
MINUSES = "-−－﹣‐‑‒–"
"""What keyboards and text editors write for a minus."""
SEPARATORS = re.compile(f"[{COMMAS}\\s\u200b\ufeff]+")
"""Between the entries of a list that was typed: commas, white space, and space that nobody sees."""


def legible(text: str) -> str:
    r"""A text on one line, with its spaces; what cannot be seen in it, or a terminal would obey, as in :func:`display`.

    >>> legible("The capital\n\x1b[31m")
    'The capital↵⟨U+001B⟩[31m'
    """
    return display(text.encode("utf-8", "replace")).replace("␣", " ") if text else ""


# The other way round: what someone may mean who types or pastes a token.

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece vocabularies write the token of a single byte."""
_SHOWN = re.compile(r"⟨U\+(?P<code>[0-9A-Fa-f]{4,6})⟩|⟨(?P<byte>[0-9A-Fa-f]{2})⟩|(?P<mark>[␣↵⇥␍◌])")
_ESCAPES = {"\\n": b"\n", "\\t": b"\t", "\\r": b"\r"}
_MEANT = {mark: character for character, mark in _MARKS.items()} | {_BASE: ""}


@lru_cache(maxsize=1)
def byte_level_alphabet() -> dict[str, int]:
    """The character that byte-level BPE (GPT-2's) writes for each byte: printable ones stand for themselves."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in kept}
    moved = [byte for byte in range(256) if byte not in kept]
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(moved)})
    return alphabet


def readings(text: str) -> tuple[bytes, ...]:
    r"""The bytes that a typed or pasted text may stand for, the likeliest first: the text as it is; what it means as a
    display form; and as vocabularies (byte-level ones and SentencePiece) or programs write it.

    >>> [readings(text)[-1] for text in ("Paris", "␣Paris", "ĠParis", "▁Paris", "⟨0A⟩", "<0x0A>", "\\n")]
    [b'Paris', b' Paris', b' Paris', b' Paris', b'\n', b'\n', b'\n']
    """
    found = [text.encode()]
    if _SHOWN.search(text):
        # Bytes are taken along as surrogates, as `display` does.
        found.append(_SHOWN.sub(_meant, text).encode("utf-8", "surrogateescape"))
    alphabet = byte_level_alphabet()
    if any(ord(one) > 0xFF for one in text) and all(one in alphabet for one in text):
        found.append(bytes(alphabet[one] for one in text))
    if "▁" in text:
        found.append(text.replace("▁", " ").encode())
    single = BYTE_PIECE.fullmatch(text)
    if single:
        found.append(bytes.fromhex(single[1]))
    if text in _ESCAPES:
        found.append(_ESCAPES[text])
    return tuple(one for one in dict.fromkeys(found) if one)


def _meant(shown: "re.Match[str]") -> str:
    if shown["mark"]:
        return _MEANT[shown["mark"]]
    if shown["byte"]:
        value = int(shown["byte"], 16)
        return chr(value if value < 0x80 else 0xDC00 + value)
    code = int(shown["code"], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code < 0xE000 else shown[0]


_VOWELS = frozenset("aeiouy")


def stem(text: str) -> str:
    """What the spellings and the plainest English inflections of a word have in common; no word itself.

    >>> {stem(text) for text in (" Love", "LOVES", "loved", "loving")}, stem("countries") == stem("Country")
    ({'lov'}, True)
    """
    word = text.strip().casefold() or text
    if not word.isalpha() or len(word) < 4:
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "zes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        cut = word.removesuffix(ending)
        if cut != word and len(cut) > 2 and _VOWELS & set(cut):
            doubled = len(cut) > 3 and cut[-1] == cut[-2] and cut[-1] not in "lsz"
            word = cut[:-1] if doubled else cut
            break
    if len(word) > 3 and word.endswith("e"):
        return word[:-1]
    return word[:-1] + "i" if word.endswith("y") else word


def readable(data: bytes) -> str:
    """The text itself where the bytes are valid UTF-8, else :func:`display` of them. For JSON; not injective."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return display(data)


def shorten(text: str, limit: int = 40) -> str:
    """At most ``limit`` characters of display text, "…" at the end where some are left out.

    Never cuts through an escape such as ⟨U+200B⟩, nor between a character and the marks that combine with it. For
    tables and sentences, never as a key: tokens with the same beginning may come out the same.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if len(text) <= limit:
        return text
    end = limit - 1
    opened = text.rfind("⟨", 0, end)
    if opened >= 0 and text.find("⟩", opened) >= end:
        end = opened
    while end > 0 and unicodedata.category(text[end]).startswith("M"):
        end -= 1
    return text[:end] + "…"
