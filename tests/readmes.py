"""The documentation: the README, and those of the rooms."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
ROOMS = ("app", "db", "indexer")


@dataclass(frozen=True)
class Readme:
    """One of the files, with its code apart from its prose."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(CHECKOUT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        return re.sub(r"^```.*?^```", "", self.text, flags=re.DOTALL | re.MULTILINE)

    @cached_property
    def code_lines(self) -> list[str]:
        """Every line of every code block, with continued lines joined."""
        blocks = re.findall(r"^```[^\n]*\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)
        return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors that headings get on code forges."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    @cached_property
    def links(self) -> list[str]:
        """The relative links and images."""
        markdown = re.findall(r"\]\(<?([^)>\s]+)", self.prose)
        html = re.findall(r"""(?:src|href|srcset)=["']([^"']+)["']""", self.prose)
        return sorted({link for link in markdown + html if not re.match(r"[a-z]+:", link)})


README = Readme(CHECKOUT / "README.md")
READMES = [
    README,
    *(Readme(path) for room in (*ROOMS, "tests") for path in sorted((CHECKOUT / room).rglob("README.md"))),
]
EVERYTHING = "\n".join(readme.text for readme in READMES)
