"""Make the gallery's files anew: ``python -m app.gallery``. Needs the demo model and its catalogue."""

import argparse
import gzip
import json
import sys
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import gallery
from app.attribution.details_form import DETAILS, TOP
from app.gallery.examples import CHOICES, Choice
from app.state import address
from app.state.selections import question_key
from db.catalogue.builds import DEFAULT_ROOT, find_catalogue
from db.errors import AtlasError
from db.workspace.exchange import Document, to_text
from db.workspace.records import AnalysisEntry, now

if TYPE_CHECKING:
    from app.attribution.results import Analysis
    from app.attribution.run import PromptRun
    from db.catalogue.store import Catalogue
    from indexer.language_model import LanguageModel


MOST_BYTES = 1_000_000
_HEADS, _NEURONS, _OWN = 4, 10, 3
"""Of how many of the strongest heads, neurons of each kind, and neurons with their own query neurons the answers one
step further are kept, besides what the view itself shows.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every view; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app.gallery", description=__doc__)
    parser.add_argument("--catalogue", type=Path, default=DEFAULT_ROOT, metavar="DIR", help="folder of catalogues")
    parser.add_argument("--model", default="demo", metavar="DIR", help="demo, a model folder or a hub id")
    parser.add_argument("--to", type=Path, default=gallery.FOLDER, metavar="DIR", help="where the files go")
    options = parser.parse_args(arguments)
    try:
        total = build(options.model, options.catalogue, options.to)
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(CHOICES)} views, {total:,} bytes in {options.to}")
    return 0


def build(model_name: str, root: Path, folder: Path) -> int:
    """Write every view; returns their size in bytes.

    Raises:
        AtlasError: the model or its catalogue is not there, or the views are too large to be shipped.
    """
    from app.attribution import load
    from app.attribution.run import require_same_model
    from db.catalogue.store import Catalogue

    model = load(model_name)
    with Catalogue.open(find_catalogue(root, model.name)) as atlas:
        require_same_model(model, atlas)
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


def view_file(choice: Choice, model: "LanguageModel", atlas: "Catalogue") -> bytes:
    """One view, worked out and packed."""
    import torch

    from app.answers.explain import details_as_json
    from app.attribution import Conventions, Settings, explain, run_prompt
    from app.attribution.frames import to_json
    from app.attribution.run import stored_ranges

    asked = choice.selection
    settings = Settings(
        top=asked.top,
        target=asked.target,
        distractor=choice.against or None,
        position=asked.position,
        conventions=Conventions(asked.rule.value),
        suppressing=True,
    )
    with torch.inference_mode():
        run = run_prompt(model, asked.prompt, settings)
        analysis = explain(run, stored_ranges(atlas))
        kept = details_as_json(list(_answers(choice, run, analysis)))
    entry = AnalysisEntry(
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"neuron-atlas/gallery/{choice.name}").hex,
        title=choice.title,
        model=atlas.info.model,
        build_id=atlas.info.build_id,
        unembedding_hash=analysis.unembedding_hash,
        address=address.address("prompt", asked.params()).partition("?")[2],
        question=question_key(asked),
        created_at=(made := now()),
        updated_at=made,
        result=to_json(analysis) | {TOP: asked.top, DETAILS: kept},
    )
    return packed(to_text(Document(analyses=[entry])))


def packed(document_text: str) -> bytes:
    """A document as it is stored; the same text always gives the same bytes."""
    return gzip.compress(json.dumps(json.loads(document_text), separators=(",", ":")).encode("ascii"), 9, mtime=0)


def _answers(choice: Choice, run: "PromptRun", analysis: "Analysis") -> Iterator[tuple[str, Any, Any]]:
    """What a visitor is likely to ask one step further."""
    from app.answers.reading import head_after, reading_of
    from app.attribution.analysis import contrast
    from app.attribution.details import lens_frame, own_query, pattern_frame, positions_frame
    from app.attribution.heads import contrast_flow, flow, through_head
    from app.state.selections import Show
    from db.neuron import NeuronKind

    yield "lens", None, partial(lens_frame, run)
    if run.distractor_id is None:
        yield "flow", None, partial(flow, run)
    else:
        yield "flow", None, lambda: contrast_flow(run, contrast(run, run.distractor_id or 0, 0))
    reading, width = reading_of(analysis), analysis.heads.shape[1]
    best = abs(reading.source.heads).flatten().argsort()[::-1][:_HEADS]
    shown = choice.selection.place.head
    for head in dict.fromkeys([*([shown] if shown else []), *(divmod(int(one), width) for one in best)]):
        yield "positions", head, partial(positions_frame, run, *head)
        yield "pattern", head, partial(pattern_frame, run, *head)
    own = choice.selection.place.own
    if own is not None:
        yield "own", own, partial(own_query, run, *own)
    for kind in NeuronKind:
        for place, one in enumerate(reading.lists[Show.RAISED, kind][:_NEURONS]):
            yield "neuron", one.neuron, partial(run.value_neurons, one.neuron)
            if place < _OWN:
                yield "own", (one.neuron, one.position), partial(own_query, run, one.neuron, one.position)
    for query in () if analysis.query is None else analysis.query.ffn_neurons[:_OWN]:
        head_above = head_after(query.neuron, analysis)
        if head_above is not None:
            yield "through", (query.neuron, head_above), partial(through_head, run.model, query.neuron, *head_above)


if __name__ == "__main__":
    sys.exit(main())
