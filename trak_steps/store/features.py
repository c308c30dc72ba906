"""Feature stores: one for each shard of the train set and for each target set.

A group of ``features`` [n, k], ``loss_weight``, ``margin``, ``prediction`` and ``row`` [n]. The manifest
says of which data, checkpoint and projection, and of which places of the set (``start``, ``stop``).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.group import Group, new_array, new_group, put_array
from trak_steps.store.manifest import Manifest

CHUNK_BYTES = 2**21
# Of numbers that are stored as they are, with a check sum behind them.
PLAIN_CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "crc32c"},
]


class FeatureWriter:
    """Takes the features of consecutive rows, block by block, and writes every chunk once.

    Rows that do not fill a chunk wait for those that follow: at most :data:`CHUNK_BYTES`, or a row.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._n, dim = array.shape
        self._waiting = np.empty((array.chunks[0], dim), array.dtype)
        self._taken = 0
        self._columns: dict[str, list[NDArray[Any]]] = {}

    def add(self, features: NDArray[np.floating], columns: Mapping[str, NDArray[Any]]) -> None:
        """Take the rows that follow.

        Args:
            features: [b, k]; not kept.
            columns: ``loss_weight``, ``margin``, ``prediction`` and ``row``, [b] each. They are written
                at the end, in the type of the first block.

        Raises:
            ValueError: if there are more rows than the store was made for.
        """
        if self._taken + len(features) > self._n:
            raise ValueError(f"{self._taken + len(features)} rows for a store of {self._n}")
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        size = len(self._waiting)
        while len(features):
            filled = self._taken % size
            some = features[: size - filled]
            self._waiting[filled : filled + len(some)] = some
            self._taken += len(some)
            if self._taken % size == 0 or self._taken == self._n:
                start = (self._taken - 1) // size * size
                self._array[start : self._taken] = self._waiting[: self._taken - start]
            features = features[len(some) :]

    def finish(self, group: zarr.Group) -> None:
        """Write the columns. Raises ValueError if rows are missing."""
        if self._taken != self._n:
            raise ValueError(f"{self._taken} rows for a store of {self._n}")
        for name, parts in self._columns.items():
            put_array(group, name, np.concatenate(parts, dtype=parts[0].dtype), ("row",))


@contextmanager
def new_features(
    path: Path, shape: tuple[int, int], dtype: str, manifest: Manifest, codec: Mapping[str, Any]
) -> Iterator[FeatureWriter]:
    """A new feature store that appears under ``path`` when the body ends, complete or absent.

    Args:
        path: where.
        shape: n, k.
        dtype: of the features.
        manifest: of the store.
        codec: of the features (see :mod:`trak_steps.store.codecs`).
    """
    n, dim = shape
    rows = max(1, min(n, CHUNK_BYTES // (dim * np.dtype(dtype).itemsize)))
    with new_group(path, manifest) as group:
        writer = FeatureWriter(
            new_array(group, "features", shape, dtype, ("row", "dim"), chunks=(rows, dim), codec=codec)
        )
        yield writer
        writer.finish(group)


@dataclass(frozen=True)
class FeatureStore(Group):
    """The features of n rows with consecutive places, opened for reading."""

    KIND = "features"
    STEP = "`trak-steps featurize`"

    @property
    def start(self) -> int:
        """The place of its first row in the set."""
        return int(self.manifest.details["start"])

    @property
    def stop(self) -> int:
        """One past the place of its last row."""
        return int(self.manifest.details["stop"])

    @property
    def n(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    @property
    def dim(self) -> int:
        """k."""
        return int(self.manifest.settings["dim"])

    def whole(self) -> NDArray[np.floating]:
        """Features of all its rows, [n, k]."""
        return self.features(self.start, self.stop)

    def features(self, start: int, stop: int) -> NDArray[np.floating]:
        """Features of the rows with places ``start`` to ``stop`` of the set, [rows, k]."""
        shape, rows = (self.n, self.dim), slice(start - self.start, stop - self.start)
        read = PlainRows.of(self, "features", shape)
        return read(rows) if read else self.read("features", shape, rows=rows)

    def column(self, name: str) -> NDArray[Any]:
        """``loss_weight``, ``margin``, ``prediction`` or ``row`` of all its rows."""
        return self.read(name, (self.n,))


@dataclass(frozen=True)
class PlainRows:
    """Reads rows of an array that is stored as it is, chunk by chunk: in half the time that zarr takes.

    Passes over the features of all train rows take their time from it. Every file is held to its digest,
    as elsewhere, and what anything is wrong with is left for zarr to say.

    Attributes:
        store: the array's group.
        name: of the array.
        array: of rows [n, k], in chunks of whole rows.
    """

    store: Group
    name: str
    array: zarr.Array[Any]

    @classmethod
    def of(cls, store: Group, name: str, shape: tuple[int, int]) -> "PlainRows | None":
        """Of an array of a known shape; none if it is stored in another way, or not there."""
        array = store.array(name)
        if array is None or array.shape != shape or array.chunks[1] != shape[1]:
            return None
        codecs: Any = array.metadata.to_dict()["codecs"]
        return cls(store, name, array) if list(codecs) == PLAIN_CODECS else None

    def __call__(self, rows: slice) -> NDArray[np.floating]:
        """Some rows, [rows, k].

        Raises:
            TrakError: if a chunk is missing or was altered, or has numbers that are not finite.
        """
        (n, dim), size = self.array.shape, self.array.chunks[0]
        found = np.empty((rows.stop - rows.start, dim), self.array.dtype)
        for chunk in range(rows.start // size, -(-rows.stop // size)):
            values = self._chunk(chunk, size, dim)
            if values is None:
                return self.store.read(self.name, (n, dim), rows=rows)
            first = chunk * size
            start, stop = max(rows.start, first), min(rows.stop, first + size)
            found[start - rows.start : stop - rows.start] = values[start - first : stop - first]
        if not np.isfinite(found).all():
            return self.store.read(self.name, (n, dim), rows=rows)
        return found

    def _chunk(self, place: int, rows: int, dim: int) -> NDArray[np.floating] | None:
        """A whole chunk; none if anything is wrong with it."""
        name = f"{self.name}/c/{place}/0"
        try:
            data = (self.store.path / name).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != self.store.manifest.files.get(name):
            return None
        return np.frombuffer(data, self.array.dtype, rows * dim).reshape(rows, dim)


class TrainFeatures:
    """A checkpoint's shards as one set of n rows: all of the train set, or those of some shards.

    Args:
        paths: of the shards, in order.
        stop: one past the place of their last row.
        start: the place of their first row.

    Raises:
        TrakError: if a shard is missing, was made from other things than the others, or the shards
            do not cover the rows.
    """

    def __init__(self, paths: Sequence[Path], stop: int, start: int = 0) -> None:
        self.shards = [FeatureStore.open(path) for path in paths]
        self._starts = [shard.start for shard in self.shards]
        first = self.shards[0]
        place = start
        for shard in self.shards:
            shard.manifest.require(
                shard.path,
                settings=first.manifest.settings,
                version=first.manifest.version,
                by=str(first.path),
            )
            if shard.start != place:
                raise TrakError(
                    f"{shard.path}: begins at row {shard.start}, expected {place}; was it made with "
                    "another features.shard_size? delete it and rerun"
                )
            place = shard.stop
        if place != stop:
            raise TrakError(
                f"{first.path.parent}: holds {place - start} of {stop - start} train rows; rerun "
                "featurize"
            )
        self.start, self.stop, self.n = start, stop, stop - start
        self.dim = first.dim
        self.path = first.path
        self.manifest = first.manifest

    def features(self, start: int, stop: int) -> NDArray[np.floating]:
        """Features of the rows with places ``start`` to ``stop``, [rows, k]."""
        parts = []
        for shard in self.shards[max(0, bisect_right(self._starts, start) - 1) :]:
            if shard.start >= stop:
                break
            parts.append(shard.features(max(start, shard.start), min(stop, shard.stop)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def column(self, name: str) -> NDArray[Any]:
        """``loss_weight``, ``margin``, ``prediction`` or ``row`` of all rows, [n]."""
        return np.concatenate([shard.column(name) for shard in self.shards])
