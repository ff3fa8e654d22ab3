"""Prompts explained, from the shell: ``python -m app.attribution "The capital of France is" --top 300 --json``."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.attribution.results import Analysis, ValueNeuron
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, NeuronAt, NeuronKind, Part, parse_list
from db.records import NeuronTokens
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.prompt import Settings
    from app.attribution.run import PromptRun, Ranges
    from indexer.language_model import LanguageModel


# What the shell is asked to compare, checked before torch is loaded.

_ELSEWHERE = ("prompts", "distractor", "head", "lens", "query_of", "through", "flow", "within")
ENDINGS = (".json", ".csv", ".parquet")


def compares(options: argparse.Namespace) -> bool:
    """Whether any of the options that make a comparison is given."""
    given = (options.against, options.against_target, options.against_position, options.zero)
    return any(one is not None for one in given)


def check_comparison(options: argparse.Namespace) -> None:
    """Refuse what makes no comparison.

    Raises:
        AtlasError: an option that does not go with it, an empty prompt, a part that is none, or an unknown ending.
    """
    for name in _ELSEWHERE:
        if getattr(options, name, None):
            raise AtlasError(f"--{name.replace('_', '-')} does not go with a comparison. Leave one of them out.")
    if options.against is not None and not options.against.strip():
        raise AtlasError("The prompt to compare with is empty. Type one after --against, or leave it out.")
    if options.zero is not None and not parse_list(options.zero):
        raise AtlasError("No part is named after --zero. Parts are written L23.H4,L29.F864,L12.ffn or ffn:10.")
    if options.out is not None and options.out.suffix.lower() not in ENDINGS:
        raise AtlasError(
            f"A comparison is written to a file that ends in {', '.join(ENDINGS)}: not {options.out.name}."
        )


# An Analysis as plain text for a terminal: the same figures as the JSON, the strongest first.

ROWS = 20
DEPTH = 5


def text_report(analysis: Analysis, catalogue: Catalogue | None) -> str:
    """Predictions, layers, heads and the strongest value neurons; with a catalogue, the tokens that each raises."""
    target = analysis.target
    lines = [
        f"{analysis.model}  “{analysis.prompt}”",
        "tokens       " + "  ".join(f"{place}:{token.display}" for place, token in enumerate(analysis.tokens)),
        "predictions  " + "  ".join(f"{one.token.display} {one.probability:.3f}" for one in analysis.predictions),
        f"target       {target.token.display}  at position {analysis.position}, probability {target.probability:.4f}, "
        f"log-probability {target.log_probability:.3f} nats",
        "",
        "layer  attention      FFN   (log-probability increase, nats)",
    ]
    pairs = zip(analysis.layers.attention.tolist(), analysis.layers.ffn.tolist(), strict=True)
    lines += [f"{layer:5d}  {attention:+9.3f}  {ffn:+7.3f}" for layer, (attention, ffn) in enumerate(pairs)]
    lines += ["", "strongest heads  " + "  ".join(_strongest_heads(analysis))]
    for kind, title, found in (
        (NeuronKind.FFN, "FFN value neurons", analysis.ffn_value_neurons),
        (NeuronKind.ATTENTION, "attention value neurons", analysis.attention_value_neurons),
    ):
        proof = analysis.certificates[kind]
        lines += ["", f"{title}: top {len(found)}, {proof.scored:,} scored of {proof.total:,}, proven"]
        lines += _neuron_lines(analysis, found[:ROWS], catalogue)
        if len(found) > ROWS:
            lines.append(f"  … {len(found) - ROWS} more with --json")
    lines += ["", f"{analysis.seconds.total:.2f} s, {analysis.seconds.forward:.2f} s of it the forward pass"]
    return "\n".join(lines)


def _strongest_heads(analysis: Analysis, count: int = 5) -> list[str]:
    scores = analysis.heads.flatten()
    width = analysis.heads.shape[1]
    return [
        f"L{place // width}.H{place % width} {scores[place]:+.3f}"
        for place in np.argsort(-scores, kind="stable")[:count].tolist()
    ]


def _neuron_lines(analysis: Analysis, found: tuple[ValueNeuron, ...], catalogue: Catalogue | None) -> list[str]:
    tokens = catalogue.strongest_tokens([one.neuron for one in found], DEPTH) if catalogue and found else {}
    lines = []
    for one in found:
        where = (
            ""
            if one.position is None
            else f"  at {one.position}:{shorten(analysis.tokens[one.position].display, 12):12}"
        )
        raised = _raised(tokens.get(one.neuron), one.activation)
        lines.append(f"  {one.neuron.label:14}{one.score:+8.4f}  activation {one.activation:+9.3f}{where}  {raised}")
    return lines


def _raised(tokens: NeuronTokens | None, activation: float) -> str:
    """The end whose tokens this activation raises: a negative one turns the value vector round."""
    if tokens is None:
        return ""
    active = tokens.promotes if activation > 0 else tokens.suppresses
    return "raises " + " ".join(shorten(token.display, 16) for token in active)


DEFAULT_TOP = 300


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        prog="python -m app.attribution",
        description="Which layers, heads and neurons raised the target token of a prompt. Scores in nats.",
    )
    add = arguments.add_argument
    asked = arguments.add_mutually_exclusive_group(required=True)
    asked.add_argument("prompt", nargs="?", help="the text whose next token is explained")
    asked.add_argument("--prompts", type=Path, metavar="FILE", help="many: a text file, or JSONL with optional targets")
    keys = "no prompt: the tokens whose embeddings switch a neuron on, by its key vectors"
    asked.add_argument("--keys", action="append", metavar="L11.F1229", help=keys)
    out = "with --prompts: .jsonl or .parquet, one row a prompt; with a comparison: .json, .csv or .parquet"
    add("--out", type=Path, metavar="FILE", help=out)
    add("--model", default="demo", metavar="DIR", help="demo, a model folder or a hub id (default: demo)")
    add("--target", metavar="TEXT", help="the token to explain (default: the top prediction)")
    add("--distractor", metavar="TEXT", help="a token to hold the target against: why this and not that")
    add("--position", type=int, metavar="N", help="token position, from 0 or from the end (default: last)")
    add("--top", type=_count, default=DEFAULT_TOP, metavar="K", help="neurons of each kind; 0 for none (default: 300)")
    add("--query-top", type=_count, metavar="K", help="value neurons that feed the query step (default: 30)")
    suppressing = "also the neurons that lower the target most (default: yes; slow without a catalogue)"
    add("--suppressing", action=argparse.BooleanOptionalAction, default=True, help=suppressing)
    add("--conventions", choices=["exact", "notebook"], default="exact", help="see README, Method")
    add("--max-tokens", type=_count, metavar="N", help="longest prompt accepted (default: 256)")
    add("--memory-mb", type=_count, metavar="N", help="memory that scoring may take (default: 512)")
    add("--catalogue", type=Path, metavar="DIR", help="catalogue for the neurons' tokens (default: catalogue/)")
    add("--head", action="append", metavar="L23.H4", help="also a head's source positions and attention pattern")
    add("--lens", action="store_true", help="also the logit lens over layers and positions")
    flow = "also which heads moved what from where: the strongest N source positions over all layers (default: 40)"
    add("--flow", type=_count, nargs="?", const=40, metavar="N", help=flow)
    within = "also a part's own strongest neurons: of L23, L23.ffn, L23.H4 or L23.H4@3"
    add("--within", action="append", metavar="L23.H4@3", help=within)
    add("--query-of", action="append", metavar="L29.H1.N46@4", help="also what switched on one value neuron alone")
    add("--through", action="append", metavar="L11.F1229:L23.H4", help="also a query neuron read through a head")
    add("--against", metavar="PROMPT", help="compare with another prompt: what changed, neuron by neuron")
    add("--against-target", metavar="TEXT", help="compare with another target (default: its top prediction)")
    add("--against-position", type=int, metavar="N", help="compare with another position (default: last)")
    zero = "compare with the model without these parts: L23.H4,L29.F864,L12.ffn, or ffn:10 for the ten strongest"
    add("--zero", metavar="PARTS", help=zero)
    add("--json", action="store_true", help="one JSON object on standard output")
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
    except KeyboardInterrupt:
        print("Stopped; with --prompts, the same command goes on from the prompts that are finished.", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> str:
    if options.keys:
        return _keys(options)
    if options.prompts is None and not options.prompt.strip():
        raise AtlasError("The prompt is empty. Type some text whose next token is to be explained.")
    if compares(options):
        return _compared(options)
    if (options.prompts is None) != (options.out is None):
        raise AtlasError("--prompts FILE and --out FILE go together: what to read, and where to write the analyses.")
    from app.attribution.analysis import load  # torch takes seconds to import: not before the arguments are known good

    started = time.perf_counter()
    model = load(options.model)
    loaded = time.perf_counter() - started
    catalogue = _catalogue(options.catalogue, model)
    if options.prompts is not None:
        return _many(options, model, catalogue)
    return _one(options, model, catalogue, loaded)


def _compared(options: argparse.Namespace) -> str:
    check_comparison(options)
    from app.attribution.analysis import load
    from app.attribution.comparison import compared

    model, settings = load(options.model), _settings(options)
    catalogue = _catalogue(options.catalogue, model)
    return compared(options, model, settings, catalogue, _ranges(catalogue, settings) if catalogue else None)


def _keys(options: argparse.Namespace) -> str:
    from db.neuron import Neuron

    neurons = [Neuron.parse(label) for label in options.keys]
    from app.attribution.analysis import load
    from app.attribution.keys import key_sides, keys_json, keys_text

    model = load(options.model)
    sides = {neuron: key_sides(model, neuron) for neuron in neurons}
    if options.json:
        found = [keys_json(neuron, each) for neuron, each in sides.items()]
        return json.dumps({"keys": found}, ensure_ascii=False, allow_nan=False)
    return "\n\n".join(keys_text(neuron, each) for neuron, each in sides.items())


def _one(options: argparse.Namespace, model: "LanguageModel", catalogue: "Catalogue | None", loaded: float) -> str:
    from app.attribution.analysis import analyse
    from app.attribution.frames import to_json
    from app.attribution.run import check_question

    pass  # import gone

    settings = _settings(options)
    check_question(model, options.prompt, settings)
    analysis = analyse(model, options.prompt, settings, ranges=_ranges(catalogue, settings))
    analysis = replace(analysis, seconds=replace(analysis.seconds, load=loaded))
    details = _details(options, model, settings, catalogue)
    if options.json:
        return json.dumps(to_json(analysis) | details, ensure_ascii=False, allow_nan=False)
    shown = [json.dumps(details, ensure_ascii=False, indent=2)] if details else []
    return "\n".join([text_report(analysis, catalogue), *shown])


def _many(options: argparse.Namespace, model: "LanguageModel", catalogue: "Catalogue | None") -> str:
    from app.attribution.batch import analyse_batch, read_prompts
    from app.attribution.frames import aggregate

    settings = _settings(options)
    ranges = _ranges(catalogue, settings)
    rows = analyse_batch(model, read_prompts(options.prompts), settings, options.out, ranges=ranges, progress=_bar)
    failed = [row for row in rows if "error" in row]
    for row in failed[:5]:
        print(f"not analysed: “{row['prompt'][:60]}”: {row['error']}", file=sys.stderr)
    print(f"{options.out}: {len(rows) - len(failed)} of {len(rows)} prompts analysed.", file=sys.stderr)
    table = aggregate(rows)
    if options.json:
        return table.to_json(orient="records", force_ascii=False) or "[]"
    best = table.groupby("role", sort=False).head(10)
    return best.to_string(index=False, float_format=lambda number: f"{number:.3f}") if len(best) else "no neurons"


def _settings(options: argparse.Namespace) -> "Settings":
    from app.attribution.prompt import MAX_TOKENS, MEMORY_MB, QUERY_TOP, Settings
    from indexer.families import Conventions

    return Settings(
        top=options.top,
        query_top=QUERY_TOP if options.query_top is None else options.query_top,
        target=options.target,
        distractor=options.distractor,
        suppressing=options.suppressing,
        position=options.position,
        conventions=Conventions(options.conventions),
        max_tokens=MAX_TOKENS if options.max_tokens is None else options.max_tokens,
        memory_mb=MEMORY_MB if options.memory_mb is None else options.memory_mb,
    )


def _details(
    options: argparse.Namespace, model: "LanguageModel", settings: "Settings", catalogue: "Catalogue | None"
) -> dict[str, Any]:
    """What the drill-down options ask for, beside the analysis."""
    from app.attribution.details import (
        head_json,
        lens_json,
        own_query_json,
        parse_through,
        through_json,
    )
    from app.attribution.heads import flow, flow_json, through_head
    from app.attribution.run import run_prompt
    from app.attribution.within import within_json

    details: dict[str, Any] = {}
    if options.through:
        details["through_heads"] = [
            through_json(through_head(model, neuron, *head)) for neuron, head in map(parse_through, options.through)
        ]
    if not (options.head or options.lens or options.query_of or options.flow or options.within):
        return details
    run: PromptRun = run_prompt(model, options.prompt, settings)
    if options.head:
        details["head_details"] = [head_json(run, *Head.parse(text)) for text in options.head]
    if options.lens:
        details["logit_lens"] = lens_json(run)
    if options.flow:
        details["flow"] = flow_json(flow(run, options.flow))
    if options.within:
        ranges, scopes = _ranges(catalogue, settings), [Part.parse(text) for text in options.within]
        details["within"] = [within_json(run, scope, settings.top, ranges) for scope in scopes]
    if options.query_of:
        details["own_queries"] = [own_query_json(run, *NeuronAt.parse(text)) for text in options.query_of]
    return details


def _ranges(catalogue: "Catalogue | None", settings: "Settings") -> "Ranges | None":
    """What the catalogue knows of extreme logits; without one, say once that the bottom k will be slow."""
    if catalogue is not None:
        from app.attribution.run import stored_ranges

        return stored_ranges(catalogue)
    if settings.suppressing and settings.top:
        print(
            "No catalogue of this model: the neurons that lower the target are bounded by norms alone, and most are "
            "scored. "
            "--no-suppressing leaves them out; `python -m indexer build MODEL` makes it quick.",
            file=sys.stderr,
        )
    return None


def _catalogue(given: Path | None, model: "LanguageModel") -> "Catalogue | None":
    """The catalogue asked for, or the model's own where there is one; None without."""
    from app.attribution.run import require_same_model
    from db.catalogue.builds import DEFAULT_ROOT, find_catalogue
    from db.catalogue.store import Catalogue

    if given is None and not (DEFAULT_ROOT / model.name / "CURRENT").is_file():
        return None
    root = DEFAULT_ROOT if given is None else given
    named = (
        root.is_file() or (root / "CURRENT").exists()
    )  # a build, or one model's folder, rather than a folder of them
    catalogue = Catalogue.open(find_catalogue(root, None if named else model.name))
    require_same_model(model, catalogue)
    return catalogue


def _bar(places: Iterable[int], done: int, total: int) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(places, initial=done, total=total, unit="prompt", file=sys.stderr)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


if __name__ == "__main__":
    sys.exit(main())
