"""The state of the page of saved analyses."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.state.address import Limits, Reader

MAX_WORDS_TEXT = 200
PAGE_ROWS = 20
_MAX_PAGE = 100_000


@dataclass(frozen=True, slots=True)
class SavedSelection:
    """What is looked for among what was saved."""

    text: str = ""
    """Words."""
    collection: str = ""
    """The id of a collection; the page knows whether there is one."""
    tag: str = ""
    """Only notes with this tag."""
    page: int = 1

    def params(self) -> dict[str, str]:
        """The query parameters."""
        page = "" if self.page == 1 else str(self.page)
        found = {"q": self.text, "in": self.collection, "tag": self.tag, "page": page}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def read(cls, params: Mapping[str, str], _limits: Limits | None = None) -> "tuple[SavedSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "saved")
        return (
            cls(
                text=reader.text("q", MAX_WORDS_TEXT).strip(),
                collection=reader.text("in", 32),
                tag=reader.text("tag", 40),
                page=reader.integer("page", 1, _MAX_PAGE) or 1,
            ),
            reader.notices,
        )


@dataclass(frozen=True, slots=True)
class GallerySelection:
    """The gallery's state: it has none."""

    def params(self) -> dict[str, str]:
        """The query parameters."""
        return {}
