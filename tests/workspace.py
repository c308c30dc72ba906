"""A copy of the project in which a run lives, driven through Snakemake as a user would."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from forked_jobs import startup_of_shells

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    "run": "tiny",
    "dataset": {"path": "demo", "train_size": 40, "group": "fact"},
    "targets": {"validation": {"split": "validation", "size": 12}},
    "model": {"max_length": 48},
    "checkpoints": {"count": 2, "keep": [1.0]},
    "finetune": {"epochs": 1, "batch_size": 20},
    "features": {"dim": 8, "shard_size": 20},
    "kernel": {"ridge": 0.1},
    "scores": {"top": 3},
    "evaluation": {
        "lds": {"subsets": 8, "repeats": 2},
        "removal": {"targets": 2, "rows": 4, "repeats": 2},
        "suspects": 10,
        "bootstrap": 100,
        "models_per_job": 16,
    },
    "execution": {"memory_mb": 256},
}
STAGES = ("all", "data", "checkpoints", "features", "kernels", "scores", "summary", "evaluation")
# A run and what was found out about it.
WHOLE = ("all", "evaluation")
# Snakemake takes longer to import what it needs than most dry runs take; so each is a fork of a process
# that has.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "snakemake.cli", "snakemake.executors.local", "snakemake.scheduling.greedy"]
)


def leave_trainings(folder: Path) -> None:
    """What three trainings by a Trainer leave, as far as the settings look at it."""
    for seed in range(3):
        for step in (10, 40, 80):
            checkpoint = folder / "models" / f"seed-{seed}" / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            state = {"global_step": step, "max_steps": 80}
            (checkpoint / "trainer_state.json").write_text(json.dumps(state))


def copy_project(root: Path) -> None:
    """What Snakemake needs of the project."""
    for folder in ("workflow", "config", "trak_steps"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))


@dataclass(frozen=True)
class Workspace:
    """A copy of the project in which a run lives."""

    root: Path
    forked_jobs: bool = True  # or by the real command, a process each
    environment: dict[str, str] = field(default_factory=dict)  # beside what it has anyway

    def snakemake(self, *arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with the tiny settings, some sections changed."""
        values = {**TINY, **changes}
        config = self.root / f"settings-{uuid4().hex}.yaml"
        config.write_text(yaml.safe_dump(values))
        said = config.with_suffix(".log")
        command = ["--configfile", str(config), "--nocolor", *arguments]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.root), "HF_HUB_OFFLINE": "1"}
        environment |= self.environment
        if self.forked_jobs and "-n" not in arguments:
            environment["BASH_ENV"] = str(startup_of_shells())
        # By a pipe: where threads start and wait for processes, one's `exitcode` may be lost to another.
        code, tell = FORKS.Pipe(duplex=False)
        with code:
            process = FORKS.Process(
                target=_snakemake, args=(self.root, command, said, environment, tell)
            )
            process.start()
            tell.close()
            exited = code.recv()
        process.join()
        return subprocess.CompletedProcess(command, exited, said.read_text(), "")

    def planned(self, *arguments: str, page: bool = False, **changes: Any) -> dict[str, int]:
        """How many jobs of each rule a dry run would start, aggregate targets left out.

        Args:
            arguments: of Snakemake.
            page: whether the page counts, which is made anew where the evaluation is asked for and was
                not, or is not any more.
            changes: of the settings, by section.
        """
        done = self.snakemake("-n", *arguments, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        table = re.search(r"Job stats:\n.*?\n-+.*?\n(.*?)\ntotal", done.stdout + done.stderr, re.DOTALL)
        jobs = {}
        for line in table[1].splitlines() if table else []:
            rule, count = line.split()
            jobs[rule] = int(count)
        aside = STAGES if page else (*STAGES, "report")
        return {rule: count for rule, count in jobs.items() if rule not in aside}


def _snakemake(
    root: Path, command: list[str], said: Path, environment: dict[str, str], tell: Connection
) -> None:
    """``snakemake`` with a command line, in a folder, in this process; tells its exit status."""
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    os.environ.update(environment)
    sys.path[:] = [str(root), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    sys.argv = ["snakemake", *command]
    from snakemake.cli import main

    try:
        main(command)
    except SystemExit as done:
        tell.send(done.code or 0)
