"""Print one output: what it is, what it was made from, and whether it is as it was written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zarr

from trak_steps.errors import TrakError
from trak_steps.printable import printable
from trak_steps.store.artefact import artefact_manifest, check_artefact

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
    yield from _section("arrays", dict(_arrays(path)))
    yield from _section("versions", manifest.versions)
    yield f"  content     {manifest.content}"
    yield f"  code        {manifest.code or 'not recorded'}"
    yield f"  files       {len(manifest.files) or 1}"
    yield f"  state       {_state(path)}"


def _whole(path: Path) -> Path:
    """The output that a path is, or lies in."""
    if not path.exists():
        raise TrakError(f"{path}: there is nothing")
    for part in (path, *path.parents):
        try:
            artefact_manifest(part)
        except TrakError:
            if part.suffix == ".zarr":
                return part
            continue
        return part
    raise TrakError(f"{path}: is not an output of this pipeline; name one below results/<run>")


def _arrays(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".parquet":
        schema = pq.read_schema(path)
        yield from ((field.name, str(field.type)) for field in schema)
    if path.suffix != ".zarr":
        return
    group = zarr.open_group(path, mode="r", zarr_format=3)
    for name in sorted(entry.name for entry in path.iterdir() if (entry / "zarr.json").is_file()):
        array = group[name]
        if isinstance(array, zarr.Array):
            sizes = " × ".join(map(str, array.shape))
            names = ", ".join(str(dimension) for dimension in array.metadata.dimension_names or ())  # type: ignore[union-attr]
            yield name, f"{array.dtype} {sizes} ({names})"


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
