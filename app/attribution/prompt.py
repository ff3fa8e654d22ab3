"""Text -> token ids, and a target -> one token id, with errors a person can act on."""

import re
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from db.catalogue.concepts import spellings
from db.errors import AtlasError, first_line
from db.token_text import display, readable, readings, shorten
from indexer.architecture import Conventions

if TYPE_CHECKING:
    from indexer.language_model import LanguageModel


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt or vocabulary. text: as it stands (or its display form, where it is no whole text)."""

    id: int
    text: str
    display: str


def token_of(model: "LanguageModel", token_id: int) -> PromptToken:
    data, shown = model.tokens.bytes_of(token_id), model.tokens.display(token_id)
    return PromptToken(token_id, readable(data) if data else shown, shown)


def tokenise(model: "LanguageModel", prompt: str, limit: int, *, bos: bool = True, chat: bool = False) -> list[int]:
    """The prompt's token ids, with what the tokenizer puts before a text (a BOS token, in Llama) unless `bos` is False.

    What it puts after one (an EOS token) is left out: the text's own last token is the last. With `chat` the prompt is
    a user's message and the last token the one before the answer begins; the template writes BOS itself.

    Raises:
        AtlasError: the prompt is empty, or longer than `limit` tokens or than the model's positions; or there is no
            chat template that can be applied.
    """
    _require_text(prompt, "prompt")
    require_prompt(prompt)
    most = model.dimensions.max_positions
    limit, whose = (most, f", all that {model.name} takes") if most <= limit else (limit, "")
    # A token is at least one byte in no tokenizer, but rarely more than some dozens: this keeps a megabyte of text out.
    if len(prompt) > 200 * limit:
        raise TooLongError(
            f"The prompt has {len(prompt):,} characters, far more than {limit} tokens{whose}.", whose == ""
        )
    typed = _split(model, chat_text(model, prompt) if chat else prompt)
    if not typed:
        raise AtlasError("The prompt has no tokens. Type some text whose next token is to be explained.")
    ids = [*(model.tokens.added[0] if bos and not chat else ()), *typed]
    unknown = [token_id for token_id in ids if token_id >= model.dimensions.vocabulary]
    if unknown:
        raise AtlasError(
            f"The tokenizer makes {_offer(model, unknown[0])} of this prompt, but {model.name} has only "
            f"{model.dimensions.vocabulary} tokens. Either it was added and the model was not resized: leave it out of "
            "the text. Or tokenizer and weights do not belong together."
        )
    if len(ids) > limit:
        raise TooLongError(f"The prompt has {len(ids):,} tokens; the limit is {limit:,}{whose}.", whose == "")
    return ids


class TooLongError(AtlasError):
    """The prompt has too many tokens.

    Attributes:
        ours: the limit is one of `Settings`: who asks may know how to raise it.
    """

    def __init__(self, said: str, ours: bool) -> None:
        super().__init__(f"{said} Shorten it.")
        self.ours = ours


def require_prompt(prompt: str, what: str = "prompt") -> None:
    """Refuse an empty prompt. White space is text like any other: a model continues it too.

    Raises:
        AtlasError: it is empty.
    """
    if not prompt:
        raise AtlasError(f"The {what} is empty. Type some text whose next token is to be explained.")


def lines_of(text: str) -> list[str]:
    r"""The lines of a text in which each may be a prompt. Only \n and \r\n end one: whatever else looks like an end (a
    lone \r, U+2028, U+0085, a form feed) can stand in a prompt. A byte order mark at the beginning is left out.

    >>> lines_of("\ufeffone\r\ntwo\u2028three\n")
    ['one', 'two\u2028three', '']
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")


def valid_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def chat_text(model: "LanguageModel", message: str) -> str:
    """A user's message in the model's chat template, up to where the answer begins.

    Raises:
        AtlasError: the model has no template, or it cannot be applied; the message says why.
    """
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise AtlasError(
            f"{model.name} has no chat template, so a prompt cannot be a user’s message to it. Turn that off, and type "
            "the text as the model is to continue it."
        )
    try:
        return str(
            model.tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # a template is a program, and fails as it pleases
        raise AtlasError(
            f"The chat template of {model.name} cannot be applied ({first_line(error)}). It stands in "
            "chat_template.jinja or tokenizer_config.json: mend it there and load the model again, or explain the "
            "text without it."
        ) from error


def _split(model: "LanguageModel", text: str) -> list[int]:
    """The ids of the text alone."""
    return [int(token_id) for token_id in model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def notices_of(
    model: "LanguageModel", prompt: str, ids: list[int], *, bos: bool = True, chat: bool = False
) -> list[str]:
    """How the model is read where that is not plain, and what the tokenizer made of a text that the text does not show,
    one sentence each.

    ids: as `tokenise` gave them.
    """
    found = list(model.checkpoint.readings)
    if chat:
        return found + _chat_notices(model, prompt, ids)
    before, after = model.tokens.added
    if before and bos:
        found.append(f"The tokenizer put {_quoted(model, before)} before the text.")
        if ids[len(before)] == before[-1]:
            found.append(
                f"The text itself begins with {_quoted(model, before[-1:])}, which now stands there twice, as models "
                "rarely see it: leave one out."
            )
    elif before:
        found.append(f"{_quoted(model, before)}, which the tokenizer puts before a text, was left out.")
    if after:
        found.append(f"{_quoted(model, after)}, which the tokenizer puts after a text, was left out.")
    return found + _changed(model, prompt, ids[len(before) if bos else 0 :])


def _chat_notices(model: "LanguageModel", message: str, ids: list[int]) -> list[str]:
    text, before = chat_text(model, message), model.tokens.added[0]
    found = ["The text was put into the model’s chat template as a user’s message, up to where the answer begins."]
    if message not in text:
        found.append("The template changed the message itself: see its tokens.")
    if before and tuple(ids[: len(before)]) != before:
        found.append(f"{_quoted(model, before)}, which the tokenizer puts before a text, is not in the template.")
    if "strftime_now" in str(model.tokenizer.chat_template):
        found.append("The template writes today’s date, so on another day the tokens are others.")
    return found + _changed(model, text, ids)


def _changed(model: "LanguageModel", text: str, ids: list[int]) -> list[str]:
    """Where the tokens do not spell the text, a sentence that says so."""
    wanted, spelt = text.encode(), b"".join(map(model.tokens.bytes_of, ids))
    if spelt in (wanted, b" " + wanted, wanted + b" "):  # a space before or behind is how some write a word's edge
        return []
    pairs = enumerate(zip(spelt, wanted, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), len(wanted))
    part = display(spelt[max(0, same - 12) :].decode("utf-8", "ignore").encode())
    return [f"The tokenizer changed the text before splitting it: its tokens read “{shorten(part, 30)}”."]


def _quoted(model: "LanguageModel", ids: tuple[int, ...]) -> str:
    return " ".join(f"“{model.tokens.display(one)}”" for one in ids)


def _require_text(text: str, what: str) -> None:
    """A shell may hand over bytes that are no UTF-8, as lone surrogates; no tokenizer takes those."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AtlasError(f"The {what} is not valid Unicode text (character {error.start}). Type it anew.") from error


def position_of(position: int | None, tokens: int, name: str = "position") -> int:
    """A position counted from 0, or from the end where negative; the last by default.

    Raises:
        AtlasError: there is no such position.
    """
    place = tokens - 1 if position is None else position + tokens if position < 0 else position
    if not 0 <= place < tokens:
        raise AtlasError(f"There is no {name} {position}: the prompt has {tokens} tokens, positions 0 to {tokens - 1}.")
    return place


@dataclass(frozen=True)
class Named:
    """A token that was named: its id, and a sentence on how the name was read where it could be read otherwise."""

    id: int
    said: str = ""


LONGEST_TOKEN = 1000
"""Characters in which a token can be named; those of real vocabularies have up to some hundred."""


def read_token(model: "LanguageModel", given: str | int, what: str = "target") -> Named:
    """The token that is named by a text or an id.

    A token whose bytes are exactly the text wins; then one that this vocabulary writes so (<0x0A>); one that is
    displayed so (␣Paris, ⟨0A⟩) or that other vocabularies write so (ĠParis, ▁Paris); then #259, the token of that id;
    then the text with a space before it. What was not typed in so many words is said.

    Raises:
        AtlasError: it is no single token, or one that the unembedding has no row for; near ones are offered.
    """
    if isinstance(given, int):
        return Named(_with_row(model, given))
    _require_text(given, what)
    if not given:
        raise AtlasError(f"The {what} is empty. Give one token, such as “ Paris”.")
    if len(given) > LONGEST_TOKEN:
        raise AtlasError(
            f"The {what} has {len(given):,} characters; a token has at most {LONGEST_TOKEN:,}. Name one, or its id."
        )
    tokens, shown = model.tokens, shorten(display(given.encode()))
    piece = tokens.called(given)
    for data in readings(given):
        found = tokens.exactly(data)
        if found and (piece is None or data == given.encode()):
            return _read_as(model, found, data, given)
    if piece is not None:
        return Named(_with_row(model, piece), f"“{shown}” was read as {_offer(model, piece)}.")
    if _ID.fullmatch(given):
        return Named(_with_row(model, int(given[1:])))
    spaced, split = tokens.exactly(f" {given}".encode()), _split(model, given)
    if spaced:
        return Named(_with_row(model, spaced[0]), f"“{shown}” is no token: {_offer(model, spaced[0])} was taken.")
    if len(split) == 1 and not tokens.is_special(split[0]):
        return Named(_with_row(model, split[0]), f"The tokenizer writes “{shown}” as {_offer(model, split[0])}.")
    raise AtlasError(_no_token(model, given, split, what))


_ID = re.compile(r"#[0-9]{1,9}")


def _read_as(model: "LanguageModel", found: list[int], data: bytes, given: str) -> Named:
    """The first of the tokens that stand for some bytes, and what else might have been meant."""
    rows, text = model.dimensions.vocabulary, given.encode()
    chosen = _with_row(model, next((one for one in found if one < rows), found[0]))
    if data != text:
        same = model.tokens.display(chosen) == given
        return Named(chosen, "" if same else f"“{shorten(display(text))}” was read as {_offer(model, chosen)}.")
    near = found + (model.tokens.exactly(b" " + data) if given[0].isalnum() else [])
    offers = [_offer(model, one) for one in near if one < rows and one != chosen]
    also = f"; there is also {', '.join(offers)}" if offers else ""
    return Named(chosen, f"{_offer(model, chosen)} was taken, as typed{also}." if offers else "")


def _offer(model: "LanguageModel", token_id: int) -> str:
    byte = "the byte " if model.tokens.is_byte(token_id) else ""
    return f"{byte}“{shorten(model.tokens.display(token_id))}” (#{token_id})"


def _with_row(model: "LanguageModel", token_id: int) -> int:
    rows = model.dimensions.vocabulary
    if 0 <= token_id < rows:
        return token_id
    if not model.tokens.bytes_of(token_id):
        raise AtlasError(f"There is no token {token_id}: ids go from 0 to {rows - 1}.")
    raise AtlasError(
        f"{_offer(model, token_id)} is a token of the tokenizer, but the model has rows for 0 to {rows - 1} only: it "
        "was added and the model was not resized, so it can never come next. Name another."
    )


def _no_token(model: "LanguageModel", given: str, split: list[int], what: str) -> str:
    """Why a text is no token, with what it splits into and tokens that are nearly it."""
    near = dict.fromkeys(
        one for text in spellings(given.strip() or given) for one in model.tokens.exactly(text.encode())
    )
    offers = [_offer(model, one) for one in near if one < model.dimensions.vocabulary][:4]
    also = f" Near it: {', '.join(offers)}." if offers else ""
    name = f"The {what} “{shorten(display(given.encode()))}”"
    if len(split) < 2:
        return f"{name} is no token of this model.{also} Name another, or one by its id, as #259."
    shown = " ".join(shorten(model.tokens.display(piece)) for piece in split[:12])
    return f"{name} is not one token but {len(split)}: {shown}.{also} Choose one token, for instance the first."


# What to analyse.


class Method(StrEnum):
    """How a contribution c is scored; of the frozen norm's log p(w), with h the final hidden state.

    ADDED, the paper's log-probability increase: log p(w | base + c) - log p(w | base).
    REMOVED: log p(w | h) - log p(w | h - c).
    GRADIENT, attribution patching with a baseline of zero: c · ∂ log p(w) / ∂ (the sub-layer's output), of the whole
    model; first order only, but what later layers do is in it.
    """

    ADDED = "added"
    REMOVED = "removed"
    GRADIENT = "gradient"


MAX_TOKENS = 256
TOP = 300
QUERY_TOP = 30
MEMORY_MB = 512
FFN_READERS = 100
"""FFN value neurons behind which the query layers are looked for (README, Method, Query neurons)."""


@dataclass(frozen=True)
class Settings:
    """What to analyse. The defaults are those of the shell and of the dashboard.

    Attributes:
        top: how many value neurons of each kind and sign, and query neurons; 0 leaves neurons out.
        query_top: how many attention value neurons feed the query step.
        target: the token to explain, as text or id (`read_token`); None is the top prediction.
        distractor: a token to hold it against, likewise; None for no contrast.
        position: the token whose prediction is explained, counted from 0 or from the end; None is the last.
        bos: put before the text what the tokenizer puts there (Llama's <s>); False leaves it out.
        chat: the prompt is a user's message, put into the model's chat template; positions count the template's tokens.
        conventions: see README's two conventions.
        suppressing: also find the neurons that lower the target most; without a catalogue this scores most neurons.
        max_tokens: longest prompt accepted, in tokens.
        memory_mb: memory that scoring may take beside the model and the forward pass; less makes it slower.
        method: how neurons and heads are scored.
        measure: of how many neurons of each list, the first ones, to measure the effect, and whether of heads and
            sub-layers; 0 measures nothing.
    """

    top: int = TOP
    query_top: int = QUERY_TOP
    target: str | int | None = None
    distractor: str | int | None = None
    position: int | None = None
    bos: bool = True
    chat: bool = False
    conventions: Conventions = Conventions.EXACT
    suppressing: bool = False
    max_tokens: int = MAX_TOKENS
    memory_mb: int = MEMORY_MB
    method: Method = Method.ADDED
    measure: int = 0


@dataclass(frozen=True)
class Sampling:
    """How a text is continued.

    Attributes:
        tokens: at most how many; the model may end the text before.
        temperature: what logits are divided by; 0 always takes the most probable token.
        top_p: only the most probable tokens that together have this probability are drawn from.
        seed: the same one draws the same text.
    """

    tokens: int = 40
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn with.

        Raises:
            AtlasError: naming the setting and what it takes.
        """
        allowed = {
            "The number of tokens": (self.tokens, 1, 10_000),
            "The temperature": (self.temperature, 0, 100),
            "Top-p": (self.top_p, 0.01, 1),
            "The seed": (self.seed, 0, 2**32 - 1),
        }
        for name, (given, least, most) in allowed.items():
            if not least <= given <= most:
                raise AtlasError(f"{name} must be from {least} to {most}, not {given}.")


@dataclass(frozen=True)
class PromptLine:
    """One of many prompts, with what else it names, as in `Settings`; None leaves the settings' own."""

    prompt: str
    target: str | int | None = None
    distractor: str | int | None = None
    position: int | None = None
    bos: bool | None = None
    chat: bool | None = None

    def applied(self, settings: Settings) -> Settings:
        """The settings with what this line names."""
        named = {name: value for name, value in asdict(self).items() if name != "prompt" and value is not None}
        return replace(settings, **named)


@dataclass(frozen=True)
class Question:
    """A prompt and settings found sound. target and distractor: token ids; a target of None is the top prediction.
    notices: how text and tokens were read, where that is not plain.
    """

    token_ids: tuple[int, ...]
    position: int
    target: int | None
    distractor: int | None
    notices: tuple[str, ...]


def check_question(model: "LanguageModel", prompt: str, settings: Settings) -> Question:
    """Everything that can be wrong with what a person typed, before the model runs.

    Raises:
        AtlasError: the prompt, the position, the target or the distractor is unusable; the message says why.
    """
    if settings.chat and not settings.bos:
        raise AtlasError(
            "A chat template says itself what stands before a message, so nothing can be left out there. Ask for the "
            "chat template or for a text without its BOS, not for both."
        )
    if settings.distractor is not None and model.unembedding.soft_cap is not None:
        raise AtlasError(
            f"{model.name} caps its logits, so that no difference of two has shares. Ask for the target alone."
        )
    added = {"bos": settings.bos, "chat": settings.chat}
    ids = tokenise(model, prompt, settings.max_tokens, **added)
    named: dict[str, Named] = {
        what: read_token(model, given, what)
        for what, given in (("target", settings.target), ("distractor", settings.distractor))
        if given is not None
    }
    said = [one.said for one in named.values() if one.said]
    return Question(
        token_ids=tuple(ids),
        position=position_of(settings.position, len(ids)),
        target=named["target"].id if "target" in named else None,
        distractor=named["distractor"].id if "distractor" in named else None,
        notices=tuple(notices_of(model, prompt, ids, **added) + said),
    )
