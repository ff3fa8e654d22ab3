"""Reading query parameters: one by one, checked, with a notice for each that is unusable.

A parameter at its default is left out. Reading never fails: what cannot be meant falls back to the default, and a
notice says so. Whether a token or a neuron exists is the catalogue's to say, and reading is told its limits.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, TypeVar
from urllib.parse import quote_plus, urlencode

from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, NeuronKind
from db.records import BuildStamp
from db.token_text import display, shorten

# Long texts in an address: as they are while short, else compressed, so that the address can still be pasted. Pure.

LONGEST_PLAIN = 600
"""Characters in the address, percent signs included, up to which a text is left readable."""
LONGEST_PACKED = 7000
"""Characters of a packed text: proxies commonly take addresses of 8 KB."""
SUFFIX = "z"
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")
_MOST_BYTES_A_CHARACTER = 4


def written(name: str, text: str) -> dict[str, str]:
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
        AtlasError: it is none, or has more than ``longest`` characters.
    """
    if _ALPHABET.fullmatch(packed) is None:
        raise AtlasError("it is no packed text")
    most = longest * _MOST_BYTES_A_CHARACTER
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), most + 1)
        text = data[:most].decode("utf-8", "strict" if len(data) <= most else "ignore")
    except (zlib.error, binascii.Error, UnicodeDecodeError) as error:
        raise AtlasError("it is no packed text") from error
    if len(data) > most or len(text) > longest:
        raise AtlasError(f"it unpacks to more than the {longest:,} characters that are read")
    if not unpacking.eof or unpacking.unused_data:
        raise AtlasError("the packed text is cut short, or something follows it")
    return text


# Links that last: the form of an address's state, and the build that was seen. Pure.

VERSION = 1
"""The form in which addresses are written."""

Params = Mapping[str, str]
Migration = Callable[[str, Params], dict[str, str]]
"""From a page's name and its parameters in one form to its parameters in the next."""

MIGRATIONS: Sequence[Migration] = ()
"""The first leads from form 1 to form 2, and so on: one fewer than there are forms."""

FORM, BUILD, MODEL = "v", "b", "model"
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
_SHORT = 8
_STAMP = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:~([0-9]{4})([0-9]{2})([0-9]{2}))?")


class Selection(Protocol):
    """A page's state."""

    def params(self) -> dict[str, str]:
        """The query parameters."""


@dataclass(frozen=True, slots=True)
class NamedBuild:
    """A build, as a link names it."""

    beginning: str
    """Of its id."""
    day: str
    """When it was made, such as 2026-01-31; empty where the link does not say."""

    @property
    def words(self) -> str:
        """For a sentence: “catalogue 1a2b3c4d of 2026-01-31”."""
        return f"catalogue {self.beginning}" + (f" of {self.day}" if self.day else "")


def address(page: str, params: Params) -> str:
    """The address of a page in a state, relative to any other page's.

    >>> address("neuron", {"n": "L1.F2"}), address("start", {})
    ('neuron?n=L1.F2', './')
    """
    path = "./" if page == "start" else page
    return f"{path}?{urlencode(in_form(params))}" if params else path


def in_form(params: Params) -> dict[str, str]:
    """Parameters as they are written: with the form they are in, unless it is the first."""
    return dict(params) if VERSION == 1 else {**params, FORM: str(VERSION)}


def shared(page: str, selection: Selection, build: BuildStamp) -> str:
    """The address to pass on: it names the model and the build, so that whoever opens it sees the same figures."""
    return address(page, {**selection.params(), MODEL: build.model, BUILD: stamp(build)})


def stamp(build: BuildStamp) -> str:
    """A build in a few characters: the beginning of its id, and its day."""
    day = build.created_at[:10].replace("-", "")
    short = build.build_id[:_SHORT]
    return f"{short}~{day}" if re.fullmatch("[0-9]{8}", day) else short


def named_build(params: Params) -> NamedBuild | None:
    """The build that a link names; None where it names none, or nothing that can be a build.

    >>> named_build({"b": "1a2b3c4d~20260131"}).words
    'catalogue 1a2b3c4d of 2026-01-31'
    """
    found = _STAMP.fullmatch(params.get(BUILD, "")[:120])
    if found is None:
        return None
    beginning, *day = found.groups()
    return NamedBuild(beginning, "-".join(day) if all(day) else "")


def upgraded(
    page: str, params: Params, migrations: Sequence[Migration] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Parameters in the present form, and a notice where their own form is not known. Doing it twice changes nothing.

    Args:
        page: whose parameters they are.
        params: in any form.
        migrations: instead of :data:`MIGRATIONS`, which end in the present form.
    """
    steps = MIGRATIONS if migrations is None else migrations
    present, given = len(steps) + 1, params.get(FORM, "1")
    found = {name: value for name, value in params.items() if name != FORM}
    notices = []
    form = int(given) if _NUMBER.fullmatch(given) else present
    if _NUMBER.fullmatch(given) is None:
        notices.append(f"In the address, {FORM} is no number: it was read as an address of today.")
    elif form > present:
        notices.append(
            "This link was made by a newer version of Neuron Atlas: what this one does not know of it was left out."
        )
    for step in steps[form - 1 :]:
        found = step(page, found)
    return {**found, FORM: str(present)}, notices


MAX_TOKENS = 64
MAX_POSITION = 8000

_INTEGER = re.compile(r"-?[0-9]{1,9}")
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,4})?")
_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded model has; token ids, layers and heads count from 0."""

    vocabulary: int
    layers: int
    heads: int = 1
    top: int = 1000
    """Most neurons of each kind that the server finds."""


class Reader:
    """Takes parameters one by one; collects a notice for each that is unusable."""

    def __init__(self, params: Mapping[str, str], page: str = "") -> None:
        """Reads the parameters of a page, which may be in the form of an earlier version."""
        self._params, self.notices = upgraded(page, params)

    @property
    def params(self) -> Mapping[str, str]:
        """The parameters in the present form."""
        return self._params

    def _refuse(self, name: str, expected: str) -> None:
        given = shorten(display(self._params[name][:200].encode("utf-8", "replace")), 40)
        self.notices.append(f"In the address, {name}={given} was left out: {expected}.")

    def text(self, name: str, longest: int) -> str:
        """Valid Unicode of at most so many characters, else nothing."""
        value = self._params.get(name, "")
        if len(value) > longest:
            self._refuse(name, f"it has {len(value):,} characters, and at most {longest:,} are read")
            return ""
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self._refuse(name, "it is not valid Unicode")
            return ""
        return value

    def long_text(self, name: str, longest: int) -> str:
        """The same for a text that may have been packed (:mod:`app.state.address`), which counts before a plain one."""
        packed_name = name + SUFFIX
        packed = self._params.get(packed_name)
        if packed is None:
            return self.text(name, longest)
        if len(packed) > LONGEST_PACKED:
            self._refuse(packed_name, f"it has {len(packed):,} characters, and at most {LONGEST_PACKED:,} are read")
            return ""
        try:
            return unpack(packed, longest)
        except AtlasError as error:
            self._refuse(packed_name, str(error))
            return ""

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within the bounds."""
        value = self._params.get(name)
        if value is None:
            return None
        if _INTEGER.fullmatch(value) and low <= int(value) <= high:
            return int(value)
        self._refuse(name, f"a whole number from {low} to {high} was expected")
        return None

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within the bounds, in plain decimals."""
        value = self._params.get(name)
        if value is None:
            return None
        if _DECIMAL.fullmatch(value) and low <= float(value) <= high:
            return float(value)
        self._refuse(name, f"a number from {low:g} to {high:g} was expected, such as 3.5")
        return None

    def choice(self, name: str, choices: type[_Choice]) -> _Choice | None:
        """One of a few words."""
        value = self._params.get(name)
        if value is None:
            return None
        try:
            return choices(value)
        except ValueError:
            self._refuse(name, "it can be " + " or ".join(map(str, choices)))
            return None

    def span(self, name: str, layers: int) -> tuple[int, int] | None:
        """First and last layer."""
        value = self._params.get(name)
        if value is None:
            return None
        low, _, high = value.partition("-")
        if _INTEGER.fullmatch(low) and _INTEGER.fullmatch(high) and 0 <= int(low) <= int(high) < layers:
            return int(low), int(high)
        self._refuse(name, f"first and last layer were expected, within 0-{layers - 1}")
        return None

    def tokens(self, name: str, vocabulary: int) -> tuple[int, ...] | None:
        """Token ids; "none" are none of them."""
        value = self._params.get(name)
        if value is None:
            return None
        if value == "none":
            return ()
        parts = value.split(",") if len(value) <= 12 * MAX_TOKENS else []
        if 0 < len(parts) <= MAX_TOKENS and all(
            _INTEGER.fullmatch(part) and 0 <= int(part) < vocabulary for part in parts
        ):
            return tuple(dict.fromkeys(map(int, parts)))
        self._refuse(
            name, f"up to {MAX_TOKENS} token ids from 0 to {vocabulary - 1} were expected, with commas between"
        )
        return None

    def head(self, name: str, limits: Limits) -> Head | None:
        """A head's label, such as L23.H4."""
        value = self._params.get(name)
        if value is None:
            return None
        try:
            found = Head.parse(value)
        except AtlasError:
            found = None
        if found and found.layer < limits.layers and found.head < limits.heads:
            return found
        self._refuse(name, f"a head from L0.H0 to L{limits.layers - 1}.H{limits.heads - 1} was expected")
        return None

    def neuron(self, name: str, kind: NeuronKind | None = None) -> Neuron | None:
        """A neuron's label; whether there is such a neuron is not asked."""
        found = self.place(name)
        if found is None:
            return None
        if found.position is not None or kind not in (None, found.neuron.kind):
            self._refuse(name, "the label of an FFN neuron was expected, such as L11.F1229")
            return None
        return found.neuron

    def place(self, name: str) -> NeuronAt | None:
        """A neuron's label, with its source position after an @ where it has one."""
        value = self._params.get(name)
        if value is None:
            return None
        try:
            found = NeuronAt.parse(value[:60])
        except AtlasError:
            found = None
        if found is None or (found.position or 0) > MAX_POSITION:
            self._refuse(name, "a neuron's label was expected, such as L29.F864, or L29.H1.N46@4 at a source position")
            return None
        return found
