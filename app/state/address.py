"""How a page's state stands in its address: the kinds of parameters, reading and writing them, and links to pass on.

A selection declares each of its parameters once, as a field made by :func:`parameter`; it is read and written from that
declaration. A parameter at its default is left out. Reading never fails: an unusable value falls back to the default,
and a notice says so. Whether a token or a neuron exists is for the catalogue to say; reading only knows the limits.
"""

import base64
import binascii
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, ClassVar, Self
from urllib.parse import quote_plus, urlencode

from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, NeuronKind, labels, parse_interventions, parse_list
from db.records import BuildStamp
from db.token_text import display, shorten

MAX_TOKENS = 64
MAX_POSITION = 8000

_INTEGER = re.compile(r"-?[0-9]{1,9}")
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded model has; token ids, layers and heads count from 0."""

    vocabulary: int = 0
    layers: int = 0
    heads: int = 1
    top: int = 1000
    """Most neurons of each kind that the server lists."""
    experts: int = 0
    """Of a layer that has some."""


# The kinds of parameters.


class Of(StrEnum):
    """Among which models a value means the same."""

    ANY = "any"
    TOKENIZER = "tokenizer"
    """Those that split text alike: token ids and positions."""
    SHAPE = "shape"
    """Those with the same layers, heads and neurons: their labels and numbers."""


EVERY = frozenset(Of)


def shared_by(one: BuildStamp, other: BuildStamp) -> frozenset[Of]:
    """The kinds of values that mean the same in both models."""
    shape = attrgetter("layers", "d_model", "heads", "head_dim", "ffn_neurons", "attention_neurons", "experts")
    tokens = {Of.TOKENIZER} if one.tokenizer_hash == other.tokenizer_hash else set()
    return frozenset({Of.ANY} | tokens | ({Of.SHAPE} if shape(one) == shape(other) else set()))


class Kind(ABC):
    """How the value of one parameter is read and written."""

    of: Of = Of.ANY

    @abstractmethod
    def read(self, given: str, limits: Limits) -> Any:
        """The value.

        Raises:
            AtlasError: it is unusable; the message says what was expected.
        """

    def write(self, value: Any) -> str:
        """The value as text."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Valid Unicode of at most `longest` characters."""

    longest: int
    strip: bool = False
    of: Of = Of.ANY

    def read(self, given: str, limits: Limits) -> str:
        if len(given) > self.longest:
            raise AtlasError(f"it has {len(given):,} characters, and at most {self.longest:,} are read")
        try:
            given.encode("utf-8")
        except UnicodeEncodeError:
            raise AtlasError("it is not valid Unicode") from None
        return given.strip() if self.strip else given


class LongText(Text):
    """The same for a text that is written packed when it is long; see `long_text`."""


@dataclass(frozen=True, slots=True)
class Integer(Kind):
    """A whole number within bounds, both included; `high` may depend on the model."""

    low: int
    high: int | Callable[[Limits], int]
    of: Of = Of.ANY

    def read(self, given: str, limits: Limits) -> int:
        high = self.high(limits) if callable(self.high) else self.high
        if _INTEGER.fullmatch(given) and self.low <= int(given) <= high:
            return int(given)
        raise AtlasError(f"a whole number from {self.low} to {high} was expected")


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A number within bounds, in plain decimals."""

    low: float
    high: float

    def read(self, given: str, limits: Limits) -> float:
        if _DECIMAL.fullmatch(given) and self.low <= float(given) <= self.high:
            return float(given)
        raise AtlasError(f"a number from {self.low:g} to {self.high:g} was expected, such as 3.5")

    def write(self, value: float) -> str:
        return f"{round(value, 4):.10g}"


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """Yes or no, written as 0 or 1; `on` is what stands for yes."""

    on: int = 1

    def read(self, given: str, limits: Limits) -> bool:
        return Integer(0, 1).read(given, limits) == self.on

    def write(self, value: bool) -> str:
        return str(self.on)


@dataclass(frozen=True, slots=True)
class Mark(Kind):
    """Whether one particular word is given."""

    word: str

    def read(self, given: str, limits: Limits) -> bool:
        if given == self.word:
            return True
        raise AtlasError(f"it can be {self.word}")

    def write(self, value: bool) -> str:
        return self.word


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of a few words, the members of one enumeration or of several."""

    choices: Iterable[StrEnum]

    def read(self, given: str, limits: Limits) -> StrEnum:
        for one in self.choices:
            if one == given:
                return one
        raise AtlasError("it can be " + " or ".join(self.choices))


@dataclass(frozen=True, slots=True)
class Choices(Kind):
    """Any of a few words, each once; "none" stands for none of them."""

    choices: type[StrEnum]

    def read(self, given: str, limits: Limits) -> tuple[StrEnum, ...]:
        words = [] if given == "none" else given.split(",", len(self.choices))
        if set(words) <= set(self.choices):
            return tuple(one for one in self.choices if one in words)
        raise AtlasError("it can be none, or some of " + ", ".join(self.choices))

    def write(self, value: tuple[StrEnum, ...]) -> str:
        return ",".join(value) or "none"


class Span(Kind):
    """First and last layer."""

    of = Of.SHAPE

    def read(self, given: str, limits: Limits) -> tuple[int, int]:
        low, _, high = given.partition("-")
        if _INTEGER.fullmatch(low) and _INTEGER.fullmatch(high) and 0 <= int(low) <= int(high) < limits.layers:
            return int(low), int(high)
        raise AtlasError(f"first and last layer were expected, within 0-{limits.layers - 1}")

    def write(self, value: tuple[int, int]) -> str:
        return f"{value[0]}-{value[1]}"


class Tokens(Kind):
    """Token ids, each once; "none" stands for an empty list."""

    of = Of.TOKENIZER

    def read(self, given: str, limits: Limits) -> tuple[int, ...]:
        if given == "none":
            return ()
        ids = given.split(",") if len(given) <= 12 * MAX_TOKENS else []
        if 0 < len(ids) <= MAX_TOKENS and all(_INTEGER.fullmatch(i) and 0 <= int(i) < limits.vocabulary for i in ids):
            return tuple(dict.fromkeys(map(int, ids)))
        raise AtlasError(
            f"up to {MAX_TOKENS} token ids from 0 to {limits.vocabulary - 1} were expected, separated by commas"
        )

    def write(self, value: tuple[int, ...]) -> str:
        return ",".join(map(str, value)) or "none"


class _Label(Kind):
    of = Of.SHAPE

    def write(self, value: Head | Neuron | NeuronAt) -> str:
        return value.label


class HeadLabel(_Label):
    """A head, such as L23.H4."""

    def read(self, given: str, limits: Limits) -> Head:
        try:
            found = Head.parse(given)
        except AtlasError:
            found = None
        if found and found.layer < limits.layers and found.head < limits.heads:
            return found
        raise AtlasError(f"a head from L0.H0 to L{limits.layers - 1}.H{limits.heads - 1} was expected")


class NeuronAtLabel(_Label):
    """A neuron, for an attention neuron with its source position after an @ where there is one."""

    def read(self, given: str, limits: Limits) -> NeuronAt:
        try:
            found = NeuronAt.parse(given[:60])
        except AtlasError:
            found = None
        if found is None or (found.position or 0) > MAX_POSITION:
            raise AtlasError("a neuron’s label was expected, such as L29.F864, or L29.H1.N46@4 at a source position")
        return found


class FfnLabel(_Label):
    """An FFN neuron."""

    def read(self, given: str, limits: Limits) -> Neuron:
        found = NeuronAtLabel().read(given, limits)
        if found.position is not None or found.neuron.kind is not NeuronKind.FFN:
            raise AtlasError("the label of an FFN neuron was expected, such as L11.F1229")
        return found.neuron


@dataclass(frozen=True, slots=True)
class Parts(Kind):
    """Parts of the model, as `db.neuron.parse_list` reads them."""

    of = Of.SHAPE
    longest: int

    def read(self, given: str, limits: Limits) -> tuple[Any, ...]:
        return parse_list(Text(self.longest).read(given, limits))

    def write(self, value: tuple[Any, ...]) -> str:
        return labels(value)


class Interventions(Parts):
    """What is done to parts of the model, as `db.neuron.parse_interventions` reads it."""

    def read(self, given: str, limits: Limits) -> tuple[Any, ...]:
        return parse_interventions(Text(self.longest).read(given, limits))


# Selections: the state of a page, declared field by field.

VERSION, FORM = 1, "v"
"""The form in which addresses are written, and the parameter that names a later one."""
MODEL, BUILD = "model", "b"
"""In the addresses of all pages."""
_EVERYWHERE = frozenset({FORM, MODEL, BUILD, "embed", "embed_options"})
_NAMED = 5
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")


def parameter(name: str, kind: Kind, default: Any = None) -> Any:
    """A field of a state that stands in the address.

    Args:
        name: of the parameter.
        kind: how it is read and written.
        default: its value where the address does not name it.
    """
    return field(default=default, metadata={"parameter": (name, kind)})


def nested(state: "type[State]") -> Any:
    """A field that is a state itself; its parameters stand in the same address."""
    return field(default_factory=state, metadata={"nested": state})


class Reader:
    """The parameters of an address, and a notice for each that is unusable."""

    def __init__(self, params: Mapping[str, str], limits: Limits, outcome: str = "was left out") -> None:
        self.limits, self.outcome = limits, outcome
        self.notices: list[str] = []
        self._params = params
        form = params.get(FORM, "1")
        if _NUMBER.fullmatch(form) is None:
            self.notices.append(f"In the address, {FORM} is not a number: it was read as an address of today.")
        elif int(form) > VERSION:
            self.notices.append(
                "This link was made by a newer version of Neuron Atlas: what this one does not know was left out."
            )

    def take(self, name: str, kind: Kind, default: Any) -> Any:
        """The value of one parameter; the default where it is not given or unusable."""
        if isinstance(kind, LongText) and name + SUFFIX in self._params:
            name, kind = name + SUFFIX, _Packed(kind.longest)
        given = self._params.get(name)
        if given is None:
            return default
        try:
            return kind.read(given, self.limits)
        except AtlasError as error:
            self.refuse(name, str(error).rstrip("."))
            return default

    def refuse(self, name: str, reason: str) -> None:
        """Note that a parameter was left out."""
        given = shorten(display(self._params[name][:200].encode("utf-8", "replace")), 40)
        self.notices.append(f"In the address, {name}={given} {self.outcome}: {reason}.")


class State:
    """A frozen dataclass whose fields are made by `parameter` and `nested`."""

    __slots__ = ()

    @classmethod
    @cache
    def _declared(cls) -> "tuple[list[tuple[str, str, Kind, Any]], list[tuple[str, type[State]]]]":
        """Field, parameter, kind and default of each parameter; field and type of each nested state."""
        declared: Any = cls
        own = [one for one in fields(declared) if "parameter" in one.metadata]
        inner = [(one.name, one.metadata["nested"]) for one in fields(declared) if "nested" in one.metadata]
        return [(one.name, *one.metadata["parameter"], one.default) for one in own], inner

    @classmethod
    @cache
    def kinds(cls) -> dict[str, tuple[Kind, Any]]:
        """Kind and default of each parameter, those of nested states too."""
        own, inner = cls._declared()
        found = {key: (kind, default) for _, key, kind, default in own}
        return found | {key: one for _, state in inner for key, one in state.kinds().items()}

    @classmethod
    @cache
    def _names(cls) -> frozenset[str]:
        """The parameters that are read."""
        packed = {key + SUFFIX for key, (kind, _) in cls.kinds().items() if isinstance(kind, LongText)}
        return frozenset(cls.kinds()) | packed

    @classmethod
    def read_from(cls, reader: Reader) -> Self:
        """What the parameters stand for; the reader keeps the notices."""
        own, inner = cls._declared()
        values = {name: reader.take(key, kind, default) for name, key, kind, default in own}
        return cls(**values, **{name: state.read_from(reader) for name, state in inner}).normalised(reader)

    def params(self, of: Collection[Of] = EVERY) -> dict[str, str]:
        """The query parameters; for another model, those of the kinds that mean the same there."""
        parameters, inner = self._declared()
        implied, found = self.implied(), dict[str, str]()
        for name, key, kind, default in parameters:
            value = getattr(self, name)
            # Most values are the default itself, and a page has hundreds of links.
            if value is default or value == default or name in implied or kind.of not in of:
                continue
            found |= long_text(key, value) if isinstance(kind, LongText) else {key: kind.write(value)}
        for name, _ in inner:
            if name not in implied:
                found |= getattr(self, name).params(of)
        return found

    def normalised(self, reader: Reader) -> Self:
        """What was read, without what means nothing in company with the rest."""
        return self

    def implied(self) -> tuple[str, ...]:
        """The fields that are not written: they follow from the others, or mean nothing beside them."""
        return ()


class Selection(State):
    """The whole state of a page."""

    __slots__ = ()
    page_name: ClassVar[str]
    """Of its page."""

    @classmethod
    def read(
        cls, params: Mapping[str, str], limits: Limits | None = None, outcome: str = "was left out"
    ) -> tuple[Self, list[str]]:
        """The selection that the parameters stand for, and a notice of the outcome for each that could not be used."""
        reader = Reader(params, limits or Limits(), outcome)
        return cls.read_from(reader), [*reader.notices, *left_out(params, cls._names(), outcome)]


def left_out(params: Mapping[str, str], known: Collection[str] = (), outcome: str = "was left out") -> list[str]:
    """A notice that names the parameters that nobody reads, where there are any, and what became of them: neither the
    page, by the `known` ones, nor every page, nor Streamlit.
    """
    if _NUMBER.fullmatch(params.get(FORM, "1")) and int(params.get(FORM, "1")) > VERSION:
        return []  # a newer version's, which is said anyway
    names = [name for name in params if name not in known and name not in _EVERYWHERE]
    if not names:
        return []
    shown = ", ".join(shorten(display(name[:80].encode("utf-8", "replace")), 30) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    if len(names) > 1:
        return [f"In the address, {shown}{more} {outcome.replace('was', 'were')}: this page has no such parameters."]
    return [f"In the address, {shown} {outcome}: this page has no parameter of that name."]


# Long texts in an address: as they are while short, else compressed, so that the address can still be pasted.

LONGEST_PLAIN = 600
"""Characters in the address, percent signs included, up to which a text is left readable."""
LONGEST_PACKED = 7000
"""Characters of a packed text: proxies commonly take addresses of 8 KB."""
SUFFIX = "z"
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")
_MOST_BYTES_PER_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class _Packed(Kind):
    longest: int

    def read(self, given: str, limits: Limits) -> str:
        if len(given) > LONGEST_PACKED:
            raise AtlasError(f"it has {len(given):,} characters, and at most {LONGEST_PACKED:,} are read")
        return unpack(given, self.longest)


def long_text(name: str, text: str) -> dict[str, str]:
    """The parameter that holds a text: plain, or packed where that is shorter; an empty text needs none."""
    if not text:
        return {}
    packed = _shorter(text)
    return {name + SUFFIX: packed} if packed else {name: text}


@lru_cache(maxsize=32)
def _shorter(text: str) -> str:
    """The text packed, where that is shorter; else empty. Remembered: a page writes it into each of its links."""
    plain = len(quote_plus(text, errors="replace"))
    if plain <= LONGEST_PLAIN:
        return ""
    packed = pack(text)
    return packed if len(packed) < min(plain, LONGEST_PACKED + 1) else ""


def size(params: dict[str, str]) -> int:
    """Characters that parameters take in an address."""
    return sum(len(name) + len(quote_plus(value, errors="replace")) + 2 for name, value in params.items())


def pack(text: str) -> str:
    """Compressed, in letters, digits, dashes and underscores; empty for what is not valid Unicode.

    >>> unpack(pack("The capital of France is"), 100)
    'The capital of France is'
    """
    try:
        squeezed = zlib.compress(text.encode(), 9)
    except UnicodeEncodeError:
        return ""
    return base64.urlsafe_b64encode(squeezed).rstrip(b"=").decode()


def unpack(packed: str, longest: int) -> str:
    """The text again.

    Raises:
        AtlasError: it is not a packed text, or has more than ``longest`` characters.
    """
    if _ALPHABET.fullmatch(packed) is None:
        raise AtlasError("it is not a packed text")
    most = longest * _MOST_BYTES_PER_CHARACTER
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), most + 1)
        text = data[:most].decode("utf-8", "strict" if len(data) <= most else "ignore")
    except (zlib.error, binascii.Error, UnicodeDecodeError) as error:
        raise AtlasError("it is not a packed text") from error
    if len(data) > most or len(text) > longest:
        raise AtlasError(f"it unpacks to more than the {longest:,} characters that are read")
    if not unpacking.eof or unpacking.unused_data:
        raise AtlasError("the packed text is cut short, or something follows it")
    return text


# Links: a page's name and its state, as in ``neuron?n=L29.F1499``, with the build that was seen where they are shared.

_SHORT = 8
_STAMP = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:~([0-9]{4})([0-9]{2})([0-9]{2}))?(?:~w([0-9a-f]{8}))?"
)  # an id, a day, and the beginning of the hash of the weights or of the hub's commit
_IDENTITY = re.compile(r"(?:sha256|revision) ([0-9a-f]{8})[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class NamedBuild:
    """A build, as a link names it."""

    beginning: str
    """Of its id."""
    day: str
    """When it was made, such as 2026-01-31; empty where the link does not say."""
    weights: str = ""
    """Which weights it was made from, as `weights_of` names them; empty where the link does not say."""

    @property
    def words(self) -> str:
        """For a sentence: “catalogue 1a2b3c4d of 2026-01-31”."""
        return f"catalogue {self.beginning}" + (f" of {self.day}" if self.day else "")


def address(page: str, params: Mapping[str, str]) -> str:
    """The address of a page in a state, relative to any other page's.

    >>> address("neuron", {"n": "L1.F2"}), address("start", {})
    ('neuron?n=L1.F2', './')
    """
    path = "./" if page == "start" else page
    return f"{path}?{urlencode(params)}" if params else path


def shared(selection: Selection, build: BuildStamp) -> str:
    """The address to pass on: it names the model and the build, so that whoever opens it sees the same figures."""
    return address(selection.page_name, {**selection.params(), MODEL: build.model, BUILD: stamp(build)})


def stamp(build: BuildStamp) -> str:
    """A build in a few characters: the beginning of its id, its day, and the beginning of its weights' hash."""
    day = build.created_at[:10].replace("-", "")
    return stamp_of_saved(build.build_id, build.checkpoint, day if re.fullmatch("[0-9]{8}", day) else "")


def stamp_of_saved(build_id: str, checkpoint: str, day: str = "") -> str:
    """The same of a build that may be gone."""
    weights = weights_of(checkpoint)
    return "~".join(filter(None, [build_id[:_SHORT], day, weights and f"w{weights}"]))


def weights_of(checkpoint: str) -> str:
    """The weights of a checkpoint in a few characters; empty where its identity is of no known form.

    >>> weights_of("sha256 0123456789abcdef")
    '01234567'
    """
    found = _IDENTITY.fullmatch(checkpoint)
    return "" if found is None else found[1]


def named_build(params: Mapping[str, str]) -> NamedBuild | None:
    """The build that a link names; None where it names none, or nothing that can be a build.

    >>> named_build({"b": "1a2b3c4d~20260131"}).words
    'catalogue 1a2b3c4d of 2026-01-31'
    """
    found = _STAMP.fullmatch(params.get(BUILD, "")[:120])
    if found is None:
        return None
    beginning, *day, weights = found.groups()
    return NamedBuild(beginning, "-".join(day) if all(day) else "", weights or "")
