"""Zarr groups with a manifest, written complete or absent and read with checks."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.group_manifest import AT, DOCUMENT, group_manifest
from trak_steps.store.manifest import Manifest, digest_json, sealed
from trak_steps.store.tree import digest_tree, is_there, write_receipt
from trak_steps.store.verified import AlteredError, VerifiedStore

PLAIN = codec_arguments("none", 0, "float32")


@contextmanager
def new_group(
    path: Path, manifest: Manifest, attributes: Mapping[str, Any] | None = None
) -> Iterator[zarr.Group]:
    """A new Zarr group (format 3) that appears under ``path`` when the body ends."""
    with complete_or_absent(path) as temporary:
        yield zarr.create_group(temporary, zarr_format=3, attributes=dict(attributes or {}))
        _seal(temporary, manifest)


def _seal(folder: Path, manifest: Manifest) -> None:
    """Put the manifest, with the digests of all that was written, into the group's document."""
    files = digest_tree(folder, but=(DOCUMENT,))
    whole = {**manifest.to_dict(), "files": files, "content": digest_json(files)}
    document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    document["attributes"] = {**document.get("attributes", {}), "manifest": whole}
    text = json.dumps(sealed(document, AT), indent=1)
    (folder / DOCUMENT).write_text(text + "\n", encoding="utf-8")
    write_receipt(folder, whole["content"])


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
    """An array to be written. Floats that never are read as NaN, never as zero."""
    return group.create_array(
        name,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=chunks or tuple(max(1, extent) for extent in shape),
        dimension_names=dimensions,
        fill_value=np.nan if np.dtype(dtype).kind == "f" else 0,
        attributes=dict(attributes or {}),
        # Zeros are numbers like others: every chunk is written, so that one that is missing is damage.
        config={"write_empty_chunks": True},
        **codec,
    )


def put_array(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dimensions: tuple[str, ...],
    *,
    chunks: tuple[int, ...] | None = None,
    codec: Mapping[str, Any] = PLAIN,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a whole array."""
    array = new_array(
        group,
        name,
        values.shape,
        values.dtype,
        dimensions,
        chunks=chunks,
        codec=codec,
        attributes=attributes,
    )
    array[...] = values


def open_group(path: Path, kind: str, *, step: str) -> tuple[zarr.Group, Manifest]:
    """Open a store for reading: what is read of it is held to the manifest's digests.

    Raises:
        TrakError: if it is missing, altered, damaged, or of another kind.
    """
    if not is_there(path):
        raise TrakError(f"{path}: is missing; run `{step}` first")
    manifest = group_manifest(path, kind)
    try:
        store = VerifiedStore.at(path, manifest.files, DOCUMENT)
        return zarr.open_group(store, mode="r", zarr_format=3), manifest
    except Exception as error:  # damaged metadata makes zarr raise many kinds
        raise TrakError(f"{path}: cannot be read ({error}); delete it and rerun {step}") from error


def read_array(
    group: zarr.Group,
    path: Path,
    name: str,
    shape: tuple[int, ...],
    *,
    rows: slice = slice(None),
    finite: bool = True,
) -> NDArray[Any]:
    """Read an array, or some of its rows, of a known shape.

    Raises:
        TrakError: if it is missing, has another shape, is damaged, or holds what is not finite.
    """
    try:
        array = group[name]
        if not isinstance(array, zarr.Array):
            raise TypeError(f"{name} is not an array")
        if array.shape != shape:
            raise TrakError(
                f"{path}: `{name}` has shape {array.shape}, expected {shape}; delete it and rerun"
            )
        values = np.asarray(array[rows])
    except TrakError:
        raise
    except AlteredError as error:
        raise TrakError(f"{path}: {error}; delete it and rerun") from None
    except Exception as error:  # a damaged chunk makes zarr and its codecs raise many kinds
        raise TrakError(
            f"{path}: `{name}` is damaged ({type(error).__name__}: {error}); delete it and rerun"
        ) from error
    if finite and values.dtype.kind == "f" and not np.isfinite(values).all():
        raise TrakError(f"{path}: `{name}` has missing or non-finite numbers; delete it and rerun")
    return values
