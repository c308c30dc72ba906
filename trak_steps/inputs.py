"""What a run is made from, as the workflow asks: local files, and the contents of prepared rows.

Local files are inputs of the workflow, so that editing one reruns what is made from it. Of prepared
rows the workflow wants to know not when they were written, but what they are: a set that was
prepared anew and begins with the same rows makes nothing run again for those.
"""

import json
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

from trak_steps.config import Settings
from trak_steps.data.digests import load_digests, rows_content
from trak_steps.errors import TrakError
from trak_steps.store.manifest import FILE

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


def local_files(settings: Settings, split: str) -> list[str]:
    """The files of a split that ``dataset.data_files`` names; what is not there yet is left out."""
    patterns = (settings.dataset.data_files or {}).get(split, [])
    found = [glob(p) for p in ([patterns] if isinstance(patterns, str) else patterns) if "://" not in p]
    return sorted(file for files in found for file in files)


def local_model(name_or_path: str) -> list[str]:
    """The files of a model's folder; none for a hub id or the demo's model."""
    try:
        folder = Path(name_or_path).expanduser()
        if not folder.is_dir():
            return []
    except (OSError, RuntimeError):  # no such home, or no name that a file can have: the step says so
        return []
    return sorted(str(file) for pattern in MODEL_FILES for file in folder.glob(pattern))


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
    """A detail of a prepared folder: ``classes_digest``, ``table_digest`` or how many ``rows``."""
    try:
        return f"{name} {_manifest(folder)['details'][name]}"
    except (KeyError, TypeError):
        return ""


def _manifest(folder: Path) -> Any:
    file = folder / FILE
    try:
        return _read(file, file.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=64)
def _read(file: Path, changed: int) -> Any:  # noqa: ARG001 - what makes it read a changed file again
    return json.loads(file.read_text(encoding="utf-8"))
