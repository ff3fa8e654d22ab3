"""How figures and foreign text are written: sensible digits, a true minus sign, and nothing read as Markdown."""

import re
import unicodedata

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_SHORTCODE = re.compile(r":(?=[\w+-]+:)")
_AUTOLINK = re.compile(r"https?:(?=//)|www(?=\.)|@(?=[-\w])", re.IGNORECASE)
_WORD_JOINER = "\u2060"
_INVISIBLE = frozenset({"Cc", "Cf", "Cs"})


def literal(text: str) -> str:
    r"""Text that Streamlit's Markdown shows as it stands; line breaks become spaces.

    Backslashes keep punctuation from meaning anything, except in emoji short codes and bare addresses of sites and
    mailboxes, which are replaced after Markdown is read: an invisible word joiner takes those apart. What is invisible
    in the text itself, such as a mark that turns the writing round, is shown by its code point.

    >>> literal("$x$ *a*")
    '\\$x\\$ \\*a\\*'
    """
    line = "".join(map(_visible, " ".join(text.splitlines())))
    apart = _SHORTCODE.sub(":" + _WORD_JOINER, line)
    apart = _AUTOLINK.sub(r"\g<0>" + _WORD_JOINER, apart)
    return _PUNCTUATION.sub(r"\\\1", apart)


def _visible(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩" if unicodedata.category(character) in _INVISIBLE else character


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, for what can go either way.

    >>> signed(-3.256), signed(0.5), signed(-0.001)
    ('−3.26', '+0.50', '0.00')
    """
    text = f"{value:+.{digits}f}"
    if not text.strip("+-0."):
        return text[1:]
    return text.replace("-", "−")


def nats(score: float) -> str:
    """A score: three digits after the point below 1 nat, two above.

    >>> nats(0.26341), nats(-1.204)
    ('+0.263', '−1.20')
    """
    return signed(score, 3 if abs(score) < 1 else 2)


def percent(probability: float) -> str:
    """A probability.

    >>> percent(0.7712), percent(0.0031), percent(0.00001)
    ('77.1 %', '0.31 %', '< 0.01 %')
    """
    share = 100 * probability
    if share < 0.01:
        return "< 0.01 %"
    return f"{share:.1f} %" if share >= 1 else f"{share:.2f} %"
