"""Groups of neurons that are alike, and a map on which such neurons lie together: `python -m indexer groups` made them.

They lie beside the builds in one Parquet file, ``groups.parquet``, and belong to all builds of one checkpoint. Neurons
are alike by their value vectors, or by the texts: by being active at the same tokens.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from db.errors import NotFoundError
from db.files import State, atomic_write, state_of
from db.lazy import lazy_import
from db.neuron import Neuron
from db.records import Rounded, spread

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray
else:
    np, pa, pq = lazy_import("numpy"), lazy_import("pyarrow"), lazy_import("pyarrow.parquet")

FILE = "groups.parquet"
AGAIN = "Make them with `python -m indexer groups MODEL`."
_FORM = 1
_STAMP = b"neuron groups"
_COLUMNS = ("neuron_ids", "x", "y", "group", "closeness", "sharpness")


class GroupedBy(StrEnum):
    """By what the neurons of a group are alike."""

    VALUE = "value"
    """Their value vectors: what they write."""
    TEXTS = "texts"
    """The tokens of a corpus at which they are active together."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of neurons that are alike."""

    group: Annotated[str, "Such as value-12; the largest of a kind has 1."]
    by: Annotated[GroupedBy, "By what its neurons are alike: their value vectors, or activity in texts."]
    name: Annotated[str | None, "Tokens that many of its neurons share, and few others; null: none are."]
    neurons: Annotated[int, "How many."]
    alike: Annotated[float, "Mean cosine of two of its neurons.", Rounded(3)]

    @property
    def number(self) -> int:
        """Among those of its kind, from 1."""
        return int(self.group.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class GroupNeuron:
    """A neuron of a group."""

    neuron: Neuron
    closeness: Annotated[float, "Mean cosine with the others of the group.", Rounded(3)]


@dataclass(frozen=True, slots=True)
class GroupAnswer:
    """A group, and its neurons, closest to its middle first."""

    of: Annotated[Group, spread("group", "by", "name", "neurons", "alike")]
    members: tuple[GroupNeuron, ...]


class MapShade(StrEnum):
    """What the neurons of the map are shaded by."""

    LAYER = "layer"
    GROUP = "group"
    RATE = "rate"
    SHARPNESS = "sharpness"


@dataclass(frozen=True, eq=False)
class NeuronMap:
    """Where neurons lie, and their groups, by one kind of likeness.

    Attributes:
        neuron_ids: i4 [n], ascending, as in the builds.
        x: f4 [n], from 0 to 1.
        y: f4 [n].
        group: i4 [n], numbers of groups from 1; 0 where a neuron is in none.
        closeness: f4 [n], mean cosine with the others of its group; 0 in none.
        sharpness: f4 [n], the larger |z| of the first tokens of both ends.
        words: [n], the first tokens of both ends.
        groups: the groups, the largest first, numbered from 1.
        source: what the likeness was found in: the id of the texts; None for value vectors.
    """

    neuron_ids: "NDArray[np.int32]"
    x: "NDArray[np.float32]"
    y: "NDArray[np.float32]"
    group: "NDArray[np.int32]"
    closeness: "NDArray[np.float32]"
    sharpness: "NDArray[np.float32]"
    words: Sequence[str]
    groups: Sequence[Group]
    source: str | None = None


Maps = Mapping[GroupedBy, NeuronMap]
"""A map for each kind of likeness."""


def write_maps(directory: Path, checkpoint: str, maps: Maps) -> Path:
    """Put the maps into a model's folder, in place of older ones; returns the file.

    Raises:
        AtlasError: it cannot be written.
    """
    about = {
        by: {"source": one.source, "groups": [[group.name, group.neurons, group.alike] for group in one.groups]}
        for by, one in maps.items()
    }
    stamp = json.dumps({"form": _FORM, "checkpoint": checkpoint, "maps": about})
    columns = {name: np.concatenate([getattr(one, name) for one in maps.values()]) for name in _COLUMNS}
    columns["words"] = pa.array([words for one in maps.values() for words in one.words], pa.string())
    by = pa.array(np.repeat(list(maps), [len(one.neuron_ids) for one in maps.values()])).dictionary_encode()
    table = pa.table({"by": by} | columns).replace_schema_metadata({_STAMP: stamp.encode()})
    with atomic_write(directory / FILE) as temporary:
        pq.write_table(table, temporary)
    return directory / FILE


def maps_of(build: Path, checkpoint: str) -> Maps:
    """The maps beside a build; none where nobody made any, of another checkpoint, or in a file that cannot be read."""
    path = build.parent / FILE
    found = _read(path, state_of(path))
    return found[1] if found is not None and found[0] == checkpoint else {}


@lru_cache(maxsize=4)
def _read(path: Path, state: State | None) -> tuple[str, dict[GroupedBy, NeuronMap]] | None:
    """Checkpoint and maps, as they stood when the file was in this state."""
    if state is None:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):  # pyarrow's errors among them
        table = pq.read_table(path)
        stamp = json.loads(table.schema.metadata[_STAMP])
        if stamp["form"] == _FORM:
            kinds = np.array(table["by"].to_pylist())
            return str(stamp["checkpoint"]), {
                GroupedBy(by): _map(GroupedBy(by), about, table.filter(pa.array(kinds == by)))
                for by, about in stamp["maps"].items()
            }
    return None


def _map(by: GroupedBy, about: dict[str, Any], table: "pa.Table") -> NeuronMap:
    groups = tuple(Group(f"{by}-{number}", by, *one) for number, one in enumerate(about["groups"], 1))
    columns = {name: table[name].to_numpy() for name in _COLUMNS}
    return NeuronMap(**columns, words=table["words"].to_pylist(), groups=groups, source=about["source"])


def all_groups(maps: Maps, by: GroupedBy | None = None) -> tuple[Group, ...]:
    """The groups of all maps, or of one; the largest of each first.

    Raises:
        NotFoundError: nobody made any.
    """
    if not maps:
        raise NotFoundError(f"This catalogue has no groups of neurons. {AGAIN}")
    if by is not None and by not in maps:
        raise NotFoundError(f"There are no groups by {by}, only by {' and '.join(maps)}. {AGAIN}")
    return tuple(group for one in maps for group in maps[one].groups if by in (None, one))


def find_group(maps: Maps, name: str) -> Group:
    """The group of a name such as value-12.

    Raises:
        NotFoundError: there is none.
    """
    for group in all_groups(maps):
        if group.group == name.strip().lower():
            return group
    largest = ", ".join(f"{by}-1 to {by}-{len(one.groups)}" for by, one in maps.items() if one.groups)
    raise NotFoundError(f"There is no group “{name[:40]}”; there are {largest or 'none at all'}.")


def members(maps: Maps, group: Group) -> "tuple[NDArray[np.int32], NDArray[np.float32]]":
    """The ids of a group's neurons and their closeness, closest first."""
    found = maps[group.by]
    rows = np.flatnonzero(found.group == group.number)
    rows = rows[np.lexsort((rows, -found.closeness[rows]))]
    return found.neuron_ids[rows], found.closeness[rows]


def groups_with(maps: Maps, neuron_id: int) -> tuple[Group, ...]:
    """The groups that a neuron is in, at most one of each kind."""
    found = []
    for one in maps.values():
        place = int(np.searchsorted(one.neuron_ids, neuron_id))
        if place < len(one.neuron_ids) and one.neuron_ids[place] == neuron_id and one.group[place]:
            found.append(one.groups[one.group[place] - 1])
    return tuple(found)
