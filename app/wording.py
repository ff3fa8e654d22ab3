"""How figures and foreign text are written: sensible digits, a true minus sign, and nothing read as Markdown."""

import re

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_SHORTCODE = re.compile(r":(?=[\w+-]+:)")
_WORD_JOINER = "\u2060"


def literal(text: str) -> str:
    r"""Text that Streamlit's Markdown shows as it stands; line breaks become spaces.

    Backslashes keep punctuation from meaning anything, except in emoji short codes, which are replaced after Markdown
    is read: an invisible word joiner takes those apart.

    >>> literal("$x$ *a*")
    '\\$x\\$ \\*a\\*'
    """
    apart = _SHORTCODE.sub(":" + _WORD_JOINER, " ".join(text.splitlines()))
    return _PUNCTUATION.sub(r"\\\1", apart)


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
