"""A concept as it is typed: words to look for, words to avoid, and the forms of each.

>>> [(word.text, word.negative) for word in parse("programming languages, -snake − reptile")]
[('programming', False), ('languages', False), ('snake', True), ('reptile', True)]
"""

import re
from dataclasses import dataclass

from db.errors import AtlasError
from db.vocabulary import checked

MAX_WORDS = 20
_SEPARATORS = re.compile(r"[,;\s]+")
_MINUS = ("-", "−", "–")
_HISSING = re.compile(r"(s|x|z|ch|sh)es")


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a concept."""

    text: str
    negative: bool = False
    """To be avoided: it was written with a minus before it."""


def parse(text: str) -> tuple[Word, ...]:
    """The words of a text, each once; white space and commas separate, a minus before a word makes it negative.

    Raises:
        AtlasError: the text is too long, not valid Unicode, holds no word or too many.
    """
    words: dict[Word, None] = {}
    negative = False
    for part in _SEPARATORS.split(checked(text)):
        bare = part.lstrip("".join(_MINUS))
        negative = negative or part.startswith(_MINUS)
        if bare:
            words[Word(bare, negative)] = None
            negative = False
    if not words:
        raise AtlasError("The concept has no word in it: give one or several, such as “programming languages, -snake”.")
    if len(words) > MAX_WORDS:
        raise AtlasError(f"The concept has {len(words)} words; at most {MAX_WORDS} are searched for at once.")
    return tuple(words)


def forms(word: str) -> list[str]:
    """The word, and what English would most simply make its singular and plural; nothing hangs on a wrong guess.

    >>> forms("countries"), forms("box"), forms("glass")
    (['countries', 'country', 'countrie'], ['box', 'boxs', 'boxes'], ['glass', 'glasss', 'glasses'])
    """
    lower = word.lower()
    found = [word]
    if not lower.isalpha() or len(lower) < 3:
        return found
    if lower.endswith("s") and not lower.endswith("ss"):
        if lower.endswith("ies"):
            found.append(word[:-3] + "y")
        if _HISSING.fullmatch(lower[-4:]) or _HISSING.fullmatch(lower[-3:]):
            found.append(word[:-2])
        found.append(word[:-1])
    else:
        found.append(word + "s")
        if lower.endswith("y"):
            found.append(word[:-1] + "ies")
        if lower.endswith(("s", "x", "z", "ch", "sh")):
            found.append(word + "es")
    return found
