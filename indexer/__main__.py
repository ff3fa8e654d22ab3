"""The offline job from the shell: ``python -m indexer fetch-demo | build MODEL``."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
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

    build = commands.add_parser("build", help="project every neuron of a model and publish its catalogue")
    build.add_argument("model", metavar="MODEL", help="demo, a model folder or a hub id")
    build.add_argument("--catalogue", type=Path, default=Path("catalogue"), metavar="DIR", help="default: catalogue")
    build.add_argument(
        "--depth", type=int, default=50, metavar="K", help="tokens kept at each end of a neuron (default: 50)"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        return {"fetch-demo": _fetch, "build": _build}[options.command](options)
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the layers that are finished.", file=sys.stderr)
        return 130


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fetch(options: argparse.Namespace) -> int:
    from indexer.demo_model import fetch_demo

    fetch_demo(options.models, progress=_say)
    return 0


def _build(options: argparse.Namespace) -> int:
    from indexer.build import build
    from indexer.checkpoint import locate

    if options.depth < 1:
        raise AtlasError(f"--depth {options.depth}: keep at least one token at each end.")
    started = time.perf_counter()
    built = build(locate(options.model), options.catalogue, depth=options.depth, say=_say, progress=_bar)
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


def _bar(layers: Iterator[int], total: int) -> Iterator[int]:
    from tqdm import tqdm

    return iter(tqdm(layers, total=total, unit="layer", file=sys.stderr))


if __name__ == "__main__":
    sys.exit(main())
