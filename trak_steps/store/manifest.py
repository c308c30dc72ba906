"""What an output was made from, carried by the output itself."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trak_steps import __version__
from trak_steps.errors import TrakError

FORMAT = 1
FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The identity of one output.

    Attributes:
        kind: ``model``, ``data``, ``checkpoint``, ``features``, ``kernel`` or ``scores``.
        made_from: the digest of each thing it was made from, by name.
        settings: the settings that decide its numbers.
        content: a digest of what it holds, where a step later refers to it by digest.
        details: what a reader needs to know and the arrays do not say, such as label names.
        version: the version of this package that wrote it.
        format: the version of the layout.
    """

    kind: str
    made_from: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, kind: str, where: Path) -> "Manifest":
        """Check what was read from ``where``. Raises TrakError if it is not a manifest of ``kind``."""
        if not isinstance(values, dict) or "kind" not in values:
            raise TrakError(f"{where}: has no manifest, so it was not written by this pipeline")
        if values.get("format") != FORMAT:
            raise TrakError(
                f"{where}: has layout {values.get('format')}, this version reads {FORMAT}; "
                "delete it and rerun"
            )
        if values["kind"] != kind:
            raise TrakError(f"{where}: holds {values['kind']}, expected {kind}")
        try:
            return cls(**values)
        except TypeError as error:
            raise TrakError(f"{where}: its manifest is damaged ({error}); rerun it") from None

    def save(self, folder: Path) -> None:
        """Write ``manifest.json`` into ``folder``."""
        text = json.dumps(self.to_dict(), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, kind: str) -> "Manifest":
        """Read ``manifest.json`` of ``folder``. Raises TrakError if it is missing or does not fit."""
        file = folder / FILE
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TrakError(f"{file}: is missing; rerun the step that makes {folder}") from None
        except (OSError, ValueError) as error:
            raise TrakError(f"{file}: cannot be read ({error}); rerun the step") from None
        return cls.from_dict(values, kind, file)


def agree(first: Manifest, first_path: Path, second: Manifest, second_path: Path) -> None:
    """Refuse two outputs that were not made from the same things by the same settings.

    What only one of them was made from, or set by, is not compared: a kernel knows of a ridge.

    Raises:
        TrakError: naming both sides and the first thing that differs.
    """
    for name, mine, theirs in (
        ("made from another", first.made_from, second.made_from),
        ("made with another", first.settings, second.settings),
    ):
        for key in mine.keys() & theirs.keys():
            if mine[key] != theirs[key]:
                raise TrakError(
                    f"{second_path}: was {name} {key} than {first_path} "
                    f"({_short(theirs[key])} and {_short(mine[key])}); delete the wrong one and rerun"
                )


def digest_files(paths: list[Path]) -> str:
    """The SHA-256 of the files' names and contents, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 24 else text[:12] + "…"
