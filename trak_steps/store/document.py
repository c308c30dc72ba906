"""JSON files of figures, with a manifest beside them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest, digest_json, read_json, sealed

AT = ("manifest",)


def save_document(path: Path, values: Mapping[str, Any], manifest: Manifest) -> None:
    """Write figures, complete or absent, and sealed."""
    manifest = replace(manifest, content=digest_json(values))
    document = sealed({**values, "manifest": manifest.to_dict()}, AT)
    with complete_or_absent(path) as file:
        file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_document(path: Path, kind: str | None) -> tuple[dict[str, Any], Manifest]:
    """The figures and their manifest. Raises TrakError if they are missing or were altered."""
    document = read_json(path, makes=str(path))
    manifest = Manifest.from_document(document, kind, path, at=AT)
    return {name: value for name, value in document.items() if name != "manifest"}, manifest
