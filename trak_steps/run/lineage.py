"""Whether an output was made from what lies in its run now.

A manifest names what its output was made from by path in the run and by content. A part of a folder
is named after a ``#``:

* ``data/train#0:2048``: what models see of those rows;
* ``data/train#classes``: the classes, their names and order;
* ``data/train#table``: every column, texts included.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trak_steps.data.digests import load_digests, rows_content
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import is_there


class Opened(Protocol):
    """An output that is open for reading."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""


def contents(layout: Layout, *parts: Opened) -> dict[str, str]:
    """The contents of outputs by path in the run: what something is made from that is made from all."""
    return {layout.name(part.path): part.manifest.content for part in parts}


class Lineage:
    """The contents of a run's outputs, each manifest read once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._manifests: dict[str, Manifest | None] = {}
        self._digests: dict[str, NDArray[np.uint8]] = {}

    def check(self, path: Path, manifest: Manifest) -> None:
        """Refuse an output if what it was made from is there, and is not what it was.

        What is no longer there is not asked for: a finished run may be thinned out.

        Raises:
            TrakError: naming both sides.
        """
        for name in manifest.made_from:
            content = self.content(name)
            if content is not None:
                manifest.require(path, made_from={name: content})

    def content(self, name: str) -> str | None:
        """The content of a path of the run, or of a part of it; none if it is not there."""
        name, _, part = name.partition("#")
        manifest = self.manifest(name)
        if manifest is None:
            return None
        if not part:
            return manifest.content
        if part in ("classes", "table"):
            return str(manifest.details.get(f"{part}_digest", ""))
        start, _, stop = part.partition(":")
        if not (start.isdecimal() and stop.isdecimal()):
            raise TrakError(f"{name}#{part}: is not a part of an output")
        if name not in self._digests:
            self._digests[name] = load_digests(self._layout.root / name)
        digests = self._digests[name][int(start) : int(stop)]
        return rows_content(digests, str(manifest.details.get("classes_digest", "")))

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a path of the run; none if there is nothing."""
        if name not in self._manifests:
            path = self._layout.root / name
            self._manifests[name] = artefact_manifest(path) if is_there(path) else None
        return self._manifests[name]
