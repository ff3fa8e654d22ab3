"""A build as a whole: its layers, its most peaked neurons, the tokens that most neurons favour."""

from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, case, func, literal, select, union_all

from db import tables
from db.answers import PeakedNeuron, TokenFavour, neuron_of, sign_of
from db.filters import Filters
from db.neuron import Sign
from db.questions import NEURON_COLUMNS, TOKEN_COLUMNS, Statement
from db.tables import neuron, neuron_token, token, token_neuron
from db.tokens import token_of

if TYPE_CHECKING:
    import pandas as pd

    from db.lookups import Lookups

QUANTILES = (5, 25, 50, 75, 95)
_KINDS = {code: name for name, code in tables.KIND_CODES.items()}


def overview(catalogue: "Lookups") -> "pd.DataFrame":
    """See :meth:`db.catalogue.Catalogue.overview`."""
    import pandas as pd

    rows = catalogue.rows(_overview())
    named = [(layer, _KINDS[kind], count, *figures) for layer, kind, count, *figures in rows]
    columns = [f"{what}_{percent}" for what in ("norm", "peak") for percent in QUANTILES]
    return pd.DataFrame(named, columns=["layer", "kind", "neurons", *columns])


def _overview() -> Statement:
    peak = case((neuron.c.top_z > -neuron.c.bottom_z, neuron.c.top_z), else_=-neuron.c.bottom_z)
    figures: list[ColumnElement[float]] = [
        func.percentile_cont(percent / 100).within_group(what)
        for what in (neuron.c.norm, peak)
        for percent in QUANTILES
    ]
    groups = (neuron.c.layer, neuron.c.kind)
    return select(*groups, func.count(), *figures).group_by(*groups).order_by(*groups)


def most_peaked(catalogue: "Lookups", filters: Filters, limit: int) -> tuple[PeakedNeuron, ...]:
    """See :meth:`db.catalogue.Catalogue.most_peaked`."""
    return tuple(
        PeakedNeuron(neuron_of(*row[:4]), sign_of(row.sign), row.z, token_of(row))
        for row in catalogue.rows(_most_peaked(filters, limit))
    )


def _most_peaked(filters: Filters, limit: int) -> Statement:
    """Columns: NEURON_COLUMNS, sign, z, TOKEN_COLUMNS; by falling |z|."""
    ends = []
    for sign, z in ((Sign.PROMOTES, neuron.c.top_z), (Sign.SUPPRESSES, neuron.c.bottom_z)):
        if filters.sign in (None, sign):
            code = literal(tables.SIGN_CODES[sign]).label("sign")
            least = [] if filters.min_z is None else [z * tables.SIGN_CODES[sign] >= filters.min_z]
            end = select(neuron.c.neuron_id, *NEURON_COLUMNS, code, z.label("z"))
            ends.append(end.where(*filters.neuron_conditions(neuron), *least))
    found = union_all(*ends).subquery("found")
    ordering = (func.abs(found.c.z).desc(), found.c.neuron_id, found.c.sign.desc())
    best = select(found).order_by(*ordering).limit(limit).subquery("best")
    pairs = neuron_token
    first = and_(pairs.c.neuron_id == best.c.neuron_id, pairs.c.sign == best.c.sign, pairs.c.rank == 1)
    columns = (best.c.kind, best.c.layer, best.c.head, best.c.index, best.c.sign, best.c.z, *TOKEN_COLUMNS)
    return (
        select(*columns)
        .select_from(best.join(pairs, first).join(token, token.c.token_id == pairs.c.token_id))
        .order_by(func.abs(best.c.z).desc(), best.c.neuron_id, best.c.sign.desc())
    )


def favourites(catalogue: "Lookups", limit: int) -> tuple[TokenFavour, ...]:
    """See :meth:`db.catalogue.Catalogue.favourites`."""
    rows = catalogue.rows(_favourites(limit))
    tokens = catalogue.tokens(dict.fromkeys(row[0] for row in rows))
    return tuple(TokenFavour(tokens[token_id], sign_of(sign), first, stored) for token_id, sign, first, stored in rows)


def _favourites(limit: int) -> Statement:
    pairs = token_neuron
    first = func.sum(case((pairs.c.rank == 1, 1), else_=0)).label("first")
    stored = func.count().label("stored")
    return (
        select(pairs.c.token_id, pairs.c.sign, first, stored)
        .group_by(pairs.c.token_id, pairs.c.sign)
        .order_by(first.desc(), stored.desc(), pairs.c.token_id, pairs.c.sign.desc())
        .limit(limit)
    )
