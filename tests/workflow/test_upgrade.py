"""A run recorded with the version before, and the project as it is now beside it: no work is lost."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from faults.damage import files_of
from record_run import RUN, SETTINGS, unpack
from workspace import WHOLE, Workspace

HEAVY = ("checkpoints/*", "features/*/*/*.zarr", "kernel/*.zarr", "scores/*.zarr", "scores/*/*.zarr")


@pytest.fixture
def before(tmp_path: Path) -> Workspace:
    """The recorded run beside a copy of the project."""
    return unpack(tmp_path / "project")


def _edit(space: Workspace, module: str, old: str, new: str) -> None:
    file = space.root / "trak_steps" / module
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def _planned(space: Workspace) -> dict[str, int]:
    return space.planned(*WHOLE, **SETTINGS)


def _logs(space: Workspace) -> str:
    found = sorted((space.root / "results" / RUN / "logs").rglob("*.log"))
    return "".join(log.read_text() for log in found)


def _heavy(space: Workspace) -> dict[str, tuple[int, bytes]]:
    """When each file that took long to compute was written, and what it holds."""
    run = space.root / "results" / RUN
    return {
        str(file.relative_to(run)): (file.stat().st_mtime_ns, file.read_bytes())
        for pattern in HEAVY
        for path in run.glob(pattern)
        for file in files_of(path)
    }


def test_nothing_runs_again(before: Workspace) -> None:
    assert _planned(before) == {}
    done = before.snakemake("--cores", "1", *WHOLE, **SETTINGS)
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in done.stdout


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("store/atomic.py", "cannot be written", "can not be written"),
        ("store/atomic.py", '"""', '"""Reworded. '),
        (
            "run/layout.py",
            "    @property\n    def summary(",
            "    another = 1\n\n    @property\n    def summary(",
        ),
        ("kernel/gram.py", "add_(ridge * mean)", "add_(2 * ridge * mean)"),
    ],
    ids=["message", "comment", "path", "mathematics"],
)
def test_edited_code_whose_version_stays_runs_nothing(
    before: Workspace, module: str, old: str, new: str
) -> None:
    """What changes numbers is for tests/versions to notice, while the change is made."""
    file = before.root / "trak_steps" / module
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert _planned(before) == {}


def test_a_raised_version_runs_its_step_and_what_follows(before: Workspace) -> None:
    _edit(before, "steps/scores/rank.py", "\nVERSION = ", "\nVERSION = 1")
    heavy = _heavy(before)
    assert _planned(before) == {"rank": 1, "summarize": 1, "provenance": 1}
    done = before.snakemake("--cores", "2", *WHOLE, **SETTINGS)
    assert done.returncode == 0, done.stdout
    wrote = set(re.findall(rf"^wrote results/{RUN}/([^:\s]+)", _logs(before), re.MULTILINE))
    assert wrote == {"scores/validation.top.parquet", "summary.json", "provenance.json", "report.html"}
    assert _heavy(before) == heavy
    assert _planned(before) == {}


def test_forced_without_snakemakes_memory_every_heavy_step_keeps_its_outputs(before: Workspace) -> None:
    """Manifests alone tell that what is there is what would be made."""
    shutil.rmtree(before.root / ".snakemake")
    heavy = _heavy(before)
    run = Path("results") / RUN
    wanted: list[Any] = [
        run / "scores" / "validation.top.parquet",
        *(run / "evaluation" / "retrained" / plan / "00000.parquet" for plan in ("subsets", "removal")),
    ]
    done = before.snakemake("--forceall", "--cores", "2", *map(os.fspath, wanted), **SETTINGS)
    assert done.returncode == 0, done.stdout
    said = _logs(before)
    assert "kept 1 of 1 checkpoints" in said
    kept = set(re.findall(rf"^kept results/{RUN}/([^:\s]+)", said, re.MULTILINE))
    assert kept == {
        "features/0/train/00000.zarr",
        "features/0/train/00001.zarr",
        "features/0/targets/validation.zarr",
        "kernel/0.zarr",
        "scores.calibration.zarr",
        "scores/validation/0-40.0-12.zarr",
        "scores/validation.zarr",
    }
    assert re.findall(r": (\d+) models trained, (\d+) known before", said) == [("0", "14"), ("0", "16")]
    assert _heavy(before) == heavy
