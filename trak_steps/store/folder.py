"""Outputs that are folders with a manifest, such as a checkpoint or the save of a training."""

from pathlib import Path

from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import check_tree


def check_folder(path: Path, kind: str | None = None) -> Manifest:
    """The manifest of a folder all of whose files were compared with it.

    Raises:
        TrakError: if it is missing, of another kind, or anything of it is missing or altered.
    """
    manifest = Manifest.load(path, kind)
    check_tree(path, manifest.files)
    return manifest
