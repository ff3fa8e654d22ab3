"""Where a report's figures come from, and how they are had again: an address and a shell command."""

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

from app.state.links import shared
from app.state.selection import DEFAULT_TOP, Map, PromptSelection, Rule
from db.stamp import BuildStamp


@dataclass(frozen=True, slots=True)
class Origin:
    """What was asked, and of which server."""

    question: PromptSelection
    """With its place: the address opens the page as it was."""
    base: str = ""
    """The address of the app's start page; empty where it is not known, as in the shell."""
    model: str = "demo"
    """As the shell's ``--model`` takes it."""
    made: datetime | None = None
    """When; None is now."""

    @property
    def date(self) -> str:
        """Such as “2026-01-31 10:20 UTC”."""
        return (self.made or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")

    def address(self, build: BuildStamp) -> str:
        """The page's address with its build; without its server where that is not known."""
        link = shared("prompt", self.question, build)
        return urljoin(self.base, link) if urlsplit(self.base).scheme in ("http", "https") else link

    def command(self) -> str | None:
        """The shell command that writes the same report; None where a shell cannot be given such a prompt."""
        asked = self.question
        if any(not one.isprintable() and one != "\n" for one in asked.prompt):
            return None
        options = {
            "--model": None if self.model == "demo" else self.model,
            "--target-id": asked.target,
            "--distractor-id": asked.distractor,
            "--position": asked.position,
            "--top": None if asked.top == DEFAULT_TOP else asked.top,
            "--conventions": None if asked.rule is Rule.EXACT else asked.rule,
        }
        words = [part for name, value in options.items() if value is not None for part in (name, str(value))]
        words += ["--lens"] if asked.place.map is Map.LENS else []
        words = ["python", "-m", "app.report", *words, "--out", "report.html", "--", asked.prompt]
        return " ".join(map(shlex.quote, words))
