"""What a component is handed: plain numbers, texts, lists and objects."""

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from typing import Any


def plain(value: Any) -> Any:
    """The same as JSON would have it: a slotted data class as a dict of its fields, a tuple as a list.

    Does what `dataclasses.asdict` does, without copying every text and number, which took a tenth of a page's time.
    """
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    names = getattr(type(value), "__slots__", None)
    return value if names is None else {name: plain(getattr(value, name)) for name in names}


def plain_list(values: Iterable[Any]) -> list[Any]:
    """The same of several."""
    return [plain(one) for one in values]


def brief(value: Any) -> Any:
    """The same without the fields that are at their defaults: of a table's thousands of chips, most are."""
    kind: Any = type(value)
    if kind is str or kind is float or kind is bool:
        return value
    if kind is tuple:
        return [brief(one) for one in value]
    defaults = _defaults(kind)
    if not defaults:
        return value
    return {name: brief(given) for name, default in defaults if (given := getattr(value, name)) != default}


@cache
def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a slotted data class with their defaults; empty for whatever is none."""
    if "__slots__" not in kind.__dict__:
        return ()
    return tuple((one.name, one.default) for one in fields(kind))
