"""Sessions that search, ask the API and explain prompts all at once, each pausing as people do; see `load`."""

import asyncio
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from websockets.exceptions import WebSocketException

from db.catalogue.builds import current_build
from db.catalogue.store import Catalogue
from tests.benchmarks.republish import publish_copy
from tests.streamlit_client import Visitor, visit

API_SHARE = 0.25
"""Of what a session does."""
ASKERS = 10
"""One session of so many explains prompts now and then."""
_REMEMBERED = 10
"""More prompts than the server keeps the residual streams of, which take most of its memory beside the model."""
_FURTHER: Sequence[dict[str, str]] = ({}, {"page": "2"}, {"sign": "promotes"}, {"order": "rank"}, {"kind": "ffn"})
_FAILURES = (OSError, TimeoutError, WebSocketException, httpx.HTTPError)


@dataclass
class Measured:
    """What was seen. Times in seconds, memory in bytes.

    Attributes:
        sessions: how many there were.
        searches: how long each search interaction took, from sending it until the page was drawn.
        api: how long each answer of the API took.
        prompts: how long each explanation took, with its waiting.
        errors: what went wrong.
        memory: of the server, when all sessions had begun, in the middle and at the end.
        published: when the new build was current, since the start.
        seen: when a page first showed the new build, and when an answer of the API first did.
        old_after: answers of the old build that were asked for after the new one was current.
    """

    sessions: int
    searches: list[float] = field(default_factory=list)
    api: list[float] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    published: float | None = None
    seen: dict[str, float] = field(default_factory=dict)
    old_after: int = 0


@dataclass(frozen=True)
class Load:
    """How much.

    Attributes:
        sessions: at once.
        seconds: how long.
        pause: mean seconds between what one session does.
        words: what is searched for.
        prompts: what is explained; a number is added, so that each is new.
    """

    sessions: int
    seconds: float
    pause: float
    words: Sequence[str]
    prompts: Sequence[str]


class _Run:
    """One run: what all sessions share."""

    def __init__(self, address: str, load: Load, catalogue: Path) -> None:
        self.address, self.load, self.catalogue = address, load, catalogue
        self.old, self.new = _build_id(catalogue), "load-copy"
        self.measured = Measured(load.sessions)
        self.started = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def answered(self, where: str, build: str | None, asked: float) -> None:
        """Note which build an answer was of that was asked for at that time."""
        published = self.measured.published
        if build == self.new:
            self.measured.seen.setdefault(where, self.now)
        elif published is not None and asked > published:
            self.measured.old_after += 1

    async def session(self, number: int) -> None:
        """One visitor, from their start page on."""
        choose = random.Random(number)
        await asyncio.sleep(choose.uniform(0, min(self.load.pause, self.load.seconds / 4)))
        try:
            async with visit(self.address) as visitor, httpx.AsyncClient(timeout=60, trust_env=False) as client:
                if number % ASKERS == 0:
                    await self._explain(visitor, choose)
                while self.now < self._end:
                    await self._act(visitor, client, choose, asks=number % ASKERS == 0)
                    await asyncio.sleep(choose.uniform(0.5, 1.5) * self.load.pause)
        except _FAILURES as error:
            self._failed(f"session {number}", repr(error))

    @property
    def _end(self) -> float:
        """Not before the new build could be used for a while: on a busy machine publishing takes long."""
        published = self.measured.published
        return max(self.load.seconds, (self.now if published is None else published) + 0.3 * self.load.seconds)

    async def _act(self, visitor: Visitor, client: httpx.AsyncClient, choose: random.Random, *, asks: bool) -> None:
        what = choose.random()
        if what < API_SHARE:
            await self._ask_api(client, choose)
        elif asks and what < 2 * API_SHARE:
            await self._explain(visitor, choose)
        else:
            await self._search(visitor, choose)

    async def _search(self, visitor: Visitor, choose: random.Random) -> None:
        """Another search, another page of it, another order: what people click."""
        word = choose.choice(self.load.words)
        further = choose.choice(_FURTHER)
        asked = self.now
        shown = await visitor.open("search", {"q": word, **further})
        self.measured.searches.append(shown.seconds)
        for broken in shown.broken:
            self._failed("search", broken)
        if not shown.broken:
            self._shown_build(shown.text, asked)

    async def _explain(self, visitor: Visitor, choose: random.Random) -> None:
        prompt = choose.choice(self.load.prompts)
        shown = await visitor.open("prompt", {"p": f"{prompt} {choose.randrange(10**6)}"})
        if shown.broken or "value neurons" not in shown.text.lower():
            self._failed("prompt", "; ".join(shown.broken or shown.notices) or "no explanation")
        else:
            self.measured.prompts.append(shown.seconds)

    async def _ask_api(self, client: httpx.AsyncClient, choose: random.Random) -> None:
        word = choose.choice(self.load.words)
        path = "concept" if "," in word else choose.choice(["search", "concept", "token"])
        asked = self.now
        answer = await client.get(f"{self.address}/api/v1/{path}", params={"text": word, "limit": 20})
        self.measured.api.append(self.now - asked)
        if answer.status_code != 200:
            self._failed("api", f"{answer.status_code} {answer.text[:200]}")
        else:
            self.answered("api", answer.headers["build-id"], asked)

    def _shown_build(self, text: str, asked: float) -> None:
        plain = text.replace("\\", "")
        found = next((one for one in (self.new, self.old) if f"catalogue {one}" in plain), None)
        if found is None:
            self._failed("search", "the page names no build")
        else:
            self.answered("page", found, asked)

    def _failed(self, where: str, what: str) -> None:
        self.measured.errors.append(f"{where} after {self.now:.1f} s: {what}")

    async def watch(self, memory: Callable[[], int]) -> None:
        """Measure memory, and publish in the middle; whoever comes first after that must find the new build."""
        await asyncio.sleep(self.load.seconds * 0.2)
        self.measured.memory.append(memory())
        await asyncio.sleep(self.load.seconds * 0.3)
        self.measured.memory.append(memory())
        await asyncio.to_thread(publish_copy, current_build(self.catalogue), self.new)
        self.measured.published = self.now
        async with visit(self.address) as visitor, httpx.AsyncClient(timeout=60, trust_env=False) as client:
            await self._search(visitor, random.Random(0))
            await self._ask_api(client, random.Random(0))
        await asyncio.sleep(max(0.0, self._end - self.now))
        self.measured.memory.append(memory())


async def run(address: str, pid: int, load: Load, catalogue: Path) -> Measured:
    """Put the load on a server.

    Args:
        address: of the server.
        pid: its process, whose memory is measured.
        load: how much.
        catalogue: the model's folder that it serves; gets another build in the middle.
    """
    await _warm(address, load)
    running = _Run(address, load, catalogue)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(running.watch(lambda: resident_bytes(pid)))
        for number in range(load.sessions):
            tasks.create_task(running.session(number))
    return running.measured


async def _warm(address: str, load: Load) -> None:
    """The first of everything, which loads the model and imports what the pages need; and so many prompts that no more
    is remembered of them from then on.
    """
    async with visit(address) as visitor:
        await visitor.open("search", {"q": load.words[0]})
        for number in range(_REMEMBERED):
            await visitor.open("prompt", {"p": f"{load.prompts[0]} {number}"})


def resident_bytes(pid: int) -> int:
    """A process's memory that is not swapped out, by what every Unix has to tell it."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(told.stdout) * 1024


def _build_id(catalogue: Path) -> str:
    with Catalogue.open(current_build(catalogue)) as atlas:
        return atlas.info.build_id
