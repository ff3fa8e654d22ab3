"""The offline job from the shell: ``python -m indexer COMMAND``; ``--help`` lists them."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from db.command_line import Parser, add_catalogue, catalogue_folder, layers, run, say, whole_number
from db.errors import AtlasError
from db.lazy import lazy_import

if TYPE_CHECKING:
    import tqdm

    from db import settings
    from db.catalogue import builds, store
    from db.texts import publish as text_files
    from indexer import (
        build,
        checkpoint,
        demo_model,
        describe,
        estimate,
        groups,
        own_words,
        texts,
        verify,
        work,
    )
else:  # torch and transformers take seconds to import, and --help needs neither
    tqdm = lazy_import("tqdm")
    settings = lazy_import("db.settings")
    builds, store = lazy_import("db.catalogue.builds"), lazy_import("db.catalogue.store")
    describe, text_files = lazy_import("indexer.describe"), lazy_import("db.texts.publish")
    build, checkpoint = lazy_import("indexer.build"), lazy_import("indexer.checkpoint")
    demo_model, estimate, verify = (lazy_import(f"indexer.{name}") for name in ("demo_model", "estimate", "verify"))
    groups, own_words, texts, work = (
        lazy_import(f"indexer.{name}") for name in ("groups", "own_words", "texts", "work")
    )

RAY = "ray"
_TASK = ("address", "task_cpus", "task_gpus", "task_memory_mb")


_STOPPED = "Stopped. The same command goes on from what is finished."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    if getattr(options, "with_stdin", False):
        Thread(target=_end_with_stdin, daemon=True).start()
    return run(lambda: _COMMANDS[options.command](options), _STOPPED)


def _end_with_stdin() -> None:
    """End this process when its standard input ends, as it does when whoever holds the other end is killed."""
    with suppress(OSError):  # not by sys.stdin, whose lock would be held when the interpreter ends
        while os.read(0, 4096):
            pass
        say(_STOPPED)
    os._exit(130)


def _fetch(options: argparse.Namespace) -> None:
    if options.model not in demo_model.MODELS:
        raise AtlasError(f"--model {options.model}: there are {' and '.join(demo_model.MODELS)} to be fetched.")
    demo_model.fetch(options.model, options.models or settings.paths().models)


def _estimate(options: argparse.Namespace) -> str:
    _require_positive(options, "depth", "memory_mb")
    if (options.model is None) == (options.config is None):
        raise AtlasError("Give one of the two: MODEL, or --config FILE.")
    paper = checkpoint.config_only(options.config or options.model)
    if paper is None and options.config:
        raise AtlasError(
            f"--config {options.config}: there is no such file that ends in .json. Give a model's config.json."
        )
    model = paper or checkpoint.locate(options.model, make=False)
    found = estimate.estimate(model, depth=options.depth, memory_mb=options.memory_mb)
    if options.json:
        return json.dumps(asdict(found))
    return "\n".join(estimate.described(found, catalogue_folder(options.catalogue) / found.model))


def _build(options: argparse.Namespace) -> None:
    _require_positive(options, "depth", "memory_mb")
    ray = _cluster(options)
    if options.shard is None:
        _publish(options, ray or work.in_process)
        return
    model, catalogue = checkpoint.locate(options.model), catalogue_folder(options.catalogue)
    share = build.build_share(model, catalogue, *options.shard, **_how(options))
    say(
        f"Done: {len(share)} shards. When all jobs are done, `python -m indexer publish MODEL` makes them the "
        "catalogue; give it the same options."
    )


def _cluster(options: argparse.Namespace) -> "work.Cluster | None":
    """The cluster that is asked for."""
    given = {name: value for name in _TASK if (value := getattr(options, name)) is not None}
    if options.engine != RAY:
        if given:
            raise AtlasError(f"--{next(iter(given)).replace('_', '-')} is for a cluster: add --engine {RAY}.")
        return None
    if options.shard is not None:
        raise AtlasError(f"--shard is for jobs that know nothing of each other: leave it out, or --engine {RAY}.")
    return work.Cluster(**given)


def _texts(options: argparse.Namespace) -> str | None:
    _require_positive(options, "excerpts")
    ray, model = _cluster(options), checkpoint.locate(options.model)
    corpus = texts.CorpusChoice(options.corpus, options.column, options.split, options.licence, options.limit)
    bar = partial(_bar, unit="batch")
    say(f"Reading {options.corpus}")
    planned = texts.plan(
        model,
        corpus,
        catalogue_folder(options.catalogue),
        window=options.window,
        excerpts=options.excerpts,
        attention=options.attention,
        shards_to=options.shards_to,
    )
    for notice in planned.notices:
        say(notice)
    if options.estimate:
        found = planned.estimated()
        return json.dumps(asdict(found)) if options.json else found.line()
    if options.shard is not None:
        number, jobs = options.shard
        planned.share(number, jobs, say, bar)
        say("Done. When all shares are, the same command without --shard merges and publishes them.")
        return None
    done = planned.gather(ray or work.in_process, ray.workers if ray else lambda: 1, say, bar)
    if options.json:
        return json.dumps(asdict(done))
    if not done.fresh:
        say(f"Nothing to do: {done.path} is of this corpus and these options ({done.tokens:,} tokens).")
        return None
    say(f"Published {done.path}: {done.tokens:,} tokens, {done.seconds:.0f} s.")
    return None


def _how(options: argparse.Namespace) -> dict[str, Any]:
    """What a build and a job's share of one are told alike."""
    given = {name: getattr(options, name) for name in ("depth", "memory_mb", "shards_to")}
    return given | {"say": say, "progress": _bar}


def _publish(options: argparse.Namespace, engine: "work.Engine | None" = None) -> None:
    _require_positive(options, "depth", "memory_mb")
    started = time.perf_counter()
    model, catalogue = checkpoint.locate(options.model), catalogue_folder(options.catalogue)
    built = build.build(model, catalogue, engine=engine, **_how(options))
    if not built.fresh:
        say(f"Nothing to do: {built.path} is the catalogue of this checkpoint ({built.neurons:,} neurons).")
        return
    size, seconds = built.path.stat().st_size / 1e6, time.perf_counter() - started
    say(f"Published {built.path}: {built.neurons:,} neurons, {size:.0f} MB, {seconds:.0f} s.")
    if built.screened:
        say(f"{built.screened:,} neurons screened in bf16, every list proven; {built.unproven:,} needed a second look.")
    if options.shards_to is not None:
        say("Its shards stay where they are; nothing needs them any more.")


def _own_words(options: argparse.Namespace) -> str:
    """Prints the file's name, for who hands it to another command."""
    model, path = checkpoint.locate(options.model), options.to
    if path is None:
        path = build.home_of(model, catalogue_folder(options.catalogue)) / own_words.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
    given = {name: value for name in ("topics", "tokens") if (value := getattr(options, name)) is not None}
    if own_words.write_own_words(
        model, path, seed=options.seed, say=say, progress=partial(_bar, unit="batch"), **given
    ):
        say(f"{path} is written: {model.name}'s own words.")
    else:
        say(f"{path} is there already: nothing to do.")
    return str(path)


def _groups(options: argparse.Namespace) -> None:
    model = checkpoint.locate(options.model)
    path, _ = groups.group_neurons(model, catalogue_folder(options.catalogue), seed=options.seed, say=say)
    say(f"Written {path}: `python -m db groups` lists them, and the overview shows the map.")


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


def _bar(steps: Iterator[int], total: int, *, unit: str = "layer") -> Iterator[int]:
    return iter(tqdm.tqdm(steps, total=total, unit=unit, file=sys.stderr))


def _add_describe(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", metavar="CATALOGUE", help="which of several catalogues")
    command.add_argument("--endpoint", required=True, metavar="URL", help="OpenAI-compatible: http://127.0.0.1:8080/v1")
    command.add_argument("--model", required=True, metavar="NAME", help="the model to ask there")
    command.add_argument("--neurons", nargs="+", default=[], metavar="LABEL", help="default: all FFN neurons")
    command.add_argument("--layers", type=layers, metavar="FIRST-LAST", help="all FFN neurons of these layers")
    command.add_argument("--limit", type=whole_number(1), metavar="N", help="so many of those not yet described")
    command.add_argument("--yes", action="store_true", help="go on; without it only the cost is estimated")
    add_catalogue(command)


def _share(text: str) -> tuple[int, int]:
    """The type of ``--shard``."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    number, jobs = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= jobs:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no share of the work: of four jobs they are 1/4 to 4/4")
    return number, jobs


def _require_positive(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise AtlasError(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1.")


def _describe(options: argparse.Namespace) -> str | None:
    endpoint = describe.Endpoint(options.endpoint, options.model, settings.of_library(describe.KEY))
    path = builds.find_catalogue(catalogue_folder(options.catalogue), options.name)
    with store.Catalogue.open(path) as catalogue:
        neurons = describe.wanted(catalogue, options.neurons, options.layers)[: options.limit]
        say(describe.estimate(len(neurons)))
        if not options.yes:
            return "Nothing was sent. The same command with --yes goes on."
        done = describe.describe(catalogue, neurons, endpoint, say, partial(_bar, unit="neuron"))
    return f"{done:,} neurons described."


def _names(options: argparse.Namespace) -> str:
    path = builds.find_catalogue(catalogue_folder(options.catalogue), options.name)
    return f"{text_files.name_again(path.parent)} has the names as the rules are now."


_COMMANDS: dict[str, Callable[[argparse.Namespace], str | None]] = {
    "fetch-demo": _fetch,
    "estimate": _estimate,
    "build": _build,
    "publish": _publish,
    "own-words": _own_words,
    "texts": _texts,
    "names": _names,
    "describe": _describe,
    "groups": _groups,
    "verify": _verify,
    "prune": _prune,
}


def _parser() -> argparse.ArgumentParser:
    arguments = Parser(prog="python -m indexer", description="Build the neuron catalogue of a model.")
    commands = arguments.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fetch = commands.add_parser("fetch-demo", help="fetch the demo model, or another, and dequantise it, once")
    fetch.add_argument("--model", default="demo", metavar="NAME", help="demo (default) or gemma-3-270m")
    fetch.add_argument(
        "--models", type=Path, metavar="DIR", help="where models lie (default: ATLAS_MODELS, else models/)"
    )

    estimated = commands.add_parser("estimate", help="what a build will take: neurons, time, memory, disk")
    estimated.add_argument("--json", action="store_true", help="bytes and seconds, for programs")
    built = commands.add_parser("build", help="project every neuron of a model and publish its catalogue")
    published = commands.add_parser("publish", help="publish what jobs with --shard have made, when all of it is there")
    gathered = commands.add_parser("texts", help="run a corpus through a model: which texts activate each neuron")
    _add_texts(gathered)
    for command in (built, gathered):
        _add_cluster(command)
    for command in (built, published, gathered):
        command.add_argument(
            "--shards-to",
            metavar="URL",
            help="where the pieces of the work are kept: a folder or an object store, such as s3://bucket/atlas "
            "(default: beside the catalogue, until it is published)",
        )
    estimated.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="demo, a model folder (config.json alone will do), a GGUF file or a hub id",
    )
    estimated.add_argument("--config", type=Path, metavar="FILE", help="the config of a model that is not here")
    for command in (estimated, built, published):
        command.add_argument(
            "--depth", type=int, default=50, metavar="K", help="tokens kept at each end of a neuron (default: 50)"
        )
        command.add_argument(
            "--memory-mb", type=int, default=1024, metavar="MB", help="for logits, all threads together (default: 1024)"
        )
        command.add_argument(
            "--with-stdin", action="store_true", help="stop when standard input ends, for programs that start this one"
        )

    own = _add_own_words(commands)
    grouped = commands.add_parser("groups", help="group neurons that are alike, and lay them out on a map")
    grouped.add_argument("--seed", type=whole_number(0, 2**31), default=0, metavar="N", help="of the map (default: 0)")
    _add_describe(commands.add_parser("describe", help="have a language model that you name describe neurons in words"))
    named = commands.add_parser("names", help="make the neurons' names anew from the texts that were gathered")
    named.add_argument("name", nargs="?", metavar="CATALOGUE", help="which of several catalogues")
    verified = commands.add_parser("verify", help="compare a published catalogue with its model")
    verified.add_argument("--sample", type=int, default=200, metavar="N", help="neurons to derive again (default: 200)")
    verified.add_argument(
        "--checkpoint", metavar="MODEL", help="demo, a folder, a GGUF file or a hub id (default: found by name)"
    )
    pruned = commands.add_parser("prune", help="delete old builds and what unfinished ones left")
    pruned.add_argument("--keep", type=int, default=1, metavar="N", help="builds per model, the current one included")
    for command in (verified, pruned):
        command.add_argument("--model", metavar="NAME", help="one catalogue (default: verify the only one, prune all)")
    for command in (built, published, gathered, own, grouped):
        command.add_argument("model", metavar="MODEL", help="demo, a model folder, a GGUF file or a hub id")
    for command in (estimated, built, published, gathered, own, grouped, named, verified, pruned):
        add_catalogue(command)
    return arguments


def _add_own_words(commands: Any) -> Parser:
    command: Parser = commands.add_parser("own-words", help="have a model write a corpus, where there is none")
    command.add_argument("--to", type=Path, metavar="FILE", help="JSONL (default: beside the model's catalogue)")
    command.add_argument("--topics", type=whole_number(1, 100_000), metavar="N", help="how many texts (default: 545)")
    command.add_argument("--tokens", type=whole_number(1), metavar="N", help="of each at most (default: 120)")
    command.add_argument(
        "--seed", type=whole_number(0, 2**31), default=0, metavar="N", help="of the draws (default: 0)"
    )
    return command


def _add_texts(command: argparse.ArgumentParser) -> None:
    number = whole_number(1)
    command.add_argument(
        "--corpus",
        required=True,
        metavar="TEXTS",
        help="a text file, .jsonl, .jsonl.gz or .parquet, a folder of them, or a data set on the hub (owner/name)",
    )
    command.add_argument(
        "--column", default="text", metavar="NAME", help="of JSONL and Parquet, that holds the text (default: text)"
    )
    command.add_argument("--split", metavar="NAME", help="of a data set on the hub (default: train, or the only one)")
    command.add_argument("--licence", metavar="NAME", help="of the texts (default: what the data set's card says)")
    command.add_argument("--limit", type=number, metavar="N", help="documents to read (default: all)")
    command.add_argument("--window", type=number, metavar="N", help="tokens that are run together (default: 256)")
    command.add_argument(
        "--excerpts", type=int, default=10, metavar="K", help="kept at each sign of a neuron (default: 10)"
    )
    command.add_argument("--attention", action="store_true", help="look at attention neurons, too")
    command.add_argument("--estimate", action="store_true", help="only say what it will take, after a short trial")
    command.add_argument("--json", action="store_true", help="the estimate, or what was done, for programs")


def _add_cluster(command: argparse.ArgumentParser) -> None:
    number = whole_number(0)
    command.add_argument(
        "--shard",
        type=_share,
        metavar="I/N",
        help="do only the share of the I-th of N jobs, counted from 1, and publish nothing",
    )
    command.add_argument("--engine", choices=("local", RAY), default="local", help="who works (default: this process)")
    command.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of a running Ray cluster (default: RAY_ADDRESS, else one of this machine)",
    )
    command.add_argument("--task-cpus", type=whole_number(1), metavar="N", help="that a Ray task reserves (default: 1)")
    command.add_argument("--task-gpus", type=number, metavar="N", help="likewise (default: 0)")
    command.add_argument("--task-memory-mb", type=number, metavar="MB", help="likewise (default: nothing is reserved)")


if __name__ == "__main__":
    sys.exit(main())
