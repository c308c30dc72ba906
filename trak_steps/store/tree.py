"""The files of a folder, by digest: whether all are there, as they were, and no others."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from trak_steps.errors import TrakError

# In every folder that is a whole output: what it is and holds (see :mod:`~.store.manifest`).
MANIFEST = "manifest.json"
# Also there, and what the workflow waits for: the digest of its content. It is
# deleted when a job is to run again; the output stays, and the job keeps it if it still fits.
RECEIPT = "done"


def is_there(path: Path) -> bool:
    """Whether there is an output: a file, or a folder with more than a receipt or hidden files."""
    if not path.is_dir():
        return path.exists()
    return any(not file.name.startswith(".") and file.name != RECEIPT for file in path.iterdir())


def write_receipt(folder: Path, content: str) -> None:
    """Say that a folder is whole, unless it says so already."""
    text = f"{content}\n"
    receipt = folder / RECEIPT
    if not receipt.is_file() or receipt.read_text(encoding="utf-8") != text:
        receipt.write_text(text, encoding="utf-8")


def digest_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_files(folder: Path) -> list[str]:
    """The relative paths of all files below a folder; hidden ones, manifest and receipt do not count."""
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(path).relative_to(folder)
        found += [(below / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(name for name in found if name not in (MANIFEST, RECEIPT))


def digest_tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a folder, by relative path."""
    return {name: digest_file(folder / name) for name in tree_files(folder)}


def check_tree(
    folder: Path, files: Mapping[str, str], *, only: Callable[[str], bool] | None = None
) -> None:
    """Compare a folder with what a manifest says of it.

    Args:
        folder: where.
        files: SHA-256 by relative path.
        only: which of the listed files to read, if not all; that they are there, and no others, is
            always checked.

    Raises:
        TrakError: naming the first file that is missing, altered, or does not belong.
    """
    found = set(tree_files(folder))
    if missing := sorted(files.keys() - found):
        raise TrakError(f"{folder}: its {missing[0]} is missing; delete the folder and rerun")
    if strange := sorted(found - files.keys()):
        raise TrakError(f"{folder}: {strange[0]} does not belong to it; delete that file, or rerun")
    for name, digest in files.items():
        if only is None or only(name):
            check_file(folder, name, digest)


def check_file(folder: Path, name: str, digest: str) -> None:
    """Raise TrakError if a file of a folder cannot be read or differs from its digest."""
    try:
        found = digest_file(folder / name)
    except OSError as error:
        raise TrakError(f"{folder}: its {name} cannot be read ({error.strerror or error})") from None
    if found != digest:
        raise TrakError(
            f"{folder}: its {name} is damaged or was altered after it was written; "
            "delete the folder and rerun"
        )
