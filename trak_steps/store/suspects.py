"""What wrong labels are found by, where the train set is looked at in parts.

* ``class-sums``: of some rows, ``sums`` [m, c, k], the sum of the features of each class by each
  checkpoint, and ``sizes`` [c], of how many rows.
* ``support``: of some rows, by the checkpoints of a job, what the measures of suspicion are made of, [r]
  each; those of all jobs add up.
* ``picked``: the suspects, most suspicious first: ``place`` in the train set, [q]; by each checkpoint
  ``features`` [m, q, k] and ``prediction`` [m, q].
* ``opponents``: of some rows, the strongest that argue against each suspect: ``place``, ``score`` and
  ``std`` [q, a].

All that is said of several checkpoints is in their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.store.group import Group, new_array, new_group
from trak_steps.store.manifest import Manifest


def save_arrays(
    path: Path, arrays: Mapping[str, tuple[NDArray[Any], tuple[str, ...]]], manifest: Manifest
) -> None:
    """Write arrays, each with its dimensions, complete or absent; by checkpoint a chunk each."""
    with new_group(path, manifest) as group:
        for name, (values, dimensions) in arrays.items():
            first = 1 if dimensions[0] == "checkpoint" else len(values)
            chunks = tuple(max(1, extent) for extent in (first, *values.shape[1:]))
            array = new_array(group, name, values.shape, values.dtype, dimensions, chunks=chunks)
            array[...] = values


@dataclass(frozen=True)
class ClassSums(Group):
    """Class sums of some rows, opened for reading."""

    KIND = "class-sums"
    STEP = "`trak-steps sum-classes`"

    def of_checkpoint(self, place: int, checkpoints: int, classes: int) -> NDArray[np.float64]:
        """The sum of the features of each class, [c, k]."""
        shape = (checkpoints, classes, int(self.manifest.settings["dim"]))
        found: NDArray[np.float64] = self.read("sums", shape, rows=slice(place, place + 1))[0]
        return found

    def sizes(self, classes: int) -> NDArray[np.int64]:
        """How many rows of each class there are, [c]."""
        return self.read("sizes", (classes,))


@dataclass(frozen=True)
class Support(Group):
    """What the measures of suspicion of some rows are made of, opened for reading."""

    KIND = "support"
    STEP = "`trak-steps find-support`"

    def column(self, name: str) -> NDArray[np.float64]:
        """A number of each of its rows, [r]."""
        start, stop = self.manifest.details["rows"]
        return self.read(name, (stop - start,))


@dataclass(frozen=True)
class Picked(Group):
    """The suspects, opened for reading."""

    KIND = "picked"
    STEP = "`trak-steps pick-suspects`"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(m, q, k)."""
        details, settings = self.manifest.details, self.manifest.settings
        return len(settings["checkpoints"]), int(details["suspects"]), int(settings["dim"])

    def place(self) -> NDArray[np.int64]:
        """Where they are in the train set, [q]."""
        return self.read("place", (self.shape[1],))

    def features(self, place: int) -> NDArray[np.float32]:
        """By the checkpoint at a place among all, [q, k]."""
        found: NDArray[np.float32] = self.read("features", self.shape, rows=slice(place, place + 1))[0]
        return found

    def prediction(self) -> NDArray[np.int64]:
        """The class that each checkpoint gives each, [m, q]."""
        return self.read("prediction", self.shape[:2])


@dataclass(frozen=True)
class Opponents(Group):
    """The strongest of some rows against each suspect, opened for reading."""

    KIND = "opponents"
    STEP = "`trak-steps find-opponents`"

    def listed(self, name: str, suspects: int, count: int) -> NDArray[Any]:
        """``place``, ``score`` or ``std``, [q, a]. Scores are infinite where fewer argue against one."""
        return self.read(name, (suspects, count), finite=False)
