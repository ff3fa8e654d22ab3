"""Text to tokens: the spellings that a search text may stand for, and how the model's tokenizer splits it."""

from functools import cached_property
from typing import TYPE_CHECKING

from db.errors import AtlasError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TEXT = 1000
"""Longest search text, in characters."""


def checked(text: str) -> str:
    """The text, if it can be searched for.

    Raises:
        AtlasError: empty, too long, or not valid Unicode.
    """
    if not text:
        raise AtlasError("The search text is empty: give a token such as “ Paris” or “Python”.")
    if len(text) > MAX_TEXT:
        raise AtlasError(f"The search text has {len(text):,} characters; a token search takes at most {MAX_TEXT:,}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise AtlasError("The search text is not valid Unicode: check the encoding of the terminal or file.") from None
    return text


def spellings(text: str) -> list[str]:
    """The text, the same with or without a leading space, then both in other cases; each once, best first.

    >>> spellings("Paris")
    ['Paris', ' Paris', 'paris', ' paris', 'PARIS', ' PARIS']
    """
    core = text.removeprefix(" ")
    leads = (" ", "") if text.startswith(" ") else ("", " ")
    cases = (core, core.lower(), core.upper(), core.capitalize(), core.title())
    return list(dict.fromkeys(lead + case for case in cases for lead in leads if lead + case))


class Splitter:
    """The tokenizer stored in a build, loaded when first needed. Safe to share between threads."""

    def __init__(self, tokenizer_json: str | None) -> None:
        self._json = tokenizer_json

    @cached_property
    def _tokenizer(self) -> "Tokenizer | None":
        if self._json is None:
            return None
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_str(self._json)
        except Exception as error:  # the library raises nothing narrower
            raise AtlasError(
                f"The tokenizer in this catalogue cannot be read ({str(error)[:120]}): "
                "install the pinned version of `tokenizers`, or build the catalogue again."
            ) from error

    def split(self, text: str) -> list[int]:
        """Token ids of the text without its outer white space, but for one leading space; [] without a tokenizer."""
        if self._tokenizer is None:
            return []
        stripped = text.strip()
        lead = " " if text.startswith(" ") else ""
        return list(self._tokenizer.encode(lead + stripped if stripped else text, add_special_tokens=False).ids)
