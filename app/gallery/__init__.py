"""The gallery: explanations of the demo model that ship with the app, one click away and open without the model.

Each is a file of one analysis, in the form in which a workspace is exported (:mod:`db.workspace.exchange`), packed.
``python -m app.gallery`` makes them anew from :data:`app.gallery.examples.CHOICES`.
"""

import gzip
import itertools
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from app.gallery.examples import CHOICES, Choice
from app.state.selections import PromptSelection, question_key
from db.errors import AtlasError
from db.workspace.exchange import parse
from db.workspace.records import AnalysisEntry

FOLDER = Path(__file__).parent / "views"
ENDING = ".json.gz"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """A view of the gallery: why it was chosen, and the stored analysis."""

    choice: Choice
    entry: AnalysisEntry

    @property
    def selection(self) -> PromptSelection:
        """The view as a selection, its distractor by id."""
        contrast = self.entry.result.get("contrast")
        distractor = None if contrast is None else int(contrast["distractor"]["id"])
        return replace(self.choice.selection, distractor=distractor)

    @property
    def questions(self) -> frozenset[str]:
        """All keys of its question: a target or position may be named, or left out where it is the obvious one."""
        asked, result = self.selection, self.entry.result
        best, last = result["predictions"][0]["id"], len(result["tokens"]) - 1
        targets = {asked.target, *([None, best] if asked.target in (None, best) else [])}
        positions = {asked.position, *([None, last] if asked.position in (None, last) else [])}
        return frozenset(
            question_key(replace(asked, target=target, position=position))
            for target, position in itertools.product(targets, positions)
        )


@cache
def views() -> tuple[View, ...]:
    """Every view whose file is there and can be read, in the order of the choices."""
    found = []
    for choice in CHOICES:
        path = FOLDER / f"{choice.name}{ENDING}"
        try:
            (entry,) = parse(gzip.decompress(path.read_bytes())).analyses
        except (OSError, EOFError, ValueError, AtlasError) as error:
            _log.warning("the gallery's view %s is passed over: %s", choice.name, error)
        else:
            found.append(View(choice, entry))
    return tuple(found)


def of_model(model: str, unembedding_hash: str) -> tuple[View, ...]:
    """The views of a model."""
    wanted = (model, unembedding_hash)
    return tuple(one for one in views() if (one.entry.model, one.entry.unembedding_hash) == wanted)


def answers(model: str, question: str) -> tuple[AnalysisEntry, ...]:
    """The stored analyses that answer a question; see `question_key`."""
    return tuple(_by_question().get((model, question), ()))


@cache
def _by_question() -> dict[tuple[str, str], list[AnalysisEntry]]:
    found: dict[tuple[str, str], list[AnalysisEntry]] = {}
    for view in views():
        for question in view.questions:
            found.setdefault((view.entry.model, question), []).append(view.entry)
    return found
