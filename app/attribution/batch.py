"""Many prompts: read a file of them, analyse each, write the results, and go on where a killed run stopped.

Finished rows are appended to ``OUT.part`` as JSON lines, each flushed before the next prompt begins; ``OUT.part.stamp``
says of which prompts, checkpoint and settings they are. The next run with the same question keeps every whole row; one
with another question, or with another checkpoint of the same name, starts over and says so. When all are done the rows
become ``OUT``: the lines themselves, or Parquet, by its ending.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from app.attribution.ablation import Effects, part_scores, why_fixed
from app.attribution.analysis import analyse
from app.attribution.form import OF_MANY, written
from app.attribution.measured import Means, together_of
from app.attribution.prompt import PromptLine, Settings, lines_of, valid_unicode
from app.attribution.results import to_json
from app.attribution.run import PromptRun, Ranges, run_prompt
from app.attribution.sets import OF_MEAN, VARIED, Figures, generic_neurons, listed_figures, most_particular
from db.errors import AtlasError
from db.files import check_ending
from db.neuron import Neuron, NeuronKind, Part
from db.records import Generic, short_identity
from indexer.language_model import LanguageModel


def read_prompts(path: Path) -> list[PromptLine]:
    """Prompts of a text file (one per line) or a JSONL file: ``{"prompt": …}``, optionally with target, distractor (or
    target_id, distractor_id), position, bos and chat.

    A line ends with a line feed, or a carriage return and a line feed; see `prompt.lines_of`. Lines of nothing but
    white space are passed over: a prompt of white space stands in a JSON line.

    Raises:
        AtlasError: the file cannot be read, is empty, or a line is no such object; the message names the line.
    """
    if path.suffix.lower() == ".json":
        raise AtlasError(f"{path}: prompts are text, one per line, or JSON lines in a file that ends in .jsonl.")
    lines = lines_of(_text_of(path))
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise AtlasError(f"{path} holds no prompts. Write one per line, or JSON lines such as {_EXAMPLE}.")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return [_parsed(path, number, line) for number, line in numbered]
    if len(lines) == 1 and "\r" in lines[0].rstrip("\r"):
        raise AtlasError(
            f"{path} has carriage returns and no line feeds, so that it is one line. Save it with the line ends of "
            "Unix or Windows, or write a prompt that holds them as a JSON line."
        )
    return [PromptLine(line) for _, line in numbered]


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
            raise AtlasError(f"{path} is not UTF-8 but UTF-16 or UTF-32, or no text. Save it as UTF-8.")
        return data.decode("utf-8")
    except OSError as error:
        raise AtlasError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise AtlasError(f"{path} cannot be read as UTF-8 text: {error}. Save it as UTF-8.") from error


_EXAMPLE = '{"prompt": "The capital of France is", "target": " Paris"}'


def _parsed(path: Path, number: int, line: str) -> PromptLine:
    try:
        found = json.loads(line)
        if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
            raise TypeError("no object with a prompt")
        named: dict[str, Any] = {name: _token(found, name) for name in ("target", "distractor")}
        if any(isinstance(text, str) and not valid_unicode(text) for text in found.values()):
            raise TypeError("a text is not valid Unicode (half a surrogate pair)")
        if not isinstance(found.get("position"), int | None) or isinstance(found.get("position"), bool):
            raise TypeError("the position is no whole number")
        for name in ("bos", "chat"):
            if not isinstance(found.get(name), bool | None):
                raise TypeError(f"{name} is neither true nor false")
    except (ValueError, TypeError) as error:
        raise AtlasError(f"{path}, line {number}: {error}. Expected a JSON object such as {_EXAMPLE}.") from error
    named |= {name: found.get(name) for name in ("position", "bos", "chat")}
    return PromptLine(found["prompt"], **named)


def _token(found: dict[str, Any], name: str) -> str | int | None:
    """A token, by its text or its id as `target`, or by its id as `target_id`."""
    text, number = found.get(name), found.get(f"{name}_id")
    if not isinstance(text, str | int | None) or isinstance(text, bool):
        raise TypeError(f"the {name} is neither a text nor a token id")
    if not isinstance(number, int | None) or isinstance(number, bool):
        raise TypeError(f"the {name}_id is no token id")
    if text is not None and number is not None:
        raise TypeError(f"{name} and {name}_id are both given")
    return text if number is None else number


Progress = Callable[[Iterable[int], int, int], Iterable[int]]
"""Wraps the places still to do, given how many are done and how many there are."""


def _silent(places: Iterable[int], _done: int, _total: int) -> Iterable[int]:
    return places


def analyse_batch(
    model: LanguageModel,
    prompts: list[PromptLine],
    settings: Settings,
    out: Path,
    *,
    ranges: Ranges | None = None,
    say: Callable[[str], None] = lambda _line: None,
    progress: Progress = _silent,
) -> list[dict[str, Any]]:
    """Analyse every prompt and write `out`; a prompt that cannot be analysed becomes ``{"prompt": …, "error": …}``.

    Args:
        model: the model.
        prompts: in the order of the rows.
        settings: for all of them; each line may name its own target, distractor and position.
        out: the file to write; its ending, .jsonl or .parquet, chooses the form.
        ranges: see `analyse`.
        say: told where rows of another question are thrown away.
        progress: see `Progress`.

    Returns:
        The rows, one a prompt; where effects are measured also with those of means (`at_means`).

    Raises:
        AtlasError: the ending is unknown, or the file cannot be written.
    """
    check_ending(out, OF_MANY)
    part, stamp = out.with_name(out.name + ".part"), out.with_name(out.name + ".part.stamp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = _finished_rows(part, stamp, _fingerprint(model, prompts, settings), say)
        with part.open("a", encoding="utf-8") as file:
            for place in progress(range(len(rows), len(prompts)), len(rows), len(prompts)):
                row = _row(model, prompts[place], settings, ranges)
                file.write(_line(row))
                file.flush()
                rows.append(row)
        if settings.measure:
            rows = _at_means(model, prompts, rows, settings, say, progress)
        _write(rows, part, parquet=out.suffix.lower() == ".parquet")
        part.replace(out)
        stamp.unlink(missing_ok=True)
    except OSError as error:
        raise AtlasError(
            f"{out} cannot be written ({error.strerror or error}). Make room or choose another place; what is done "
            f"is kept in {part.name}, and the same command goes on from there."
        ) from error
    return rows


def _row(model: LanguageModel, line: PromptLine, settings: Settings, ranges: Ranges | None) -> dict[str, Any]:
    try:
        return to_json(analyse(model, line.prompt, line.applied(settings), ranges=ranges))
    except AtlasError as error:
        return {"prompt": line.prompt, "error": str(error)}


# Neurons replaced by their means over the prompts, instead of by nothing.


def means_over(
    model: LanguageModel,
    lines: Sequence[PromptLine],
    settings: Settings,
    report: Callable[[str], None] = lambda _stage: None,
) -> Means | str:
    """How active neurons are over prompts that can be explained; each is run, and let go of before the next. A sentence
    where there are no such means: of a family whose activations cannot be replaced, or of fewer than two prompts.
    """
    why = why_fixed(model)

    def run(done: int, line: PromptLine) -> PromptRun:
        report(f"Means over these prompts, {done} of {len(lines)} …")
        with torch.inference_mode():
            return run_prompt(model, line.prompt, line.applied(settings))

    if why or len(lines) < 2:
        return f"No neuron was replaced by its mean. {why or 'Means are taken over two prompts or more.'}"
    return Means.over(run(*one) for one in enumerate(lines, 1))


def at_means(
    model: LanguageModel, line: PromptLine, row: dict[str, Any], settings: Settings, means: Means
) -> dict[str, Any]:
    """The row of a prompt with what its answer loses where a listed FFN neuron that was measured is at its mean instead
    of nothing, at the analysed position; nats. An attention neuron has no mean at one source position.

    Raises:
        AtlasError: the prompt cannot be explained.
    """
    lists = {name: row[name] for name in ("ffn_value_neurons", "ffn_suppressing_neurons") if row.get(name)}
    known = [one["neuron"] for some in lists.values() for one in some if one.get("effect") is not None]
    with torch.inference_mode():
        run = run_prompt(model, line.prompt, line.applied(settings))
        effects = Effects.of(run, means=means).parts([Part.parse(label) for label in known])
    found = dict(zip(known, effects, strict=True))

    def changed(one: dict[str, Any]) -> dict[str, Any]:
        return one | {OF_MEAN: found[one["neuron"]]} if one["neuron"] in found else one

    return row | {name: list(map(changed, some)) for name, some in lists.items()}


def _at_means(
    model: LanguageModel,
    lines: list[PromptLine],
    rows: list[dict[str, Any]],
    settings: Settings,
    say: Callable[[str], None],
    progress: Progress,
) -> list[dict[str, Any]]:
    usable = [place for place, row in enumerate(rows) if "error" not in row]
    means = means_over(model, [lines[place] for place in usable], settings)
    if isinstance(means, str):
        say(means)
        return rows
    found = list(rows)
    for place in progress(usable, 0, len(usable)):
        found[place] = at_means(model, lines[place], rows[place], settings, means)
    return found


# A set of prompts against another.


FiguresOn = tuple[list[float], list[float] | None, list[float] | None]


def figures_on(
    model: LanguageModel, line: PromptLine, settings: Settings, neurons: Iterable[Neuron], means: Means | None = None
) -> FiguresOn:
    """The score of each neuron on one prompt and, where `settings.measure` is not 0, its measured effect, and that of
    its mean in its place where there are means; nats. Of an attention neuron what it wrote from all source positions
    together.

    Raises:
        AtlasError: the prompt cannot be explained.
    """
    parts = [Part.of(one) for one in neurons]
    with torch.inference_mode():
        run = run_prompt(model, line.prompt, line.applied(settings))
        if not settings.measure:
            return part_scores(run, parts), None, None
        effects = Effects.of(run)
        of_means = None if means is None else replace(effects, means=means).parts(parts)
        return part_scores(run, parts), effects.parts(parts), of_means


def figures_of(found: Iterable[FiguresOn], neurons: tuple[Neuron, ...]) -> Figures:
    """What `figures_on` says of each prompt, put together."""
    scores, *measured = zip(*found, strict=True)
    effects, of_means = (None if None in some else np.array(some) for some in measured)
    return Figures(neurons, np.array(scores), effects, everywhere=True, of_means=of_means)


def together_on(
    model: LanguageModel, line: PromptLine, settings: Settings, chosen: dict[NeuronKind, list[Neuron]]
) -> dict[str, Any]:
    """What the answer of one prompt loses without the chosen neurons of each kind, beside random ones; as in a row.

    Raises:
        AtlasError: the prompt cannot be explained.
    """
    with torch.inference_mode():
        effects = Effects.of(run_prompt(model, line.prompt, line.applied(settings)))
        return {"together": {kind.value: written(one) for kind, one in together_of(effects, chosen).items()}}


def analyse_sets(
    model: LanguageModel,
    first: list[PromptLine],
    second: list[PromptLine],
    settings: Settings,
    out: Path,
    *,
    ranges: Ranges | None = None,
    say: Callable[[str], None] = lambda _line: None,
    progress: Progress = _silent,
) -> tuple[list[dict[str, Any]], int, Figures]:
    """Two sets of prompts: each prompt analysed, then the neurons whose scores vary most over all of them scored on
    every prompt, and measured there where `settings.measure` is not 0; then the rows also say what their answers lose
    without the ten of each kind that are most particular to the first set (`sets.most_particular`).

    Args:
        model: the model.
        first: one set.
        second: the other.
        settings: for all of them, as in `analyse_batch`, which also describes what is not said here.
        out: a .jsonl or .parquet file, which gets the analyses, the first set's before the second's.
        ranges: see `analyse`.
        say: told where rows of another question are thrown away.
        progress: see `Progress`.

    Returns:
        The rows of all prompts, how many of the first set could be analysed, and the figures of the prompts that could.

    Raises:
        AtlasError: the file cannot be written.
    """
    lines, lists = first + second, replace(settings, measure=0, query_top=0)
    rows = analyse_batch(model, lines, lists, out, ranges=ranges, say=say, progress=progress)
    usable = [place for place, row in enumerate(rows) if "error" not in row]
    neurons = listed_figures([rows[place] for place in usable]).neurons
    means = means_over(model, [lines[place] for place in usable], settings) if settings.measure else None
    if isinstance(means, str):
        say(means)
        means = None
    found = [figures_on(model, lines[place], settings, neurons, means) for place in progress(usable, 0, len(usable))]
    figures, count = figures_of(found, neurons), sum(place < len(first) for place in usable)
    if settings.measure:
        chosen = most_particular(figures, np.arange(len(usable)) < count)
        for place in progress(usable, 0, len(usable)):
            rows[place] |= together_on(model, lines[place], settings, chosen)
    return rows, count, figures


# Generic neurons.


def generic_question(settings: Settings) -> str:
    """What `find_generic` asks, as a hash: the prompts and how many neurons a list has."""
    asked = f"{settings.top} {settings.method} {VARIED.read_text(encoding='utf-8')}"
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def find_generic(model: LanguageModel, settings: Settings, ranges: Ranges | None, progress: Progress) -> Generic:
    """Which neurons are in the lists of most of the varied prompts; see `sets.generic_neurons`."""
    lines, lists = read_prompts(VARIED), replace(settings, query_top=0, suppressing=True, measure=0)
    rows = (_row(model, lines[place], lists, ranges) for place in progress(range(len(lines)), 0, len(lines)))
    count, neurons = generic_neurons(rows)
    return Generic(model.checkpoint.identity, generic_question(settings), count, neurons)


def _fingerprint(model: LanguageModel, prompts: list[PromptLine], settings: Settings) -> str:
    """The question in a hash, after the checkpoint's identity in clear."""
    own = model.checkpoint
    tokenizer = [own.tokenizer_hash, getattr(model.tokenizer, "chat_template", None)]
    asked = [*tokenizer, own.config.to_dict(), asdict(settings), [asdict(line) for line in prompts]]
    return f"{own.identity}\n{hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()}"


def _finished_rows(part: Path, stamp: Path, fingerprint: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The whole rows of an earlier run of the same question; the file is cut back to them."""
    rows: list[dict[str, Any]] = []
    known = stamp.read_text() if stamp.is_file() else ""
    if part.is_file() and known == fingerprint:
        whole = 0
        for line in part.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):  # the kill came while it was written
                break
            rows.append(json.loads(line))
            whole += len(line)
        os.truncate(part, whole)
        return rows
    if part.is_file() and part.stat().st_size:
        theirs, ours = known.partition("\n")[0], fingerprint.partition("\n")[0]
        whose = f"another model ({short_identity(theirs)}, not {short_identity(ours)})"
        say(f"{part} held prompts of {whose if ' ' in theirs and theirs != ours else 'another question'}: begun again.")
    part.unlink(missing_ok=True)
    stamp.write_text(fingerprint)
    return rows


def _write(rows: list[dict[str, Any]], path: Path, parquet: bool) -> None:
    """The rows as JSON lines, or the same objects as nested columns; `path` is replaced."""
    temporary = path.with_name(path.name + ".whole")
    if parquet:
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), temporary)
    else:
        temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")
    temporary.replace(path)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `analyse_batch` wrote.

    Raises:
        AtlasError: it is no such file.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from pq.read_table(path).to_pylist()
        else:
            with path.open(encoding="utf-8-sig") as file:
                yield from (json.loads(line) for line in file if line.strip())
    except (OSError, ValueError, pa.ArrowException) as error:
        raise AtlasError(
            f"{path} is no file of analyses ({error}). Make one with --prompts FILE --out FILE."
        ) from error
