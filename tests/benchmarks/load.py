"""Many visitors at once: ``python -m tests.benchmarks.load [--sessions 40] [--seconds 120]``.

Serves the app and lets sessions search, ask the API and explain prompts, each pausing as people do; in the middle a new
build is published, which the sessions must find without one failed answer. Works on a copy of the catalogue in a
temporary folder. Prints errors, times and memory; the exit status is 1 where something failed or a target was missed.

    --sessions 8 --seconds 10 --pause 1      a short form, to see whether it works
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from db.catalogue.builds import CURRENT, find_catalogue
from tests.benchmarks.visitors import Load, Measured, run
from tests.server_process import serving

TARGET_MEDIAN = 0.5
"""Seconds; of search interactions."""
TARGET_GROWTH = 1.1
"""Memory at the end, against the middle's before the new build."""


def _spread(times: Sequence[float]) -> str:
    if len(times) < 2:
        return f"{len(times)} done"
    slow = statistics.quantiles(times, n=20)[-1]
    return f"{len(times)} done, median {statistics.median(times) * 1000:.0f} ms, 95th percentile {slow * 1000:.0f} ms"


def report(measured: Measured, load: Load) -> list[str]:
    """What was seen, as lines."""
    start, middle, end = (value / 1e6 for value in measured.memory)
    published = measured.published or 0.0
    picked_up = ", ".join(f"{where} after {when - published:.1f} s" for where, when in sorted(measured.seen.items()))
    return [
        f"{load.sessions} sessions for {load.seconds:.0f} s, a pause of {load.pause:g} s between what each does",
        f"searches: {_spread(measured.searches)}",
        f"API:      {_spread(measured.api)}",
        f"prompts:  {_spread(measured.prompts)}",
        f"memory:   {start:,.0f} MB at the start, {middle:,.0f} MB in the middle, {end:,.0f} MB at the end",
        f"new build published after {published:.1f} s; first seen: {picked_up or 'never'}; "
        f"{measured.old_after} answers of the old one that were asked for later",
        f"errors:   {len(measured.errors)}",
        *(f"  {one}" for one in measured.errors[:20]),
    ]


def missed(measured: Measured) -> list[str]:
    """The targets that were missed."""
    found = [f"{len(measured.errors)} errors"] if measured.errors else []
    if set(measured.seen) != {"page", "api"} or measured.old_after:
        found.append("the new build was not picked up at once")
    if measured.searches and statistics.median(measured.searches) > TARGET_MEDIAN:
        found.append(f"the median of search interactions is above {TARGET_MEDIAN * 1000:.0f} ms")
    if measured.memory[-1] > TARGET_GROWTH * measured.memory[1]:
        found.append(f"memory grew by more than {TARGET_GROWTH - 1:.0%} after the middle")
    return found


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("--sessions", type=int, default=40)
    arguments.add_argument("--seconds", type=float, default=120)
    arguments.add_argument("--pause", type=float, default=4, help="mean seconds between what one session does")
    arguments.add_argument("--catalogue", type=Path, default=Path("catalogue"))
    arguments.add_argument("--models", type=Path, default=Path("models"))
    arguments.add_argument("--json", action="store_true", help="print what was measured as JSON")
    options = arguments.parse_args()
    words = ("Paris", "Python", "red, green, blue", "music", "January", "water", "king", "code", "seven", "France")
    prompts = ("The capital of France is", "She was born in Tokyo and speaks fluent", "Number")
    load = Load(options.sessions, options.seconds, options.pause, words, prompts)
    with tempfile.TemporaryDirectory() as folder:
        found = find_catalogue(options.catalogue)
        copy = Path(folder) / "catalogue" / found.parent.name
        copy.mkdir(parents=True)
        for name in (found.name, CURRENT):
            shutil.copy2(found.parent / name, copy / name)
        environment = {
            "ATLAS_CATALOGUE": str(copy.parent),
            "ATLAS_MODELS": str(options.models.resolve()),
            "ATLAS_WORKSPACE": f"sqlite:///{folder}/atlas.sqlite",
        }
        log = Path(folder) / "server.log"
        with serving(log, **environment) as server:
            measured = asyncio.run(run(server.address, server.process.pid, load, copy))
        faults = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if " error " in line]
    measured.errors += [f"in the server's log: {line[:300]}" for line in faults]
    if options.json:
        print(json.dumps(asdict(measured)))
    else:
        print("\n".join(report(measured, load)))
    problems = missed(measured)
    print(f"missed: {'; '.join(problems)}" if problems else "all targets met", file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
