"""Kernel stores, in float64: ``kernel`` [k, k], without ridge, its Cholesky factor ``cholesky`` with it,
and ``total`` [k], the sum of the train rows' features.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.group import Group, new_array, new_group, put_array
from trak_steps.store.manifest import Manifest

# Of a chunk. Each is written, and encoded, by itself.
ROWS = 1024


def save_kernel(
    path: Path,
    kernel: NDArray[np.float64],
    factor: NDArray[np.float64],
    total: NDArray[np.float64],
    manifest: Manifest,
) -> None:
    """Write a kernel store, complete or absent."""
    with new_group(path, manifest) as group:
        put_array(group, "total", total, ("dim",))
        for name, values in (("kernel", kernel), ("cholesky", factor)):
            dim, at_once = len(values), min(len(values), ROWS)
            array = new_array(
                group, name, values.shape, values.dtype, ("dim", "dim_"), chunks=(at_once, dim)
            )
            # Chunk by chunk: all at once would be encoded beside each other.
            for start in range(0, dim, at_once):
                array[start : start + at_once] = values[start : start + at_once]


@dataclass(frozen=True)
class KernelStore(Group):
    """A kernel, opened for reading. Its arrays are read when asked for and not kept: steps open many."""

    KIND = "kernel"
    STEP = "`trak-steps kernel`"

    @property
    def dim(self) -> int:
        """k."""
        return int(self.manifest.settings["dim"])

    @property
    def cholesky(self) -> NDArray[np.float64]:
        """The lower factor of K with its ridge, [k, k], read anew each time.

        Raises:
            TrakError: if it is damaged, or no such factor.
        """
        factor = self.read("cholesky", (self.dim, self.dim))
        # Row by row, for a triangle taken out of it would be another [k, k].
        above = any(row[place + 1 :].any() for place, row in enumerate(factor))
        if (factor.diagonal() <= 0).any() or above:
            raise TrakError(
                f"{self.path}: `cholesky` is no factor of a positive definite kernel; delete it and "
                "rerun"
            )
        return factor

    def kernel(self) -> NDArray[np.float64]:
        """K without ridge, [k, k]."""
        return self.read("kernel", (self.dim, self.dim))

    def total(self) -> NDArray[np.float64]:
        """The sum of the train rows' features, [k]."""
        return self.read("total", (self.dim,))
