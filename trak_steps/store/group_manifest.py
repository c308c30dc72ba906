"""The manifest of a Zarr group, which lies in the group's own document: read without Zarr."""

from pathlib import Path

from trak_steps.store.manifest import Manifest, read_json
from trak_steps.store.tree import check_tree

DOCUMENT = "zarr.json"
AT = ("attributes", "manifest")


def group_manifest(path: Path, kind: str | None) -> Manifest:
    """The manifest of a Zarr group. Raises TrakError if it is missing, altered, or of another kind."""
    return Manifest.from_document(read_json(path / DOCUMENT, makes=str(path)), kind, path, at=AT)


def check_group(path: Path, manifest: Manifest) -> None:
    """Hold all files of a group to their digests. Raises TrakError naming the first that differs."""
    check_tree(path, manifest.files, but=(DOCUMENT,))
