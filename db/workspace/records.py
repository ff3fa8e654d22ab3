"""What goes into the workspace and what comes out of it, and which texts it takes."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from db.errors import AtlasError
from db.neuron import Neuron

MAX_TITLE = 200
MAX_NAME = 100
MAX_NOTE = 20_000
MAX_TAG = 40
MAX_TAGS = 20
MAX_ADDRESS = 150_000
"""Characters; a prompt of 8,000 characters outside ASCII takes up to twelve each in an address."""
MAX_RESULT = 16 * 2**20
"""Characters of one result's JSON; 300 neurons of each kind take some 150,000."""
MAX_WORDS = 12
MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Draft:
    """An analysis that is to be saved."""

    title: str
    model: str
    build_id: str
    """Of the catalogue it was shown with."""
    unembedding_hash: str
    """Of the model that was analysed: a result belongs to no other."""
    address: str
    """The query string of the page: what was asked, and where in the answer one was looking."""
    question: str
    """What was asked, alone; two analyses with the same question and model have the same result."""
    result: dict[str, Any]
    """As `python -m app.attribution --json` writes it; further keys are kept."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved analysis, without its result."""

    id: str
    title: str
    model: str
    build_id: str
    unembedding_hash: str
    address: str
    question: str
    prompt: str
    target: str
    """The explained token, as text."""
    created_at: str
    """ISO 8601, UTC."""
    updated_at: str


@dataclass(frozen=True, slots=True)
class Mention:
    """A neuron in a list of a saved analysis: its score in nats, its source position and activation where the list
    has them.
    """

    saved: Saved
    role: str
    neuron: Neuron
    position: int | None
    score: float
    activation: float | None


@dataclass(frozen=True, slots=True)
class NeuronNote:
    """What was noted of one neuron of one model."""

    model: str
    neuron: Neuron
    text: str
    tags: tuple[str, ...]
    updated_at: str


@dataclass(frozen=True, slots=True)
class Collection:
    """A named list, and how much is in it."""

    id: str
    name: str
    created_at: str
    analyses: int
    neurons: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a collection, in the order in which it was put there."""

    analyses: tuple[Saved, ...]
    neurons: tuple[tuple[str, Neuron], ...]
    """Model and neuron."""


def now() -> str:
    """The time, as it is stored: sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def line(text: str, what: str, longest: int) -> str:
    """One line of text that is not empty.

    Raises:
        AtlasError: it is empty, too long, or has characters that cannot be shown.
    """
    cleaned = paragraph(" ".join(text.split()), what, longest)
    if not cleaned:
        raise AtlasError(f"The {what} is empty. Type at least one character.")
    return cleaned


def paragraph(text: str, what: str, longest: int) -> str:
    """Text of several lines, possibly none.

    Raises:
        AtlasError: it is too long, or has characters that cannot be shown.
    """
    cleaned = text.replace("\r\n", "\n").strip()
    if len(cleaned) > longest:
        raise AtlasError(f"The {what} has {len(cleaned):,} characters; at most {longest:,} are kept. Shorten it.")
    # Neither NUL nor half a surrogate pair can be stored everywhere, and no control character can be read.
    wrong = next((one for one in cleaned if unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\t"), None)
    if wrong is not None:
        raise AtlasError(f"The {what} holds the control character U+{ord(wrong):04X}. Remove it.")
    return cleaned


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags in small letters, sorted, each once.

    Raises:
        AtlasError: one is too long or has a comma, or there are too many.
    """
    found = {line(tag, "tag", MAX_TAG).lower() for tag in tags if tag.strip()}
    if any("," in tag for tag in found):
        raise AtlasError("A tag holds a comma; commas separate tags. Write two tags instead.")
    if len(found) > MAX_TAGS:
        raise AtlasError(f"There are {len(found)} tags; at most {MAX_TAGS} are kept.")
    return tuple(sorted(found))


def words_of(text: str) -> tuple[str, ...]:
    """The words that are searched for, as they are compared.

    Raises:
        AtlasError: there are too many.
    """
    words = tuple(dict.fromkeys(searchable(text).split()))
    if len(words) > MAX_WORDS:
        raise AtlasError(f"The search has {len(words)} words; at most {MAX_WORDS} are searched for at once.")
    return words


def searchable(*texts: str) -> str:
    """Text as it is searched: case folded, without what a database cannot hold."""
    joined = " ".join(texts).casefold()
    return "".join(" " if unicodedata.category(one) in ("Cc", "Cs") else one for one in joined)
