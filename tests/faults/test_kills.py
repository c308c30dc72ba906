"""The real workflow, killed at random moments of every stage: the same command goes on to the same end.

``FAULTS=30`` in the environment, as ``make faults`` sets it, makes 30 trials; without it there are few.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from forked_jobs import startup_of_shells
from outputs import contents_of

from faults.damage import files_of
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.store.artefact import check_artefact
from trak_steps.store.atomic import leftovers
from trak_steps.store.folder import check_folder

ROOT = Path(__file__).parents[2]
RUN = "killed"
SETTINGS = {
    "run": RUN,
    "dataset": {"path": "demo", "train_size": 40, "group": "fact", "flip_labels": 0.05},
    "targets": {"validation": {"split": "validation", "size": 12}},
    "model": {"max_length": 48},
    "checkpoints": {"count": 1, "keep": [0.5, 1.0]},
    "finetune": {"epochs": 3, "batch_size": 10},
    "features": {"dim": 16, "shard_size": 20},
    "kernel": {"ridge": 0.1},
    "scores": {"top": 3},
    "execution": {"memory_mb": 256, "save_minutes": 0},  # after every step
}
# The outputs of each stage, by the message of its jobs, in the order of the pipeline.
STAGES = {
    "model:": ("model",),
    "prepare: train": ("data/train",),
    "prepare: targets": ("data/targets",),
    "finetune:": ("checkpoints",),
    "featurize: .*shard": ("features/*/train",),
    "featurize: .*targets": ("features/*/targets",),
    "kernel:": ("kernel",),
    "calibrate:": ("scores.calibration.zarr",),
    "score:": ("scores/*/*.zarr",),
    "gather:": ("scores/*.zarr",),
    "rank:": ("scores/*.parquet",),
    "summary:": ("summary.json",),
    "provenance:": ("provenance.json",),
}
FEW = ("finetune:", "featurize: .*shard", "prepare: targets")
TRIALS = int(os.environ.get("FAULTS", "0"))


@dataclass(frozen=True)
class Workspace:
    """A copy of the project with one run."""

    root: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.root / "results" / RUN)

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        """The command that a user would run, in a session of its own."""
        (self.root / "killed.yaml").write_text(yaml.safe_dump(SETTINGS))
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor"),
                *("--configfile", "killed.yaml"),
            ],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root), "HF_HUB_OFFLINE": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Run to the end; gives what Snakemake says.

        Jobs are forks, as nothing kills them; all ends as with those of the real command.
        """
        process = self.start(BASH_ENV=str(startup_of_shells()))
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def contents(self) -> dict[str, str]:
        """The content of every output; verified, so that it is what the files hold."""
        return contents_of(self.layout)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, float]]:
    """A workspace whose run was never disturbed, and how long each stage took in it."""
    space = Workspace(tmp_path_factory.mktemp("calm"))
    for folder in ("workflow", "config", "trak_steps"):
        shutil.copytree(ROOT / folder, space.root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    process = space.start()
    assert process.stdout is not None
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    stage_of: dict[str, str] = {}
    output = ""
    for line in process.stdout:
        output += line
        if job := re.match(r"Job (\d+): (.*)", line):
            stage = _stage(job[2])
            stage_of[job[1]] = stage
            began.setdefault(stage, time.monotonic())
        elif job := re.match(r"Finished jobid: (\d+)", line):
            ended[stage_of[job[1]]] = time.monotonic()
    assert process.wait() == 0, output
    return space, {stage: ended[stage] - began[stage] for stage in STAGES}


def _stage(message: str) -> str:
    return next((stage for stage in STAGES if re.match(stage, message)), "")


def _trials() -> list[tuple[int, str]]:
    stages = list(STAGES)
    if TRIALS:
        return [(i, stages[i % len(stages)]) for i in range(TRIALS)]
    return list(enumerate(FEW))


@pytest.mark.parametrize(("trial", "stage"), _trials())
def test_a_killed_run_goes_on_and_ends_the_same(
    calm: tuple[Workspace, dict[str, float]], tmp_path: Path, trial: int, stage: str
) -> None:
    """``kill -9`` of every process at a random moment of a stage, then the same command."""
    undisturbed, durations = calm
    space = Workspace(tmp_path / "space")
    shutil.copytree(undisturbed.root, space.root, symlinks=True)
    _undo_from(space.layout, stage)
    moment = random.Random(f"{stage} {trial}").uniform(0, durations[stage])
    before, done, planned = _kill(space, stage, moment)
    saves = _whole_saves(space.layout)
    trained = (space.layout.training("0") / "kept" / "1").is_dir()
    whole = _whole_outputs(space.layout)
    left = len(leftovers(space.layout.root))
    again = space.finish()
    assert leftovers(space.layout.root) == []
    assert not list(space.layout.training("x").parent.glob("*"))
    assert space.contents() == undisturbed.contents()
    assert space.layout.summary.read_bytes() == undisturbed.layout.summary.read_bytes()
    # What takes long and was finished is not made again, also where Snakemake did not know of it.
    assert {name: _written(space.layout.root / name) for name in whole} == whole
    assert "Nothing to be done" in space.finish()
    jobs = _finished(again)
    # Only the two jobs that were running are started again.
    assert before + jobs <= planned + 2, again
    if saves:
        log = (space.layout.root / "logs" / "checkpoints" / "0.log").read_text()
        assert ("trained already" if trained else f"resuming at checkpoint-{max(saves)}") in log
    record = {
        "stage": stage,
        "moment": round(moment, 2),
        "done": done,
        "left": left,
        "whole": len(whole),
        "jobs": f"{before} + {jobs} of {planned}",
        "save": max(saves, default=None),
    }
    print(f"killed: {json.dumps(record)}")


def _undo_from(layout: Layout, stage: str) -> None:
    """Remove the outputs of a stage and of those that follow."""
    stages = list(STAGES)
    for later in stages[stages.index(stage) :]:
        for pattern in STAGES[later]:
            for path in layout.root.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _finished(output: str) -> int:
    return len(re.findall(r"^Finished jobid", output, re.MULTILINE))


def _whole_saves(layout: Layout) -> list[int]:
    """The steps of the states that an unfinished training can resume from."""
    found = []
    for path in layout.training("0").glob("trainer/checkpoint-*"):
        try:
            check_folder(path, "training")
        except TrakError:
            continue
        found.append(int(path.name.removeprefix("checkpoint-")))
    return found


def _whole_outputs(layout: Layout) -> dict[str, dict[str, int]]:
    """When the files of each finished output of a heavy step were written."""
    found = {}
    for pattern in ("checkpoints/*", "features/*/*/*.zarr", "kernel/*.zarr", "scores/*/*.zarr"):
        for path in layout.root.glob(pattern):
            try:
                check_artefact(path)
            except TrakError:  # a folder that Snakemake made for an output to come
                continue
            found[layout.name(path)] = _written(path)
    return found


def _written(path: Path) -> dict[str, int]:
    return {str(file.relative_to(path)): file.stat().st_mtime_ns for file in files_of(path)}


def _kill(space: Workspace, stage: str, moment: float) -> tuple[int, bool, int]:
    """Start the run, wait until a job of the stage began and a moment longer, kill all of it.

    Returns:
        How many jobs were finished, whether the run was done before that, and how many were planned.
    """
    process = space.start()
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        job = re.match(r"Job \d+: (.*)", line)
        if job and _stage(job[1]) == stage:
            break
    time.sleep(moment)
    done = process.poll() is not None
    for member in psutil.process_iter():
        try:
            if os.getsid(member.pid) == process.pid:
                member.send_signal(signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    output += process.stdout.read()
    process.wait()
    planned = re.search(r"^total +(\d+)$", output, re.MULTILINE)
    assert planned, output
    return _finished(output), done, int(planned[1])
