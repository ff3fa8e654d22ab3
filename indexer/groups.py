"""Neurons that are alike, in groups and on a map.

Two neurons are alike by the cosine of their value vectors; or, where there are texts, by that of their sketches, which
estimates how their activations correlate over the corpus. The nearest others of each are found (in very large models by
some principal directions). HDBSCAN finds the dense places among them, which are the groups; those that are hardly more
alike than any neuron and its nearest are dropped. t-SNE lays the neurons out so that near ones lie together: what lies
together on a map need not be alike, which is why groups are not read off it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path

import numpy as np
import openTSNE
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from openTSNE.affinity import PerplexityBasedNN
from openTSNE.initialization import rescale
from openTSNE.nearest_neighbors import PrecomputedNeighbors
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import HDBSCAN
from torch import Tensor
from torch.nn.functional import normalize

from db.catalogue.builds import build_of
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.files import locked
from db.groups import FILE, Group, GroupedBy, Maps, NeuronMap, write_maps
from db.neuron import NeuronKind, Sign
from db.texts.store import Texts
from db.token_text import shorten
from indexer.checkpoint import Checkpoint
from indexer.neighbours import directions, nearest_rows
from indexer.projection import sampled_products
from indexer.weights import Weights

_NEAREST, _POOL, _PERPLEXITY = 30, 240, 10
_SMALLEST, _DENSE = 5, 3
"""Neurons of a group at least, and of a place that is dense."""
_ALIKE = 1.5
"""The neurons of a group are at least so many times as alike as a neuron and its tenth nearest usually are."""
_FARTHEST = 2.0  # distance of opposite rows
_EARLY, _LATE = 100, 400  # rounds of t-SNE, the first with attraction exaggerated
_CHUNK = 1024
_NAMED_BY = 5  # tokens of each end
_MARKS = {Sign.PROMOTES: "▲", Sign.SUPPRESSES: "▼"}
_SHARE, _RARE, _WORDS = 0.2, 5.0, 3
"""Of a group's neurons that a word of its name has, how many times as often as among all, and how many words."""


def group_neurons(
    checkpoint: Checkpoint, catalogue: Path, *, seed: int = 0, say: Callable[[str], None] = lambda _line: None
) -> tuple[Path, Maps]:
    """Group and map the FFN neurons of a model that has a catalogue, in place of what there was.

    Args:
        checkpoint: the model.
        catalogue: the folder of all catalogues.
        seed: of t-SNE.
        say: told what is being done, one line per stage.

    Returns:
        The file, and what is in it.

    Raises:
        AtlasError: there is no catalogue of it, or it cannot be written.
    """
    build = build_of(catalogue, checkpoint.name, checkpoint.has)
    if build is None:
        raise AtlasError(
            f"There is no catalogue of {checkpoint.name} yet: `python -m indexer build {checkpoint.source}`."
        )
    held = f"Another process is grouping the neurons of {checkpoint.name}: wait until it has finished."
    with locked(build.parent / f".{FILE}.lock", held), Catalogue.open(build) as atlas:
        blocks = [atlas.layout.block(layer, NeuronKind.FFN) for layer in range(atlas.layout.layers)]
        ids = np.concatenate([np.arange(one.first, one.first + one.size, dtype=np.int32) for one in blocks])
        words = _Words(atlas, ids)
        maps = {}
        for by, rows, source in _kinds(checkpoint, atlas, ids, say):
            told = words.at_peaks(atlas.texts, ids) if by is GroupedBy.TEXTS and atlas.texts else words
            maps[by] = _mapped(by, ids, rows, told, seed, source)
            grouped = int((maps[by].group > 0).sum())
            say(f"{len(maps[by].groups):,} groups by {by} hold {grouped:,} of {len(ids):,} neurons.")
        return write_maps(build.parent, atlas.info.checkpoint, maps), maps


def _kinds(
    checkpoint: Checkpoint, atlas: Catalogue, ids: NDArray[np.int32], say: Callable[[str], None]
) -> Iterator[tuple[GroupedBy, Float[Tensor, "N d"], str | None]]:
    """Each kind of likeness, with rows of length 1 whose cosines say how alike neurons are, and what it is found in."""
    say("Comparing value vectors ...")
    yield GroupedBy.VALUE, value_directions(checkpoint.weights()), None
    texts = atlas.texts
    looked_at, sketches = (ids[:0], None) if texts is None else texts.sketches()
    if texts is not None and np.array_equal(looked_at, ids):
        say("Comparing activity in texts ...")
        yield GroupedBy.TEXTS, normalize(torch.from_numpy(sketches), dim=1), texts.stamp.texts_id


def value_directions(weights: Weights) -> Float[Tensor, "N d"]:
    """The value vectors of all FFN neurons, each of length 1; in large models along some principal directions."""
    layers = range(weights.dimensions.layers)
    width = weights.dimensions.d_model
    along = directions(sum(len(weights.ffn_values(layer)) for layer in layers), width)

    def units(layer: int) -> Float[Tensor, "n d"]:
        return normalize(weights.ffn_values(layer), dim=1)

    if along == width:
        return torch.cat([units(layer) for layer in layers])
    scatter = torch.zeros(width, width)
    for layer in layers:
        scatter.addmm_(units(layer).T, units(layer))
    chosen = torch.linalg.eigh(scatter).eigenvectors[:, -along:]  # in rising order
    return torch.cat([normalize(units(layer) @ chosen, dim=1) for layer in layers])


def _mapped(
    by: GroupedBy, ids: NDArray[np.int32], rows: Float[Tensor, "N d"], words: "_Words", seed: int, source: str | None
) -> NeuronMap:
    count = min(_NEAREST, len(rows) - 1)
    found, nearest = nearest_to_each(rows, count)
    usual = float(nearest[:, min(9, count - 1)].median())
    number, closeness, alike = clusters(rows, found, nearest, _ALIKE * usual)
    sizes = np.bincount(number, minlength=len(alike) + 1)[1:]
    groups = tuple(
        Group(f"{by}-{one}", by, words.name(np.flatnonzero(number == one)), int(size), float(mean))
        for one, (size, mean) in enumerate(zip(sizes, alike, strict=True), 1)
    )
    x, y = _spread(layout(rows, found, nearest, seed))
    return NeuronMap(ids, x, y, number, closeness, words.sharpness, words.shown, groups, source)


def nearest_to_each(rows: Float[Tensor, "N d"], count: int) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
    """The nearest other rows of each by cosine, nearest first, and these cosines; where there are very many rows, of a
    pool that sums of their parts choose, which are sketches, too.
    """
    along = directions(len(rows), rows.shape[1])
    if along == rows.shape[1]:
        found, cosines = nearest_rows(rows, count, _CHUNK)
    else:
        short = normalize(rows.view(len(rows), -1, 1 << (along.bit_length() - 1)).sum(dim=1), dim=1)
        found = nearest_rows(short, min(_POOL, len(rows) - 1), _CHUNK)[0]
        parts = zip(rows.split(_CHUNK), found.split(_CHUNK), strict=True)
        cosines = torch.cat([sampled_products(own, rows, others) for own, others in parts])
    nearest, order = cosines.topk(count, dim=1)
    return found.gather(1, order), nearest


def layout(
    rows: Float[Tensor, "N d"], nearest: Int[Tensor, "N k"], cosines: Float[Tensor, "N k"], seed: int
) -> NDArray[np.float64]:
    """Places in the plane, [N, 2], at which rows lie beside those that are nearest to them.

    It begins with the two directions in which the rows differ most, so that the whole keeps some meaning.
    """
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -2:]
    axes = axes * axes.sum(dim=0).sign()  # or the library of this machine would choose which way is up
    begin = rescale((rows @ axes).double().numpy(), inplace=False)
    perplexity = min(_PERPLEXITY, nearest.shape[1] / 3)
    threads = torch.get_num_threads()
    likeness = PerplexityBasedNN(
        perplexity=perplexity, knn_index=PrecomputedNeighbors(nearest.numpy(), _distances(cosines)), n_jobs=threads
    )
    places = openTSNE.TSNEEmbedding(
        begin,
        likeness,
        negative_gradient_method="fft" if len(rows) > _CHUNK else "bh",
        n_jobs=threads,
        random_state=seed,
    )
    places = places.optimize(_EARLY, exaggeration=12, momentum=0.5)
    return np.asarray(places.optimize(_LATE, momentum=0.8), dtype=np.float64)


def clusters(
    rows: Float[Tensor, "N d"], nearest: Int[Tensor, "N k"], cosines: Float[Tensor, "N k"], least: float
) -> tuple[NDArray[np.int32], NDArray[np.float32], list[float]]:
    """The dense places among rows, by their distances from those that are nearest to them: the smallest ones, since in
    larger ones that hold them most rows are hardly alike.

    Args:
        rows: of length 1.
        nearest: to each.
        cosines: with these.
        least: mean cosine within a group.

    Returns:
        Number of each row's group, from 1 for the largest, 0 for none; its mean cosine with the others of its group;
        and the mean of that in each group.
    """
    places = {"min_cluster_size": _SMALLEST, "min_samples": _DENSE, "cluster_selection_method": "leaf"}
    found = HDBSCAN(**places, metric="precomputed", copy=True).fit_predict(_graph(nearest, _distances(cosines)))
    kept = []
    for one in range(found.max() + 1):
        own = np.flatnonzero(found == one)
        own = own[_closeness(rows, own) >= least]  # without those at its edge
        near = _closeness(rows, own)
        if len(own) >= _SMALLEST and near.mean() >= least:
            kept.append((own, near, float(near.mean())))
    kept.sort(key=lambda one: (-len(one[0]), one[0][0]))
    number, closeness = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32)
    for place, (own, near, _) in enumerate(kept, 1):
        number[own], closeness[own] = place, near
    return number, closeness, [mean for *_, mean in kept]


def _closeness(rows: Float[Tensor, "N d"], own: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean cosine of each of some rows with the others of them."""
    vectors = rows[torch.from_numpy(own)]
    found: NDArray[np.float32] = ((vectors @ vectors.sum(dim=0) - 1) / max(1, len(own) - 1)).numpy()
    return found


def _distances(cosines: Float[Tensor, "N k"]) -> NDArray[np.float64]:
    return (
        (2 - 2 * cosines.double()).clamp_min(1e-12).sqrt().numpy()
    )  # of equal rows above 0, or a graph would lack them


def _graph(nearest: Int[Tensor, "N k"], distances: NDArray[np.float64]) -> csr_array:
    """Who is near whom, in either direction; and, since HDBSCAN needs a whole, its parts joined from afar."""
    count, each = nearest.shape
    place = (distances.ravel(), nearest.numpy().ravel(), np.arange(count + 1) * each)
    one_way = csr_array(place, shape=(count, count))
    found = one_way.maximum(one_way.T)
    parts, part = connected_components(found, directed=False)
    first = np.unique(part, return_index=True)[1]
    joined = (np.full(parts - 1, _FARTHEST), (np.full(parts - 1, first[0]), first[1:]))
    link = csr_array(joined, shape=(count, count))
    return csr_array(found + link + link.T)


def _spread(places: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The places in a square from 0 to 1, in both directions to the same scale."""
    middle, size = (places.max(axis=0) + places.min(axis=0)) / 2, np.ptp(places, axis=0).max() or 1.0
    x, y = ((places - middle) / size + 0.5).astype(np.float32).T
    return x, y


class _Words:
    """The first tokens of neurons' ends, by whose words groups are named, and how far the very first stands out."""

    def __init__(self, atlas: Catalogue, ids: NDArray[np.int32]) -> None:
        self._of: list[frozenset[tuple[Sign, str]]] = []
        self.shown: list[str] = []
        layers = range(atlas.layout.layers)
        figures = pd.concat([atlas.layer_statistics(layer, NeuronKind.FFN) for layer in layers])
        self.sharpness = figures[["top_z", "bottom_z"]].abs().max(axis=1).to_numpy(np.float32)
        neurons = [atlas.layout.neuron(one) for one in ids.tolist()]
        for start in range(0, len(neurons), 2000):
            tokens = atlas.strongest_tokens(neurons[start : start + 2000], _NAMED_BY)
            self._of += [
                frozenset((sign, word) for sign in Sign for token in one.at(sign) if (word := _word(token.text)))
                for one in tokens.values()
            ]
            self.shown += [
                "  ".join(
                    f"{mark} {shorten(token.display, 24)}"
                    for sign, mark in _MARKS.items()
                    for token in one.at(sign)[:2]
                )
                for one in tokens.values()
            ]
        self._often = Counter(word for own in self._of for word in own)

    _marks = _MARKS

    def at_peaks(self, texts: Texts, ids: NDArray[np.int32]) -> "_Words":
        """The same, but groups are named by the tokens at which their neurons are most active."""
        found, peaks = copy(self), texts.peaks(_NAMED_BY)
        found._of = [
            frozenset((sign, word) for sign, token in peaks.get(one, ()) if (word := _word(token.text)))
            for one in ids.tolist()
        ]
        found._often = Counter(word for own in found._of for word in own)
        found._marks = dict.fromkeys(Sign, "at")
        return found

    def name(self, rows: NDArray[np.int64]) -> str | None:
        """The words that many of some neurons have at one end, and few others; None where there are none."""
        often = Counter(word for row in rows for word in self._of[row])
        size, every = len(rows), len(self._of)
        shares = {word: count / size for word, count in often.items() if count >= _SHARE * size and count > 1}
        rare = {
            word: share * np.log(share * every / self._often[word])
            for word, share in shares.items()
            if share * every >= _RARE * self._often[word]
        }
        if not rare:
            return None
        best = sorted(rare, key=lambda word: (-rare[word], word))
        sign = best[0][0]
        named = [word for end, word in best if end is sign][:_WORDS]
        return f"{self._marks[sign]} {', '.join(named)}"


def _word(text: str) -> str:
    """A token as a word of a name: without spaces and case; empty where it is none."""
    word = text.strip().casefold()
    return word if len(word) > 1 and any(one.isalnum() for one in word) and word.isprintable() else ""
