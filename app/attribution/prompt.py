"""Text -> token ids, and a target -> one token id, with errors a person can act on."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from db.errors import AtlasError
from db.token_text import readable
from indexer.families import Conventions

if TYPE_CHECKING:
    from indexer.language_model import LanguageModel


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt or vocabulary. text: as it stands (or its display form, where it is no whole text)."""

    id: int
    text: str
    display: str


def token_of(model: "LanguageModel", token_id: int) -> PromptToken:
    data = model.tokens.bytes_of(token_id)
    display = model.tokens.display(token_id)
    return PromptToken(token_id, readable(data) if data else display, display)


def tokenise(model: "LanguageModel", prompt: str, limit: int) -> list[int]:
    """The prompt's token ids, with what the tokenizer puts in front (a BOS token, in Llama).

    Raises:
        AtlasError: the prompt is empty, or longer than `limit` tokens or than the model's positions.
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
    ids = [int(token_id) for token_id in model.tokenizer(prompt, verbose=False)["input_ids"]]
    unknown = [token_id for token_id in ids if token_id >= model.dimensions.vocabulary]
    if unknown:
        raise AtlasError(
            f"The tokenizer of {model.name} makes token {unknown[0]} of this prompt, but the model has only "
            f"{model.dimensions.vocabulary}. Tokenizer and weights do not belong together; fetch the model again."
        )
    if not ids:
        raise AtlasError("The prompt has no tokens. Type some text whose next token is to be explained.")
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


def target_of(model: "LanguageModel", target: str | int) -> int:
    """The token id of a target given as text (as it is, or else with a space before it) or as an id.

    Raises:
        AtlasError: the text is no single token, or the id is outside the vocabulary.
    """
    if isinstance(target, int):
        if not 0 <= target < model.dimensions.vocabulary:
            raise AtlasError(f"There is no token {target}: ids go from 0 to {model.dimensions.vocabulary - 1}.")
        return target
    _require_text(target, "target")
    if not target:
        raise AtlasError("The target is empty. Give one token, such as “ Paris”.")
    pieces: list[int] = []
    for text in (target, f" {target}"):
        split = [int(token_id) for token_id in model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        if len(split) == 1:
            return split[0]
        pieces = pieces or split
    shown = " ".join(model.tokens.display(piece) for piece in pieces[:12])
    raise AtlasError(
        f"The target “{target[:40]}” is not one token but {len(pieces)}: {shown}. Choose one token, for instance the "
        "first."
    )


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
        target: the token to explain, as text or id; None is the top prediction.
        distractor: a token to hold it against, as text or id; None for no contrast.
        position: the token whose prediction is explained, counted from 0 or from the end; None is the last.
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
    conventions: Conventions = Conventions.EXACT
    suppressing: bool = False
    max_tokens: int = MAX_TOKENS
    memory_mb: int = MEMORY_MB
    method: Method = Method.ADDED
    measure: int = 0


@dataclass(frozen=True)
class PromptLine:
    """One of many prompts, with the target, distractor and position it names; None leaves the settings' own."""

    prompt: str
    target: str | int | None = None
    distractor: str | int | None = None
    position: int | None = None

    def applied(self, settings: Settings) -> Settings:
        """The settings with what this line names."""
        named = {name: value for name, value in asdict(self).items() if name != "prompt" and value is not None}
        return replace(settings, **named)
