"""The gallery: explanations of the demo model that ship with the app, one click away and open without the model.

Each is a file of one analysis, in the form in which a workspace is exported (:mod:`db.workspace.exchange`), packed.
``python -m app.gallery`` makes them anew from :data:`CHOICES`.
"""

import gzip
import itertools
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from app.state.selections import CompareSelection, Place, PromptSelection, Show, question_key
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, parse_list
from db.workspace.exchange import parse
from db.workspace.records import AnalysisEntry

WALKTHROUGH_PROMPT = "She was born in Tokyo and speaks fluent"
"""The one of a hundred in which every step can be read: an FFN neuron for languages and one for Japanese, an attention
neuron that takes Japanese from “Tokyo”, and behind it a query neuron that reads as noise but says “Japanese, Japan,
Tokyo” through the head.
"""

PROMPTS = (
    "The capital of France is",  # 77 %: neurons for capitals and places; ready for “why not London”
    "He was born in Paris and speaks fluent",  # the languages' neuron again, and an attention neuron for French
    "Thank you very",  # 64 %: one neuron, “much, far”, does 2.7 nats of it with a negative activation
    "North, south, east and",  # 76 %: neurons for left and right, and for directions
    "The opposite of hot is",  # 68 %: a neuron for temperatures, its sign turned by the activation
    "Water freezes at zero degrees",  # 88 %: the same neuron at its strongest, 3.4 nats
    "I wash my hands with soap and",  # 67 %: a neuron for water, and an attention neuron that reads “soap”
    "The piano is a musical",  # 96 %: a neuron for sound
    "An apple a day keeps the doctor",  # 98 %: neurons for out and away, one of attention reading “keeps”
    "She opened the book and began to",  # 79 %: a neuron for reading and writing
    "one two three four five six",  # counting: a neuron for small numbers
)
"""Chosen from a hundred: the model is fairly sure, and its strongest neurons can be read."""

CONCEPTS = (
    "north south",  # 44: the whole compass rose
    "red, green, blue",  # 39: the colours
    "computers",  # 33
    "doctor nurse",  # 30: patients, medicine, physicians
    "sports",  # 26: athletes, the Olympics
    "hot cold",  # 28, at an attention neuron, and 25 at the FFN neuron of the prompts above
    "big small",  # 27: larger, smaller, size
    "because therefore",  # 22: words that give reasons, at neurons of both directions
    "emotions",  # 25: feelings in every spelling
    "python, -snake",  # with snakes to be avoided it is a programming language
)
"""Chosen from ninety. The numbers: how many of the best neuron's fifty stored tokens the concept covers."""

WORDS = ("Paris", "music", "doctor", "green", "seven", "war", "Monday", "water")

NEURONS = ("L29.F1499", "L29.F864", "L25.F11", "L28.F509", "L29.F1455", "L23.F1413", "L23.H4.N51", "L29.H1.N46")
"""Python; France; warm and cold; the compass; colours; water; and two attention neurons: Japan, French places."""

TRIALS = (
    "import numpy as np and use it in Python",
    "She moved from London to Paris and learned French.",
    "The water was too hot, then too cold, then warm.",
    "one two three four five six seven",
)
"""Texts to try a neuron on: code, places, temperatures, numbers."""


def _prompts(form: str, pairs: str) -> tuple[tuple[str, str], ...]:
    """Prompts of one form with their targets, from words and their answers."""
    split = (pair.split() for pair in pairs.split(", "))
    return tuple((form.format(word), f" {answer}") for word, answer in split)


READY = {
    "capitals": _prompts(
        "The capital of {} is",
        "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Japan Tokyo, Russia Moscow, Greece Athens, "
        "Austria Vienna, Ireland Dublin, Cuba Havana",
    ),
    "languages": _prompts(
        "He was born in {} and speaks fluent",
        "Paris French, Berlin German, Rome Italian, Madrid Spanish, Tokyo Japanese, Moscow Russian, Athens Greek, "
        "Warsaw Polish, Beijing Mandarin",
    ),
    "opposites": _prompts(
        "The opposite of {} is",
        "hot cold, black white, good bad, big small, up down, light dark, fast slow, rich poor, left right",
    ),
    "imports": _prompts("import {} as", "numpy np, pandas pd, matplotlib.pyplot plt, tensorflow tf"),
}
"""Sets of prompts with their targets, each among the demo model's first two predictions, nearly always the first."""


# Comparisons to start from, chosen by running dozens on the demo model for what shows something.

_FRANCE = "The capital of France is"
_BORN = "He was born in Paris and speaks fluent"
_SOAP = "I wash my hands with soap and"
_STORE = "When Mary and John went to the store, "


def _without(prompt: str, zero: str) -> CompareSelection:
    return CompareSelection(prompt, zero=parse_list(zero))


EXAMPLES: tuple[tuple[str, CompareSelection], ...] = (
    # one head, L23.H4, carries the country over in both, by other neurons of it
    ("France or Germany", CompareSelection(_FRANCE, other="The capital of Germany is")),
    # 77 % -> 14 %: the other capitals take its place
    ("Paris without head L23.H4", _without(_FRANCE, "L23.H4")),
    # the same head in another question: 41 % -> 7 %, behind Spanish
    ("Paris and French without head L23.H4", _without(_BORN, "L23.H4")),
    # a single neuron that stands for water: 67 % -> 33 %
    ("soap and water without one neuron", _without(_SOAP, "L23.F1413")),
    # 68 % -> 15 %, and the nearest synonyms stay behind it
    ("hot and cold without 10 neurons", _without("The opposite of hot is", "ffn:10")),
    # its attention layer scores, and zeroing it changes next to nothing: the FFN behind it makes up for it
    ("Paris without the last attention layer", _without(_FRANCE, "L29.attention")),
    # everything rests on the first FFN layer, whose own score is next to nothing: rank 13,709
    ("Paris without the first FFN layer", _without(_FRANCE, "L0.ffn")),
    # who gives decides who gets: 92 % Mary against 75 % John
    (
        "John gave or Mary gave",
        CompareSelection(f"{_STORE}John gave a drink to", other=f"{_STORE}Mary gave a drink to"),
    ),
    # singular and plural: head L26.H0 carries most of the change
    ("The keys or the key", CompareSelection("The keys to the cabinet", other="The key to the cabinets")),
    # np against pd: two heads of the last layer
    ("numpy or pandas", CompareSelection("import numpy as", other="import pandas as")),
)


# The views of the gallery.


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
        "Neurons for left and right and for directions raise “west”; the strongest one against it is in layer 28.",
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
        "Inside the loop’s print the variable comes next: L22.F1527 holds i, ii, iii, and head L26.H2 reads “i”.",
        PromptSelection("for i in range(10):\n    print(", place=Place(layer=26, head=Head(26, 2))),
    ),
)
"""Chosen from some thirty on the demo model: its strongest neurons can be read, and each shows something else."""


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


def of_model(model: str, checkpoint: str) -> tuple[View, ...]:
    """The views of a model, by its name and the identity of its checkpoint."""
    return tuple(one for one in views() if (one.entry.model, one.entry.checkpoint) == (model, checkpoint))


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
