"""The settings of a server: environment variables ``ATLAS_*``, read once, checked at start, unchangeable after.

Nothing else in `app` reads the environment. Knows neither Streamlit nor models, so that whatever starts a server can
check the settings first.
"""

import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode
from sqlalchemy import make_url

from db.command_line import run, say
from db.errors import AtlasError
from db.settings import Paths, expected_value, read, refuse_unknown, variable

_AUTH = ("auth_redirect_uri", "auth_cookie_secret", "auth_client_id", "auth_client_secret", "auth_metadata_url")


class Mode(StrEnum):
    """What a server does."""

    FULL = "full"
    CATALOGUE = "catalogue"
    DEMO = "demo"


def _listed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = [part.strip() for part in value.split(",") if part.strip()]
    if "," in value and not found:  # nobody means “every domain” by a comma
        raise ValueError("must name something between its commas, or be empty")
    return found


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
"""A list as a person writes it in a variable: with commas."""


class Configuration(Paths):
    """The settings. Each field is the variable of its name, in capitals, after ``ATLAS_``; see `variables`."""

    mode: Mode = Field(
        default=Mode.FULL,
        description="`full`; `catalogue` never loads a model: searching, saved analyses and the gallery only; `demo` "
        "explains only the prompts that its pages offer",
    )
    read_only: bool = Field(default=False, description="nobody may save or change anything")
    add_models: bool = Field(
        default=True,
        description="a browser on the server's own machine, and no other, may add models; never with sign-in, "
        "`ATLAS_READ_ONLY` or another mode than `full`",
    )

    max_tokens: int = Field(default=256, ge=1, le=32_768, description="longest prompt, in tokens")
    max_top: int = Field(default=1000, ge=1, le=1000, description="most neurons of each kind that may be asked for")
    max_continued: int = Field(default=100, ge=1, le=10_000, description="most tokens that a text is continued by")
    max_prompts: int = Field(default=50, ge=1, le=1000, description="most prompts on the page of many prompts")
    max_waiting: int = Field(default=64, ge=1, le=10_000, description="most pieces of work that wait for the model")
    max_seconds: int = Field(default=120, ge=1, le=86_400, description="longest time of one piece of work, in seconds")
    keep_results: int = Field(default=64, ge=1, le=100_000, description="results kept in memory, of each kind")
    preload: bool = Field(
        default=True,
        description="load the model that is shown first while no page is drawn, so that the first prompt need not wait",
    )
    keep_models: int = Field(default=1, ge=1, le=64, description="models in memory at once")
    memory_mb: int = Field(
        default=512, ge=16, le=1_048_576, description="memory that scoring may take beside the model, in MB"
    )

    log_format: Literal["text", "json"] = Field(default="text", description="`json` writes one JSON object per line")
    log_prompts: bool = Field(default=False, description="also log what people type, and who is signed in")
    email_domains: Listed = Field(
        default=(),
        description="with sign-in: only verified addresses of these domains may write; empty is every domain",
    )
    cors_origins: Listed = Field(default=(), description="other sites whose pages may read the HTTP API; empty is none")
    source_url: str = Field(
        default="", description="where this server's source is: the address that pages link to; empty is no link"
    )

    auth_redirect_uri: str = Field(default="", description="sign-in: this server's address and `/oauth2callback`")
    auth_cookie_secret: SecretStr = Field(default=SecretStr(""), description="sign-in: a long random text of your own")
    auth_client_id: str = Field(default="", description="sign-in: the name your identity provider gave this server")
    auth_client_secret: SecretStr = Field(default=SecretStr(""), description="sign-in: the secret that belongs to it")
    auth_metadata_url: str = Field(
        default="", description="sign-in: your provider's `https://…/.well-known/openid-configuration`"
    )

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

    @field_validator("source_url")
    @classmethod
    def _is_address(cls, given: str) -> str:
        if given and re.fullmatch(r"https?://[^\s\"'<>()\[\]\\`]+", given) is None:
            raise ValueError("must be the address of a page, such as https://example.org/neuron-atlas")
        return given

    @model_validator(mode="after")
    def _auth_is_whole(self) -> "Configuration":
        lacking = [variable(name) for name in _AUTH if not _revealed(getattr(self, name))]
        if 0 < len(lacking) < len(_AUTH):
            raise ValueError(f"Sign-in needs all of its settings or none; missing: {', '.join(lacking)}.")
        return self

    @property
    def auth(self) -> dict[str, str]:
        """The section ``[auth]`` of Streamlit's secrets, where sign-in is set up by variables; else empty."""
        values = {name.removeprefix("auth_"): _revealed(getattr(self, name)) for name in _AUTH}
        if not any(values.values()):
            return {}
        return values | {"server_metadata_url": values.pop("metadata_url")}


@cache
def configuration() -> Configuration:
    """The settings of this process.

    Raises:
        AtlasError: a variable has a value that it must not have, or is none of ours; one line for each.
    """
    refuse_unknown(Configuration)
    return read(Configuration)


def public(message: str) -> str:
    """A message for visitors: of where catalogues, models and the workspace lie the name alone; no database user."""
    own = configuration()
    folders = own.catalogue.absolute(), own.models.absolute()
    names = {str(place): one.name for one in folders for place in (one, one.resolve())}
    if own.workspace_url is not None:
        url = make_url(own.workspace_url)
        file = Path(url.database or "")
        places = [str(file), str(file.absolute())] if url.get_backend_name() == "sqlite" else [str(url)]
        names |= dict.fromkeys(places, file.name)
        if url.username:
            names[f'"{url.username}"'] = "…"  # as a PostgreSQL server names the user it refuses
    for place in sorted(names, key=len, reverse=True):
        message = message.replace(place, names[place]) if len(place) > 1 else message
    return message


def configuration_or_exit() -> Configuration:
    """The same for whatever starts a server: a wrong value ends the process with status 2."""
    try:
        return configuration()
    except AtlasError as error:
        say(str(error))
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
        yield Variable(variable(name), expected_value(field), _shown(field.default), str(field.description))


def _revealed(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return str(_revealed(default))


def _table() -> str:
    """The README's table of settings."""
    rows = [
        f"| `{one.name}` | {one.type} | {f'`{one.default}`' if one.default else ''} | {one.meaning} |"
        for one in variables()
    ]
    return "\n".join(["| variable | value | default | meaning |", "| --- | --- | --- | --- |", *rows])


if __name__ == "__main__":
    sys.exit(run(_table))
