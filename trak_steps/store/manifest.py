"""What an output was made from, carried by the output itself and sealed.

A manifest lies in ``manifest.json`` of a folder, in the schema metadata of a parquet file, or beside the
figures of a JSON file. Its seal is a digest of all it says, so that nothing of it can change unseen; its
``files``, or the ``content`` of what is a single file, are digests of everything else.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trak_steps.errors import TrakError
from trak_steps.store.tree import MANIFEST, digest_tree, write_receipt

FORMAT = 4
SEAL = "seal"
LIBRARIES = ("trak-steps", "torch", "transformers", "tokenizers", "datasets", "zarr", "numpy", "pyarrow")


@cache
def library_versions() -> Mapping[str, str]:
    """The versions of Python and of the libraries that numbers come from."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a folder that was not installed
            found[name] = "unknown"
    return found


@dataclass(frozen=True)
class Manifest:
    """The identity of one output.

    Attributes:
        kind: ``model``, ``data``, ``checkpoint``, ``features``, ``kernel-part``, ``kernel``,
            ``weighted-sums``, ``calibration``, ``score-part``, ``scores``, ``top``, ``summary``,
            ``provenance`` or ``report``; ``plan``, ``retrained``, ``lds``, ``removal``, ``class-sums``,
            ``support``, ``picked``, ``opponents``, ``suspects`` or ``stability`` of the evaluation;
            ``state`` or ``training`` of an unfinished training.
        made_from: the content of each thing that it was made from, by its path in the run;
            ``data/train#0:100`` are rows of that set.
        settings: the settings that decide its numbers.
        version: of the step that made it: raised by hand when the numbers it writes change.
        content: a digest of what it holds: what others refer to.
        files: the SHA-256 of each of its files, by relative path.
        details: what a reader needs to know and the arrays do not say, such as label names.
        versions: of the libraries that made it; for the record, not compared.
        format: the version of the layout.
    """

    kind: str
    made_from: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    content: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=library_versions)
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Any, kind: str | None, where: Path) -> "Manifest":
        """The manifest in a document read from ``where``, after checking its seal.

        Args:
            document: what :func:`sealed` made of a manifest.
            kind: what it has to be; none takes any.
            where: for messages.

        Raises:
            TrakError: if this is no manifest of that kind, or it was altered.
        """
        if not isinstance(document, dict) or "kind" not in document:
            raise TrakError(f"{where}: has no manifest, so it was not written by this pipeline")
        if document.get("format") != FORMAT:
            raise TrakError(
                f"{where}: has layout {document.get('format')}, this version reads {FORMAT}; "
                "delete it and rerun"
            )
        if document.get(SEAL) != sealed(document)[SEAL]:
            raise TrakError(f"{where}: was altered after it was written; delete it and rerun")
        if kind is not None and document["kind"] != kind:
            raise TrakError(f"{where}: holds {document['kind']}, expected {kind}")
        parts = ("made_from", "settings", "files", "details", "versions")
        known = {field.name for field in fields(cls)}
        given = document.keys() - {SEAL}
        if given != known or not all(isinstance(document[part], dict) for part in parts):
            raise TrakError(f"{where}: its manifest is not of this layout; delete it and rerun")
        return cls(**{name: document[name] for name in known})

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``, with all digests, and the receipt into a folder with all else.

        The content is the digest of all files, unless it was given: a digest of what the files mean.
        """
        files = digest_tree(folder)
        whole = replace(self, files=files, content=self.content or digest_json(files))
        text = json.dumps(sealed(whole.to_dict()), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        write_receipt(folder, whole.content)

    @classmethod
    def load(cls, folder: Path, kind: str | None = None) -> "Manifest":
        """Read ``manifest.json`` of ``folder``. Raises TrakError if it is missing or does not fit."""
        file = folder / MANIFEST
        if folder.is_dir() and not file.exists():
            why = f"{folder.name} is not whole, or of an earlier version"
            raise TrakError(f"{file}: is missing, so {why}; delete it and rerun")
        return cls.from_document(read_json(file, makes=str(folder)), kind, file)

    def require(
        self,
        path: Path,
        *,
        made_from: Mapping[str, str] | None = None,
        nothing_else: bool = False,
        settings: Mapping[str, Any] | None = None,
        version: int | None = None,
        by: str = "the settings",
    ) -> None:
        """Refuse an output that was not made from these things, with these settings, by this version.

        Args:
            path: of the output that carries this manifest.
            made_from: contents by path; each must be among those of this manifest.
            nothing_else: whether these must be all of them.
            settings: each must be among those of this manifest.
            version: of the step.
            by: who asks, the other side of the message.

        Raises:
            TrakError: naming both sides and the first thing that differs.
        """
        advice = "delete the wrong one and rerun"
        for name, content in (made_from or {}).items():
            if name not in self.made_from:
                known = list(self.made_from)
                others = ", ".join(known[:3]) + (" …" if len(known) > 3 else "") or "nothing known"
                raise TrakError(f"{path}: was made from {others}, not from {name}; {advice}")
            if self.made_from[name] != content:
                raise TrakError(
                    f"{path}: was made from another {name} than the one here "
                    f"({_short(self.made_from[name])}, here is {_short(content)}); {advice}"
                )
        if nothing_else and (more := sorted(self.made_from.keys() - (made_from or {}).keys())):
            raise TrakError(f"{path}: was made from {more[0]} too, which is not asked for; {advice}")
        for name, value in (settings or {}).items():
            mine = self.settings.get(name)
            if mine != plain(value):
                raise TrakError(
                    f"{path}: was made with another {name} than {by} "
                    f"({_short(mine)} and {_short(value)}); {advice}"
                )
        if version is not None and version != self.version:
            raise TrakError(
                f"{path}: was made by another version of the step than {by} "
                f"({self.version} and {version}); {advice}"
            )


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's JSON values with their seal, in place of the one that they may have."""
    values = plain({name: value for name, value in manifest.items() if name != SEAL})
    return {**values, SEAL: digest_json(values)}


def digest_json(values: Any) -> str:
    """The SHA-256 of JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON gives it back: lists for tuples, texts for keys."""
    return json.loads(json.dumps(value))


def read_json(file: Path, *, makes: str) -> Any:
    """Read a JSON file that a step wrote.

    Raises:
        TrakError: if it is missing or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrakError(f"{file}: is missing; run the step that makes {makes}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TrakError(f"{file}: cannot be read ({error}); delete {makes} and rerun") from None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 24 else text[:12] + "…"
