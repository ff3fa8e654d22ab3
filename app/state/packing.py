"""Long texts in an address: as they are while short, else compressed, so that the address can still be pasted. Pure.

A packed text stands under its parameter's name with a z behind it. Reading one unpacks at most as many bytes as the
text may have, whatever the packed form claims.
"""

import base64
import binascii
import re
import zlib
from functools import lru_cache
from urllib.parse import quote_plus

from db.errors import AtlasError

LONGEST_PLAIN = 600
"""Characters in the address, percent signs included, up to which a text is left readable."""
LONGEST_PACKED = 7000
"""Characters of a packed text: proxies commonly take addresses of 8 KB."""
SUFFIX = "z"
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")
_MOST_BYTES_A_CHARACTER = 4


def written(name: str, text: str) -> dict[str, str]:
    """The parameter that holds a text: plain, or packed where that is shorter; an empty text needs none."""
    if not text:
        return {}
    packed = _shorter(text)
    return {name + SUFFIX: packed} if packed else {name: text}


@lru_cache(maxsize=32)
def _shorter(text: str) -> str:
    """The text packed, where that is shorter; else empty. Remembered: a page writes it into each of its links."""
    plain = len(quote_plus(text, errors="replace"))
    if plain <= LONGEST_PLAIN:
        return ""
    packed = pack(text)
    return packed if len(packed) < min(plain, LONGEST_PACKED + 1) else ""


def size(params: dict[str, str]) -> int:
    """Characters that parameters take in an address."""
    return sum(len(name) + len(quote_plus(value, errors="replace")) + 2 for name, value in params.items())


def pack(text: str) -> str:
    """Compressed, in letters, digits, dashes and underscores; empty for what is not valid Unicode.

    >>> unpack(pack("The capital of France is"), 100)
    'The capital of France is'
    """
    try:
        squeezed = zlib.compress(text.encode(), 9)
    except UnicodeEncodeError:
        return ""
    return base64.urlsafe_b64encode(squeezed).rstrip(b"=").decode()


def unpack(packed: str, longest: int) -> str:
    """The text again.

    Raises:
        AtlasError: it is none, or has more than ``longest`` characters.
    """
    if _ALPHABET.fullmatch(packed) is None:
        raise AtlasError("it is no packed text")
    most = longest * _MOST_BYTES_A_CHARACTER
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), most + 1)
        text = data[:most].decode("utf-8", "strict" if len(data) <= most else "ignore")
    except (zlib.error, binascii.Error, UnicodeDecodeError) as error:
        raise AtlasError("it is no packed text") from error
    if len(data) > most or len(text) > longest:
        raise AtlasError(f"it unpacks to more than the {longest:,} characters that are read")
    if not unpacking.eof or unpacking.unused_data:
        raise AtlasError("the packed text is cut short, or something follows it")
    return text
