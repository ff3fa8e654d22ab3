"""The offline job from the shell: ``python -m indexer fetch-demo | estimate | build | verify | prune``."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from db.command_line import Parser, add_catalogue, catalogue_folder, run, say
from db.errors import AtlasError
from db.lazy import lazy_import

if TYPE_CHECKING:
    import tqdm

    from db import settings
    from db.catalogue import builds
    from indexer import build, checkpoint, demo_model, estimate, verify
else:  # torch and transformers take seconds to import, and --help needs neither
    tqdm = lazy_import("tqdm")
    settings, builds = lazy_import("db.settings"), lazy_import("db.catalogue.builds")
    build, checkpoint = lazy_import("indexer.build"), lazy_import("indexer.checkpoint")
    demo_model, estimate, verify = (lazy_import(f"indexer.{name}") for name in ("demo_model", "estimate", "verify"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    stopped = "Stopped. The same command goes on from the layers that are finished."
    return run(lambda: _COMMANDS[options.command](options), stopped)


def _fetch(options: argparse.Namespace) -> None:
    demo_model.fetch_demo(options.models or settings.paths().models)


def _estimate(options: argparse.Namespace) -> str:
    _require_positive(options, "depth", "memory_mb")
    found = estimate.estimate(checkpoint.locate(options.model), depth=options.depth, memory_mb=options.memory_mb)
    if options.json:
        return json.dumps(asdict(found))
    return "\n".join(estimate.described(found, catalogue_folder(options.catalogue) / found.model))


def _build(options: argparse.Namespace) -> None:
    _require_positive(options, "depth", "memory_mb")
    started = time.perf_counter()
    model, catalogue = checkpoint.locate(options.model), catalogue_folder(options.catalogue)
    built = build.build(model, catalogue, depth=options.depth, memory_mb=options.memory_mb, say=say, progress=_bar)
    if not built.fresh:
        say(f"Nothing to do: {built.path} is the catalogue of this checkpoint ({built.neurons:,} neurons).")
        return
    size, seconds = built.path.stat().st_size / 1e6, time.perf_counter() - started
    say(f"Published {built.path}: {built.neurons:,} neurons, {size:.0f} MB, {seconds:.0f} s.")
    if built.screened:
        say(f"{built.screened:,} neurons screened in bf16, every list proven; {built.unproven:,} needed a second look.")


def _verify(options: argparse.Namespace) -> str:
    _require_positive(options, "sample")
    path = builds.find_catalogue(catalogue_folder(options.catalogue), options.model)
    model = options.checkpoint or builds.source_of(path) or path.parent.resolve().name
    found = verify.verify(path, checkpoint.locate(model), sample=options.sample)
    return (
        f"{found.path}: {found.neurons:,} neurons complete and in order; {found.sampled:,} derived again, all equal "
        f"(to {found.deviation:.1g} of their scale)."
    )


def _prune(options: argparse.Namespace) -> str | None:
    gone = [
        f"removed {path} ({size / 1e6:,.0f} MB)"
        for folder in build.prunable_folders(catalogue_folder(options.catalogue), options.model)
        for path, size in build.prune_model(folder, options.keep)
    ]
    return "\n".join(gone) or None


def _bar(layers: Iterator[int], total: int) -> Iterator[int]:
    return iter(tqdm.tqdm(layers, total=total, unit="layer", file=sys.stderr))


def _require_positive(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise AtlasError(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1.")


_COMMANDS: dict[str, Callable[[argparse.Namespace], str | None]] = {
    "fetch-demo": _fetch,
    "estimate": _estimate,
    "build": _build,
    "verify": _verify,
    "prune": _prune,
}


def _parser() -> argparse.ArgumentParser:
    arguments = Parser(prog="python -m indexer", description="Build the neuron catalogue of a model.")
    commands = arguments.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fetch = commands.add_parser("fetch-demo", help="fetch the demo model and convert it to safetensors, once")
    fetch.add_argument(
        "--models", type=Path, metavar="DIR", help="where models lie (default: ATLAS_MODELS, else models/)"
    )

    estimated = commands.add_parser("estimate", help="what a build will take: neurons, time, memory, disk")
    estimated.add_argument("--json", action="store_true", help="bytes and seconds, for programs")
    built = commands.add_parser("build", help="project every neuron of a model and publish its catalogue")
    for command in (estimated, built):
        command.add_argument("model", metavar="MODEL", help="demo, a model folder or a hub id")
        command.add_argument(
            "--depth", type=int, default=50, metavar="K", help="tokens kept at each end of a neuron (default: 50)"
        )
        command.add_argument(
            "--memory-mb", type=int, default=1024, metavar="MB", help="for logits, all threads together (default: 1024)"
        )

    verified = commands.add_parser("verify", help="compare a published catalogue with its model")
    verified.add_argument("--sample", type=int, default=200, metavar="N", help="neurons to derive again (default: 200)")
    verified.add_argument("--checkpoint", metavar="MODEL", help="demo, a folder or a hub id (default: found by name)")
    pruned = commands.add_parser("prune", help="delete old builds and what unfinished ones left")
    pruned.add_argument("--keep", type=int, default=1, metavar="N", help="builds per model, the current one included")
    for command in (verified, pruned):
        command.add_argument("--model", metavar="NAME", help="one catalogue (default: verify the only one, prune all)")
    for command in (estimated, built, verified, pruned):
        add_catalogue(command)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
