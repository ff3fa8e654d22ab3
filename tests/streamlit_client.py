"""A visitor without a browser: opens a page of a served app over Streamlit's websocket and reads what it shows.

async with visit("http://127.0.0.1:8501") as visitor:
    shown = await visitor.open("search", {"q": "Paris"})
    shown = await visitor.open("search", {"q": "London"})  # the same session, as after a click
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

PATIENCE = 60.0
"""Seconds until a page that does not finish counts as hanging."""


@dataclass
class Shown:
    """What one drawing of a page sent.

    Attributes:
        seconds: from asking until the page had been drawn.
        notices: the texts of errors, warnings and notes, without Markdown's backslashes.
        broken: what Streamlit shows of errors that nobody caught, or our own “a fault of ours”.
        text: all text on the page.
        elements: every element, as Streamlit's own messages.
    """

    seconds: float = 0.0
    notices: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    text: str = ""
    elements: list[Element] = field(default_factory=list)

    def used(self, kind: str, label: str, **value: Any) -> WidgetState:
        """What a browser sends when a control was used.

        Args:
            kind: the control's name among Streamlit's elements, such as “checkbox”.
            label: what stands at it.
            value: what it was set to, as in ``bool_value=True``.
        """
        controls = [getattr(element, kind) for element in self.elements if element.WhichOneof("type") == kind]
        (found,) = [control for control in controls if control.label == label]
        return WidgetState(id=found.id, **value)


class Visitor:
    """One session."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def open(
        self,
        page: str = "",
        params: Mapping[str, str] | None = None,
        *,
        widgets: Sequence[WidgetState] = (),
        patience: float = PATIENCE,
    ) -> Shown:
        """Show a page in a state, and wait until it is drawn.

        Args:
            page: its path; empty is the start page.
            params: the state.
            widgets: what was done to controls since.
            patience: seconds until it counts as hanging.

        Raises:
            TimeoutError: it was not drawn in time.
            websockets.ConnectionClosed: the server hung up.
        """
        message = BackMsg()
        state = message.rerun_script
        state.query_string = urlencode(params or {})
        state.page_name = page
        state.widget_states.widgets.extend(widgets)
        started = time.perf_counter()
        await self._socket.send(message.SerializeToString())
        async with asyncio.timeout(patience):
            shown = await self._drawn()
        shown.seconds = time.perf_counter() - started
        return shown

    async def _drawn(self) -> Shown:
        """Read until a drawing has finished; one that was broken off for another begins anew."""
        shown = Shown()
        texts: list[str] = []
        while True:
            message = ForwardMsg()
            message.ParseFromString(await self._socket.recv(decode=False))
            kind = message.WhichOneof("type")
            if kind == "new_session":
                shown, texts = Shown(), []
            elif kind == "delta" and message.delta.HasField("new_element"):
                texts.append(_read(message.delta.new_element, shown))
            elif kind == "session_event" and message.session_event.WhichOneof("type") == "script_compilation_exception":
                shown.broken.append(message.session_event.script_compilation_exception.message)
            elif kind == "script_finished" and message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                shown.text = "\n".join(texts)
                return shown


def _read(element: Element, shown: Shown) -> str:
    """Note an element; returns its text."""
    shown.elements.append(element)
    kind = str(element.WhichOneof("type"))
    one = getattr(element, kind)
    if kind == "exception":
        shown.broken.append(f"{one.type}: {one.message}")
        return str(one.message)
    if kind == "alert":
        text = one.body.replace("\\", "")
        shown.notices.append(text)
        if "a fault of ours" in text:
            shown.broken.append(text)
        return str(text)
    return str(getattr(one, "body", "") or getattr(one, "json", ""))


@asynccontextmanager
async def visit(address: str) -> AsyncIterator[Visitor]:
    """A new session with the app at this address; it ends with the block."""
    parts = urlsplit(address)
    url = f"ws://{parts.netloc}{parts.path.rstrip('/')}/_stcore/stream"
    async with connect(
        url,
        subprotocols=[Subprotocol("streamlit")],
        max_size=None,
        proxy=None,
        open_timeout=PATIENCE,
        ping_interval=None,
    ) as socket:
        yield Visitor(socket)
