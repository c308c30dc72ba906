"""What a run is made from, as the workflow asks: local files, and the contents of prepared rows.

Local files are inputs of the workflow, so that editing one reruns what is made from it. Of prepared
rows the workflow wants to know not when they were written, but what they are: a set that was
prepared anew and begins with the same rows makes nothing run again for those.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from trak_steps.config import Settings
from trak_steps.data.digests import load_digests, rows_content
from trak_steps.data.patterns import files_named, local_folder
from trak_steps.errors import TrakError
from trak_steps.model.files import ADAPTER_CONFIG, COPIED
from trak_steps.store.manifest import SEAL
from trak_steps.store.tree import MANIFEST


def local_files(settings: Settings, split: str) -> list[str]:
    """The local files that a split is read from; what is not there yet is left out."""
    dataset = settings.dataset
    named = dataset.data_files or {}
    # `train[:100]` or `train+validation` is made of the files of some splits, so all count.
    groups = [named[split]] if split in named else list(named.values())
    patterns = [p for group in groups for p in ([group] if isinstance(group, str) else group)]
    files = {file for pattern in patterns for file in files_named(pattern)}
    return sorted(files | set(_files_below(dataset.path)))


def base_files(settings: Settings) -> list[str]:
    """The local files that the model to fine-tune is made from."""
    existing, name = settings.checkpoints.existing, settings.model.name_or_path
    if not existing and name == "demo":  # its vocabulary is that of the train texts
        return local_files(settings, settings.dataset.train_split)
    return local_model(existing[0] if existing else name)


def local_model(name_or_path: str) -> list[str]:
    """The files of a model's folder, and of the folder that an adapter adapts; none for a hub id."""
    try:
        folder = Path(name_or_path).expanduser()
        if not folder.is_dir():
            return []
        files = {str(file) for pattern in COPIED for file in folder.glob(pattern) if file.is_file()}
        adapter = folder / ADAPTER_CONFIG
        base = json.loads(adapter.read_bytes()) if adapter.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no such home, or damaged: the step says so
        return []
    named = base.get("base_model_name_or_path") if isinstance(base, dict) else None
    if isinstance(named, str) and named != name_or_path:
        below = Path(named)
        if below.is_dir() and not (below / ADAPTER_CONFIG).is_file():
            files |= set(local_model(named))
    return sorted(files)


def _files_below(path: str) -> list[str]:
    """The files of a data set that is a local folder."""
    try:
        folder = local_folder(path)
        return [str(file) for file in folder.rglob("*") if file.is_file()] if folder else []
    except OSError:
        return []


def known_rows(folder: Path, start: int = 0, stop: int | None = None) -> str:
    """The digest of what models see of some rows of a prepared folder.

    Empty if they are not prepared yet, and the workflow asks again once they are. Steps check.
    """
    manifest = _manifest(folder)
    try:
        digests = load_digests(folder)[start:stop]
        return "rows " + rows_content(digests, manifest["details"]["classes_digest"])
    except (TrakError, KeyError, TypeError):
        return ""


def known_detail(folder: Path, name: str) -> str:
    """A detail of a prepared folder, its ``classes_digest`` or ``table_digest``; empty as above."""
    try:
        return f"{name} {_manifest(folder)['details'][name]}"
    except (KeyError, TypeError):
        return ""


def known_count(folder: Path, name: str) -> int | None:
    """A number in the details of a folder's manifest: its ``rows``, or its model's ``parameters``."""
    details = _manifest(folder).get("details")
    found = details.get(name) if isinstance(details, dict) else None
    return found if type(found) is int else None


def known_seal(folder: Path) -> str:
    """The seal of a prepared folder's manifest: another if anything about it is."""
    return f"seal {_manifest(folder).get(SEAL, '')}"


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        values = _read(file, file.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


@lru_cache(maxsize=64)
def _read(file: Path, changed: int) -> Any:  # noqa: ARG001 - what makes it read a changed file again
    return json.loads(file.read_text(encoding="utf-8"))
