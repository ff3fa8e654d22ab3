"""Running a page in the test's own process, and reading what it shows."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

MAIN = Path(__file__).resolve().parents[1] / "app" / "main.py"

# At each run Streamlit would look through all that is installed for packaged components: half the time of most runs.
manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)


def run_page(page: str, /, **params: str) -> AppTest:
    """Run a page; fails on anything that escapes to Streamlit."""
    app = AppTest.from_file(str(MAIN), default_timeout=180)
    for name, value in params.items():
        app.query_params[name] = value
    app.switch_page(f"ui/pages/{page}.py").run()
    assert not app.exception, app.exception
    return app


def crossed(names: Iterable[str], values: Sequence[str]) -> list[Any]:
    """Every pair, as parameters of a test; but for one of each name and of each value they are `slow`."""
    names = list(names)
    return [
        pytest.param(name, value, marks=() if at % len(values) == place % len(names) else pytest.mark.slow)
        for at, name in enumerate(names)
        for place, value in enumerate(values)
    ]


def component(app: AppTest, key: str) -> dict[str, Any]:
    """The data that one of our components was given."""
    for element in app.get("bidi_component"):
        proto = element.proto
        if proto.id.endswith(f"-{key}"):
            data: dict[str, Any] = json.loads(proto.json)
            return data
    raise AssertionError(f"no component {key!r} on the page")


def components_of(app: AppTest) -> list[str]:
    """The keys of our components on the page, as far as they hold no dash."""
    return [element.proto.id.rpartition("-")[2] for element in app.get("bidi_component")]


def texts(app: AppTest) -> str:
    """All that the notices say."""
    return " ".join(element.value for element in (*app.error, *app.warning, *app.info)).replace("\\", "")


def unfolded(app: AppTest) -> AppTest:
    """The same page with everything open that is drawn when it is opened."""
    keys = [one.proto.id.partition("folded_")[2] for one in app.expander if "folded_" in one.proto.id]
    assert keys
    for key in keys:
        app.session_state[f"folded_{key}"] = True
    app.run()
    assert not app.exception, app.exception
    return app
