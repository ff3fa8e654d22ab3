"""What a report is made of, as plain values for the template. Tokens are in display form; only drawings are markup."""

from dataclasses import dataclass

from app.report.drawing import Figure


@dataclass(frozen=True, slots=True)
class Bar:
    """A number in words, and its length from -1 to 1."""

    words: str
    share: float


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """A token that may come next."""

    token: str
    probability: Bar
    explained: bool


@dataclass(frozen=True, slots=True)
class NeuronRow:
    """A neuron; first and second are the tokens of its two ends, the one that comes first by the sign rule first."""

    label: str
    score: Bar
    first: tuple[str, ...]
    second: tuple[str, ...]
    promoted_first: bool = True
    source: str = ""
    activation: str = ""


@dataclass(frozen=True, slots=True)
class NeuronTable:
    """Neurons, the most extreme first. total: how many the analysis lists."""

    title: str
    unit: str
    rows: tuple[NeuronRow, ...]
    total: int
    on_prompt: bool = True
    """Whether activations, and the ends that they make active, are known."""


@dataclass(frozen=True, slots=True)
class Why:
    """What switched the value neurons on."""

    lead: str
    neurons: NeuronTable
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that the template sets, in the order of the page."""

    title: str
    prompt: str
    facts: tuple[tuple[str, str], ...]
    tokens: tuple[tuple[int, str, bool], ...]
    """Position, text, and whether it is the explained one."""
    predictions: tuple[PredictionRow, ...]
    target: str
    """The explained token with its figures."""
    target_token: str
    contrast: str
    """The sum of the difference of logits in a sentence; empty without a distractor."""
    meaning: str
    unit: str
    layers: Figure
    layer_rows: tuple[tuple[int, str, str], ...]
    heads: Figure
    head_rows: tuple[tuple[str, Bar], ...]
    lens: Figure | None
    tables: tuple[NeuronTable, ...]
    why: Why | None
    sure: tuple[tuple[str, str], ...]
    address: str
    command: str | None
