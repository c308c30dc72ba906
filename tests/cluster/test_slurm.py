"""The workflow through a real Slurm.

Runs wherever `sinfo` answers. The nodes must share the temporary folder: on a cluster whose `/tmp` is
not shared, give `--basetemp` an unused folder that is (pytest empties it).
"""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from trak_steps.store.scores import ScoreStore

REPOSITORY = Path(__file__).resolve().parents[2]
MINUTE = 60  # seconds

TINY: dict[str, Any] = {
    "run": "tiny",
    "dataset": {"path": "demo", "train_size": 64},
    "targets": {"validation": {"split": "validation", "size": 4}},
    "checkpoints": {"count": 1, "keep": [1.0]},
    "finetune": {"epochs": 0.5, "batch_size": 32},
    "features": {"dim": 16, "shard_size": 32},
    "execution": {"memory_mb": 256},
}
JOBS = {
    "model": 1,
    "prepare": 1,
    "prepare_targets": 1,
    "finetune": 1,
    "featurize": 2,
    "featurize_targets": 1,
    "kernel": 1,
    "score": 1,
    "rank": 1,
    "summarize": 1,
    "provenance": 1,
}


def why_no_slurm() -> str:
    """Why nothing can be submitted; empty where Slurm answers."""
    if shutil.which("sinfo") is None:
        return "no Slurm: sinfo is not installed"
    try:
        answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "no Slurm: sinfo does not answer"
    return f"no Slurm: {answer.stderr.strip()}" if answer.returncode else ""


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> None:
    if reason := why_no_slurm():
        pytest.skip(reason)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the workflow, with a tiny run's settings in tiny.yaml."""
    for folder in ("workflow", "config"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


def snakemake(project: Path) -> str:
    """Run the tiny settings through the Slurm profile and return all that Snakemake says."""
    command = [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml"]
    command += ["--workflow-profile", "workflow/profiles/slurm", "--slurm-keep-successful-logs"]
    command += ["--slurm-init-seconds-before-status-checks", "2"]
    # Real runs ask for hours, which a partition for short jobs would queue for ever.
    command += ["--set-resources", *(f"{rule}:runtime=10" for rule in JOBS)]
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=30 * MINUTE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # cancels the cluster's jobs too
            said, _ = process.communicate(timeout=5 * MINUTE)
    assert process.returncode == 0, said
    return said


def submitted(said: str) -> set[str]:
    """The Slurm ids of the jobs that Snakemake says it submitted."""
    return set(re.findall(r"submitted with SLURM jobid (\d+)", said))


@pytest.mark.cluster
def test_tiny_run_goes_through_slurm_once(project: Path) -> None:
    first = snakemake(project)

    results = project / "results" / "tiny"
    assert (results / "summary.json").is_file()
    scores = ScoreStore.open(results / "scores" / "validation.zarr").scores(0, 64)
    assert scores.shape == (64, 4)
    assert np.isfinite(scores).all()

    # Slurm itself writes one log a job, named by its id.
    logs = project / ".snakemake" / "slurm_logs"
    assert {path.stem for path in logs.rglob("*.log")} == submitted(first)
    counted = {rule: len(list(logs.glob(f"rule_{rule}/**/*.log"))) for rule in JOBS}
    assert counted == JOBS
    assert len(submitted(first)) == sum(JOBS.values())

    second = snakemake(project)
    assert "Nothing to be done" in second
    assert not submitted(second)
