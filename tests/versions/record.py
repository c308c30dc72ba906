"""Record what the numbers of each step depend on, after someone has thought about it.

``python -m versions.record same STEP …`` says that a change of code leaves the numbers of these
steps as they were. ``python -m versions.record new STEP …`` says that it does not, and raises
their versions: after an upgrade, their outputs are made again. ``all`` stands for every step.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from trak_steps.workflow.registry import STEPS, version_of
from versions.digest import ROOT, digest_of

RECORD = Path(__file__).with_name("recorded.json")


def now() -> dict[str, dict[str, Any]]:
    """Each step's version, and the digest of what its numbers depend on."""
    return {
        name: {"version": version_of(name), "code": digest_of(f"steps.{step.module}")}
        for name, step in STEPS.items()
    }


def recorded() -> dict[str, dict[str, Any]]:
    """The same, as it was last recorded."""
    found: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def main(what: str, *names: str) -> None:
    """Record some steps."""
    known = recorded() if RECORD.exists() else {}
    chosen = list(STEPS) if names == ("all",) else list(names)
    if what == "new":
        for module in dict.fromkeys(STEPS[name].module for name in chosen):
            _raise_version(ROOT.joinpath("steps", *module.split(".")).with_suffix(".py"))
    found = now()
    known = {name: found[name] if name in chosen else known[name] for name in STEPS}
    RECORD.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _raise_version(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    raised = re.sub(r"(?m)^VERSION = (\d+)$", lambda found: f"VERSION = {int(found[1]) + 1}", text)
    file.write_text(raised, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("same", "new"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
