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
