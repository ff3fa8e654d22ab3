"""How figures and foreign text are written: sensible digits, a true minus sign, and nothing read as Markdown."""

import re
import unicodedata
from dataclasses import dataclass

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


# The terms of the field in plain words, and what each page shows: the text of "What am I looking at?".


@dataclass(frozen=True, slots=True)
class Term:
    """A term in plain words; `exact`: its definition in the README's table, where it has one."""

    name: str
    plain: str
    exact: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What one is looking at on a page: a few lines, and the terms that matter there."""

    lines: tuple[str, ...]
    terms: tuple[str, ...]


_TERMS = (
    Term(
        "token",
        "A piece of text that the model reads and writes as one unit, often a word with the space before it. ␣ stands "
        "for that space and ↵ for a line break.",
    ),
    Term(
        "residual stream",
        "The vector that a model keeps for each token and that every layer adds to. What stands in it after the last "
        "layer decides the next token.",
    ),
    Term(
        "layer",
        "One step of the model: attention, then FFN, each adding its output to the residual stream. Layers count "
        "from 0.",
    ),
    Term(
        "head",
        "A part of a layer’s attention that looks back at earlier positions and copies something from there. L23.H4 is "
        "head 4 of layer 23.",
    ),
    Term(
        "FFN neuron",
        "A unit of a layer’s feed-forward network (FFN). When it is active it adds its value vector, times its "
        "activation, to the residual stream.",
        "layer 28, index 29. Its value vector is that column of the FFN's output matrix; its activation on a prompt is "
        "the number the column is multiplied by, signed",
    ),
    Term(
        "attention neuron",
        "One dimension of a head’s output. It is active once for each source position that the head looks at.",
        "layer, head, dimension. Its value vector is that column of the output projection; it is active once per "
        "source position p, with attention weight × value. These are never summed away",
    ),
    Term(
        "value vector",
        "The one fixed vector that a neuron writes. A prompt changes only how much of it is written, and with which "
        "sign.",
    ),
    Term(
        "key vector",
        "What a neuron reads with: the more the residual stream points its way, the more the neuron is switched on. An "
        "FFN with a gate has two, gate and up.",
    ),
    Term(
        "activation",
        "The number that the value vector is multiplied by at one position of one prompt. It keeps its sign: a "
        "negative one turns the vector round.",
    ),
    Term(
        "logit",
        "A token’s score before it becomes a probability. Here most often the part of it that one value vector alone "
        "would add.",
    ),
    Term(
        "unembedding",
        "The matrix, one row a token, that turns the residual stream into logits. The final norm is folded into it.",
    ),
    Term(
        "promotes, suppresses",
        "The two ends of a neuron: the tokens whose logits its value vector raises the most, and lowers the most.",
        "the tokens with the highest and lowest logits under the value vector",
    ),
    Term(
        "sign rule",
        "A positive activation raises the promoted tokens and lowers the suppressed ones; a negative one does the "
        "opposite.",
        "activation > 0 raises the promoted tokens and lowers the suppressed ones; activation < 0 does the opposite",
    ),
    Term(
        "z",
        "How far a token stands out of the neuron’s own logits, in standard deviations. It makes loud and quiet "
        "neurons comparable.",
        "(logit − mean) / standard deviation over the neuron's own logits. Ranking by z keeps a few neurons with huge "
        "norms from winning for every token",
    ),
    Term(
        "concept",
        "A few words, widened to the tokens near them in the model’s own unembedding. A neuron covers it when many of "
        "those stand at one of its ends.",
    ),
    Term("target", "The token that is explained: the model’s most probable next token, unless another one is chosen."),
    Term(
        "nats",
        "The unit of log-probabilities, with natural logarithms: +0.69 nats doubles a small probability, −0.69 halves "
        "it.",
    ),
    Term(
        "log-probability increase",
        "How much the log-probability of the target grows when one part’s contribution is added to what stood in the "
        "residual stream before it.",
        "Imp(c) = log p(w given base + c) − log p(w given base), in nats: what adding the contribution c to the "
        "residual stream does to the target w. The base of attention is the layer's input, that of the FFN the layer's "
        "input plus the attention output. Layer scores telescope to log p(w given h) − log p(w given embedding)",
    ),
    Term(
        "value neurons",
        "The neurons whose contribution raised the target the most: they write the answer.",
        "those with the highest Imp: they write the answer",
    ),
    Term(
        "suppressing neurons",
        "The neurons whose contribution lowered the target the most.",
        "those with the lowest",
    ),
    Term(
        "query neurons",
        "Earlier FFN neurons whose output switched the value neurons on, through their key vectors. They raise the "
        "answer by way of others.",
        "FFN neurons whose output switched on the top attention value neurons: (contribution · key) / (layer input · "
        "key) × Imp, summed over the 30 best. The key vector is the row that reads the residual stream, times the "
        "input norm's weight, centred under LayerNorm",
    ),
    Term(
        "source position",
        "The earlier token that a head takes something from. Positions count from 0.",
    ),
    Term(
        "move",
        "What a head carried from an earlier position to the one that is explained. Each arc of the flow picture is "
        "one.",
        "what one head moved from one source position to the analysed one; its Imp is that of this part alone, on the "
        "layer's input",
    ),
    Term(
        "logit lens",
        "What the model would say if it stopped after a layer: the residual stream there, turned into tokens.",
    ),
    Term(
        "target against distractor",
        "Why this token and not that one: the difference of the two logits, shared out among the parts that made it.",
        "shares of the difference of two logits; linear, so exact at once",
    ),
    Term(
        "proven",
        "Every neuron’s score has an upper bound that is quick to compute. Scoring stops only when no other neuron can "
        "enter the list, so the list is the exhaustive one.",
    ),
    Term(
        "conventions",
        "Two ways to treat the constants of LayerNorm. In models without LayerNorm and biases they are the same.",
        "exact agrees with the model's own probabilities; notebook drops β and does not centre keys, as the paper's "
        "GPT-2 notebook does. Without LayerNorm and biases the two are the same",
    ),
    Term(
        "zeroing",
        "Running the prompt again without a head, a neuron or a whole part. It measures what really happens, where a "
        "score adds up what was written.",
        "a part is zeroed at every position: a neuron's activation, all of a head's, or all that a sub-layer adds, its "
        "output bias included. Hooks do it under the model's lock; no weight is changed",
    ),
    Term(
        "Δ",
        "What changed between two runs: the second less the first, signs kept.",
        "second run minus first, both scored with the first run's frozen scale. An attention neuron is compared at its "
        "strongest source position (largest score in size) in each run",
    ),
    Term(
        "catalogue, build",
        "The stored tokens of both ends of every neuron, made once from the model’s weights. A build is one such file, "
        "and never changes.",
    ),
)
TERMS = {term.name: term for term in _TERMS}
"""By name."""

ABOUT = {
    "start": About(
        (
            "One prompt, explained from its answer backwards: first the neurons that wrote the answer (value neurons), "
            "then the earlier ones that switched those on (query neurons).",
            "Everything on these pages can be clicked: a token leads to its neurons, a neuron to its tokens, a prompt "
            "to both.",
        ),
        ("token", "residual stream", "value neurons", "query neurons", "promotes, suppresses", "nats"),
    ),
    "search": About(
        (
            "Each row is one end of one neuron. Looking for a token, the neurons are ranked by how far it stands out "
            "at that end (z); looking for a concept, by how many of its tokens stand there and how strongly.",
            "The catalogue alone answers; no prompt is involved. Whether a neuron was active is for a prompt to say.",
        ),
        ("FFN neuron", "attention neuron", "promotes, suppresses", "z", "concept"),
    ),
    "token": About(
        (
            "One row of the unembedding: the tokens whose rows point the same way, and the neurons that have it among "
            "the strongest tokens of one of their ends.",
        ),
        ("token", "unembedding", "promotes, suppresses", "z"),
    ),
    "overview": About(
        (
            "The model as a whole: for each layer, how long its neurons’ value vectors are and how sharply they point "
            "to single tokens. Bands hold the middle half and nearly all of the layer’s neurons.",
            "The most peaked neurons are the easiest to read. Tokens that many neurons favour are often rare "
            "fragments, and say little.",
        ),
        ("value vector", "z", "FFN neuron", "attention neuron", "promotes, suppresses"),
    ),
    "neuron": About(
        (
            "One neuron from three sides: what it writes (the tokens of both ends), what switches it on (the tokens "
            "its key vector reads the most from) and when it is active (a text to try it on).",
            "Its tokens are the same whatever the prompt. Only a prompt tells which of the two ends counts, by the "
            "sign of the activation.",
        ),
        ("value vector", "promotes, suppresses", "activation", "sign rule", "key vector", "z"),
    ),
    "prompt": About(
        (
            "Which parts of the model raised the target: where (layers, heads, source positions), what (the neurons, "
            "with the tokens they raised here) and why (what switched them on).",
            "Bars to the right or upwards raised the target, the others lowered it; all are log-probability increases "
            "in nats. The lists are proven to be the exhaustive ones.",
        ),
        (
            "target",
            "log-probability increase",
            "nats",
            "head",
            "source position",
            "move",
            "value neurons",
            "suppressing neurons",
            "query neurons",
            "sign rule",
            "logit lens",
            "target against distractor",
            "proven",
            "conventions",
        ),
    ),
    "many": About(
        (
            "Each prompt is explained alone; the lists are then put together. A neuron that stands in many of them "
            "serves the task rather than one answer.",
        ),
        ("value neurons", "suppressing neurons", "query neurons", "log-probability increase", "sign rule"),
    ),
    "compare": About(
        (
            "Two explanations side by side, and what changed between them (Δ, second less first): two prompts, targets "
            "or positions, or one prompt with parts of the model zeroed.",
            "Both use the first one’s scale of the final norm, so that their scores can be subtracted.",
        ),
        ("Δ", "log-probability increase", "nats", "activation", "zeroing", "value neurons"),
    ),
    "saved": About(
        (
            "Explanations that were kept, with the state of their page and their figures. Opening one shows what was "
            "seen, even where the model is not at hand.",
        ),
        ("catalogue, build", "target", "log-probability increase"),
    ),
    "gallery": About(
        ("Explanations chosen because they show something. Their figures are stored, so that no model is needed.",),
        ("target", "value neurons", "query neurons", "log-probability increase", "nats"),
    ),
}
"""By page, as in :mod:`app.ui.navigation`."""
