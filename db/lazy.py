"""Modules that are imported when they are first used: the one way to put off an import.

Commands that need no model must start without torch, and so must pages in catalogue mode. Type checkers still see the
real module:

    if TYPE_CHECKING:
        from app.attribution import analysis
    else:
        analysis = lazy_import("app.attribution.analysis")
"""

import gc
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # tools that look through modules must not load this one
            raise AttributeError(name)
        return getattr(_imported(self.__name__), name)


def _imported(name: str) -> ModuleType:
    """A module. What torch and transformers make when they are imported stays; looking through all of it for garbage,
    again and again, took 0.6 of the 8 seconds in which a command starts.
    """
    collects = gc.isenabled() and name not in sys.modules
    if collects:
        gc.disable()
    try:
        return import_module(name)
    finally:
        if collects:
            gc.enable()


def lazy_import(name: str) -> Any:
    """A module that is imported at the first use of one of its names.

    >>> lazy_import("math").gcd(6, 4)
    2
    """
    return _LazyModule(name)


def lazy_names(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names live in its modules, by module.

    >>> lazy_names("numbers", {"math": ("gcd",)})("gcd")(6, 4)
    2
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(_imported(modules[name]), name)

    return find
