"""The settings of this process: environment variables ``ATLAS_*``, checked by pydantic.

:class:`Paths` says where things lie; every command reads it. The server's settings (:mod:`app.serving.settings`) are
the same class with more fields, so a variable is described once and means the same everywhere.
"""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from annotated_types import Ge, Le
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from db.errors import AtlasError

PREFIX = "ATLAS_"
OFF = "off"
_WORKSPACE = "sqlite:///workspace/atlas.sqlite"
_Settings = TypeVar("_Settings", bound=BaseSettings)


class Paths(BaseSettings):
    """Where things lie, and where models run. Each field is the variable of its name, in capitals, after ``ATLAS_``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, str_strip_whitespace=True, validate_default=False
    )

    catalogue: Path = Field(default=Path("catalogue"), description="where the catalogues lie")
    models: Path = Field(default=Path("models"), description="where the models lie")
    model: str = Field(
        default="",
        description="whose catalogue is shown first, where there are several; empty is that with the oldest build",
    )
    workspace: str = Field(
        default="",
        repr=False,  # the address may hold a password
        description="the database of saved analyses and notes: an SQLAlchemy URL; empty is the SQLite file "
        "`workspace/atlas.sqlite`; `off` is none",
    )

    device: str = Field(
        default="auto",
        description="where models run: `cpu`, `cuda` (or one of several, `cuda:1`) or `mps`; `auto` is `cuda` where "
        "there is one, else `cpu`",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="the type of numbers that a model's weights are kept in where it holds them exactly: it changes "
        "memory and time, and no result; `auto` is float32, but on a device too small for it that of the files",
    )

    @field_validator("device")
    @classmethod
    def _is_device(cls, given: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?|mps", given):
            raise ValueError("must be auto, cpu, cuda, mps, or one of several such as cuda:1")
        return given

    @field_validator("workspace")
    @classmethod
    def _is_database(cls, given: str) -> str:
        try:
            known = not given or given == OFF or make_url(given).get_backend_name() in ("sqlite", "postgresql")
        except (ArgumentError, ValueError):
            known = False
        if not known:
            raise ValueError("must be empty, off, or the URL of an SQLite or PostgreSQL database")
        return given

    @property
    def workspace_url(self) -> str | None:
        """The SQLAlchemy URL of the workspace; None where it is off."""
        return None if self.workspace == OFF else self.workspace or _WORKSPACE


def paths() -> Paths:
    """Where things lie, as the environment says now.

    Raises:
        AtlasError: a variable has a value that it must not have.
    """
    return read(Paths)


def read(settings: type[_Settings]) -> _Settings:
    """Settings from the environment.

    Raises:
        AtlasError: a variable has a value that it must not have; one line for each.
    """
    try:
        return settings()
    except ValidationError as error:
        # Neither chained nor shown as it is: it holds what was given, and that may be a secret.
        problems = [_problem(settings, one) for one in error.errors(include_url=False)]
    raise AtlasError("\n".join(problems))


def refuse_unknown(settings: type[BaseSettings]) -> None:
    """Refuse variables that begin with ``ATLAS_`` and are no settings.

    Raises:
        AtlasError: there are some; one line for each.
    """
    names = {variable(name) for name in settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in names)
    if unknown:
        raise AtlasError("\n".join(_no_variable(name, names) for name in unknown))


def of_library(name: str, otherwise: str = "") -> str:
    """The value of a variable that another library reads; where it has none, it is set to `otherwise`."""
    if otherwise:
        os.environ.setdefault(name, otherwise)
    return os.environ.get(name, "")


def variable(field: str) -> str:
    """The environment variable of a field.

    >>> variable("catalogue")
    'ATLAS_CATALOGUE'
    """
    return PREFIX + field.upper()


def expected_value(field: FieldInfo) -> str:
    """What a variable may hold, in words."""
    kind = field.annotation
    if kind is int:
        least = next(one.ge for one in field.metadata if isinstance(one, Ge))
        most = next(one.le for one in field.metadata if isinstance(one, Le))
        return f"a whole number from {least} to {most:,}"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _either(list(kind))
    known: dict[Any, str] = {bool: "true or false", Path: "a folder", str: "text", SecretStr: "text"}
    if kind in known:
        return known[kind]
    return "a list with commas" if kind == tuple[str, ...] else _either(get_args(kind))


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _no_variable(name: str, names: set[str]) -> str:
    near = get_close_matches(name, names, 1, 0.75)
    return f"{name} is no setting of Neuron Atlas{f'; {near[0]} is' if near else ''}. Correct it or take it away."


def _problem(settings: type[BaseSettings], error: Any) -> str:
    """One wrong value as one line; what may hold a secret is not repeated."""
    own = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return own
    name = str(error["loc"][0]).lower().removeprefix(PREFIX.lower())
    field = settings.model_fields[name]
    secret = name == "workspace" or field.annotation is SecretStr
    given = "" if secret else f" is {os.environ.get(variable(name), '')!r}, but"
    expected = own if error["type"] == "value_error" else f"must be {expected_value(field)}"
    return f"{variable(name)}{given} {expected}."


def cache_folder() -> Path:
    """Where what can be worked out again is kept between processes: under XDG_CACHE_HOME, or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "neuron-atlas"
