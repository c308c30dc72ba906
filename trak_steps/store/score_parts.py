"""Parts of scores: what a job found of some train rows and some targets of a set.

For each side, ``proponent`` and ``opponent``, the strongest rows of each target, strongest first:
``<side>_place`` in the train set, ``<side>_score`` and ``<side>_std`` [t, top]; and ``<side>_counts``
[t, bins], by which ranks are found. Of the targets ``root``, about the root mean square of their scores,
``margin`` and ``sum`` of each training, [trainings, t]; of the rows ``loss_weight``, the mean over
checkpoints, [r]. Where they are kept, ``scores`` and ``std`` [r, t] of all rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from trak_steps.store.codecs import codec_arguments
from trak_steps.store.group import Group, new_array, new_group
from trak_steps.store.manifest import Manifest

# Of a chunk of a matrix: half a megabyte, so that neither a row nor a target reads much else.
CHUNK_ROWS, CHUNK_TARGETS = 1024, 128
_PACKED = codec_arguments("zstd", 0, "float32")


class PartWriter:
    """Takes what is found while scores of a part stream by.

    Of scores that are kept, rows that do not fill a chunk wait for those that follow.

    Args:
        group: of the part.
        arrays: of all rows' scores, by name.
    """

    def __init__(self, group: zarr.Group, arrays: Mapping[str, zarr.Array[Any]]) -> None:
        self._group, self._arrays = group, arrays
        self._waiting: dict[tuple[str, int], list[NDArray[np.float32]]] = {}

    @property
    def kept(self) -> Iterable[str]:
        """What is kept of all rows: of ``scores`` and ``std``."""
        return self._arrays

    def add(self, name: str, start: int, first: int, values: NDArray[np.float32]) -> None:
        """Take what is kept, [r, t]: rows from ``start`` on, in order, for targets from ``first`` on.

        The same targets come together each time.
        """
        waiting = self._waiting.setdefault((name, first), [])
        waiting.append(values)
        array, stop = self._arrays[name], start + len(values)
        if stop % CHUNK_ROWS and stop < array.shape[0]:
            return
        whole = np.concatenate(waiting)
        array[stop - len(whole) : stop, first : first + whole.shape[1]] = whole
        waiting.clear()

    def put(self, name: str, values: NDArray[Any], dimensions: tuple[str, ...]) -> None:
        """Write what is known of all targets."""
        array = new_array(self._group, name, values.shape, values.dtype, dimensions, codec=_PACKED)
        array[...] = values


def new_matrix(
    group: zarr.Group, names: Iterable[str], shape: tuple[int, int], attributes: Mapping[str, Any]
) -> dict[str, zarr.Array[Any]]:
    """Arrays of a number for every train row and target, to be written."""
    rows, targets = shape
    return {
        name: new_array(
            group,
            name,
            shape,
            "float32",
            ("train", "target"),
            chunks=(min(rows, CHUNK_ROWS), min(targets, CHUNK_TARGETS)),
            attributes=attributes,
        )
        for name in names
    }


@contextmanager
def new_part(
    path: Path, shape: tuple[int, int], matrix: Iterable[str], manifest: Manifest
) -> Iterator[PartWriter]:
    """A new part that appears under ``path`` when the body ends, complete or absent.

    Args:
        path: where.
        shape: r, t.
        matrix: which of ``scores`` and ``std`` of all rows are kept.
        manifest: of the part.
    """
    with new_group(path, manifest) as group:
        yield PartWriter(group, new_matrix(group, matrix, shape, {}))


@dataclass(frozen=True)
class ScorePart(Group):
    """A part, opened for reading."""

    KIND = "score-part"
    STEP = "`trak-steps score`"

    @property
    def shape(self) -> tuple[int, int]:
        """(r, t)."""
        rows, targets = self.manifest.details["rows"], self.manifest.details["targets"]
        return rows[1] - rows[0], targets[1] - targets[0]

    def listed(self, side: str, name: str, top: int) -> NDArray[Any]:
        """``place``, ``score`` or ``std`` of the strongest rows of a side, [t, top]."""
        return self.read(f"{side}_{name}", (self.shape[1], top), finite=name != "std")

    def counts(self, side: str, bins: int) -> NDArray[np.int64]:
        """By which ranks are found, [t, bins]."""
        return self.read(f"{side}_counts", (self.shape[1], bins))

    def of_targets(self, name: str) -> NDArray[Any]:
        """``root``, [t]."""
        return self.read(name, self.shape[1:])

    def of_trainings(self, name: str, trainings: int) -> NDArray[Any]:
        """``margin`` or ``sum`` of each training, [trainings, t]."""
        return self.read(name, (trainings, self.shape[1]))

    def loss_weight(self) -> NDArray[np.floating]:
        """The mean over checkpoints of its rows' loss weights, [r]."""
        return self.read("loss_weight", self.shape[:1])

    def matrix(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """``scores`` or ``std`` of some of its rows, [rows, t]."""
        return self.read(name, self.shape, rows=slice(start, stop), finite=name == "scores")
