"""Make the gallery's files anew: ``python -m app.gallery``. Needs the demo model and its catalogue."""

import gzip
import json
import sys
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import gallery
from app.attribution import drilldowns
from app.attribution.prompt import Settings
from app.attribution.results import to_json
from app.gallery import CHOICES, Choice
from app.state import address
from app.state.selections import question_key
from db import command_line
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import Head, NeuronAt
from db.workspace.exchange import Document, to_text
from db.workspace.records import AnalysisEntry, now
from indexer.architecture import Conventions

if TYPE_CHECKING:
    import torch

    from app.attribution import analysis as analyses
    from app.attribution import run as runs
    from app.attribution.results import Analysis
    from app.attribution.run import PromptRun, Ranges
    from indexer.language_model import LanguageModel
else:
    torch = lazy_import("torch")
    analyses, runs = lazy_import("app.attribution.analysis"), lazy_import("app.attribution.run")

MOST_BYTES = 1_000_000
_HEADS, _NEURONS, _OWN = 4, 10, 3
"""Of how many of the strongest heads, neurons of each kind, and neurons with their own query neurons the answers one
step further are kept, besides what the view itself shows.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every view; returns the exit status."""
    parser = command_line.Parser(prog="python -m app.gallery", description=__doc__)
    command_line.add_catalogue(parser)
    parser.add_argument("--model", default="demo", metavar="DIR", help="demo, a model folder or a hub id")
    parser.add_argument("--to", type=Path, default=gallery.FOLDER, metavar="DIR", help="where the files go")
    options = parser.parse_args(arguments)

    def command() -> str:
        total = build(options.model, command_line.catalogue_folder(options.catalogue), options.to)
        return f"{len(CHOICES)} views, {total:,} bytes in {options.to}"

    return command_line.run(command)


def build(model_name: str, root: Path, folder: Path) -> int:
    """Write every view; returns their size in bytes.

    Raises:
        AtlasError: the model or its catalogue is not there, or the views are too large to be shipped.
    """
    model = analyses.load(model_name)
    with runs.given_catalogue(root, model) as atlas:
        files = {choice.name: view_file(choice, model, atlas) for choice in CHOICES}
    total = sum(map(len, files.values()))
    if total > MOST_BYTES:
        raise AtlasError(f"The views take {total:,} bytes; at most {MOST_BYTES:,} are shipped. Choose fewer.")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"*{gallery.ENDING}"):
        old.unlink()
    for name, content in files.items():
        (folder / f"{name}{gallery.ENDING}").write_bytes(content)
    return total


def view_file(choice: Choice, model: "LanguageModel", atlas: Catalogue) -> bytes:
    """One view, worked out and packed."""
    asked = choice.selection
    settings = Settings(
        top=asked.top,
        target=asked.target,
        distractor=choice.against or None,
        position=asked.position,
        conventions=Conventions(asked.rule.value),
        suppressing=True,
    )
    ranges = runs.StoredRanges(atlas)
    with torch.inference_mode():
        run = runs.run_prompt(model, asked.prompt, settings)
        analysis = analyses.measured(run, analyses.explain(run, ranges), count=asked.top)
        details = drilldowns.kept(_asked(choice, analysis), partial(_answer, run, ranges), _raise)
    entry = AnalysisEntry(
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"neuron-atlas/gallery/{choice.name}").hex,
        title=choice.title,
        model=atlas.info.model,
        build_id=atlas.info.build_id,
        checkpoint=analysis.checkpoint or "",
        unembedding_hash=analysis.unembedding_hash,
        address=address.address("prompt", asked.params()).partition("?")[2],
        question=question_key(asked),
        created_at=(made := now()),
        updated_at=made,
        result=to_json(analysis) | {drilldowns.TOP: asked.top, drilldowns.DETAILS: details},
    )
    return packed(to_text(Document(analyses=[entry])))


def packed(document_text: str) -> bytes:
    """A document as it is stored; the same text always gives the same bytes."""
    return gzip.compress(json.dumps(json.loads(document_text), separators=(",", ":")).encode("ascii"), 9, mtime=0)


def _answer(run: "PromptRun", ranges: "Ranges", name: str, what: Any) -> Any:
    return drilldowns.answer(run, name, what, ranges)


def _raise(name: str, error: AtlasError) -> None:
    raise AtlasError(f"The answer to “{name}” cannot be had: {error}") from error


def _asked(choice: Choice, analysis: "Analysis") -> Iterator[tuple[str, Any]]:
    """What a visitor is likely to ask one step further: rows of `drilldowns.TABLE`, and what each is about."""
    yield "lens", None
    yield "flow", None
    contrast, place = analysis.contrast, choice.selection.place
    heads = analysis.heads if contrast is None else contrast.heads
    best = abs(heads).flatten().argsort()[::-1][:_HEADS].tolist()
    strongest = [Head(*divmod(one, heads.shape[1])) for one in best]
    for head in dict.fromkeys([*([place.head] if place.head else []), *strongest]):
        yield "positions", head
        yield "pattern", head
    if place.own is not None:
        yield "own", place.own
    kinds = (
        (analysis.ffn_value_neurons, analysis.attention_value_neurons)
        if contrast is None
        else (contrast.ffn_neurons, contrast.attention_neurons)
    )
    for found in kinds:
        for number, one in enumerate(found[:_NEURONS]):
            yield "neuron", one.neuron
            if number < _OWN:
                yield "own", NeuronAt(one.neuron, one.position)
    for query in () if analysis.query is None else analysis.query.ffn_neurons[:_OWN]:
        head_above = analysis.head_after(query.neuron)
        if head_above is not None:
            yield "through", (query.neuron, head_above)
        yield "active", query.neuron


if __name__ == "__main__":
    sys.exit(main())
