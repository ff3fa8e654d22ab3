"""The gallery: views of the demo model that are shipped with the app, each one click away and open without the model.

Each is a file of one analysis, in the form in which a workspace is exported (:mod:`db.workspace.exchange`), packed.
``python -m app.gallery`` makes them anew from :data:`CHOICES`.
"""

import gzip
import itertools
import json
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from app.state.selections import Place, PromptSelection, Show, question_key
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt
from db.workspace.exchange import AnalysisEntry, parse

FOLDER = Path(__file__).parent / "views"
ENDING = ".json.gz"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """A view that was chosen for the gallery.

    Attributes:
        name: of its file.
        title: a few words.
        sentence: what to look at.
        selection: the view; a distractor is named by `against`, since ids are the model's.
        against: the distractor as text; empty for none.
    """

    name: str
    title: str
    sentence: str
    selection: PromptSelection
    against: str = ""


CHOICES: tuple[Choice, ...] = (
    Choice(
        "language",
        "Tokyo, so Japanese",
        "An FFN neuron for languages, one for Japanese, and an attention neuron that carries Japan over from “Tokyo”.",
        PromptSelection("She was born in Tokyo and speaks fluent"),
    ),
    Choice(
        "capital",
        "The capital of France",
        "A neuron for capitals, its sign turned by the activation; head L23.H4 brings the country from “France”.",
        PromptSelection("The capital of France is", place=Place(layer=23, head=Head(23, 4))),
    ),
    Choice(
        "not-london",
        "Why Paris and not London",
        "Held against London, what every capital gets falls away: head L23.H4, which reads “France”, is left.",
        PromptSelection("The capital of France is"),
        against=" London",
    ),
    Choice(
        "opposite",
        "The opposite of hot",
        "L25.F11 holds warm, cooler, colder at one end: active with a negative sign, it raises all of them.",
        PromptSelection("The opposite of hot is"),
    ),
    Choice(
        "freezing",
        "Water freezes at zero degrees",
        "The same temperature neuron, L25.F11, at its strongest: more than three nats for “Celsius”.",
        PromptSelection("Water freezes at zero degrees", place=Place(layer=25, ffn=True)),
    ),
    Choice(
        "compass",
        "North, south, east and",
        "Neurons for left and right and for directions raise “west”; the strongest against it stands in layer 28.",
        PromptSelection("North, south, east and", place=Place(show=Show.LOWERED)),
    ),
    Choice(
        "thanks",
        "Thank you very much",
        "One FFN neuron, L24.F652, whose lower end is “much, far”, adds 2.7 nats with a negative activation.",
        PromptSelection("Thank you very", place=Place(own=NeuronAt(Neuron.ffn(24, 652)))),
    ),
    Choice(
        "numbers",
        "Two plus two equals five",
        "The model cannot add: L26.F1519 raises every number word alike, and “five” happens to win.",
        PromptSelection("two plus two equals"),
    ),
    Choice(
        "code",
        "A loop in Python",
        "Inside the loop's print the variable comes next: L22.F1527 holds i, ii, iii, and head L26.H2 reads “i”.",
        PromptSelection("for i in range(10):\n    print(", place=Place(layer=26, head=Head(26, 2))),
    ),
)
"""Chosen from some thirty on the demo model: its strongest neurons can be read, and each shows something else."""


@dataclass(frozen=True)
class View:
    """A view of the gallery, ready to be opened."""

    choice: Choice
    entry: AnalysisEntry

    @property
    def name(self) -> str:
        """Of its file."""
        return self.choice.name

    @property
    def title(self) -> str:
        """A few words."""
        return self.choice.title

    @property
    def build_id(self) -> str:
        """The catalogue's build it was made with."""
        return self.entry.build_id

    @property
    def unembedding_hash(self) -> str:
        """Of the model it was made with."""
        return self.entry.unembedding_hash

    @property
    def created_at(self) -> str:
        """When it was made: ISO 8601, UTC."""
        return self.entry.created_at

    @property
    def selection(self) -> PromptSelection:
        """The view as a selection, its distractor by id."""
        contrast = self.entry.result.get("contrast")
        distractor = None if contrast is None else int(contrast["distractor"]["id"])
        return replace(self.choice.selection, distractor=distractor)

    def result(self) -> dict[str, Any]:
        """The analysis, as `forms.to_json` writes it, with what was kept beside it."""
        return self.entry.result


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
    return tuple(one for one in views() if (one.entry.model, one.unembedding_hash) == (model, unembedding_hash))


def answers(model: str, question: str) -> tuple[View, ...]:
    """The views that answer a question (`saving.question_key`)."""
    return tuple(one for one in views() if one.entry.model == model and question in _questions(one.name))


@cache
def _questions(name: str) -> frozenset[str]:
    """All ways to ask for a view: its target and position may be named or left to be the obvious ones."""
    view = next(one for one in views() if one.name == name)
    result, asked = view.result(), view.selection
    best, last = result["predictions"][0]["id"], len(result["tokens"]) - 1
    targets = {asked.target, *([None, best] if asked.target in (None, best) else [])}
    positions = {asked.position, *([None, last] if asked.position in (None, last) else [])}
    return frozenset(
        question_key(replace(asked, target=target, position=position))
        for target, position in itertools.product(targets, positions)
    )


def packed(document_text: str) -> bytes:
    """A document as it is stored; the same text always gives the same bytes."""
    return gzip.compress(json.dumps(json.loads(document_text), separators=(",", ":")).encode("ascii"), 9, mtime=0)
