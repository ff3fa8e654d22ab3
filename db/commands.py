"""The shell's commands: each takes the parsed options and returns what is printed."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from db.errors import AtlasError
from db.neuron import Neuron, Sign

if TYPE_CHECKING:
    from db.catalogue import Catalogue
    from db.concepts import Concept
    from db.filters import Filters


def _open(options: Namespace) -> "Catalogue":
    from db.catalogue import Catalogue

    return Catalogue.open(_chosen(options))


def _chosen(options: Namespace) -> Path:
    from db.library import DEFAULT_ROOT, find_catalogue

    return find_catalogue(options.catalogue or DEFAULT_ROOT, options.model)


def filters_of(options: Namespace) -> "Filters":
    """The filters that the options ask for."""
    from db.filters import Filters, Order

    return Filters(
        sign=options.sign,
        kind=options.kind,
        layers=options.layers,
        head=options.head,
        min_z=options.min_z,
        max_rank=options.max_rank,
        order=Order(getattr(options, "by", "z")),
    )


def concept_of(catalogue: "Catalogue", options: Namespace) -> "Concept":
    """The concept that the options ask for."""
    from db.concepts import WIDEN, WeightedToken

    concept = catalogue.concept(options.text, widen=WIDEN if options.widen is None else options.widen)
    added = [WeightedToken(token, 1.0) for token in catalogue.tokens(options.add).values()]
    return concept.with_tokens(added).without(catalogue.tokens(options.drop))


def _search(options: Namespace) -> str:
    from db import terminal

    filters = filters_of(options)
    with _open(options) as catalogue:
        matches = catalogue.resolve(options.text)
        if not matches.matched:
            raise AtlasError(matches.no_match())
        ids = [token.token_id for token in matches.matched]
        hits = catalogue.search_token(ids, filters, limit=options.limit, offset=options.offset)
        if options.json:
            return json.dumps(terminal.hits_json(hits))
        total = catalogue.count_hits(ids, filters)
    shown = f"{len(hits)} of {total:,} hits" + (f" from {options.offset + 1}" if options.offset and hits else "")
    lines = [terminal.matches_text(matches), f"{filters.describe(matches.matched)}: {shown}", ""]
    return "\n".join([*lines, terminal.hits_text(hits)] if hits else lines[:2])


def _concept(options: Namespace) -> str:
    from db import finds

    filters = filters_of(options)
    with _open(options) as catalogue:
        concept = concept_of(catalogue, options)
        neurons = catalogue.concept_neurons(concept, filters, limit=options.limit, offset=options.offset)
        if options.json:
            return json.dumps(finds.concept_json(concept, neurons))
        return finds.concept_text(concept, neurons, catalogue.count_concept(concept, filters))


def _neuron(options: Namespace) -> str:
    neuron = Neuron.parse(options.label)
    from db import terminal

    with _open(options) as catalogue:
        card = catalogue.neuron(neuron)
    return json.dumps(terminal.card_json(card)) if options.json else terminal.card_text(card)


def _similar(options: Namespace) -> str:
    neuron = Neuron.parse(options.label)
    from db import finds

    with _open(options) as catalogue:
        found = catalogue.similar(neuron, limit=options.limit)
    return json.dumps(finds.similar_json(found)) if options.json else finds.similar_text(neuron, found)


def _token(options: Namespace) -> str:
    from db import finds
    from db.filters import Filters

    with _open(options) as catalogue:
        token = catalogue.tokens_of(options.text)[0]
        neighbours, hub = catalogue.neighbours(token.token_id), catalogue.neighbour_of(token.token_id)
        ends = {
            sign: catalogue.search_token([token.token_id], Filters(sign=sign), limit=options.limit) for sign in Sign
        }
        page = finds.TokenPage(token, neighbours, hub, ends, catalogue.layer_counts([token.token_id]))
        widened = catalogue.has_neighbours
    return json.dumps(finds.token_json(page)) if options.json else finds.token_text(page, has_neighbours=widened)


def _overview(options: Namespace) -> str:
    from db import finds

    with _open(options) as catalogue:
        layers = catalogue.overview()
        peaked, favourites = catalogue.most_peaked(limit=options.limit), catalogue.favourites(limit=options.limit)
    if options.json:
        return json.dumps(finds.overview_json(layers, peaked, favourites))
    return finds.overview_text(layers, peaked, favourites)


def _builds(options: Namespace) -> str:
    from db import terminal
    from db.builds import builds
    from db.library import DEFAULT_ROOT, model_folders

    root = options.catalogue or DEFAULT_ROOT
    folders = [folder for folder in model_folders(root) if options.model in (None, folder.resolve().name)]
    found = [(folder.resolve().name, build) for folder in folders for build in builds(folder)]
    if not found:
        raise AtlasError(f"No catalogue in {root}: run `make index`, or `python -m indexer build MODEL`.")
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
