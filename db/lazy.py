"""Modules that are imported when they are first used: the one way to put off an import.

Commands that need no model must start without torch, and so must pages in catalogue mode. Type checkers still see the
real module:

    if TYPE_CHECKING:
        from app.attribution import analysis
    else:
        analysis = lazy_import("app.attribution.analysis")
"""

from importlib import import_module
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # tools that look through modules must not load this one
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


def lazy_import(name: str) -> Any:
    """A module that is imported at the first use of one of its names.

    >>> lazy_import("math").gcd(6, 4)
    2
    """
    return _LazyModule(name)
