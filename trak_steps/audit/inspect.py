"""Print one output: what it is, what it was made from, and whether it is as it was written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zarr

from trak_steps.console.printable import printable
from trak_steps.errors import TrakError
from trak_steps.store.artefact import artefact_manifest, check_artefact
from trak_steps.store.group import Group
from trak_steps.store.manifest import Manifest

MANY = 8
LONG = 100


def describe(path: Path) -> Iterator[str]:
    """Lines that describe an output.

    Args:
        path: of an output, or of a file within one.

    Raises:
        TrakError: if it is not an output of this pipeline.
    """
    path = _whole(path)
    manifest = artefact_manifest(path)
    yield f"{path}: {manifest.kind}"
    yield from _section("made from", manifest.made_from)
    yield from _section("settings", manifest.settings)
    yield from _section("details", manifest.details)
    yield from _section("arrays", _arrays(path, manifest))
    yield from _section("versions", manifest.versions)
    yield f"  content     {manifest.content}"
    yield f"  version     {manifest.version}"
    yield f"  files       {len(manifest.files) or 1}"
    yield f"  state       {_state(path)}"


def _whole(path: Path) -> Path:
    """The output that a path is, or lies in."""
    try:
        if not path.exists():
            raise TrakError(f"{path}: there is nothing")
    except OSError as error:
        raise TrakError(f"{printable(str(path), LONG)}: {error.strerror}") from None
    for part in (path, *path.parents):
        try:
            artefact_manifest(part)
        except TrakError:
            if part.suffix == ".zarr":
                return part
            continue
        return part
    raise TrakError(f"{path}: is not an output of this pipeline; name one below results/<run>")


def _arrays(path: Path, manifest: Manifest) -> dict[str, str]:
    """What an output's arrays or columns are; nothing of one that cannot be read, as its state says."""
    if path.suffix == ".parquet":
        return {field.name: str(field.type) for field in pq.read_schema(path)}
    found = {}
    if path.suffix == ".zarr":
        try:
            group = Group.open(path).group
            names = [name.removesuffix("/zarr.json") for name in manifest.files if "/zarr.json" in name]
            for name in sorted(names):
                array = group[name]
                if isinstance(array, zarr.Array):
                    sizes = " × ".join(map(str, array.shape))
                    dimensions = getattr(array.metadata, "dimension_names", None) or ()
                    found[name] = f"{array.dtype} {sizes} ({', '.join(map(str, dimensions))})"
        except Exception:  # damaged metadata makes zarr raise many kinds
            return {}
    return found


def _state(path: Path) -> str:
    try:
        check_artefact(path)
    except TrakError as error:
        return str(error)
    return "as it was written"


def _section(title: str, values: Any) -> Iterator[str]:
    """A title and a line for each value, the first few if there are many."""
    items = list(values.items())
    for i, (name, value) in enumerate(items[:MANY] if len(items) > 2 * MANY else items):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"  {title if i == 0 else '':<11} {printable(name, LONG)}: {printable(text, LONG)}"
    if len(items) > 2 * MANY:
        yield f"  {'':<11} … and {len(items) - MANY} more"
