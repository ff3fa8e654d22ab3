"""One prompt explained, from the shell: ``python -m app.attribution "The capital of France is" --top 300 --json``."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from db.errors import AtlasError

DEFAULT_TOP = 300


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        prog="python -m app.attribution",
        description="Which layers, heads and neurons raised the target token of a prompt. Scores in nats.",
    )
    arguments.add_argument("prompt", help="the text whose next token is explained")
    arguments.add_argument(
        "--model", default="demo", metavar="DIR", help="demo, a model folder or a hub id (default: demo)"
    )
    arguments.add_argument("--target", metavar="TEXT", help="the token to explain (default: the top prediction)")
    arguments.add_argument(
        "--position", type=int, metavar="N", help="token position, from 0 or from the end (default: last)"
    )
    arguments.add_argument(
        "--top", type=_count, default=DEFAULT_TOP, metavar="K", help="neurons of each kind (default: 300)"
    )
    arguments.add_argument(
        "--query-top", type=_count, metavar="K", help="value neurons that feed the query step (default: 30)"
    )
    arguments.add_argument(
        "--distractor", metavar="TEXT", help="a token to hold the target against: why this and not that"
    )
    arguments.add_argument(
        "--suppressing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also the neurons that lower the target most (default: yes; slow without a catalogue)",
    )
    arguments.add_argument("--conventions", choices=["exact", "notebook"], default="exact", help="see README, Glossary")
    arguments.add_argument("--max-tokens", type=_count, metavar="N", help="longest prompt accepted (default: 256)")
    arguments.add_argument(
        "--catalogue", type=Path, metavar="DIR", help="catalogue for the neurons' tokens (default: catalogue/)"
    )
    arguments.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        print(_run(options))
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    return 0


def _run(options: argparse.Namespace) -> str:
    # torch takes seconds to import: not before the arguments are known to be good
    from app.attribution.analysis import analyse, load
    from app.attribution.forms import to_json
    from app.attribution.joining import require_same_model, stored_ranges
    from app.attribution.run import check_question
    from app.attribution.settings import MAX_TOKENS, QUERY_TOP, Settings
    from indexer.unembedding import Conventions

    if not options.prompt.strip():
        raise AtlasError("The prompt is empty. Type some text whose next token is to be explained.")
    started = time.perf_counter()
    model = load(options.model)
    loaded = time.perf_counter() - started
    catalogue = _catalogue(options.catalogue, model.name)
    if catalogue is not None:
        require_same_model(model, catalogue)
    settings = Settings(
        top=options.top,
        query_top=QUERY_TOP if options.query_top is None else options.query_top,
        target=options.target,
        distractor=options.distractor,
        suppressing=options.suppressing,
        position=options.position,
        conventions=Conventions(options.conventions),
        max_tokens=MAX_TOKENS if options.max_tokens is None else options.max_tokens,
    )
    check_question(model, options.prompt, settings)
    if catalogue is None and options.suppressing and options.top:
        print(
            "No catalogue of this model: the neurons that lower the target are bounded by norms alone, and most are "
            "scored. "
            "--no-suppressing leaves them out; `python -m indexer build MODEL` makes it quick.",
            file=sys.stderr,
        )
    analysis = analyse(model, options.prompt, settings, ranges=None if catalogue is None else stored_ranges(catalogue))
    analysis = replace(analysis, seconds=replace(analysis.seconds, load=loaded))
    if options.json:
        return json.dumps(to_json(analysis), ensure_ascii=False, allow_nan=False)
    from app.attribution.text_report import text_report

    return text_report(analysis, catalogue)


def _catalogue(given: Path | None, model: str):  # type: ignore[no-untyped-def]
    """The catalogue asked for, or the model's own where there is one; None without."""
    from db.catalogue import Catalogue
    from db.library import find_catalogue

    if given is not None:
        return Catalogue.open(find_catalogue(given, None if (given / "CURRENT").exists() or given.is_file() else model))
    if not (Path("catalogue") / model / "CURRENT").is_file():
        return None
    return Catalogue.open(find_catalogue(Path("catalogue"), model))


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


if __name__ == "__main__":
    sys.exit(main())
