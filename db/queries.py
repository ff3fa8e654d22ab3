"""The questions that the shell and the HTTP API ask alike: options in, an answer and its JSON out.

Options are what :mod:`db.__main__` parses, by the same names; whoever asks gives the catalogue.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.errors import NotFoundError
from db.neuron import Neuron, Sign

if TYPE_CHECKING:
    from db.catalogue.builds import BuildFile
    from db.catalogue.concepts import Concept
    from db.catalogue.filters import Filters
    from db.catalogue.store import Catalogue
    from db.records import ConceptNeuron, Hit, TokenMatches
    from db.terminal import TokenPage


def filters_of(options: Namespace) -> "Filters":
    """The filters that the options ask for.

    Raises:
        AtlasError: a value that cannot be meant, or two that exclude each other.
    """
    from db.catalogue.filters import Filters, Order

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
    """The concept that the options ask for.

    Raises:
        AtlasError: no words or too many, or an unknown token id.
    """
    from db.catalogue.concepts import WIDEN, WeightedToken

    concept = catalogue.concept(options.text, widen=WIDEN if options.widen is None else options.widen)
    added = [WeightedToken(token, 1.0) for token in catalogue.tokens(options.add).values()]
    return concept.with_tokens(added).without(catalogue.tokens(options.drop))


def search(catalogue: "Catalogue", options: Namespace) -> "tuple[TokenMatches, tuple[Hit, ...]]":
    """What the text stands for, and a page of the neurons that have it.

    Raises:
        NotFoundError: the text is no token.
        AtlasError: filters that the model cannot fulfil.
    """
    filters = filters_of(options)
    matches = catalogue.resolve(options.text)
    if not matches.matched:
        raise NotFoundError(matches.no_match())
    ids = [token.token_id for token in matches.matched]
    return matches, catalogue.search_token(ids, filters, limit=options.limit, offset=options.offset)


def concept(catalogue: "Catalogue", options: Namespace) -> "tuple[Concept, tuple[ConceptNeuron, ...]]":
    """The concept, and a page of the neurons that cover it; raises as both parts do."""
    filters, found = filters_of(options), concept_of(catalogue, options)
    return found, catalogue.concept_neurons(found, filters, limit=options.limit, offset=options.offset)


def token(catalogue: "Catalogue", options: Namespace) -> "TokenPage":
    """The page of the token that fits the text best.

    Raises:
        NotFoundError: the text is no token.
    """
    from db.catalogue.filters import Filters
    from db.terminal import TokenPage

    best = catalogue.tokens_of(options.text)[0]
    ends = {sign: catalogue.search_token([best.token_id], Filters(sign=sign), limit=options.limit) for sign in Sign}
    return TokenPage(
        best,
        catalogue.neighbours(best.token_id),
        catalogue.neighbour_of(best.token_id),
        ends,
        catalogue.layer_counts([best.token_id]),
    )


def builds(root: Path, model: str | None) -> "list[tuple[str, BuildFile]]":
    """All builds of all models, or of the one named, with the model's name.

    Raises:
        NotFoundError: there is none.
    """
    from db.catalogue.builds import builds, model_folders

    folders = [folder for folder in model_folders(root) if model in (None, folder.resolve().name)]
    found = [(folder.resolve().name, build) for folder in folders for build in builds(folder)]
    if not found:
        raise NotFoundError(f"No catalogue in {root}: run `make index`, or `python -m indexer build MODEL`.")
    return found


def _search(catalogue: "Catalogue", options: Namespace) -> Any:
    from db.terminal import hits_json

    return hits_json(search(catalogue, options)[1])


def _concept(catalogue: "Catalogue", options: Namespace) -> Any:
    from db.terminal import concept_json

    return concept_json(*concept(catalogue, options))


def _neuron(catalogue: "Catalogue", options: Namespace) -> Any:
    from db.terminal import card_json

    return card_json(catalogue.neuron(Neuron.parse(options.label)))


def _similar(catalogue: "Catalogue", options: Namespace) -> Any:
    from db.terminal import similar_json

    return similar_json(catalogue.similar(Neuron.parse(options.label), limit=options.limit))


def _token(catalogue: "Catalogue", options: Namespace) -> Any:
    from db.terminal import token_json

    return token_json(token(catalogue, options))


def _overview(catalogue: "Catalogue", options: Namespace) -> Any:
    from db.terminal import overview_json

    return overview_json(
        catalogue.overview(), catalogue.most_peaked(limit=options.limit), catalogue.favourites(limit=options.limit)
    )


ANSWERS: "dict[str, Callable[[Catalogue, Namespace], Any]]" = {
    "search": _search,
    "concept": _concept,
    "neuron": _neuron,
    "similar": _similar,
    "token": _token,
    "overview": _overview,
}
"""By the command's name: plain objects for JSON. Each raises AtlasError for what cannot be answered."""
