"""The settings of a server: environment variables ``ATLAS_*``, read once, checked at start, unchangeable after.

Nothing else in `app` reads the environment. Knows neither Streamlit nor models, so that whatever starts a server can
check the settings first.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from db.catalogue.builds import DEFAULT_ROOT
from db.errors import AtlasError

PREFIX = "ATLAS_"
OFF = "off"
_WORKSPACE = "sqlite:///workspace/atlas.sqlite"
_AUTH = ("auth_redirect_uri", "auth_cookie_secret", "auth_client_id", "auth_client_secret", "auth_metadata_url")


class Mode(StrEnum):
    """What a server does."""

    FULL = "full"
    CATALOGUE = "catalogue"
    DEMO = "demo"


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
"""A list as a person writes it in a variable: with commas."""


class Configuration(BaseSettings):
    """The settings. Each field is the variable of its name, in capitals, after ``ATLAS_``; see `variables`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, str_strip_whitespace=True, validate_default=False
    )

    catalogue: Path = Field(default=DEFAULT_ROOT, description="where the catalogues lie")
    models: Path = Field(default=Path("models"), description="where the models lie")
    model: str = Field(
        default="", description="whose catalogue is shown first, where there are several; empty is the first"
    )
    mode: Mode = Field(
        default=Mode.FULL,
        description="`full`; `catalogue` never loads a model: searching, saved analyses and the gallery only; `demo` "
        "explains only the prompts that its pages offer",
    )
    workspace: str = Field(
        default="",
        repr=False,  # the address may hold a password
        description="the database of saved analyses and notes: an SQLAlchemy URL; empty is the SQLite file "
        "`workspace/atlas.sqlite`; `off` is none",
    )
    read_only: bool = Field(default=False, description="nobody may save or change anything")

    max_tokens: int = Field(default=256, ge=1, le=32_768, description="longest prompt, in tokens")
    max_top: int = Field(default=1000, ge=1, le=1000, description="most neurons of each kind that may be asked for")
    max_prompts: int = Field(default=50, ge=1, le=1000, description="most prompts on the page of many prompts")
    max_waiting: int = Field(default=64, ge=1, le=10_000, description="most pieces of work that wait for the model")
    max_seconds: int = Field(default=120, ge=1, le=86_400, description="longest time of one piece of work, in seconds")
    keep_results: int = Field(default=64, ge=1, le=100_000, description="results kept in memory, of each kind")
    keep_models: int = Field(default=1, ge=1, le=64, description="models in memory at once")
    memory_mb: int = Field(
        default=512, ge=16, le=1_048_576, description="memory that scoring may take beside the model, in MB"
    )

    log_format: Literal["text", "json"] = Field(default="text", description="`json` writes one JSON object a line")
    log_prompts: bool = Field(default=False, description="also log what people type, and who is signed in")
    email_domains: Listed = Field(
        default=(),
        description="with sign-in: only verified addresses of these domains may write; empty is every domain",
    )
    cors_origins: Listed = Field(default=(), description="other sites whose pages may read the HTTP API; empty is none")

    auth_redirect_uri: str = Field(default="", description="sign-in: this server's address and `/oauth2callback`")
    auth_cookie_secret: SecretStr = Field(default=SecretStr(""), description="sign-in: a long random text of your own")
    auth_client_id: str = Field(default="", description="sign-in: the name your identity provider gave this server")
    auth_client_secret: SecretStr = Field(default=SecretStr(""), description="sign-in: the secret that belongs to it")
    auth_metadata_url: str = Field(
        default="", description="sign-in: your provider's `https://…/.well-known/openid-configuration`"
    )

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

    @field_validator("email_domains")
    @classmethod
    def _are_domains(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not all("." in one and not set(one) & set("@/: ") for one in given):
            raise ValueError("must be domains such as example.org, separated by commas")
        return tuple(one.lower() for one in given)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            scheme, _, host = one.partition("://")
            if scheme not in ("http", "https") or not host or "/" in host:
                raise ValueError("must be origins such as https://example.org, separated by commas, without a path")
        return given

    @model_validator(mode="after")
    def _auth_is_whole(self) -> "Configuration":
        lacking = [_variable(name) for name in _AUTH if not _plain(getattr(self, name))]
        if 0 < len(lacking) < len(_AUTH):
            raise ValueError(f"Sign-in needs all of its settings or none; missing: {', '.join(lacking)}.")
        return self

    @property
    def workspace_url(self) -> str | None:
        """The SQLAlchemy URL of the workspace; None where it is off."""
        return None if self.workspace == OFF else self.workspace or _WORKSPACE

    @property
    def auth(self) -> dict[str, str]:
        """The section ``[auth]`` of Streamlit's secrets, where sign-in is set up by variables; else empty."""
        values = {name.removeprefix("auth_"): _plain(getattr(self, name)) for name in _AUTH}
        if not any(values.values()):
            return {}
        return values | {"server_metadata_url": values.pop("metadata_url")}


@cache
def configuration() -> Configuration:
    """The settings of this process.

    Raises:
        AtlasError: a variable has a value that it must not have, or is none of ours; one line for each.
    """
    names = {_variable(name) for name in Configuration.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in names)
    if unknown:
        raise AtlasError("\n".join(_no_variable(name, names) for name in unknown))
    try:
        return Configuration()
    except ValidationError as error:
        # Neither chained nor shown as it is: it holds what was given, and that may be a secret.
        problems = [_problem(one) for one in error.errors(include_url=False)]
    raise AtlasError("\n".join(problems))


def configuration_or_exit() -> Configuration:
    """The same for whatever starts a server: a wrong value ends the process with status 2."""
    try:
        return configuration()
    except AtlasError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


class Variable(NamedTuple):
    """A row of the README's table."""

    name: str
    type: str
    default: str
    meaning: str


def variables() -> Iterator[Variable]:
    """Every variable, in the order in which they are explained."""
    for name, field in Configuration.model_fields.items():
        yield Variable(_variable(name), _type(field), _shown(field.default), str(field.description))


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return str(_plain(default))


def _type(field: FieldInfo) -> str:
    """What a variable may hold, in words."""
    kind = field.annotation
    if kind is bool:
        return "true or false"
    if kind is int:
        least = next(one.ge for one in field.metadata if isinstance(one, Ge))
        most = next(one.le for one in field.metadata if isinstance(one, Le))
        return f"a whole number from {least} to {most:,}"
    if kind is Mode:
        return _either(list(Mode))
    if kind is Path:
        return "a folder"
    if kind is str or kind is SecretStr:
        return "text"
    if kind == tuple[str, ...]:
        return "a list with commas"
    return _either(get_args(kind))


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _no_variable(name: str, names: set[str]) -> str:
    near = get_close_matches(name, names, 1, 0.75)
    return f"{name} is no setting of Neuron Atlas{f'; {near[0]} is' if near else ''}. Correct it or take it away."


def _problem(error: Any) -> str:
    """One wrong value as one line; what may hold a secret is not repeated."""
    own = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return own
    name = str(error["loc"][0]).lower().removeprefix(PREFIX.lower())
    field = Configuration.model_fields[name]
    secret = name == "workspace" or field.annotation is SecretStr
    given = "" if secret else f" is {os.environ.get(_variable(name), '')!r}, but"
    expected = own if error["type"] == "value_error" else f"must be {_type(field)}"
    return f"{_variable(name)}{given} {expected}."


def _table() -> str:
    """The README's table of settings."""
    rows = [
        f"| `{one.name}` | {one.type} | {f'`{one.default}`' if one.default else ''} | {one.meaning} |"
        for one in variables()
    ]
    return "\n".join(["| variable | value | default | meaning |", "| --- | --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(_table())
