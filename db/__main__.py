"""Look-ups from the shell: ``python -m db COMMAND``, a command for each of `db.questions`.

Status 0: answered (an empty answer is one). Status 2: what was asked cannot be answered; one line on standard error
says why.
"""

import argparse
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db import questions
from db.command_line import Parser, add_option, catalogue_folder, run, say, table, whole_number
from db.errors import AtlasError
from db.groups import GroupedBy
from db.lazy import lazy_import
from db.neuron import Sign
from db.questions import (
    QUESTIONS,
    ByName,
    ConceptSearch,
    Groups,
    InExcerpts,
    OneGroup,
    OneNeuron,
    OneToken,
    Question,
    Search,
    Similar,
    TextsOf,
    WholeBuild,
)
from db.records import Build, Concept, Hit, Token, TokenLogit
from db.texts.records import Excerpt
from db.token_text import legible, shorten

if TYPE_CHECKING:
    from db.catalogue import builds, export, store
    from db.catalogue.store import Catalogue
else:
    builds, export, store = (lazy_import(f"db.catalogue.{name}") for name in ("builds", "export", "store"))

FORMATS = ("csv", "json", "parquet")
_OF_THE_WHOLE = ("overview", "groups")  # commands that take no text
_LISTED = 8  # tokens of a row
_EXPORTED: dict[type[Question], int] = {Similar: 100, InExcerpts: 1000}  # where everything would be too much


# The parser, made from the questions' fields.


def parser() -> ArgumentParser:
    """The parser of all commands."""
    whole = Parser(prog="python -m db", description="Look neurons up by token, or tokens by neuron.")
    shared = Parser(add_help=False)
    for target, default in ((whole, None), (shared, argparse.SUPPRESS)):
        target.add_argument(
            "--catalogue", type=Path, metavar="DIR", default=default, help="folder of catalogues, or one build's file"
        )
        target.add_argument("--model", metavar="NAME", default=default, help="which of several catalogues")
    to_json = Parser(add_help=False)
    to_json.add_argument("--json", action="store_true", help="JSON on standard output and nothing else there")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, question in QUESTIONS.items():
        command = commands.add_parser(name, parents=[shared, to_json], help=question.__doc__)
        for parameter in questions.parameters(question):
            add_option(command, parameter)
    commands.add_parser("builds", parents=[shared, to_json], help="The builds there are, and which are current.")
    text = "A whole answer as CSV, JSON or Parquet, or a copy of the build."
    _add_export(commands.add_parser("export", parents=[shared], help=text))
    return whole


def _add_export(export: ArgumentParser) -> None:
    export.add_argument("what", nargs="?", choices=QUESTIONS, metavar="WHAT", help=" | ".join(QUESTIONS))
    export.add_argument("text", nargs="?", metavar="TEXT", help="what the command of that name takes")
    export.add_argument("--to", type=Path, metavar="FILE", help="the file to write; without it, standard output")
    export.add_argument("--format", choices=FORMATS, help="default: by the file's ending, else csv")
    export.add_argument("--build", type=Path, metavar="FILE", help="copy the whole build to this file instead")
    export.add_argument("--limit", type=whole_number(0), metavar="N", help="how many rows at most (default: all)")
    every = {one.name: one for question in (Search, ConceptSearch) for one in questions.parameters(question)}
    for name, parameter in every.items():
        if name not in ("text", "limit"):
            add_option(export, parameter)


# The commands: each takes the parsed options and returns what is printed.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: _run(options))


def _run(options: Namespace) -> str | bytes:
    if options.command == "builds":
        return _builds(options)
    if options.command == "export":
        return _export(options)
    question = _question(QUESTIONS[options.command], vars(options))
    with _open(options) as catalogue:
        if not options.json:
            return TEXTS[type(question)](catalogue, question)
        return json.dumps(export.as_json(question.answer(catalogue)))


def _question(question: type[Question], given: dict[str, Any]) -> Question:
    """The question that options ask, by their names."""
    known = {
        one.field: tuple(given[one.name]) if one.several else given[one.name]
        for one in questions.parameters(question)
        if given.get(one.name) is not None
    }
    return question(**known)


def _open(options: Namespace) -> "Catalogue":
    return store.Catalogue.open(_chosen(options))


def _chosen(options: Namespace) -> Path:
    return builds.find_catalogue(catalogue_folder(options.catalogue), options.model)


def _export(options: Namespace) -> str | bytes:
    if options.build is not None:
        if options.what is not None:
            raise AtlasError("--build copies the whole build; leave the query out.")
        return export.copy_build(_chosen(options), options.build)
    if options.what is None or (options.text is None) != (options.what in _OF_THE_WHOLE):
        raise AtlasError('Say what to export: `export concept "months January" --to months.csv`, or `--build FILE`.')
    kind = QUESTIONS[options.what]
    given = vars(options) | {"label": options.text, "group": options.text}
    if options.limit is None:
        given["limit"] = _EXPORTED.get(kind, export.EVERYTHING)
    with _open(options) as catalogue:
        question = _question(kind, given)
        frame = export.answer_frame(catalogue, question)
        if isinstance(question, ConceptSearch) and frame.empty:
            for line in _unmatched(question.concept(catalogue)):
                say(line)
    answer = export.write(frame, options.to, options.format)
    return answer if options.to else answer.encode("utf-8", "surrogatepass")


def _builds(options: Namespace) -> str:
    found = builds.all_builds(catalogue_folder(options.catalogue), options.model)
    return json.dumps(export.as_json(found)) if options.json else builds_text(found)


# Answers as text for a terminal.


def search_text(catalogue: "Catalogue", question: Search) -> str:
    """Which tokens the text stands for, the search in words, a table of hits."""
    matched, hits = catalogue.tokens_of(question.text), question.answer(catalogue)
    named = ", ".join(f"“{shorten(token.display)}” ({token.token_id})" for token in matched)
    total = catalogue.count_hits([token.token_id for token in matched], question)
    shown = f"{len(hits)} of {total:,} hits" + (f" from {question.offset + 1}" if question.offset and hits else "")
    lines = [f"matched {named}", f"{question.describe(matched)}: {shown}"]
    if not total:
        lines.append(_none(catalogue))
    return "\n".join([*lines, "", _hits(hits)] if hits else lines)


def _none(catalogue: "Catalogue") -> str:
    return f"None with these conditions has one of them among the {catalogue.info.depth} tokens stored at each end."


def _hits(hits: Sequence[Hit]) -> str:
    rows = [
        (
            *(hit.neuron.label, hit.sign, shorten(hit.token.display), str(hit.rank)),
            *(f"{hit.logit:.4g}", f"{hit.z:+.2f}", *_told(hit)),
        )
        for hit in hits
    ]
    return _neurons(("neuron", "sign", "token", "rank", "logit", "z"), rows, right={3, 4, 5})


_TOLD = ("usually", "name")


def _neurons(head: Sequence[str], rows: Sequence[tuple[str, ...]], right: set[int]) -> str:
    """A table of neurons, whose rows end with `_told`; those columns are left out where nothing is known."""
    if any(any(row[-2:]) for row in rows):
        return table((*head, *_TOLD), rows, right)
    return table(head, [row[:-2] for row in rows], right)


def _told(found: Any) -> tuple[str, str]:
    """The cells of a neuron's usual end and its name; empty where there are no texts."""
    return found.usual or "", shorten(legible(found.name or ""))


def concept_text(catalogue: "Catalogue", question: ConceptSearch) -> str:
    """The concept in words, then a table of neurons."""
    concept = question.concept(catalogue)
    neurons, total = question.neurons(catalogue, concept), catalogue.count_concept(concept, question)
    lines = ["tokens " + _listed([entry.token for entry in concept.tokens if entry.weight > 0], 16)]
    avoided = [entry.token for entry in concept.tokens if entry.weight < 0]
    if avoided:
        lines.append("avoided " + _listed(avoided, 16))
    lines += _unmatched(concept)
    if not concept.widened:
        lines.append("This build holds no neighbours of tokens: the words are not widened.")
    if not any(entry.weight > 0 for entry in concept.tokens):
        return "\n".join([*lines[1:], "There is no token to search for: try another word."])
    lines += [f"{len(neurons)} of {total:,} ends of neurons that hold some of them", ""]
    if not neurons:
        return "\n".join([*lines, _none(catalogue)])
    rows = [
        (
            found.neuron.label,
            found.sign,
            f"{found.score:.2f}",
            str(len(found.matched)),
            _listed([entry.token for entry in found.matched]),
            *_told(found),
        )
        for found in neurons
    ]
    return "\n".join([*lines, _neurons(("neuron", "sign", "score", "tokens", "matched"), rows, right={2, 3})])


def _unmatched(concept: Concept) -> Iterator[str]:
    for word in concept.unmatched:
        instead = f"; taken for it: {_listed(word.beginnings, 8)}" if word.beginnings else ""
        pieces = f", it splits into {_listed(word.pieces, 8)}" if word.pieces else ""
        meant = f". Did you mean {' or '.join(f'“{one}”' for one in word.suggestions)}?" if word.suggestions else ""
        yield f"“{shorten(legible(word.text))}” {word.why}{pieces}{instead}{meant}"
    if concept.passed_over:
        named = ", ".join(f"“{shorten(legible(word))}”" for word in concept.passed_over)
        yield f"passed over {named}: in quotation marks a word counts"


def neuron_text(catalogue: "Catalogue", question: OneNeuron) -> str:
    """A neuron: its statistics, then both ends side by side."""
    card = question.answer(catalogue)
    title = f"{card.neuron.label}: {card.neuron.kind.words} neuron of layer {card.neuron.layer}"
    figures = f"logits over the vocabulary: mean {card.mean:.4g}, std {card.std:.4g}; norm {card.norm:.4g}"
    head = ("rank", "promotes", "logit", "z", "suppresses", "logit", "z")
    rows = [
        (str(rank), *_entry(top), *_entry(bottom))
        for rank, (top, bottom) in enumerate(zip(card.top, card.bottom, strict=True), start=1)
    ]
    usual, name = _told(card)
    remark = [one for one in (card.generic, usual and f"usually {usual}", name and f"named “{name}”") if one]
    return "\n".join((title, figures, *remark, "", table(head, rows, right={0, 2, 3, 5, 6})))


def _entry(entry: TokenLogit) -> tuple[str, str, str]:
    return shorten(entry.token.display, 28), f"{entry.logit:.4g}", f"{entry.z:+.2f}"


def texts_text(catalogue: "Catalogue", question: TextsOf) -> str:
    """A neuron's statistics over the corpus, then its excerpts, those of its usual end first."""
    found, stamp = question.answer(catalogue), questions.texts_of(catalogue).stamp
    named = f" “{legible(found.name.text)}” ({found.name.rule})" if found.name.text else ""
    share = found.active_positive_share
    often = "never active" if share is None else f"active at {found.rate:.2%} of them, positive at {share:.0%} of these"
    tokens = catalogue.strongest_tokens([found.neuron])[found.neuron]
    lines = [
        f"{found.neuron.label}{named}, over {legible(stamp.words)}",
        f"{often}: |activation| of {found.active_above:.4g} and more is active",
        f"mean {found.mean:.4g}, std {found.std:.4g}, from {found.lowest:.4g} to {found.highest:.4g}",
    ]
    lines += [] if found.description is None else [found.description.line]
    if found.usual is not None:
        lines.append(f"usually {found.usual} {_listed(tokens.promotes)}")
    lines += [
        f"gate {case.gate}, up {case.up}: {case.share:.1%} of tokens, mean {case.mean or 0:.4g}, "
        f"strongest {case.strongest or 0:.4g}"
        for case in found.cases
    ]
    for sign in sorted(Sign, key=lambda sign: sign is not (found.usual or Sign.PROMOTES)):
        rows = [(f"{one.peak:+.4g}", str(one.document), _one_line(one)) for one in found.at(sign)]
        lines += ["", f"{sign} its top tokens ({'positive' if sign is Sign.PROMOTES else 'negative'} activations)"]
        lines.append(table(("peak", "document", "text"), rows, right={0, 1}) if rows else "none")
    return "\n".join(lines)


def _one_line(excerpt: Excerpt) -> str:
    return excerpt.marked("display").replace("␣", " ")


def excerpts_text(catalogue: "Catalogue", question: InExcerpts) -> str:
    """A table of excerpts."""
    rows = [
        (found.neuron.label, found.sign, f"{found.z:+.1f}", *_told(found), _one_line(found.excerpt))
        for found in question.answer(catalogue)
    ]
    if not rows:
        return "No stored excerpt holds all of these words."
    return table(("neuron", "sign", "z", *_TOLD, "text"), rows, right={2})


def named_text(catalogue: "Catalogue", question: ByName) -> str:
    """A table of neurons."""
    rows = [
        (
            found.neuron.label,
            legible(found.name.text or ""),
            found.usual or "",
            f"{found.rate:.2%}",
            found.name.rule or "",
        )
        for found in question.answer(catalogue)
    ]
    if not rows:
        return "No neuron has a name with all of these words."
    return table(("neuron", "name", "usually", "active", "found by"), rows, right={3})


def similar_text(catalogue: "Catalogue", question: Similar) -> str:
    """A table of similar neurons."""
    rows = [
        (
            other.neuron.label,
            f"{other.similarity:.3f}",
            "opposite ends" if other.opposite else "same ends",
            str(len(other.shared)),
            _listed(other.shared),
            *_told(other),
        )
        for other in question.answer(catalogue)
    ]
    head = ("neuron", "similarity", "", "shared", "tokens")
    return f"Neurons that share tokens with {question.label}\n\n{_neurons(head, rows, right={1, 3})}"


def token_text(catalogue: "Catalogue", question: OneToken) -> str:
    """A token in words and two tables."""
    page = question.answer(catalogue)
    lines = [f"“{shorten(page.token.display)}” ({page.token.token_id})"]
    if catalogue.has_neighbours:
        near = ", ".join(f"“{shorten(near.token.display)}” {near.cosine:.2f}" for near in page.neighbours)
        recall = catalogue.info.neighbour_recall
        missed = "" if recall is None else f" (some are missed: {recall:.0%} were found in a sample)"
        lines.append(f"near {near}{missed}; itself near {page.neighbour_of:,} tokens")
    else:
        lines.append("This build holds no neighbours of tokens.")
    ends = (page.promotes, page.suppresses)
    rows = [
        tuple(
            cell for end in ends for cell in ((end[i].neuron.label, f"{end[i].z:+.2f}") if i < len(end) else ("", ""))
        )
        for i in range(max(map(len, ends)))
    ]
    counts: dict[tuple[int, str], dict[str, int]] = {}
    for layer in page.layers:
        counts.setdefault((layer.layer, layer.kind), {})[layer.sign] = layer.neurons
    layers = [(str(layer), kind, *(str(by.get(sign, 0)) for sign in Sign)) for (layer, kind), by in counts.items()]
    by_layer = table(("layer", "kind", "promoted by", "suppressed by"), layers, right={0, 2, 3})
    return "\n".join([*lines, "", table(("promoted by", "z", "suppressed by", "z"), rows, right={1, 3}), "", by_layer])


def overview_text(catalogue: "Catalogue", question: WholeBuild) -> str:
    """Three tables."""
    found = question.answer(catalogue)
    figures = ("norm_5", "norm_50", "norm_95", "peak_5", "peak_50", "peak_95")
    layers = [
        (str(row.layer), row.kind, f"{row.neurons:,}", *(f"{getattr(row, figure):.2f}" for figure in figures))
        for row in found.layers
    ]
    ends = [
        (end.neuron.label, end.sign, f"{end.z:+.1f}", shorten(end.token.display), *_told(end)) for end in found.peaked
    ]
    tokens = [
        (shorten(entry.token.display), entry.sign, f"{entry.first:,}", f"{entry.stored:,}")
        for entry in found.favourites
    ]
    return "\n".join(
        [
            "Quantiles in percent; peak: the larger |z| of a neuron's first token at either end",
            table(("layer", "kind", "neurons", *figures), layers, right=set(range(9)) - {1}),
            "",
            "The most peaked neurons",
            _neurons(("neuron", "sign", "z", "token"), ends, right={2}),
            "",
            "The tokens that most neurons favour",
            table(("token", "sign", "first", "stored"), tokens, right={2, 3}),
        ]
    )


def groups_text(catalogue: "Catalogue", question: Groups) -> str:
    """A table of groups."""
    found = question.answer(catalogue)
    rows = [(one.group, f"{one.neurons:,}", f"{one.alike:.3f}", one.name or "no clear name") for one in found]
    return table(("group", "neurons", "alike", "name"), rows, right={1, 2})


def group_text(catalogue: "Catalogue", question: OneGroup) -> str:
    """A group in words, then a table of its neurons."""
    answer = question.answer(catalogue)
    group, tokens = answer.of, catalogue.strongest_tokens([one.neuron for one in answer.members], _LISTED // 2)
    likeness = "value vectors" if group.by is GroupedBy.VALUE else "activity in texts"
    title = f"{group.group}: {group.name or 'no clear name'}; {group.neurons:,} neurons alike by their {likeness}"
    rows = [
        (
            one.neuron.label,
            f"{one.closeness:.3f}",
            _listed(tokens[one.neuron].promotes),
            _listed(tokens[one.neuron].suppresses),
        )
        for one in answer.members
    ]
    return "\n".join((title, "", table(("neuron", "closeness", "promotes", "suppresses"), rows, right={1})))


def builds_text(found: Sequence[Build]) -> str:
    """A table of builds, the current one of each model marked."""
    rows = []
    for build in found:
        mark, size, stamp = "current" if build.current else "", f"{build.bytes / 1e6:,.1f} MB", build.stamp
        if stamp is None:
            problem = "locked" if " is locked: " in (build.problem or "") else "unreadable"
            rows.append((legible(build.model), legible(build.path.name), mark, "", "", size, problem))
            continue
        figures = (f"{stamp.neurons:,}", size, f"{stamp.depth} tokens per end")
        rows.append((legible(build.model), stamp.build_id, mark, stamp.created_at, *figures))
    return table(("model", "build", "", "created", "neurons", "size", ""), rows, right={4, 5})


def _listed(tokens: Sequence[Token], shown: int = _LISTED) -> str:
    named = " ".join(f"“{shorten(token.display, 24)}”" for token in tokens[:shown])
    return named + (f" and {len(tokens) - shown} more" if len(tokens) > shown else "")


TEXTS: dict[type[Question], Callable[["Catalogue", Any], str]] = {
    Search: search_text,
    ConceptSearch: concept_text,
    OneNeuron: neuron_text,
    TextsOf: texts_text,
    InExcerpts: excerpts_text,
    ByName: named_text,
    Similar: similar_text,
    OneToken: token_text,
    WholeBuild: overview_text,
    Groups: groups_text,
    OneGroup: group_text,
}


if __name__ == "__main__":
    sys.exit(main())
