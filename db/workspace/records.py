"""What the workspace keeps, each thing described once, and what it refuses to keep.

The models are the JSON of an exported document (:mod:`db.workspace.exchange`) and of the shell; the fields of `Saved`
and `AnalysisEntry` are columns of the tables by the same names.
"""

import json
import math
import unicodedata
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

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
_MAX_LISTED = 5000
_MAX_POSITION = 2**31 - 1

ROLES = {
    "FFN value": "ffn_value_neurons",
    "attention value": "attention_value_neurons",
    "FFN query": "query_ffn_neurons",
    "FFN suppressing": "ffn_suppressing_neurons",
    "attention suppressing": "attention_suppressing_neurons",
}
"""The role of a neuron in an analysis -> the list's key in the analysis' JSON."""


def now() -> str:
    """The time as it is stored, which sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_id() -> str:
    """The id of something new."""
    return uuid.uuid4().hex


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


def _by(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One of these checks for pydantic, which takes a ValueError for a refusal."""

    def checked(given: Any) -> Any:
        try:
            return check(given)
        except AtlasError as error:
            raise ValueError(str(error)) from error

    return checked


def _neuron(given: Any) -> Neuron:
    return given if isinstance(given, Neuron) else Neuron.parse(str(given))


Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Time = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"),
    AfterValidator(lambda text: datetime.fromisoformat(text) and text),
]
"""ISO 8601, UTC."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
PageName = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")]
PROMPT = "prompt"
"""The page whose saved views have a result."""
ABOUT = "about"
"""The key of what a view of another page is of, in a line, in the place of a result."""
Labelled = Annotated[
    Neuron, BeforeValidator(_by(_neuron)), PlainSerializer(lambda neuron: neuron.label, return_type=str)
]
"""A neuron; its label in JSON."""


class Record(BaseModel):
    """Something that is kept, as it is exchanged: no field more, none of another type, none changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this record."""
        return self.model_dump(by_alias=True)


class _Analysis(Record):
    """What is known of a saved analysis, or of a saved view of another page, besides the answer."""

    id: Id = Field(default_factory=new_id)
    page: PageName = Field(default="prompt", exclude_if=lambda given: given == PROMPT)
    title: str
    model: str
    build_id: str
    """Of the catalogue it was shown with."""
    unembedding_hash: str
    """Of the model that was analysed."""
    checkpoint: str = Field("", exclude_if=lambda given: not given)
    """The identity of the same: a result belongs to no other. Older versions did not note it."""
    address: str
    """The query string of the page: what was asked, and where in the answer one was looking."""
    question: str
    """What was asked, alone; two analyses with the same question and model have the same result."""
    created_at: Time = Field(default_factory=now)
    updated_at: Time = Field(default_factory=lambda known: known.get("created_at", ""))


class AnalysisEntry(_Analysis):
    """An analysis with its result: to be saved, exported or imported, or shipped with the app."""

    result: dict[str, Any]
    """As `python -m app.attribution --json` writes it; further keys are kept. Of another page, what it is `ABOUT`."""


class Saved(_Analysis):
    """A saved analysis without its result."""

    prompt: str
    """Of another page, what the view is about."""
    target: str
    """The explained token, as text; empty where there is none."""


class NeuronNote(Record):
    """What was noted of one neuron of one model."""

    model: Name
    neuron: Labelled
    text: Annotated[str, AfterValidator(_by(lambda text: paragraph(text, "note", MAX_NOTE)))] = Field(alias="note")
    tags: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_by(tags_of))]
    updated_at: Time
    checkpoint: Annotated[str, StringConstraints(max_length=100)] = Field("", exclude_if=lambda given: not given)
    """The identity of the model's checkpoint. Older versions noted the name alone."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A neuron in a list of a saved analysis: its score in nats; its source position and activation where the list
    has them.
    """

    saved: Saved
    role: str
    neuron: Neuron
    position: int | None
    score: float
    activation: float | None


@dataclass(frozen=True, slots=True)
class Collection:
    """A named list, and how many analyses and neurons are in it."""

    id: str
    name: str
    created_at: str
    analyses: int
    neurons: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a collection, in the order in which it was added."""

    analyses: tuple[Saved, ...]
    neurons: tuple[tuple[str, Neuron], ...]
    """Model and neuron."""


def columns_of(entry: AnalysisEntry) -> dict[str, Any]:
    """What is stored of an analysis that may be kept: the fields of `Saved`, and the result as JSON text.

    Raises:
        AtlasError: the title is empty or too long, or the result is too large or is not an analysis.
    """
    try:
        result = entry.result
        prompt, target = (result["prompt"], result["target"]["text"]) if entry.page == PROMPT else (result[ABOUT], "")
    except (KeyError, TypeError):
        prompt = target = None
    if not isinstance(prompt, str) or not isinstance(target, str):
        lacks = "no prompt, or no target" if entry.page == PROMPT else f"no “{ABOUT}”"
        raise AtlasError(f"The result is no analysis: it has {lacks}.")
    for name, text, longest in (
        ("address", entry.address, MAX_ADDRESS),
        ("question", entry.question, MAX_ADDRESS),
        ("model", entry.model, 200),
        ("build", entry.build_id, 100),
        ("unembedding's hash", entry.unembedding_hash, 100),
        ("checkpoint", entry.checkpoint, 100),
    ):
        if len(text) > longest or not text.isprintable():
            raise AtlasError(f"The {name} of the analysis is longer than {longest:,} characters, or cannot be shown.")
    columns = {name: getattr(entry, name) for name in _Analysis.model_fields}
    columns |= {"title": line(entry.title, "title", MAX_TITLE)}
    return columns | {"prompt": _storable(prompt), "target": _storable(target), "result": _as_text(entry.result)}


def mentions_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per neuron in every list: role, place (from 0), neuron, position, score, activation.

    Raises:
        AtlasError: a list holds something that is no neuron with a finite score.
    """
    rows = []
    for role, name in ROLES.items():
        listed = result.get(name) or []
        if not isinstance(listed, list) or len(listed) > _MAX_LISTED:
            raise AtlasError(f"The result's {name} is no list of at most {_MAX_LISTED:,} neurons.")
        rows += [{"role": role, "place": place, **_mention(one, name)} for place, one in enumerate(listed)]
    return rows


def _mention(one: Any, name: str) -> dict[str, Any]:
    try:
        neuron = Neuron.parse(str(one["neuron"])[:40]).label
        score, activation, position = float(one["score"]), one.get("activation"), one.get("position")
        activation = None if activation is None else float(activation)
    except (AtlasError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise AtlasError(f"The result's {name} holds something that is no neuron with a score.") from error
    finite = math.isfinite(score) and (activation is None or math.isfinite(activation))
    if not finite or not (position is None or (type(position) is int and 0 <= position <= _MAX_POSITION)):
        raise AtlasError(f"The result's {name} has for {neuron} a score, activation or position that cannot be.")
    return {"neuron": neuron, "position": position, "score": score, "activation": activation}


def _as_text(result: dict[str, Any]) -> str:
    """The result as it is stored: JSON in plain ASCII, so that every database can hold every prompt."""
    try:
        text = json.dumps(result, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise AtlasError(f"The result cannot be written as JSON: {error}.") from error
    if len(text) > MAX_RESULT:
        raise AtlasError(
            f"The result has {len(text):,} characters of JSON; at most {MAX_RESULT:,} are kept. "
            "Ask for fewer neurons, or shorten the prompt."
        )
    return text


def _storable(text: str) -> str:
    """Text for a column: what no database need hold becomes the replacement character. The result has it exactly."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
