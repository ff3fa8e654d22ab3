"""The shell's commands: each takes the parsed options and returns what is printed."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from db import asking
from db.errors import AtlasError
from db.neuron import Neuron

if TYPE_CHECKING:
    from db.catalogue import Catalogue


def _open(options: Namespace) -> "Catalogue":
    from db.catalogue import Catalogue

    return Catalogue.open(_chosen(options))


def _chosen(options: Namespace) -> Path:
    from db.library import DEFAULT_ROOT, find_catalogue

    return find_catalogue(options.catalogue or DEFAULT_ROOT, options.model)


def _json(options: Namespace) -> str:
    with _open(options) as catalogue:
        return json.dumps(asking.ANSWERS[options.command](catalogue, options))


def _search(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        matches, hits = asking.search(catalogue, options)
        filters = asking.filters_of(options)
        total = catalogue.count_hits([token.token_id for token in matches.matched], filters)
    shown = f"{len(hits)} of {total:,} hits" + (f" from {options.offset + 1}" if options.offset and hits else "")
    lines = [terminal.matches_text(matches), f"{filters.describe(matches.matched)}: {shown}", ""]
    return "\n".join([*lines, terminal.hits_text(hits)] if hits else lines[:2])


def _concept(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import finds

    with _open(options) as catalogue:
        concept, neurons = asking.concept(catalogue, options)
        return finds.concept_text(concept, neurons, catalogue.count_concept(concept, asking.filters_of(options)))


def _neuron(options: Namespace) -> str:
    neuron = Neuron.parse(options.label)
    if options.json:
        return _json(options)
    from db import terminal

    with _open(options) as catalogue:
        return terminal.card_text(catalogue.neuron(neuron))


def _similar(options: Namespace) -> str:
    neuron = Neuron.parse(options.label)
    if options.json:
        return _json(options)
    from db import finds

    with _open(options) as catalogue:
        return finds.similar_text(neuron, catalogue.similar(neuron, limit=options.limit))


def _token(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import finds

    with _open(options) as catalogue:
        return finds.token_text(asking.token(catalogue, options), has_neighbours=catalogue.has_neighbours)


def _overview(options: Namespace) -> str:
    if options.json:
        return _json(options)
    from db import finds

    with _open(options) as catalogue:
        peaked, favourites = catalogue.most_peaked(limit=options.limit), catalogue.favourites(limit=options.limit)
        return finds.overview_text(catalogue.overview(), peaked, favourites)


def _builds(options: Namespace) -> str:
    from db import terminal
    from db.library import DEFAULT_ROOT

    found = asking.builds(options.catalogue or DEFAULT_ROOT, options.model)
    return json.dumps(terminal.builds_json(found)) if options.json else terminal.builds_text(found)


def _export(options: Namespace) -> str:
    from db import export

    if options.build is not None:
        if options.what is not None:
            raise AtlasError("--build copies the whole build; leave the query out.")
        return export.copy_build(_chosen(options), options.build)
    if options.what is None or (options.text is None) != (options.what == "overview"):
        raise AtlasError('Say what to export: `export concept "months January" --to months.csv`, or `--build FILE`.')
    with _open(options) as catalogue:
        frame = export.frame_of(catalogue, options)
    return export.write(frame, options.to, options.format)


COMMANDS: dict[str, Callable[[Namespace], str]] = {
    "search": _search,
    "concept": _concept,
    "neuron": _neuron,
    "similar": _similar,
    "token": _token,
    "overview": _overview,
    "builds": _builds,
    "export": _export,
}
