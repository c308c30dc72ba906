"""Kernel stores: ``kernel`` [k, k] in float64, without ridge, and its Cholesky factor with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.group import new_group, open_group, put_array, read_array
from trak_steps.store.manifest import Manifest

KIND = "kernel"


def save_kernel(
    path: Path, kernel: NDArray[np.float64], factor: NDArray[np.float64], manifest: Manifest
) -> None:
    """Write a kernel store, complete or absent."""
    with new_group(path, manifest) as group:
        put_array(group, "kernel", kernel, ("dim", "dim_"), chunks=_chunks(len(kernel)))
        put_array(group, "cholesky", factor, ("dim", "dim_"), chunks=_chunks(len(kernel)))


def _chunks(dim: int) -> tuple[int, int]:
    return min(dim, 1024), dim


@dataclass(frozen=True)
class KernelStore:
    """A kernel, opened for reading."""

    path: Path
    manifest: Manifest
    cholesky: NDArray[np.float64]
    group: zarr.Group

    @classmethod
    def open(cls, path: Path) -> "KernelStore":
        """Read the factor. Raises TrakError if the store is missing or damaged."""
        group, manifest = open_group(path, KIND, step="trak-steps kernel")
        dim = int(manifest.settings["dim"])
        factor = read_array(group, path, "cholesky", (dim, dim))
        if (factor.diagonal() <= 0).any() or np.triu(factor, 1).any():
            raise TrakError(
                f"{path}: `cholesky` is no factor of a positive definite kernel; delete it and rerun"
            )
        return cls(path, manifest, factor, group)

    def kernel(self) -> NDArray[np.float64]:
        """K without ridge, [k, k]."""
        return read_array(self.group, self.path, "kernel", self.cholesky.shape)
