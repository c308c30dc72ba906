"""Any output of the pipeline, whatever it is stored as: its manifest, and whether it is as written."""

from pathlib import Path

from trak_steps.errors import TrakError
from trak_steps.store import document, table
from trak_steps.store.folder import check_folder
from trak_steps.store.group_manifest import check_group, group_manifest
from trak_steps.store.manifest import Manifest


def artefact_manifest(path: Path, kind: str | None = None) -> Manifest:
    """The manifest of an output.

    Raises:
        TrakError: if it is missing, has no manifest, was altered, or is of another kind.
    """
    if not path.exists():
        raise TrakError(f"{path}: is missing; run the step that makes it")
    if path.suffix == ".zarr":
        return group_manifest(path, kind)
    if path.is_dir():
        return Manifest.load(path, kind)
    if path.suffix == ".parquet":
        return table.table_manifest(path, kind)
    return document.load_document(path, kind)[1]


def check_artefact(path: Path, kind: str | None = None) -> Manifest:
    """The manifest of an output all of whose content was compared with it.

    Raises:
        TrakError: as above, or if anything of it is missing, damaged or altered.
    """
    found = artefact_manifest(path, kind)
    if path.suffix == ".zarr":
        check_group(path, found)
    elif path.is_dir():
        check_folder(path, kind)
    elif path.suffix == ".parquet":
        table.load_table(path, kind)
    return found
