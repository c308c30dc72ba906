"""What the workflow was last asked for, which it writes into the run's folder before its first job.

It is no output: nothing is made from it, and it may be deleted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trak_steps import __version__
from trak_steps.config import Settings, parse_settings
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import read_json

FORMAT = 1


@dataclass(frozen=True)
class Asked:
    """What the workflow was asked for.

    Attributes:
        settings: of the run.
        targets: of the workflow: stages, or files.
        again: the names of jobs whose outputs were there then, and were to be made anew.
        since: when it was written, by the clock of the disk: what is older was there before.
    """

    settings: Settings
    targets: tuple[str, ...]
    again: frozenset[str] = frozenset()
    since: float = 0.0

    def save(self, layout: Layout) -> None:
        """Write it, complete or absent. Raises TrakError if the folder cannot be written to."""
        values = {
            "format": FORMAT,
            "trak_steps": __version__,
            "targets": self.targets,
            "again": sorted(self.again),
            "settings": self.settings.model_dump(mode="json"),
        }
        with complete_or_absent(layout.asked) as file:
            file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, layout: Layout) -> "Asked | None":
        """What was last written; none if nothing was.

        Raises:
            TrakError: if it cannot be read, or is of another version.
        """
        file = layout.asked
        advice = "give the run's settings with --config (--other-config for `compare`'s second run)"
        try:
            since = file.stat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TrakError(f"{file}: cannot be read ({error.strerror}); {advice}") from None
        values = read_json(file, makes=str(file))
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else None
            raise TrakError(
                f"{file}: has layout {found}, this version reads {FORMAT}; {advice}, or run the "
                "workflow once more"
            )
        targets, again = (_names(file, values.get(name)) for name in ("targets", "again"))
        # They were whole when the workflow read them, and what they import may be gone by now.
        settings = parse_settings(values.get("settings", {}), source=str(file), partial=True)
        return cls(settings, tuple(targets), frozenset(again), since)


def _names(file: Path, value: Any) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TrakError(f"{file}: was altered; delete it, and run the workflow once more")
    return value
