"""Prompts explained, from the shell: ``python -m app.attribution "The capital of France is" --top 300 --json``.

What can be wrong with the arguments is said before torch and the model are loaded; a prompt is run once, whatever is
asked of it.
"""

import json
import re
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.attribution import drilldowns, form, measured
from app.attribution.prompt import (
    MAX_TOKENS,
    MEMORY_MB,
    QUERY_TOP,
    TOP,
    Method,
    PromptLine,
    Sampling,
    Settings,
    TooLongError,
    check_question,
    require_prompt,
)
from app.attribution.results import LISTS, Analysis, Keys, to_json
from db import command_line, questions
from db.catalogue import builds, export
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.files import atomic_write, check_ending
from db.lazy import lazy_import
from db.neuron import Intervention, Neuron, Wanted, labels, parse_interventions, parse_list
from db.token_text import SEPARATORS, legible, shorten
from indexer.architecture import Conventions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import tqdm

    from app.attribution import ablation, activated, batch, frames, query, sets, text
    from app.attribution import analysis as analyses
    from app.attribution import compare as comparing
    from app.attribution import intervene as steering
    from app.attribution import run as runs
    from app.attribution.compare import Comparison
    from app.attribution.run import PromptRun, Ranges
    from indexer.language_model import LanguageModel
else:
    np = lazy_import("numpy")
    analyses, runs = lazy_import("app.attribution.analysis"), lazy_import("app.attribution.run")
    batch, frames = lazy_import("app.attribution.batch"), lazy_import("app.attribution.frames")
    sets = lazy_import("app.attribution.sets")
    comparing, steering = lazy_import("app.attribution.compare"), lazy_import("app.attribution.intervene")
    query, text = lazy_import("app.attribution.query"), lazy_import("app.attribution.text")
    ablation, tqdm = lazy_import("app.attribution.ablation"), lazy_import("tqdm")
    activated = lazy_import("app.attribution.activated")

ENDINGS = (".json", ".csv", ".parquet")
"""Of a file that a comparison, two sets or a search by text is written to."""
_CONDITIONS = ("sign", "kind", "layers", "min_z")
"""Of a search by text."""
_ONE = ("target", "target_id", "position", "chat")
_SECOND = ("against", "against_target", "against_target_id", "against_position", "zero")
_STEERED = ("scale", "clamp", "generate", "temperature", "top_p", "seed")
_SCORED = ("distractor", "distractor_id", "measure")
_ELSE = ("effect_of", "means", "prompts", "against_prompts", "out")
_STOPPED = "Stopped; with --prompts or --effects all, the same command goes on from what is finished."


def parser() -> ArgumentParser:
    """The command's arguments."""
    arguments = command_line.Parser(
        prog="python -m app.attribution",
        description="Which layers, heads and neurons raised the target token of a prompt. Scores in nats.",
    )
    add, count = arguments.add_argument, command_line.whole_number(0)
    asked = arguments.add_mutually_exclusive_group(required=True)
    asked.add_argument("prompt", nargs="?", help="the text whose next token is explained")
    asked.add_argument("--prompts", type=Path, metavar="FILE", help="many: a text file, or JSONL with optional targets")
    keys = "no prompt: the tokens whose embeddings switch a neuron on, by its key vectors"
    asked.add_argument("--keys", action="append", metavar="L11.F1229", help=keys)
    generic = "no prompt: which neurons are in the lists of most prompts, kept beside the catalogue; skipped if known"
    asked.add_argument("--generic", action="store_true", help=generic)
    activated = "no prompt: the neurons that a passage activates far more than the corpus of the catalogue's texts does"
    asked.add_argument("--activated-by", metavar="TEXT", help=activated)
    second = "with --prompts: a second set, and which neurons are particular to the first"
    add("--against-prompts", type=Path, metavar="FILE", help=second)
    out = "with --prompts: .jsonl or .parquet, one row per prompt; else, or with two sets: .json, .csv or .parquet"
    add("--out", type=Path, metavar="FILE", help=out)
    add("--model", default="demo", metavar="DIR", help="demo, a model folder or a hub id (default: demo)")
    command_line.add_token(arguments, "target", "the token to explain (default: the top prediction)")
    command_line.add_token(arguments, "distractor", "a token to hold the target against: why this and not that")
    add("--position", type=int, metavar="N", help="token position, from 0 or from the end (default: last)")
    bos = "leave out what the tokenizer puts before a text, such as <s>"
    add("--no-bos", dest="bos", action="store_false", help=bos)
    add("--chat", action="store_true", help="the prompt is a user's message: put it into the model's chat template")
    add("--top", type=count, default=TOP, metavar="K", help=f"neurons of each kind; 0 for none (default: {TOP})")
    feeding = f"value neurons that feed the query step (default: {QUERY_TOP})"
    add("--query-top", type=count, default=QUERY_TOP, metavar="K", help=feeding)
    suppressing = "also the neurons that lower the target most (default: yes; slow without a catalogue)"
    add("--suppressing", action=BooleanOptionalAction, default=True, help=suppressing)
    add("--method", choices=list(Method), default=Method.ADDED, help="how contributions are scored (default: added)")
    measure = "also measure the effect of the first N neurons of each list, of heads and sub-layers, by taking them out"
    add("--measure", type=count, default=0, metavar="N", help=measure)
    effect_of = "also what the answer loses without these parts, here and at every position: L23.H4,L29.F864,L12.ffn"
    add("--effect-of", action="append", metavar="PARTS", help=effect_of)
    means = "with --effect-of, also replaced by their mean over these prompts; a file as --prompts reads it"
    add("--means", type=Path, metavar="FILE", help=means)
    add("--conventions", choices=["exact", "notebook"], default="exact", help="see app/attribution/README.md")
    longest = f"longest prompt accepted (default: {MAX_TOKENS})"
    add("--max-tokens", type=count, default=MAX_TOKENS, metavar="N", help=longest)
    memory = f"memory that scoring may take (default: {MEMORY_MB})"
    add("--memory-mb", type=count, default=MEMORY_MB, metavar="N", help=memory)
    command_line.add_catalogue(arguments)
    drilldowns.add_options(add)
    add("--against", metavar="PROMPT", help="compare with another prompt: what changed, neuron by neuron")
    command_line.add_token(arguments, "against-target", "compare with another target (default: its top prediction)")
    add("--against-position", type=int, metavar="N", help="compare with another position (default: last)")
    zero = "compare with the model without these parts: L23.H4,L29.F864,L12.ffn, or ffn:10 for the ten strongest"
    add("--zero", metavar="PARTS", help=zero)
    _add_steering(add)
    conditions = arguments.add_argument_group("with --activated-by")
    for one in questions.parameters(questions.Filters):
        if one.name in _CONDITIONS:
            command_line.add_option(conditions, one)
    add("--json", action="store_true", help="one JSON object on standard output")
    return arguments


def _add_steering(add: Callable[..., Any]) -> None:
    given = Sampling()
    scale = "predictions before and after multiplying parts at every position: L29.F864=4,L23.H4=0.5,ffn:10=2"
    add("--scale", action="append", metavar="PARTS", help=scale)
    clamp = "likewise after setting activations of neurons: L29.F864=3.5; all three combine with --zero"
    add("--clamp", action="append", metavar="NEURONS", help=clamp)
    generate = "continue the text by up to N tokens: as it is, and under --zero, --scale and --clamp"
    add("--generate", type=command_line.whole_number(1), metavar="N", help=generate)
    temperature = f"of the continuation; 0 takes the most probable token (default: {given.temperature:g})"
    add("--temperature", type=float, metavar="X", help=temperature)
    top_p = f"draw from the most probable tokens that have this probability together (default: {given.top_p:g})"
    add("--top-p", type=float, metavar="P", help=top_p)
    add("--seed", type=command_line.whole_number(0), metavar="N", help=f"of what is drawn (default: {given.seed})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)

    def command() -> str:
        try:
            return _run(options)
        except TooLongError as error:
            raise AtlasError(f"{error}{' Or allow more with --max-tokens.' if error.ours else ''}") from error

    return command_line.run(command, _STOPPED)


def _run(options: Namespace) -> str:
    if options.activated_by is None and any(getattr(options, name) is not None for name in _CONDITIONS):
        raise AtlasError("--promotes, --suppresses, --kind, --layers and --min-z go with --activated-by TEXT. Give it.")
    for name, way in (("keys", _keys), ("generic", _generic), ("activated_by", _activated)):
        if getattr(options, name) not in (None, False):
            _require_fitting(options, f"--{name.replace('_', '-')}", ("out",) if name == "activated_by" else ())
            return way(options)
    if options.prompts is None:
        require_prompt(options.prompt)
        if options.against_prompts is not None:
            raise AtlasError("--against-prompts holds a second set against --prompts FILE. Name both.")
    _effect_of(options)
    asked = drilldowns.asked_for(vars(options))
    if any(given is not None for given in (options.scale, options.clamp, *_drawn_with(options).values())):
        return _steered(options)
    if any(one is not None for one in _compared_with(options)):
        return _compared(options)
    if (options.prompts is None) != (options.out is None):
        raise AtlasError("--prompts FILE and --out FILE go together: what to read, and where to write the analyses.")
    if options.prompts is not None:
        _require_fitting(options, "--prompts", (*_ONE, *_SCORED, "prompts", "against_prompts", "out"))
        check_ending(options.out, form.OF_MANY if options.against_prompts is None else ENDINGS)
    asked_of = [batch.read_prompts(path) for path in (options.prompts, options.against_prompts) if path is not None]
    started = time.perf_counter()
    model = analyses.load(options.model)
    loaded = time.perf_counter() - started
    if options.against_prompts is not None:
        return _sets(options, model, *asked_of)
    if options.prompts is not None:
        return _many(options, model, *asked_of)
    return _one(options, model, asked, loaded)


def _require_fitting(options: Namespace, way: str, fitting: Iterable[str]) -> None:
    """Refuse an option that this way of asking would pass over.

    Raises:
        AtlasError: there is one; the message names both.
    """
    names = (*_ONE, *_SECOND, *_STEERED, *_SCORED, *_ELSE, *(row.option.replace("-", "_") for row in drilldowns.TABLE))
    for name in names:
        given = getattr(options, name, None)
        if name not in fitting and given not in (None, parser().get_default(name)):
            raise AtlasError(f"--{name.replace('_', '-')} does not go with {way}. Leave one of them out.")


def _one(options: Namespace, model: "LanguageModel", asked: drilldowns.Asked, loaded: float) -> str:
    settings, catalogue = _settings(options), analyses.catalogue_for(options.catalogue, model)
    check_question(model, options.prompt, settings)
    wanted, others = _effect_of(options)
    ranges = _ranges(catalogue, settings)
    run, analysis = analyses.run_and_explain(model, options.prompt, settings, ranges)
    analysis = replace(analysis, seconds=replace(analysis.seconds, load=loaded))
    if options.effects == measured.ALL:
        _measure_all(run)
    details = drilldowns.answers_json(asked, lambda row, what: row.compute(run, what, ranges))
    if wanted:
        means = None if others is None else measured.Means.over(_runs(model, others, settings))
        sets = [ablation.resolve(run, parts) for parts in wanted]
        told = (*analysis.notices, *ablation.how_measured(model))
        analysis = replace(analysis, notices=tuple(dict.fromkeys(told)))
        details["effects_of"] = [drilldowns.to_json(measured.ablated(run, parts, means)) for parts in sets]
    if options.json:
        return _line(to_json(analysis) | details | _generic_among(analysis, catalogue))
    shown = ["", text.details_text(details)] if details else []
    return "\n".join([text.text_report(analysis, catalogue), *shown])


def _effect_of(options: Namespace) -> tuple[list[tuple[Wanted, ...]], list[PromptLine] | None]:
    """Sets of parts that are to be taken out, and the prompts that means are taken over.

    Raises:
        AtlasError: one is no part, there is none, the file cannot be read, or an option does not go with the others.
    """
    wanted = [parse_list(parts) for parts in options.effect_of or ()]
    if not all(wanted):
        raise AtlasError("No part is named after --effect-of. Parts are written L23.H4,L29.F864,L12.ffn or ffn:10.")
    if options.means is not None and not wanted:
        raise AtlasError("--means FILE goes with --effect-of PARTS: name the parts that are replaced by their means.")
    if wanted and (options.prompts is not None or any(one is not None for one in _compared_with(options))):
        raise AtlasError("--effect-of goes with one prompt, without a comparison. Leave one of them out.")
    return wanted, None if options.means is None else batch.read_prompts(options.means)


def _runs(model: "LanguageModel", lines: list[PromptLine], settings: Settings) -> "Iterator[PromptRun]":
    """Of prompts that means are taken over; whatever token comes next there."""
    plain = replace(settings, target=None, distractor=None, position=None)
    return (runs.run_prompt(model, line.prompt, line.applied(plain)) for line in lines)


def _measure_all(run: "PromptRun") -> None:
    """Measure the FFN neurons that no earlier command did; kept for whoever asks."""
    sweep = measured.Sweep.of(run, measured.kept_folder())
    with tqdm.tqdm(initial=sweep.done, total=len(sweep.effects), unit="neuron", file=sys.stderr) as bar:
        for reached in sweep.steps():
            bar.update(reached - bar.n)


def _many(options: Namespace, model: "LanguageModel", prompts: list[PromptLine]) -> str:
    settings = _settings(options)
    ranges = _ranges(analyses.catalogue_for(options.catalogue, model), settings)
    rows = batch.analyse_batch(
        model, prompts, settings, options.out, ranges=ranges, say=command_line.say, progress=_bar
    )
    said = _said(rows, options.out)
    table = frames.aggregate(rows)
    if options.json:
        return table.to_json(orient="records", force_ascii=False) or "[]"
    best = table.groupby("role", sort=False).head(10)
    held = sets.controls({"an answer": sets.together_of(rows)}, sets.OF_LISTS)
    return "\n\n".join(filter(None, [_shown(said), held, _shown(best)])) if len(best) else "no neurons"


def _said(rows: list[dict[str, Any]], out: Path) -> "pd.DataFrame":
    """What the model says after each prompt; which could not be analysed goes to standard error."""
    failed = [row for row in rows if "error" in row]
    for row in failed[:5]:
        command_line.say(f"not analysed: “{shorten(legible(row['prompt']), 60)}”: {row['error']}")
    command_line.say(f"{out}: {len(rows) - len(failed)} of {len(rows)} prompts analysed.")
    return frames.said_frame(frames.said_of(row) for row in rows if "error" not in row)


def _shown(frame: "pd.DataFrame") -> str:
    """A frame for a terminal."""
    if "prompt" in frame:
        prompts = [shorten(legible(one), 60) for one in frame["prompt"]]
        frame = frame.assign(prompt=prompts).drop(columns="target_id")
    return frame.to_string(index=False, float_format=lambda number: f"{number:.3f}", na_rep="")


def _sets(options: Namespace, model: "LanguageModel", first: list[PromptLine], second: list[PromptLine]) -> str:
    settings = _settings(options)
    ranges = _ranges(analyses.catalogue_for(options.catalogue, model), settings)
    analysed = options.out.with_name(f"{options.out.name}.analyses.jsonl")
    rows, count, figures = batch.analyse_sets(
        model, first, second, settings, analysed, ranges=ranges, say=command_line.say, progress=_bar
    )
    said = _said(rows, analysed)
    others = len(said) - count
    table = sets.specificity(figures, np.arange(len(said)) < count)
    least = sets.least_p(count, others)
    usable = [row for row in rows if "error" not in row]
    held = [sets.together_of(some) for some in (usable[:count], usable[count:])]
    if options.out.suffix.lower() == ".json" or options.json:
        said["set"] = ["first"] * count + ["second"] * others
        found: dict[str, Any] = {"first": count, "second": others, "least_p": least}
        found |= {"together": dict(zip(("first", "second"), held, strict=True))} if any(held) else {}
        found |= {"prompts": json.loads(export.to_json(said)), "neurons": json.loads(export.to_json(table))}
    if options.out.suffix.lower() != ".json":
        export.write(table, options.out, None)
    else:
        _write_line(found, options.out)
    if options.json:
        return _line(found)
    return "\n".join(
        [
            _shown(said),
            "",
            f"{len(table):,} neurons, scored on all {len(said)} prompts, are in {options.out}. Of these sets ({count} "
            f"and {others} prompts) p can be no less than {least:.2g}.",
            *filter(None, [sets.controls(dict(zip(sets.ANSWERS, held, strict=True)), sets.PARTICULAR)]),
            "Most particular to the first set:",
            _shown(table.head(10)),
            "to the second set:",
            _shown(table.tail(10)[::-1]),
        ]
    )


def _keys(options: Namespace) -> str:
    neurons = [Neuron.parse(label) for label in options.keys]
    model = analyses.load(options.model)
    found: list[Keys] = [query.keys(model, one) for one in neurons]
    if options.json:
        return _line({"keys": [drilldowns.to_json(one) for one in found]})
    return "\n\n".join(text.keys_text(one) for one in found)


def _activated(options: Namespace) -> str:
    conditions = questions.Filters(**{name: getattr(options, name) for name in _CONDITIONS})
    if options.out is not None:
        check_ending(options.out, ENDINGS)
    model = analyses.load(options.model)
    catalogue = analyses.catalogue_for(options.catalogue, model)
    if catalogue is None:
        raise AtlasError(
            f"A search by text compares with a catalogue’s texts, and {model.name} has no catalogue. Make it: `python "
            "-m indexer build MODEL`, then `python -m indexer texts MODEL --corpus TEXTS`."
        )
    texts = questions.texts_of(catalogue)
    found = activated.activated_by(model, texts, options.activated_by, conditions, options.top)
    if options.out is not None:
        return export.write(frames.activated_frame(found.tokens, found.neurons), options.out, None)
    return _line(form.written(found)) if options.json else text.activated_text(found)


def _generic_among(analysis: Analysis, catalogue: Catalogue | None) -> dict[str, Any]:
    """Of the listed neurons, those that are in the lists of most prompts, where that is known."""
    if catalogue is None or not catalogue.generic.prompts:
        return {}
    known = catalogue.generic
    listed = {one.neuron for name in LISTS for one in getattr(analysis, name)}
    found = {one.label: known.of(one) for one in sorted(listed, key=lambda one: one.label) if known.of(one)}
    return {"generic": {"prompts": known.prompts, "neurons": found}}


def _generic(options: Namespace) -> str:
    model, settings = analyses.load(options.model), _settings(options)
    catalogue = analyses.catalogue_for(options.catalogue, model)
    if catalogue is None:
        raise AtlasError(
            f"Generic neurons are kept beside a catalogue, and {model.name} has none. Make one with `python -m indexer "
            "build MODEL`."
        )
    found = catalogue.generic
    if found.question != batch.generic_question(settings):
        command_line.say("Explaining prompts of many kinds, to know which neurons are in the lists of most of them.")
        found = batch.find_generic(model, settings, _ranges(catalogue, settings), _bar)
        builds.remember_generic(catalogue.path.parent, found)
    if options.json:
        return _line(asdict(found))
    shown = "  ".join(f"{label} {count}" for label, count in found.neurons.items())
    return f"{len(found.neurons):,} neurons are in the lists of more than half of {found.prompts} prompts:\n{shown}"


# Two runs compared: ``python -m app.attribution "…" --against "…"`` or ``--zero L23.H4``.


def _compared_with(options: Namespace) -> tuple[Any, ...]:
    return options.against, _token(options, "against_target"), options.against_position, options.zero


def _compared(options: Namespace) -> str:
    _check_comparison(options)
    model, settings = analyses.load(options.model), _settings(options)
    catalogue = analyses.catalogue_for(options.catalogue, model)
    ranges = _ranges(catalogue, settings) if catalogue else None
    prompt = options.prompt if options.against is None else options.against
    elsewhere = options.against is not None or options.against_position is not None
    position = options.against_position if elsewhere else settings.position
    first = (options.prompt, settings)
    second = (prompt, replace(settings, target=_token(options, "against_target"), position=position))
    for question in (first, second):
        check_question(model, *question)
    zero = parse_list(options.zero or "")
    wanted = ranges if settings.suppressing else None
    found = comparing.compare_prompts(model, first, second, settings.top, zero=zero, ranges=wanted)
    if options.out is not None:
        return _written(found, options.out)
    return _line(form.written(found)) if options.json else text.comparison_text(found, catalogue)


def _check_comparison(options: Namespace) -> None:
    """Refuse what makes no comparison.

    Raises:
        AtlasError: an option that does not go with it, an empty prompt, no part, or an unknown ending.
    """
    _require_fitting(options, "a comparison", (*_ONE, *_SECOND, "out"))
    if options.against is not None:
        require_prompt(options.against, "prompt to compare with")
    if options.zero is not None and not parse_list(options.zero):
        raise AtlasError("No part is named after --zero. Parts are written L23.H4,L29.F864,L12.ffn or ffn:10.")
    if options.out is not None:
        check_ending(options.out, ENDINGS)


def _written(found: "Comparison", path: Path) -> str:
    """JSON holds all of it, CSV and Parquet the table of neurons."""
    if path.suffix.lower() != ".json":
        return export.write(comparing.neurons_frame(found), path, None)
    _write_line(form.written(found), path)
    return f"The comparison was written to {path}."


# Interventions and continuations: ``python -m app.attribution "…" --scale L29.F864=4 --generate 40``.


def _steered(options: Namespace) -> str:
    interventions, given = _interventions(options), _drawn_with(options)
    _require_fitting(options, "--scale, --clamp and --generate", (*_ONE, *_STEERED, "zero"))
    if options.generate is None and (alone := next((name for name, one in given.items() if one is not None), None)):
        raise AtlasError(f"--{alone.replace('_', '-')} is for a continuation. Add --generate 40, for instance.")
    unused = [name for name in ("top_p", "seed") if given[name] is not None and not given["temperature"]]
    if unused:
        raise AtlasError(
            f"--{unused[0].replace('_', '-')} is for drawing tokens. Add --temperature 0.8, for instance: without one "
            "the most probable token is taken each time."
        )
    drawn = {name: one for name, one in given.items() if one is not None}
    sampling = Sampling(**drawn) if drawn else None
    model = analyses.load(options.model)
    found = steering.steer(model, options.prompt, _settings(options), interventions, sampling)
    return _line(form.written(found)) if options.json else text.steering_text(found)


def _drawn_with(options: Namespace) -> dict[str, Any]:
    """What was said of the continuation, as `Sampling` names it."""
    names = ("temperature", "top_p", "seed")
    return {"tokens": options.generate} | {name: getattr(options, name) for name in names}


def _interventions(options: Namespace) -> tuple[Intervention, ...]:
    """What is zeroed, scaled and clamped.

    Raises:
        AtlasError: an option names no part or no number.
    """
    scaled, clamped = (",".join(given or ()) for given in (options.scale, options.clamp))
    words = [labels([one]) for one in parse_list(options.zero or "")]
    for name, given, sign in (("scale", scaled, "="), ("clamp", clamped, ":=")):
        split = [word for word in SEPARATORS.split(given) if word]
        bare = [word for word in split if "=" not in word]
        if bare or (getattr(options, name) is not None and not split):
            lacks = f"{bare[0]} lacks a number after" if bare else "No part is named after"
            raise AtlasError(f"{lacks} --{name}. Write L29.F864=4, without spaces.")
        words += [re.sub(":?=", sign, word, count=1) for word in split]
    return parse_interventions(",".join(words))


# What the ways of asking share.


def _token(options: Namespace, name: str) -> str | int | None:
    """A token that was named by its text or its id; None where it was not named."""
    token_id: int | None = getattr(options, f"{name}_id")
    text: str | None = getattr(options, name)
    return text if token_id is None else token_id


def _settings(options: Namespace) -> Settings:
    return Settings(
        top=options.top,
        query_top=options.query_top,
        target=_token(options, "target"),
        distractor=_token(options, "distractor"),
        suppressing=options.suppressing,
        position=options.position,
        bos=options.bos,
        chat=options.chat,
        conventions=Conventions(options.conventions),
        max_tokens=options.max_tokens,
        memory_mb=options.memory_mb,
        method=Method(options.method),
        measure=options.measure,
    )


def _ranges(catalogue: Catalogue | None, settings: Settings) -> "Ranges | None":
    """What the catalogue knows of extreme logits; without one, say once that the bottom k will be slow."""
    if catalogue is not None:
        return runs.StoredRanges(catalogue)
    if settings.suppressing and settings.top:
        command_line.say(
            "No catalogue of this model: the neurons that lower the target are bounded by norms alone, and most are "
            "scored. --no-suppressing leaves them out; `python -m indexer build MODEL` makes it quick."
        )
    return None


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _write_line(value: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(f"{_line(value)}\n", encoding="utf-8")


def _bar(places: Iterable[int], done: int, total: int) -> Iterable[int]:
    return tqdm.tqdm(places, initial=done, total=total, unit="prompt", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
