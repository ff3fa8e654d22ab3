"""The settings: what a variable may hold, and how a wrong one stops the start."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.serving.settings import Configuration, Mode, configuration, configuration_or_exit, variables
from db.errors import AtlasError

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)


def test_without_variables_everything_has_its_default():
    settings = configuration()
    assert (settings.catalogue, settings.models, settings.mode) == (Path("catalogue"), Path("models"), Mode.FULL)
    assert settings.workspace_url == "sqlite:///workspace/atlas.sqlite"
    assert not settings.read_only
    assert settings.auth == {}


def test_variables_are_read_once(monkeypatch):
    monkeypatch.setenv("ATLAS_MODE", "catalogue")
    monkeypatch.setenv("ATLAS_MAX_TOKENS", "99")
    monkeypatch.setenv("ATLAS_EMAIL_DOMAINS", " Example.org, uni.example ,")
    monkeypatch.setenv("ATLAS_READ_ONLY", "true")
    monkeypatch.setenv("ATLAS_WORKSPACE", "off")
    monkeypatch.setenv("ATLAS_CORS_ORIGINS", "https://notes.example")
    settings = configuration()
    monkeypatch.setenv("ATLAS_MAX_TOKENS", "100")
    assert configuration() is settings
    assert (settings.mode, settings.max_tokens, settings.read_only) == (Mode.CATALOGUE, 99, True)
    assert settings.email_domains == ("example.org", "uni.example")
    assert settings.workspace_url is None
    assert settings.cors_origins == ("https://notes.example",)


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    monkeypatch.setenv("ATLAS_MAX_TOKENS", "")
    assert configuration().max_tokens == Configuration.model_fields["max_tokens"].default


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        configuration().max_tokens = 5


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ATLAS_MODE", "ful", "ATLAS_MODE is 'ful', but must be full, catalogue or demo."),
        ("ATLAS_MAX_TOKENS", "0", "ATLAS_MAX_TOKENS is '0', but must be a whole number from 1 to 32,768."),
        ("ATLAS_MAX_TOP", "many", "ATLAS_MAX_TOP is 'many', but must be a whole number from 1 to 1,000."),
        ("ATLAS_READ_ONLY", "perhaps", "ATLAS_READ_ONLY is 'perhaps', but must be true or false."),
        ("ATLAS_LOG_FORMAT", "xml", "ATLAS_LOG_FORMAT is 'xml', but must be text or json."),
        ("ATLAS_EMAIL_DOMAINS", "me@x.org", "must be domains such as example.org"),
        ("ATLAS_EMAIL_DOMAINS", ",,", "must name something between its commas, or be empty"),
        ("ATLAS_CORS_ORIGINS", "https://x.org/page", "must be origins such as"),
        ("ATLAS_SOURCE_URL", "javascript:alert(1)", "must be the address of a page, such as https://"),
        ("ATLAS_SOURCE_URL", "https://x.org/a)[b](c", "must be the address of a page, such as https://"),
        ("ATLAS_CORS_ORIGINS", "*", "must be origins such as"),
        ("ATLAS_MODLE", "x", "ATLAS_MODLE is no setting of Neuron Atlas; ATLAS_MODE is."),
        ("ATLAS_READONLY", "true", "ATLAS_READONLY is no setting of Neuron Atlas; ATLAS_READ_ONLY is."),
        ("ATLAS_AUTH_CLIENT_ID", "x", "missing: ATLAS_AUTH_REDIRECT_URI, ATLAS_AUTH_COOKIE_SECRET"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(name, value, expected, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(AtlasError) as raised:
        configuration()
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_each_wrong_value_has_its_line(monkeypatch):
    monkeypatch.setenv("ATLAS_MODE", "ful")
    monkeypatch.setenv("ATLAS_MAX_TOP", "0")
    with pytest.raises(AtlasError) as raised:
        configuration()
    assert [line.split(" ")[0] for line in str(raised.value).splitlines()] == ["ATLAS_MODE", "ATLAS_MAX_TOP"]


@pytest.mark.parametrize(
    "url", ["mysql://atlas:canary@host/atlas", "nonsense-canary", "postgresql://u:canary@h:port/x"]
)
def test_a_wrong_database_is_refused_without_repeating_its_password(url, monkeypatch):
    monkeypatch.setenv("ATLAS_WORKSPACE", url)
    with pytest.raises(AtlasError, match="ATLAS_WORKSPACE must be") as raised:
        configuration()
    assert "canary" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_secrets_do_not_show(monkeypatch):
    monkeypatch.setenv("ATLAS_WORKSPACE", "postgresql+psycopg://atlas:canary@host/atlas")
    for name in ("REDIRECT_URI", "COOKIE_SECRET", "CLIENT_ID", "CLIENT_SECRET", "METADATA_URL"):
        monkeypatch.setenv(f"ATLAS_AUTH_{name}", "canary" if "SECRET" in name else "https://atlas.example/x")
    settings = configuration()
    assert settings.auth["cookie_secret"] == settings.auth["client_secret"] == "canary"
    assert set(settings.auth) == {
        "redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url"
    }  # fmt: skip
    assert "canary" not in repr(settings) + str(settings)


def test_a_wrong_value_ends_the_process_with_one_line(monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_MODE", "ful")
    with pytest.raises(SystemExit) as ended:
        configuration_or_exit()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "ATLAS_MODE is 'ful', but must be full, catalogue or demo.\n"


def test_reading_the_settings_imports_neither_pages_nor_models():
    code = "import sys, app.serving.settings; sys.exit(any(one in sys.modules for one in ('torch', 'streamlit')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)


def test_every_variable_says_what_it_means():
    found = list(variables())
    assert len({one.name for one in found}) == len(found) == len(Configuration.model_fields)
    assert all(one.name.startswith("ATLAS_") and one.type and len(one.meaning) > 10 for one in found)


def test_the_environment_is_read_in_one_place():
    readers = [
        str(path.relative_to(CHECKOUT))
        for room in ("app", "db", "indexer")
        for path in (CHECKOUT / room).rglob("*.py")
        if "os.environ" in path.read_text("utf-8")
    ]
    assert readers == ["db/settings.py"]
