"""The offline job from the shell: ``python -m indexer fetch-demo | estimate | build | verify | prune``."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from db.errors import AtlasError


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = argparse.ArgumentParser(prog="python -m indexer", description="Build the neuron catalogue of a model.")
    commands = arguments.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fetch = commands.add_parser("fetch-demo", help="fetch the demo model and convert it to safetensors, once")
    fetch.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="where models lie (default: models)"
    )

    estimate = commands.add_parser("estimate", help="what a build will take: neurons, time, memory, disk")
    estimate.add_argument("--json", action="store_true", help="bytes and seconds, for programs")
    build = commands.add_parser("build", help="project every neuron of a model and publish its catalogue")
    for command in (estimate, build):
        command.add_argument("model", metavar="MODEL", help="demo, a model folder or a hub id")
        command.add_argument(
            "--depth", type=int, default=50, metavar="K", help="tokens kept at each end of a neuron (default: 50)"
        )
        command.add_argument(
            "--memory-mb", type=int, default=1024, metavar="MB", help="for logits, all threads together (default: 1024)"
        )

    verify = commands.add_parser("verify", help="compare a published catalogue with its model")
    verify.add_argument("--sample", type=int, default=200, metavar="N", help="neurons to derive again (default: 200)")
    verify.add_argument("--checkpoint", metavar="MODEL", help="demo, a folder or a hub id (default: found by name)")
    prune = commands.add_parser("prune", help="delete old builds and what unfinished ones left")
    prune.add_argument("--keep", type=int, default=1, metavar="N", help="builds a model, the current one included")
    for command in (verify, prune):
        command.add_argument("--model", metavar="NAME", help="one catalogue (default: verify the only one, prune all)")
    for command in (estimate, build, verify, prune):
        command.add_argument(
            "--catalogue", type=Path, default=Path("catalogue"), metavar="DIR", help="default: catalogue"
        )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    commands = {
        "fetch-demo": _fetch,
        "estimate": _estimate,
        "build": _build,
        "verify": _verify,
        "prune": _prune,
    }
    try:
        return commands[options.command](options)
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the layers that are finished.", file=sys.stderr)
        return 130


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _require_positive(options: argparse.Namespace) -> None:
    if options.depth < 1:
        raise AtlasError(f"--depth {options.depth}: keep at least one token at each end.")
    if options.memory_mb < 1:
        raise AtlasError(f"--memory-mb {options.memory_mb}: give at least 1.")


def _fetch(options: argparse.Namespace) -> int:
    from indexer.demo_model import fetch_demo

    fetch_demo(options.models, progress=_say)
    return 0


def _estimate(options: argparse.Namespace) -> int:
    from indexer.checkpoint import locate
    from indexer.estimate import described, estimate

    _require_positive(options)
    found = estimate(locate(options.model), depth=options.depth, memory_mb=options.memory_mb)
    print(json.dumps(asdict(found)) if options.json else "\n".join(described(found, options.catalogue / found.model)))
    return 0


def _build(options: argparse.Namespace) -> int:
    from db.catalogue.builds import remember_source
    from indexer.build import build
    from indexer.checkpoint import locate

    _require_positive(options)
    started = time.perf_counter()
    checkpoint = locate(options.model)
    built = build(
        checkpoint, options.catalogue, depth=options.depth, memory_mb=options.memory_mb, say=_say, progress=_bar
    )
    remember_source(built.path.parent, checkpoint.source)
    if not built.fresh:
        _say(f"Nothing to do: {built.path} is the catalogue of this checkpoint ({built.neurons:,} neurons).")
        return 0
    seconds = time.perf_counter() - started
    _say(
        f"Published {built.path}: {built.neurons:,} neurons, {built.path.stat().st_size / 1e6:.0f} MB, {seconds:.0f} s."
    )
    if built.screened:
        _say(
            f"{built.screened:,} neurons screened in bf16, every list proven; {built.unproven:,} needed a second look."
        )
    return 0


def _verify(options: argparse.Namespace) -> int:
    from db.catalogue.builds import find_catalogue, source_of
    from indexer.checkpoint import locate
    from indexer.verify import verify

    if options.sample < 1:
        raise AtlasError(f"--sample {options.sample}: derive at least one neuron again.")
    path = find_catalogue(options.catalogue, options.model)
    model = options.checkpoint or source_of(path) or path.parent.resolve().name
    found = verify(path, locate(model), sample=options.sample)
    print(
        f"{found.path}: {found.neurons:,} neurons whole and in order; {found.sampled:,} derived again, all alike "
        f"(to {found.deviation:.1g} of their scale)."
    )
    return 0


def _prune(options: argparse.Namespace) -> int:
    from indexer.build import prunable_folders, prune_model

    for folder in prunable_folders(options.catalogue, options.model):
        for path, size in prune_model(folder, options.keep):
            print(f"removed {path} ({size / 1e6:,.0f} MB)")
    return 0


def _bar(layers: Iterator[int], total: int) -> Iterator[int]:
    from tqdm import tqdm

    return iter(tqdm(layers, total=total, unit="layer", file=sys.stderr))


if __name__ == "__main__":
    sys.exit(main())
