"""Pages, HTML in a single file, with their manifest among what it holds."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest, sealed

# Where a page's manifest goes.
PLACE = '<script type="application/json" id="manifest"></script>'
_OPENING, _CLOSING = PLACE.split(">", 1)[0] + ">", "</script>"
_FOUND = re.compile(re.escape(_OPENING) + "(.*?)" + re.escape(_CLOSING), re.DOTALL)


def save_page(path: Path, page: str, manifest: Manifest) -> None:
    """Write a page that has a :data:`PLACE`, complete or absent; its manifest holds its digest."""
    before, after = page.split(PLACE)
    manifest = replace(manifest, content=_digest(page))
    # No text of a manifest can end the element that it stands in.
    document = json.dumps(sealed(manifest.to_dict()), sort_keys=True).replace("<", "\\u003c")
    with complete_or_absent(path) as file:
        text = f"{before}{_OPENING}{document}{_CLOSING}{after}"
        file.write_text(text, encoding="utf-8", newline="\n")


def page_manifest(path: Path, kind: str | None) -> Manifest:
    """The manifest of a page that is as it was written.

    Raises:
        TrakError: if it is missing, has no manifest, was altered, or is of another kind.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TrakError(f"{path}: is missing; run the step that makes it") from None
    except (OSError, ValueError) as error:
        raise TrakError(f"{path}: cannot be read ({error}); delete it and rerun") from None
    found = _FOUND.search(text)
    try:
        document = json.loads(found[1]) if found else None
    except ValueError:
        document = None
    manifest = Manifest.from_document(document, kind, path)
    if _digest(_FOUND.sub(PLACE, text, count=1)) != manifest.content:
        raise TrakError(f"{path}: was altered after it was written; delete it and rerun")
    return manifest


def _digest(page: str) -> str:
    return hashlib.sha256(page.encode()).hexdigest()
