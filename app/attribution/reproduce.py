"""The published figures beside ours: ``python -m app.attribution.reproduce MODEL`` (``make reproduce MODEL=…``).

Works with the two checkpoints whose figures were published: GPT2-large (36 layers of 1,280) and Llama-7B (32 layers of
4,096), given as a folder or a hub id. Source: Yu & Ananiadou, EMNLP 2024 (arXiv 2312.12141) and its notebooks.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.attribution.prompt import Settings
from db import command_line
from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import Head, Neuron, NeuronAt, NeuronKind
from indexer.architecture import Conventions

if TYPE_CHECKING:
    from app.attribution import analysis as analyses
    from app.attribution import query as queries
    from app.attribution import run as runs
    from indexer import checkpoint
else:
    analyses, runs = lazy_import("app.attribution.analysis"), lazy_import("app.attribution.run")
    queries, checkpoint = lazy_import("app.attribution.query"), lazy_import("indexer.checkpoint")

PROMPT = "Tim Duncan plays the sport of"


@dataclass(frozen=True)
class Published:
    """What was published of one checkpoint, in nats. Neurons by label, attention neurons with @position."""

    name: str
    family: str
    shape: tuple[int, int]  # layers, d_model
    target: str
    attention_sum: float
    ffn_sum: float
    heads: dict[str, float]
    ffn: dict[str, float]
    attention: dict[str, float]
    query: dict[str, float]


PUBLISHED = (
    Published(
        name="GPT2-large",
        family="gpt2",
        shape=(36, 1280),
        target=" basketball",
        attention_sum=5.586,
        ffn_sum=4.406,
        heads={"L21.H19": 0.6981, "L28.H18": 0.4259, "L23.H13": 0.3098},
        ffn={"L28.F29": 0.4481, "L21.F983": 0.2473, "L24.F4743": 0.2323, "L27.F1254": 0.1643, "L27.F3482": 0.1453},
        attention={"L21.H19.N7@1": 0.0712, "L21.H19.N5@1": 0.0559, "L23.H13.N36@1": 0.0452},
        query={"L27.F1254": 0.0682, "L0.F1984": 0.0244, "L16.F505": 0.0199},
    ),
    Published(
        name="Llama-7B",
        family="llama",
        shape=(32, 4096),
        target="basketball",
        attention_sum=6.077,
        ffn_sum=3.929,
        heads={"L23.H12": 0.9781, "L21.H0": 0.8648},
        ffn={"L22.F1674": 0.5977, "L23.F6740": 0.4383, "L20.F3975": 0.2703},
        attention={"L21.H0.N79@3": 0.0433},
        query={"L19.F3291": 0.0675, "L10.F8021": 0.0318, "L17.F5502": 0.0249},
    ),
)


def published_for(family: str, shape: tuple[int, int]) -> Published:
    """The published figures of a checkpoint of that family and shape.

    Raises:
        AtlasError: nothing was published of such a checkpoint.
    """
    for one in PUBLISHED:
        if (one.family, one.shape) == (family, shape):
            return one
    known = ", ".join(f"{one.name} ({one.shape[0]} layers of {one.shape[1]})" for one in PUBLISHED)
    raise AtlasError(
        f"Figures were published for {known}; this is a {family} model of {shape[0]} layers of {shape[1]}. Give "
        "one of those, as a folder with safetensors or a hub id: make reproduce MODEL=…"
    )


def compare(model_name: str) -> list[tuple[str, float, float]]:
    """(what, published, ours) of every published figure, in nats, under the notebook convention.

    Raises:
        AtlasError: the model cannot be loaded, or nothing was published of it.
    """
    size = checkpoint.locate(model_name)
    known = published_for(str(size.config.model_type), (size.dimensions.layers, size.dimensions.d_model))
    run = runs.run_prompt(
        analyses.load(model_name), PROMPT, Settings(target=known.target, conventions=Conventions.NOTEBOOK)
    )
    layers, heads = run.layer_scores(), run.head_scores()
    rows = [
        ("attention layers, sum", known.attention_sum, float(layers.attention.sum())),
        ("FFN layers, sum", known.ffn_sum, float(layers.ffn.sum())),
    ]
    for label, score in known.heads.items():
        rows.append((f"head {label}", score, float(heads[Head.parse(label)])))
    for label, score in (known.ffn | known.attention).items():
        rows.append((f"value neuron {label}", score, run.value_neuron(*NeuronAt.parse(label)).score))
    value, _ = run.raising(NeuronKind.ATTENTION, run.settings.query_top)
    query = queries.query_ffn_scores(run.stream, run.model.weights, run.readers(value))
    for label, score in known.query.items():
        neuron = Neuron.parse(label)
        rows.append((f"query neuron {label}", score, float(query[neuron.layer, neuron.index])))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures side by side; exit status 2 where they cannot be had."""
    arguments = command_line.Parser(prog="python -m app.attribution.reproduce", description=__doc__)
    arguments.add_argument("model", metavar="MODEL", help="GPT2-large or Llama-7B: a folder or a hub id")
    options = arguments.parse_args(argv)
    return command_line.run(lambda: _table(compare(options.model)))


def _table(rows: list[tuple[str, float, float]]) -> str:
    lines = [f"“{PROMPT}”, notebook convention, nats", f"{'':30}published     ours  difference"]
    lines += [f"{what:30}{published:9.4f}{ours:9.4f}{ours - published:+12.4f}" for what, published, ours in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
