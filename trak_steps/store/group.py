"""Zarr groups with a manifest, written complete or absent and read with checks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.storage import LocalStore

from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import is_there
from trak_steps.store.verified import AlteredError, VerifiedStore

PLAIN = codec_arguments("none", 0, "float32")


@contextmanager
def new_group(
    path: Path, manifest: Manifest, attributes: Mapping[str, Any] | None = None
) -> Iterator[zarr.Group]:
    """A new Zarr group (format 3) that appears under ``path`` when the body ends.

    Its content is the digest of all files: what the manifest says of it is not taken over.
    """
    with complete_or_absent(path) as temporary:
        yield zarr.create_group(temporary, zarr_format=3, attributes=dict(attributes or {}))
        replace(manifest, content="").save(temporary)


def new_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    dimensions: tuple[str, ...],
    *,
    chunks: tuple[int, ...] | None = None,
    codec: Mapping[str, Any] = PLAIN,
    attributes: Mapping[str, Any] | None = None,
) -> zarr.Array[Any]:
    """An array to be written. Floats that never are read as NaN, never as zero.

    A chunk of nothing else takes no place on the disk; of others the manifest knows that they are there.
    """
    return group.create_array(
        name,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=chunks or tuple(max(1, extent) for extent in shape),
        dimension_names=dimensions,
        fill_value=np.nan if np.dtype(dtype).kind == "f" else 0,
        attributes=dict(attributes or {}),
        **codec,
    )


def put_array(group: zarr.Group, name: str, values: NDArray[Any], dimensions: tuple[str, ...]) -> None:
    """Write a whole array."""
    new_array(group, name, values.shape, values.dtype, dimensions)[...] = values


@dataclass(frozen=True)
class Group:
    """A Zarr group, opened for reading: what is read of it is held to the manifest's digests.

    Those of one kind say with which step they are made.
    """

    path: Path
    manifest: Manifest
    group: zarr.Group
    # Opened once: what they are is read from a file of its own.
    _arrays: dict[str, zarr.Array[Any]] = field(default_factory=dict, compare=False, repr=False)

    KIND: ClassVar[str | None] = None
    STEP: ClassVar[str] = "the step that makes it"

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a group. Raises TrakError if it is missing, altered, damaged, or of another kind."""
        if not is_there(path):
            raise TrakError(f"{path}: is missing; run {cls.STEP} first")
        manifest = Manifest.load(path, cls.KIND)
        try:
            store = VerifiedStore(LocalStore(path, read_only=True), manifest.files)
            return cls(path, manifest, zarr.open_group(store, mode="r", zarr_format=3))
        except Exception as error:  # damaged metadata makes zarr raise many kinds
            raise TrakError(f"{path}: cannot be read ({error}); delete it and rerun") from error

    def array(self, name: str) -> zarr.Array[Any] | None:
        """An array that was read before, or can be opened; none if it is missing or damaged."""
        try:
            return self._opened(name)
        except Exception:  # damaged metadata makes zarr raise many kinds; reading says which
            return None

    def _opened(self, name: str) -> zarr.Array[Any]:
        """An array, opened once; anything else raises what zarr raises, or TypeError."""
        if name not in self._arrays:
            found = self.group[name]
            if not isinstance(found, zarr.Array):
                raise TypeError(f"{name} is not an array")
            self._arrays[name] = found
        return self._arrays[name]

    def read(
        self, name: str, shape: tuple[int, ...], *, rows: slice = slice(None), finite: bool = True
    ) -> NDArray[Any]:
        """Read an array, or some of its rows, of a known shape.

        Raises:
            TrakError: if it is missing, has another shape, is damaged, or holds what is not finite.
        """
        here = f"{self.path}: `{name}`"
        try:
            array = self._opened(name)
            values = np.asarray(array[rows]) if array.shape == shape else None
        except AlteredError as error:
            raise TrakError(f"{self.path}: {error}; delete it and rerun") from None
        except Exception as error:  # a damaged chunk makes zarr and its codecs raise many kinds
            raise TrakError(
                f"{here} is damaged ({type(error).__name__}: {error}); delete it and rerun"
            ) from error
        if values is None:
            raise TrakError(f"{here} has shape {array.shape}, expected {shape}; delete it and rerun")
        if finite and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise TrakError(f"{here} has missing or non-finite numbers; delete it and rerun")
        return values
