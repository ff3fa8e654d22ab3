"""Links that last: the form of an address's state, and the build that was seen. Pure.

An address is read by rules that may change, so it says by which it was written: ``v``, absent in the first form. Each
reading brings an older form to the present one, step by step (:data:`MIGRATIONS`); a form once published is read for
ever, and tests/app/links holds links of each.

A link that is made to be passed on names the model and the build too, ``b``: the beginning of the build's id and the
day it was made. Where that build's file is still there it is shown, so that the figures are those that were seen; where
it is not, a notice says which was meant. Addresses within the app do without: they mean the current build.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

from db.stamp import BuildStamp

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
