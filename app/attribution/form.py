"""Results as JSON and back, derived from the fields of their dataclasses. Exact, and without torch.

A field is written under its own name, arrays and tuples as lists, None and what is empty by default not at all, nor a
choice that is the default. What differs is said where the field is described, by :func:`described`; a type with the
methods `named` and `unnamed` has an object of its own.

    name      another name in JSON
    inline    the fields of the value stand among those of the object that holds it; of a dict, its entries
    prompt    a token of the prompt, told by the source position that another field holds; its text is written as well
    tokens    the tokens of the prompt: not written, since whoever reads knows them

Tokens are written as their exact texts, with their ids beside them (``promotes`` and ``promotes_ids``, ``tokens`` and
``token_ids``); ``displays`` of the whole object has the display form of each by id. Arrays of one object agree on their
dimensions: two that have an L in their shape must have it alike.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from math import isfinite
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from app.attribution.prompt import PromptToken
from db.errors import AtlasError
from db.neuron import Intervention, Neuron, Part

T = TypeVar("T")
Json = Mapping[str, Any]
OF_MANY = (".jsonl", ".parquet")
"""The endings of files that hold the results of many prompts."""
DISPLAYS = "displays"
NO_ID = -1
"""Of a token whose id was not kept."""


def described(*, name: str = "", inline: bool = False, prompt: str = "", tokens: bool = False) -> dict[str, Any]:
    """The metadata of a dataclass' field; see the module for what can be said of one."""
    return {"name": name, "inline": inline, "prompt": prompt, "tokens": tokens}


# Writing.


def written(value: Any) -> Any:
    """A result as JSON: plain objects, lists, strings and numbers."""
    displays: dict[int, str] = {}
    found = _write(value, displays)
    if displays and isinstance(found, dict):
        found[DISPLAYS] = [{"id": token_id, "display": display} for token_id, display in displays.items()]
    return found


def _write(value: Any, displays: dict[int, str]) -> Any:
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Neuron | Part | Intervention):
        return value.label
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "named"):
        return value.named()
    if is_dataclass(value):
        return _write_fields(value, displays)
    if isinstance(value, Mapping):
        return {str(key): _write(one, displays) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_write(one, displays) for one in value]
    return value


def _write_fields(value: Any, displays: dict[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(value):
        held, said = getattr(value, one.name), one.metadata
        name = said.get("name") or one.name
        if said.get("tokens") or held is None or (_has_default(one) and _is_empty(held, one.default)):
            continue
        if said.get("prompt"):
            found[name] = held.text
        elif isinstance(held, PromptToken):
            displays[held.id] = held.display
            found |= {"id": held.id, "text": held.text}
        elif isinstance(_first(held), PromptToken):
            found[name] = _each_token(held, lambda token: token.text)
            if _first(held).id != NO_ID:
                found[_ids(name)] = _each_token(held, lambda token: token.id)
                _each_token(held, lambda token: displays.setdefault(token.id, token.display))
        elif said.get("inline"):
            found |= _write(held, displays)
        else:
            found[name] = _write(held, displays)
    found |= _write(getattr(value, "also_written", {}), displays)
    return found


def _has_default(one: "Field[Any]") -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


def _is_empty(held: Any, default: Any) -> bool:
    return (isinstance(held, tuple | Mapping) and not held) or (isinstance(held, StrEnum | bool) and held == default)


def _first(held: Any) -> Any:
    while isinstance(held, tuple) and held:
        held = held[0]
    return held


def _each_token(held: Any, what: Callable[[PromptToken], Any]) -> Any:
    return what(held) if isinstance(held, PromptToken) else [_each_token(one, what) for one in held]


def _ids(name: str) -> str:
    return f"{name.removesuffix('s')}_ids" if name.endswith("tokens") else f"{name}_ids"


# Reading.


@dataclass
class _Reader:
    """What is known while an object is read.

    Attributes:
        tokens: of the prompt; positions are below their number. None until they are read.
        displays: display forms by token id.
        sizes: of the dimensions met so far.
    """

    tokens: tuple[PromptToken, ...] | None
    displays: Mapping[int, str]
    sizes: dict[str, int]

    def read(self, kind: Any, data: Any) -> Any:
        """A value of a type."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return None if data is None else self.read(next(one for one in arguments if one is not type(None)), data)
        if origin is tuple:
            return tuple(self.read(arguments[0], one) for one in _list(data))
        if origin is dict:
            return {arguments[0](key): self.read(arguments[1], one) for key, one in data.items()}
        if hasattr(kind, "dim_str"):
            return self._array(kind.dim_str.split(), data)
        if kind in _LEAVES:
            return _LEAVES[kind](data)
        if is_dataclass(kind):
            unnamed = getattr(kind, "unnamed", None)
            return self.object(kind, data if unnamed is None else unnamed(data))
        return kind(data)

    def object(self, kind: Any, data: Json) -> Any:
        """A result from its object."""
        if not isinstance(data, Mapping):
            raise TypeError(f"{str(data)[:40]} is no object")
        hints, found = _hints(kind), {}
        own = [one for one in fields(kind) if not one.metadata.get("prompt")]
        for one in own:
            found[one.name] = self._field(one, hints[one.name], data, kind)
        for one in fields(kind):
            place = one.metadata.get("prompt")
            if place:
                found[one.name] = self._prompt()[found[place]]
        if found.get("position") is not None and found["position"] >= len(self._prompt()):
            raise ValueError(f"position {found['position']} of {len(self._prompt())} tokens")
        if hasattr(kind, "check"):
            kind.check(found)
        return kind(**found)

    def _field(self, one: "Field[Any]", hint: Any, data: Json, holder: Any) -> Any:
        name = one.metadata.get("name") or one.name
        if one.metadata.get("tokens"):
            return self._prompt()
        if one.metadata.get("inline"):
            return self._inline(hint, data, holder)
        if hint is PromptToken:
            return self._token(data["id"], data["text"])
        if name not in data and _has_default(one):
            return one.default if one.default_factory is MISSING else one.default_factory()
        if name not in data and type(None) in get_args(hint):
            return None
        if _of_tokens(hint):
            found = self._tokens(data[name], data.get(_ids(name)))
            if name == "tokens" and self.tokens is None:
                self.tokens = found
            return found
        return self.read(hint, data[name])

    def _inline(self, hint: Any, data: Json, holder: Any) -> Any:
        if get_origin(hint) is dict:
            others = {one.metadata.get("name") or one.name for one in fields(holder)} | {DISPLAYS}
            return self.read(hint, {key: one for key, one in data.items() if key not in others})
        inner = next((one for one in get_args(hint) if is_dataclass(one)), hint)
        first = fields(inner)[0]
        if inner is not hint and (first.metadata.get("name") or first.name) not in data:
            return None
        return self.object(inner, data)

    def _prompt(self) -> tuple[PromptToken, ...]:
        if self.tokens is None:
            raise ValueError("the tokens of the prompt are missing")
        return self.tokens

    def _tokens(self, texts: Any, ids: Any) -> Any:
        if isinstance(texts, str):
            return PromptToken(NO_ID, texts, texts) if ids is None else self._token(ids, texts)
        pairs = zip(_list(texts), [None] * len(texts) if ids is None else _list(ids), strict=True)
        return tuple(self._tokens(*pair) for pair in pairs)

    def _token(self, token_id: Any, text: Any) -> PromptToken:
        return PromptToken(_whole(token_id), _text(text), self.displays[token_id])

    def _array(self, dimensions: list[str], numbers: Any) -> "np.ndarray[Any, Any]":
        array = np.array(numbers, dtype=np.float32)
        if array.ndim != len(dimensions) or not np.isfinite(array).all():
            raise ValueError(f"no {len(dimensions)}-dimensional array of finite numbers")
        for name, size in zip(dimensions, array.shape, strict=True):
            if self.sizes.setdefault(name, size) != size:
                raise ValueError(f"{name} is {size} here and {self.sizes[name]} elsewhere")
        return array


def read(kind: type[T] | Any, data: Any, tokens: Sequence[PromptToken] | None = None) -> T:
    """The result that `written` wrote.

    Args:
        kind: of what type, such as `Analysis` or ``tuple[ValueNeuron, ...]``.
        data: the JSON; further keys are passed over.
        tokens: of the prompt, where the object does not hold them.

    Raises:
        AtlasError: it is damaged; the message says what is wrong, and is no sentence yet.
    """
    try:
        displays = data.get(DISPLAYS, ()) if isinstance(data, Mapping) else ()
        known = {_whole(one["id"]): _text(one["display"]) for one in displays}
        found: T = _Reader(None if tokens is None else tuple(tokens), known, {}).read(kind, data)
    except (AtlasError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise AtlasError(reason[:160]) from error
    return found


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _of_tokens(hint: Any) -> bool:
    while get_origin(hint) is tuple:
        hint = get_args(hint)[0]
    return hint is PromptToken


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{str(value)[:40]} is no list")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"{str(value)[:40]} is no finite number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]} is no whole number from 0")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]} is no text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{str(value)[:40]} is neither true nor false")
    return value


_LEAVES: dict[Any, Callable[[Any], Any]] = {
    bool: _flag,
    float: _number,
    int: _whole,
    str: _text,
    Neuron: Neuron.parse,
    Part: Part.parse,
    Intervention: Intervention.parse,
}
