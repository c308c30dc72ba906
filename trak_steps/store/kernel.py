"""Kernel stores, in float64: ``kernel`` [k, k], without ridge, its Cholesky factor ``cholesky`` with it,
and ``total`` [k], the sum of the train rows' features.

Of a kernel that is summed in parts, each part has ``kernel`` and ``total`` of some rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
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
            _put(group, name, values)


def save_kernel_part(
    path: Path, kernel: NDArray[np.float64], total: NDArray[np.float64], manifest: Manifest
) -> None:
    """Write the sums over some rows, complete or absent."""
    with new_group(path, manifest) as group:
        put_array(group, "total", total, ("dim",))
        _put(group, "kernel", kernel)


def _put(group: zarr.Group, name: str, values: NDArray[np.float64]) -> None:
    dim, at_once = len(values), min(len(values), ROWS)
    array = new_array(group, name, values.shape, values.dtype, ("dim", "dim_"), chunks=(at_once, dim))
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


@dataclass(frozen=True)
class KernelPart(Group):
    """A kernel's sum over some train rows, opened for reading."""

    KIND = "kernel-part"
    STEP = "`trak-steps sum-kernel`"

    @property
    def dim(self) -> int:
        """k."""
        return int(self.manifest.settings["dim"])

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """The sum of outer products, some of its rows at a time."""
        for start in range(0, self.dim, ROWS):
            rows = slice(start, min(start + ROWS, self.dim))
            yield rows, self.read("kernel", (self.dim, self.dim), rows=rows)

    def total(self) -> NDArray[np.float64]:
        """The sum of the rows' features, [k]."""
        return self.read("total", (self.dim,))
