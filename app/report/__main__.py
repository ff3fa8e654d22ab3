"""A prompt's report, from the shell: ``python -m app.report "The capital of France is" --out report.html``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.attribution import drilldowns, results
from app.attribution.prompt import Settings, require_prompt
from app.report import FILES, ROWS, Material, Origin
from app.state.selections import DEFAULT_TOP, MAX_TOP, Map, Place, PromptSelection, Rule
from db import command_line
from db.catalogue.builds import build_of, find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.lazy import lazy_import
from db.records import short_identity
from indexer.families import Conventions

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from app.attribution import analysis as analyses
    from app.attribution import frames, heads
    from app.attribution import run as runs
else:
    torch, frames = lazy_import("torch"), lazy_import("app.attribution.frames")
    analyses, runs = lazy_import("app.attribution.analysis"), lazy_import("app.attribution.run")
    heads = lazy_import("app.attribution.heads")

_BY_ENDING = {".html": "html", ".htm": "html", ".json": "json", ".zip": "csv"}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = command_line.Parser(
        prog="python -m app.report", description="One explained prompt as a file to keep: HTML, JSON, CSV or Parquet."
    )
    add, count = arguments.add_argument, command_line.whole_number(0)
    asked = arguments.add_mutually_exclusive_group(required=True)
    asked.add_argument("prompt", nargs="?", help="the text whose next token is explained")
    asked.add_argument(
        "--analysis", type=Path, metavar="FILE", help="instead: what `python -m app.attribution --json` wrote"
    )
    add("--out", type=Path, required=True, metavar="FILE", help="such as report.html, analysis.json or tables.zip")
    add("--form", choices=list(FILES), help="default: by the file's ending; a .zip holds CSV")
    add(
        "--rows",
        type=count,
        default=ROWS,
        metavar="N",
        help=f"neurons in each of the report's tables (default: {ROWS})",
    )
    add("--model", default="demo", metavar="DIR", help="demo, a model folder or a hub id (default: demo)")
    command_line.add_catalogue(arguments)
    tokens = {"target": "the token to explain (default: the top prediction)", "distractor": "why not this"}
    for name, what in tokens.items():
        either = arguments.add_mutually_exclusive_group()
        either.add_argument(f"--{name}", metavar="TEXT", help=what)
        either.add_argument(f"--{name}-id", type=count, metavar="N", help="the same by its token id")
    add("--position", type=int, metavar="N", help="token position, from 0 or from the end (default: last)")
    top = command_line.whole_number(1, MAX_TOP)
    add("--top", type=top, default=DEFAULT_TOP, metavar="K", help=f"neurons of each kind (default: {DEFAULT_TOP})")
    rules = [str(rule) for rule in Rule]
    add("--conventions", choices=rules, default="exact", help="see app/attribution/README.md")
    add("--lens", action="store_true", help="also the logit lens over layers and positions")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    return command_line.run(lambda: _run(options))


def _run(options: argparse.Namespace) -> str:
    form = options.form or _BY_ENDING.get(options.out.suffix.lower())
    if form is None:
        raise AtlasError(f"What is {options.out.name} to be? End it in .html, .json or .zip, or say --form.")
    if not options.out.resolve().parent.is_dir():
        raise AtlasError(f"There is no folder {options.out.resolve().parent} to write {options.out.name} into.")
    if options.prompt is not None:
        require_prompt(options.prompt)
    data = FILES[form].write(_explained(options) if options.analysis is None else _stored(options))
    try:
        options.out.write_bytes(data)
    except OSError as error:
        raise AtlasError(f"{options.out} cannot be written ({error.strerror}). Choose another file.") from error
    return f"{options.out}: {len(data):,} bytes"


def _explained(options: argparse.Namespace) -> Material:
    """The prompt, explained now."""
    model = analyses.load(options.model)
    catalogue = runs.given_catalogue(command_line.catalogue_folder(options.catalogue), model)
    settings = Settings(
        top=options.top,
        target=options.target if options.target_id is None else options.target_id,
        distractor=options.distractor if options.distractor_id is None else options.distractor_id,
        position=options.position,
        conventions=Conventions(options.conventions),
        suppressing=True,
    )
    run = runs.run_prompt(model, options.prompt, settings)
    with torch.inference_mode():
        analysis = analyses.explain(run, runs.stored_ranges(catalogue))
        lens = frames.lens_frame(heads.logit_lens(run)) if options.lens else None
        return _material(analysis, catalogue, options, lens, heads.moves(run))


def _stored(options: argparse.Namespace) -> Material:
    """An analysis that was written before; needs no model."""
    if options.lens:
        raise AtlasError("--lens needs the prompt itself: a stored analysis does not hold the logit lens.")
    try:
        data = json.loads(options.analysis.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AtlasError(f"{options.analysis} is no analysis that can be read: {error}") from error
    analysis = results.from_json(data)
    flow = drilldowns.from_json("flow", data["flow"], analysis) if "flow" in data else None
    return _material(analysis, _catalogue(options.catalogue, analysis), options, None, flow)


def _material(
    analysis: results.Analysis,
    catalogue: Catalogue,
    options: argparse.Namespace,
    lens: "pd.DataFrame | None",
    flow: results.Flow | None,
) -> Material:
    last, best = len(analysis.tokens) - 1, analysis.predictions[0].token.id
    listed = max(len(analysis.ffn_value_neurons), 1) if options.analysis else options.top
    question = PromptSelection(
        analysis.prompt,
        None if analysis.target.token.id == best else analysis.target.token.id,
        None if analysis.position == last else analysis.position,
        listed,
        Rule(str(analysis.conventions)),
        None if analysis.contrast is None else analysis.contrast.distractor.token.id,
        Place(Map.LENS if options.lens else Map.HEADS),
    )
    model = options.model if options.model == "demo" else analysis.model  # as it was given, but nobody's folders
    return Material(analysis, catalogue, Origin(question, model=model), lens, options.rows, flow)


def _catalogue(given: Path | None, analysis: results.Analysis) -> Catalogue:
    """The catalogue asked for, or the one of the analysis's own checkpoint.

    Raises:
        AtlasError: it is of another checkpoint; the message names both.
    """
    root = command_line.catalogue_folder(given)
    path = build_of(root, analysis.model, lambda checkpoint: checkpoint == analysis.checkpoint)
    if path is None:
        alone = root.is_file() or (root / "CURRENT").exists()  # a build or one model's folder, not a folder of them
        path = find_catalogue(root, None if alone else analysis.model)
    catalogue = Catalogue.open(path)
    stored = catalogue.info
    own = (stored.checkpoint, stored.unembedding_hash)
    if (analysis.checkpoint or stored.checkpoint, analysis.unembedding_hash) != own:
        raise AtlasError(
            f"The analysis is of {analysis.model}, {short_identity(analysis.checkpoint or '')}, and the catalogue of "
            f"{stored.model} (build {stored.build_id}) from {short_identity(stored.checkpoint)}. Its tokens would be "
            "wrong. Choose the matching catalogue with --catalogue, or build one: python -m indexer build MODEL."
        )
    return catalogue


if __name__ == "__main__":
    sys.exit(main())
