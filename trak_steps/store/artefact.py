"""Any output of the pipeline, whatever it is stored as: its manifest, and whether it is as written."""

from pathlib import Path

from trak_steps.errors import TrakError
from trak_steps.store.document import load_document
from trak_steps.store.manifest import Manifest
from trak_steps.store.page import page_manifest
from trak_steps.store.tree import RECEIPT, check_tree, is_there, write_receipt


def artefact_manifest(path: Path, kind: str | None = None) -> Manifest:
    """The manifest of an output.

    Raises:
        TrakError: if it is missing, has no manifest, was altered, or is of another kind.
    """
    if not is_there(path):
        raise TrakError(f"{path}: is missing; run the step that makes it")
    if path.is_dir():
        return Manifest.load(path, kind)
    if path.suffix == ".parquet":
        from trak_steps.store.table import table_manifest  # pyarrow, which the workflow needs not load

        return table_manifest(path, kind)
    if path.suffix == ".html":
        return page_manifest(path, kind)
    return load_document(path, kind)[1]


def check_artefact(path: Path, kind: str | None = None) -> Manifest:
    """The manifest of an output all of whose content was compared with it.

    Raises:
        TrakError: as above, or if anything of it is missing, damaged or altered.
    """
    found = artefact_manifest(path, kind)
    if path.is_dir():
        check_tree(path, found.files)
        _check_receipt(path, found)
    elif path.suffix == ".parquet":
        from trak_steps.store.table import load_table

        load_table(path, kind)
    return found


def _check_receipt(path: Path, manifest: Manifest) -> None:
    """Raise TrakError if a folder's receipt tells of another content than its manifest does."""
    receipt = path / RECEIPT
    if receipt.is_file() and receipt.read_bytes() != f"{manifest.content}\n".encode():
        raise TrakError(f"{receipt}: tells of other contents; delete it and rerun")


def keep(path: Path, wanted: Manifest) -> bool:
    """Whether an output is there, whole, and was made from what a new one would be made from.

    Then it is kept where the workflow asks for it again: after a change that turned out to be none,
    after an upgrade, or beside another output of the same job. Its receipt is written anew.

    Args:
        path: of the output.
        wanted: what it would be made from, with which settings and which version of the step; settings
            that only the work itself finds out may be left out.
    """
    if not is_there(path):
        return False
    try:
        found = check_artefact(path, wanted.kind)
        found.require(
            path,
            made_from=wanted.made_from,
            nothing_else=True,
            settings=wanted.settings,
            version=wanted.version,
        )
    except TrakError:
        return False
    if path.is_dir():
        write_receipt(path, found.content)
    return True
