"""How numbers and foreign text are written (sensible digits, a true minus sign, nothing read as Markdown), and the
glossary.
"""

import re
import unicodedata

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_SHORTCODE = re.compile(r":(?=[\w+-]+:)")
_AUTOLINK = re.compile(r"https?:(?=//)|www(?=\.)|@(?=[-\w])", re.IGNORECASE)
_WORD_JOINER = "\u2060"
_ARABIC_OR_HEBREW = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
# One such word, or several as long as no others and no quotation marks are between them.
_RIGHT_TO_LEFT = re.compile(
    rf"[{_ARABIC_OR_HEBREW}](?:(?:[{_ARABIC_OR_HEBREW}]|(?![“”])[\W\d_])*[{_ARABIC_OR_HEBREW}])?"
)
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
    return isolated(_PUNCTUATION.sub(r"\\\1", apart))


def isolated(text: str) -> str:
    """A sentence whose Arabic or Hebrew words, and those alone, are written from right to left: without marks around
    them a browser takes along the quotation marks and figures that follow.

    >>> isolated("“\u05d0 \u05d1” (5 %)") == "“\u2067\u05d0 \u05d1\u2069” (5 %)"
    True
    """
    return _RIGHT_TO_LEFT.sub("\u2067\\g<0>\u2069", text)


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


def whole_percent(share: float) -> str:
    """A share whose decimals say nothing; what is not all is never 100 %.

    >>> whole_percent(0.916), whole_percent(0.9999), whole_percent(0.001), whole_percent(1)
    ('92 %', '> 99 %', '< 1 %', '100 %')
    """
    if 0 < share < 0.005 or 0.995 <= share < 1:
        return "< 1 %" if share < 0.5 else "> 99 %"
    return f"{100 * share:.0f} %"


def figure(value: float) -> str:
    """A number of any size, to three digits.

    >>> figure(-0.001234), figure(2.4), figure(123.4), figure(12345.6), figure(0)
    ('−0.00123', '+2.40', '+123', '+12,346', '0')
    """
    text = f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+#.3g}".rstrip(".")
    return text.replace("-", "−") if value else "0"


# The glossary: the terms of the field in plain words. Which of them matter on a page is in `app.ui.pages`.

TERMS = {
    "token": "A piece of text that the model reads and writes as one unit, often a word with the space before it. ␣ "
    "stands for that space and ↵ for a line break.",
    "residual stream": "The vector that the model keeps for each token and that every layer adds to. What it holds "
    "after the last layer decides the next token.",
    "layer": "One step of the model: attention, then FFN, each adding its output to the residual stream. Layers count "
    "from 0.",
    "head": "A part of a layer’s attention that looks back at earlier positions and copies something from there. "
    "L23.H4 is head 4 of layer 23.",
    "FFN neuron": "A unit of a layer’s feed-forward network (FFN). When it is active it adds its value vector, times "
    "its activation, to the residual stream.",
    "FFN neuron of an expert": "In a mixture of experts a layer has several FFNs, and a router chooses a few for each "
    "token. A neuron of one that is not chosen is not active.",
    "attention neuron": "One dimension of a head’s output. It is active once for each source position that the head "
    "looks at.",
    "value vector": "The one fixed vector that a neuron writes. A prompt changes only how much of it is written, and "
    "with which sign.",
    "key vector": "What a neuron reads with: the closer the residual stream points to it, the more strongly the neuron "
    "is switched on. An FFN with a gate has two, gate and up.",
    "activation": "The number that the value vector is multiplied by at one position of one prompt. It keeps its sign: "
    "a negative one reverses the vector.",
    "active": "A neuron is active at a token where its activation there is, in size, at least a tenth or so of the "
    "greatest it has anywhere in the corpus.",
    "rate": "The share of the corpus’ tokens at which a neuron is active.",
    "usual end": "The end whose tokens a neuron raises in most of its activations. One that is nearly always negative "
    "lowers what it is said to promote.",
    "excerpt": "A stretch of the corpus around one of a neuron’s peaks: up to 23 tokens before it and 8 after. One "
    "that repeats another counts once.",
    "sign case": "With a gate, an activation is what the gate lets through times the up row’s value. Each may be "
    "positive or negative: four cases, two for either sign.",
    "logit": "A token’s score before it becomes a probability. Here it is mostly the part of that score that one value "
    "vector adds on its own.",
    "unembedding": "The matrix, with one row per token, that turns the residual stream into logits. The final norm is "
    "folded into it.",
    "promotes, suppresses": "The two ends of a neuron: the tokens whose logits its value vector raises most, and those "
    "it lowers most.",
    "sign rule": "A positive activation raises the promoted tokens and lowers the suppressed ones; a negative one does "
    "the opposite.",
    "z": "How far a token stands out from the neuron’s other logits, in standard deviations. It makes loud and quiet "
    "neurons comparable.",
    "concept": "A few words, widened to the tokens near them in the model’s own unembedding. A neuron covers it when "
    "many of those are at one of its ends.",
    "target": "The token that is explained: the model’s most probable next token, unless another one is chosen.",
    "nats": "The unit of log-probabilities, with natural logarithms: +0.69 nats doubles a small probability, −0.69 "
    "halves it.",
    "log-probability increase": "How much the log-probability of the target grows when one part’s contribution is "
    "added to what stood in the residual stream before it.",
    "value neurons": "The neurons whose contribution raised the target the most, by score. What they do to the answer "
    "is the measured effect.",
    "suppressing neurons": "The neurons whose contribution lowered the target the most.",
    "removed": "A score that asks what the answer would lose if one contribution were taken out of the final hidden "
    "state. It says nothing of what later layers make of it.",
    "gradient": "A score that asks how the answer changes with a small change of a contribution, through all later "
    "layers. Large changes may do something else.",
    "measured effect": "What the answer really lost when the model was run again without one part, at the explained "
    "position only. It often contradicts the scores.",
    "control": "As many random neurons of the same layers and about the same activations, taken out together: what "
    "that costs the answer is what any neurons would cost it.",
    "exhaustive": "Every FFN neuron was measured, not only those that a score put forward.",
    "query neurons": "Earlier FFN neurons whose output switched the value neurons on, through their key vectors. They "
    "raise the answer indirectly.",
    "source position": "The earlier token that a head takes something from. Positions count from 0.",
    "move": "What a head carried from an earlier position to the one that is explained. Each arc of the flow picture "
    "is one move.",
    "logit lens": "What the model would predict if it stopped after a layer: the residual stream there, turned into "
    "tokens.",
    "target against distractor": "Why this token and not that one: the difference between the two logits, divided "
    "among the parts that made it.",
    "proven": "Every neuron’s score has an upper bound that is quick to compute. Scoring stops only when no other "
    "neuron can enter the list, so the list is the same as if all had been scored, up to ties within twice the "
    "scores’ error.",
    "conventions": "Two ways to treat the constants of LayerNorm. In models without LayerNorm and biases they are the "
    "same.",
    "zeroing": "Running the prompt again without a head, a neuron or a whole sub-layer. It measures the actual effect, "
    "whereas a score adds up what was written.",
    "steering": "Running the model with more or less of some parts, or with neurons clamped to an activation, to see "
    "what it says then and how it continues the text.",
    "Δ": "What changed between two runs: second minus first, with its sign.",
    "catalogue, build": "The stored tokens of both ends of every neuron, made once from the model’s weights. A build "
    "is one such file; it never changes.",
}
"""In plain words, by term; the exact definitions are in `app/attribution/README.md`."""
