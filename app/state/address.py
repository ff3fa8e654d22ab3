"""Reading query parameters: one by one, checked, with a notice for each that is unusable.

A parameter at its default is left out. Reading never fails: what cannot be meant falls back to the default, and a
notice says so. Whether a token or a neuron exists is the catalogue's to say, and reading is told its limits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from app.state.links import upgraded
from app.state.packing import LONGEST_PACKED, SUFFIX, unpack
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from db.token_text import display, shorten

MAX_TOKENS = 64
MAX_POSITION = 8000

_INTEGER = re.compile(r"-?[0-9]{1,9}")
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,4})?")
_HEAD = re.compile(r"L([0-9]{1,4})\.H([0-9]{1,4})", re.IGNORECASE)
_Choice = TypeVar("_Choice", bound=StrEnum)

Head = tuple[int, int]
"""Layer and head."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded model has; token ids, layers and heads count from 0."""

    vocabulary: int
    layers: int
    heads: int = 1
    top: int = 1000
    """Most neurons of each kind that the server finds."""


def head_label(head: Head) -> str:
    """The label of a head.

    >>> head_label((23, 4))
    'L23.H4'
    """
    return f"L{head[0]}.H{head[1]}"


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
        """The same for a text that may have been packed (:mod:`app.state.packing`), which counts before a plain one."""
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
        found = _HEAD.fullmatch(value)
        if found and int(found[1]) < limits.layers and int(found[2]) < limits.heads:
            return int(found[1]), int(found[2])
        self._refuse(name, f"a head from L0.H0 to L{limits.layers - 1}.H{limits.heads - 1} was expected")
        return None

    def neuron(self, name: str, kind: NeuronKind | None = None) -> Neuron | None:
        """A neuron's label; whether there is such a neuron is not asked."""
        found = self.place(name)
        if found is None:
            return None
        if found[1] is not None or kind not in (None, found[0].kind):
            self._refuse(name, "the label of an FFN neuron was expected, such as L11.F1229")
            return None
        return found[0]

    def place(self, name: str) -> tuple[Neuron, int | None] | None:
        """A neuron's label, with its source position after an @ where it has one."""
        value = self._params.get(name)
        if value is None:
            return None
        label, at, position = value[:60].partition("@")
        try:
            neuron = Neuron.parse(label)
        except AtlasError:
            neuron = None
        positioned = bool(_INTEGER.fullmatch(position)) and 0 <= int(position) <= MAX_POSITION
        if neuron is None or (at and not (positioned and neuron.kind is NeuronKind.ATTENTION)):
            self._refuse(name, "a neuron's label was expected, such as L29.F864, or L29.H1.N46@4 at a source position")
            return None
        return neuron, int(position) if at else None
