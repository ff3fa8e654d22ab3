"""A prompt's report, from the shell: ``python -m app.report "The capital of France is" --out report.html``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.attribution import drilldowns, results
from app.attribution.prompt import Method, Settings, require_prompt
from app.report import FILES, ROWS, Material, Origin
from app.state.selections import DEFAULT_TOP, MAX_TOP, Map, Place, PromptSelection, Rule
from db import command_line
from db.catalogue.builds import build_of, find_catalogue, folders_called
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.lazy import lazy_import
from db.records import short_identity
from indexer.architecture import Conventions

if TYPE_CHECKING:
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
        "--analysis", type=Path, metavar="FILE", help="instead: what `python -m app.attribution … --json` wrote"
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
    command_line.add_token(arguments, "target", "the token to explain (default: the top prediction)")
    command_line.add_token(arguments, "distractor", "why not this")
    add("--position", type=int, metavar="N", help="token position, from 0 or from the end (default: last)")
    bos = "leave out what the tokenizer puts before a text, such as <s>"
    add("--no-bos", dest="bos", action="store_false", help=bos)
    add("--chat", action="store_true", help="the prompt is a user's message: put it into the model's chat template")
    top = command_line.whole_number(1, MAX_TOP)
    add("--top", type=top, default=DEFAULT_TOP, metavar="K", help=f"neurons of each kind (default: {DEFAULT_TOP})")
    add("--method", choices=list(Method), default=Method.ADDED, help="how contributions are scored (default: added)")
    measure = "measure the effect of the first N neurons of each list (default: of all; 0: of none)"
    add("--measure", type=count, metavar="N", help=measure)
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
    catalogue = analyses.catalogue_for(options.catalogue, model)
    if catalogue is None:
        command_line.say(f"{_NO_CATALOGUE} Finding what lowered the target takes longer, too.")
    settings = Settings(
        top=options.top,
        target=options.target if options.target_id is None else options.target_id,
        distractor=options.distractor if options.distractor_id is None else options.distractor_id,
        position=options.position,
        bos=options.bos,
        chat=options.chat,
        conventions=Conventions(options.conventions),
        suppressing=True,
        method=Method(options.method),
        measure=options.top if options.measure is None else options.measure,
    )
    run = runs.run_prompt(model, options.prompt, settings)
    with torch.inference_mode():
        analysis = analyses.explain(run, None if catalogue is None else runs.StoredRanges(catalogue))
        analysis = analyses.measured(run, analysis)
        lens, flow = heads.logit_lens(run) if options.lens else None, heads.moves(run)
    more = {} if lens is None else {drilldowns.NAMED["lens"].key: drilldowns.to_json(lens)}
    return _material(analysis, catalogue, options, lens, flow, more)


def _stored(options: argparse.Namespace) -> Material:
    """An analysis that was written before; needs no model."""
    defaults = parser()
    for name in _OF_A_PROMPT:
        if getattr(options, name) != defaults.get_default(name):
            option = f"--{name.replace('_', '-')}"
            raise AtlasError(f"{option} does not go with --analysis, which has its own. Leave one of them out.")
    try:
        data = json.loads(options.analysis.read_text("utf-8-sig"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise AtlasError(f"{options.analysis} is no analysis that can be read: {error}") from error
    analysis = results.from_json(data)
    kept = (*(row.key for row in drilldowns.TABLE if row.key), drilldowns.DETAILS, drilldowns.TOP)
    more = {name: data[name] for name in kept if name in data}
    lens = _stored_lens(more, analysis)
    if options.lens and lens is None:
        raise AtlasError(
            "--lens needs the prompt itself: this analysis was written without the logit lens, which "
            "`python -m app.attribution … --lens` adds."
        )
    flow = drilldowns.from_json("flow", data["flow"], analysis) if "flow" in data else None
    return _material(analysis, _catalogue(options.catalogue, analysis), options, lens, flow, more)


_NO_CATALOGUE = "No catalogue of this model: the tokens of its neurons are not shown."
_TOKENS = ("target", "target_id", "distractor", "distractor_id")
_OF_A_PROMPT = (*_TOKENS, "position", "top", "conventions", "method", "measure")


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is no number")


def _stored_lens(data: dict[str, Any], analysis: results.Analysis) -> "results.LogitLens | None":
    """The logit lens, from where the shell writes it, or where it is kept beside a saved analysis."""
    kept = data.get(drilldowns.DETAILS)
    lenses = kept.get("lens") if isinstance(kept, dict) else None
    given = data.get(drilldowns.NAMED["lens"].key, lenses.get("") if isinstance(lenses, dict) else None)
    return None if given is None else drilldowns.from_json("lens", given, analysis)


def _material(
    analysis: results.Analysis,
    catalogue: Catalogue | None,
    options: argparse.Namespace,
    lens: "results.LogitLens | None",
    flow: results.Flow | None,
    more: dict[str, Any],
) -> Material:
    last, best = len(analysis.tokens) - 1, analysis.predictions[0].token.id
    listed = max(len(analysis.ffn_value_neurons), 1) if options.analysis else options.top
    question = PromptSelection(
        analysis.prompt,
        None if analysis.target.token.id == best else analysis.target.token.id,
        None if analysis.position == last else analysis.position,
        bare=not analysis.bos,
        chat=analysis.chat,
        top=listed,
        rule=Rule(str(analysis.conventions)),
        distractor=None if analysis.contrast is None else analysis.contrast.distractor.token.id,
        place=Place(Map.HEADS if lens is None else Map.LENS),
        method=analysis.method,
    )
    model = options.model if options.model == "demo" else analysis.model  # as it was given, but nobody's folders
    frame = None if lens is None else frames.lens_frame(lens)
    return Material(analysis, catalogue, Origin(question, model=model), frame, options.rows, flow, more)


def _catalogue(given: Path | None, analysis: results.Analysis) -> Catalogue | None:
    """The catalogue asked for, or the one of the analysis's own checkpoint; None where there is none.

    Raises:
        AtlasError: the one asked for is of another checkpoint; the message names both.
    """
    root = command_line.catalogue_folder(given)
    path = build_of(root, analysis.model, lambda checkpoint: checkpoint == analysis.checkpoint)
    if path is None and given is None and not folders_called(root, analysis.model):
        command_line.say(_NO_CATALOGUE)
        return None
    if path is None:
        alone = root.is_file() or (root / "CURRENT").exists()  # a build or one model's folder, not a folder of them
        path = find_catalogue(root, None if alone else analysis.model)
    catalogue = Catalogue.open(path)
    stored = catalogue.info
    own = (stored.checkpoint, stored.unembedding_hash)
    if (analysis.checkpoint or stored.checkpoint, analysis.unembedding_hash) != own:
        if given is None:
            command_line.say(f"{_NO_CATALOGUE} The one in {root} was made from other weights of that name.")
            return None
        raise AtlasError(
            f"The analysis is of {analysis.model}, {short_identity(analysis.checkpoint or '')}, and the catalogue of "
            f"{stored.model} (build {stored.build_id}) from {short_identity(stored.checkpoint)}. Its tokens would be "
            "wrong. Choose the matching catalogue with --catalogue, or build one: python -m indexer build MODEL."
        )
    return catalogue


if __name__ == "__main__":
    sys.exit(main())
