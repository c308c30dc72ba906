"""JSON files of figures, with their manifest among them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest, digest_json, plain, read_json, sealed

KEY = "manifest"


def save_document(path: Path, values: Mapping[str, Any], manifest: Manifest) -> None:
    """Write figures, complete or absent; their manifest holds their digest."""
    values = plain(values)
    manifest = replace(manifest, content=digest_json(values))
    document = {**values, KEY: sealed(manifest.to_dict())}
    with complete_or_absent(path) as file:
        file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_document(path: Path, kind: str | None) -> tuple[dict[str, Any], Manifest]:
    """The figures and their manifest. Raises TrakError if they are missing or were altered."""
    values = read_json(path, makes=str(path))
    found = values.pop(KEY, None) if isinstance(values, dict) else None
    manifest = Manifest.from_document(found, kind, path)
    if digest_json(values) != manifest.content:
        raise TrakError(f"{path}: was altered after it was written; delete it and rerun")
    return values, manifest
