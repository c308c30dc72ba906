"""Feature stores: one for each shard of the train set and for each target set.

A group of ``features`` [n, k], ``loss_weight``, ``margin``, ``prediction`` and ``row`` [n]. The manifest
says of which data, checkpoint and projection, and of which places of the set (``start``, ``stop``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.group import new_group, open_group, put_array, read_array
from trak_steps.store.manifest import Manifest

KIND = "features"
CHUNK_BYTES = 2**21


def save_features(
    path: Path,
    features: NDArray[np.floating],
    columns: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    codec: Mapping[str, Any],
) -> None:
    """Write a feature store, complete or absent.

    Args:
        path: where.
        features: [n, k].
        columns: ``loss_weight``, ``margin``, ``prediction`` and ``row``, [n] each.
        manifest: goes into the attributes.
        codec: of the features (see :mod:`trak_steps.store.codecs`).
    """
    n, dim = features.shape
    rows = max(1, min(n, CHUNK_BYTES // (dim * features.itemsize)))
    with new_group(path, manifest) as group:
        put_array(group, "features", features, ("row", "dim"), chunks=(rows, dim), codec=codec)
        for name, values in columns.items():
            put_array(group, name, values, ("row",))


@dataclass(frozen=True)
class FeatureStore:
    """The features of n rows with consecutive places, opened for reading."""

    path: Path
    manifest: Manifest
    group: zarr.Group

    @classmethod
    def open(cls, path: Path) -> "FeatureStore":
        """Open a store. Raises TrakError if it is missing or damaged."""
        group, manifest = open_group(path, KIND, step="trak-steps featurize")
        return cls(path, manifest, group)

    @property
    def start(self) -> int:
        """The place of its first row in the set."""
        return int(self.manifest.details["start"])

    @property
    def stop(self) -> int:
        """One past the place of its last row."""
        return int(self.manifest.details["stop"])

    @property
    def dim(self) -> int:
        """k."""
        return int(self.manifest.settings["dim"])

    def features(self, start: int, stop: int) -> NDArray[np.floating]:
        """Features of the rows with places ``start`` to ``stop`` of the set, [rows, k]."""
        n = self.stop - self.start
        rows = slice(start - self.start, stop - self.start)
        return read_array(self.group, self.path, "features", (n, self.dim), rows=rows)

    def column(self, name: str) -> NDArray[Any]:
        """``loss_weight``, ``margin``, ``prediction`` or ``row`` of all its rows."""
        return read_array(self.group, self.path, name, (self.stop - self.start,))


class TrainFeatures:
    """A checkpoint's shards as one set of n rows.

    Raises:
        TrakError: if a shard is missing, was made from other things than the others, or the shards
            do not cover the rows.
    """

    def __init__(self, paths: Sequence[Path], n: int) -> None:
        self.shards = [FeatureStore.open(path) for path in paths]
        first = self.shards[0]
        place = 0
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
        if place != n:
            raise TrakError(f"{first.path.parent}: holds {place} of {n} train rows; rerun featurize")
        self.n = n
        self.dim = first.dim
        self.path = first.path
        self.manifest = first.manifest

    def features(self, start: int, stop: int) -> NDArray[np.floating]:
        """Features of the rows with places ``start`` to ``stop``, [rows, k]."""
        parts = [
            shard.features(max(start, shard.start), min(stop, shard.stop))
            for shard in self.shards
            if shard.start < stop and start < shard.stop
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def column(self, name: str) -> NDArray[Any]:
        """``loss_weight``, ``margin``, ``prediction`` or ``row`` of all rows, [n]."""
        return np.concatenate([shard.column(name) for shard in self.shards])
