"""Record a tiny finished run, which stands for a user's run of the version before.

``make record-run`` replaces the recording. A change that makes ``test_upgrade.py`` fail makes its users
compute again what they have; so record anew only when that is meant, as after the layout changed.
"""

import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from workspace import WHOLE, Workspace, copy_project

RECORDED = Path(__file__).with_name("recorded") / "run.tar.gz"
RUN = "recorded"
# One training, since its weights are most of what is recorded.
SETTINGS: dict[str, Any] = {"run": RUN, "checkpoints": {"count": 1, "keep": [1.0]}}
PARTS = (f"results/{RUN}", "results/_retrained", ".snakemake/metadata")
LEFT_OUT = ("logs", "benchmarks", ".locks")


def record(to: Path = RECORDED) -> None:
    """Make the run, and keep what Snakemake and its steps know of it, with the times of its files."""
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(Path(folder), forked_jobs=False)
        copy_project(space.root)
        done = space.snakemake("--cores", "2", *WHOLE, **SETTINGS)
        if done.returncode:
            sys.exit(done.stdout)
        to.parent.mkdir(exist_ok=True)
        with tarfile.open(to, "w:gz", format=tarfile.PAX_FORMAT) as tar:
            for part in PARTS:
                tar.add(space.root / part, part, filter=_wanted)
    print(f"wrote {to}: {to.stat().st_size / 1e6:.1f} MB")


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(entry.name).name in LEFT_OUT:
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def unpack(root: Path, recorded: Path = RECORDED) -> Workspace:
    """The recorded run beside a copy of the project as it is now, run by the real command."""
    copy_project(root)
    with tarfile.open(recorded) as tar:
        tar.extractall(root, filter="data")
    return Workspace(root, forked_jobs=False)


if __name__ == "__main__":
    record()
