"""Somebody who looks at a server while it is harmed: one session of the dashboard, the API and the health check."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import requests
from streamlit.proto.WidgetStates_pb2 import WidgetState

from tests.server_process import Server
from tests.streamlit_client import Shown, Visitor, visit

PATIENCE = 120.0
"""Seconds after which an answer counts as hanging; other work may slow this machine."""
NEURON = "L0.F0"


class Onlooker:
    """Asks and reads; a page that is not drawn in time is an error."""

    def __init__(self, server: Server, runner: asyncio.Runner, visitor: Visitor) -> None:
        self.server = server
        self._runner, self._visitor = runner, visitor

    def page(
        self, page: str = "neuron", params: Mapping[str, str] | None = None, widgets: Sequence[WidgetState] = ()
    ) -> Shown:
        """A page, in the session that is open all the while. No fault may show as a fault of ours."""
        params = {"n": NEURON} if params is None else params
        shown = self._runner.run(self._visitor.open(page, params, widgets=widgets, patience=PATIENCE))
        assert shown.broken == []
        assert "Traceback" not in shown.text
        return shown

    def api(self) -> requests.Response:
        """What the API answers."""
        return requests.get(f"{self.server.address}/api/v1/neuron/{NEURON}", timeout=PATIENCE)

    def health(self) -> requests.Response:
        """What the health check answers."""
        return requests.get(f"{self.server.address}/health", timeout=PATIENCE)

    def part(self, name: str) -> dict[str, Any]:
        """What the health check says of a part."""
        told: dict[str, Any] = self.health().json()["parts"][name]
        return told

    def note(self, text: str) -> Shown:
        """Keep a note of the neuron, as a person does on its page."""
        shown = self.page()
        return self.page(
            widgets=[
                shown.used("text_area", "Note", string_value=text),
                shown.used("text_input", "Tags", string_value=""),
                shown.used("button", "Keep", trigger_value=True),
            ]
        )


@contextmanager
def looking(server: Server) -> Iterator[Onlooker]:
    """Open a session and look at a first page."""
    with asyncio.Runner() as runner:
        visiting = visit(server.address)
        visitor = runner.run(visiting.__aenter__())
        try:
            onlooker = Onlooker(server, runner, visitor)
            onlooker.page()
            yield onlooker
        finally:
            runner.run(visiting.__aexit__(None, None, None))
