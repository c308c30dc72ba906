"""A run that goes to Slurm, as a user sends it there, and what Slurm says of its jobs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from outputs import contents_of
from workspace import TINY

from trak_steps.run.layout import Layout

# Seconds after which something will not happen any more; a loaded machine may take a while.
NEVER = 300
WAITS, RUNS, DONE = "PENDING", "RUNNING", "COMPLETED"
ENDED = {DONE, "CANCELLED", "FAILED", "OUT_OF_MEMORY", "NODE_FAIL", "TIMEOUT", "PREEMPTED"}


@cache
def why_no_slurm() -> str:
    """Why nothing can be submitted; empty where Slurm answers."""
    if shutil.which("sinfo") is None:
        return "no Slurm: sinfo is not installed"
    try:
        answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "no Slurm: sinfo does not answer"
    return f"no Slurm: {answer.stderr.strip()}" if answer.returncode else ""


def why_not_own() -> str:
    """Why no node may be taken down; empty where `.ci/slurm` has started Slurm for these tests alone."""
    config = ask("scontrol", "show", "config")
    own = re.search(r"^ClusterName\s*= trak-steps-tests$", config, re.MULTILINE)
    return "" if own else "not the Slurm that .ci/slurm starts, whose nodes may be taken down"


def ask(*command: str) -> str:
    """What a command of Slurm's answers."""
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, f"{' '.join(command)}: {answer.stderr}"
    return answer.stdout


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Wait, and fail if it never happens."""
    until = time.monotonic() + NEVER
    while not happened():
        assert time.monotonic() < until, f"never {what}"
        time.sleep(0.2)


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job.

    Attributes:
        id: of Slurm's.
        rule: with its wildcards, as `kernel_1`.
        state: a word of Slurm's.
        node: that it ran on, the last one.
        memory: that it asked for, in MB.
        gpus: likewise.
        began, ended: as times that can be compared.
    """

    id: str
    rule: str
    state: str
    node: str
    memory: int
    gpus: int
    began: str
    ended: str

    @classmethod
    def of(cls, said: str) -> "Job":
        """From a line of `scontrol --oneliner show job`."""
        fields = dict(re.findall(r"(\S+?)=(\S*)", said))
        gpus = re.search(r"\bTresPer\w+=gres:gpu:(\d+)", said)
        return cls(
            id=fields["JobId"],
            rule=fields.get("Comment", "").removeprefix("rule_").replace("_wildcards", ""),
            state=fields["JobState"],
            node=fields.get("NodeList", ""),
            memory=int(fields["MinMemoryNode"].removesuffix("M")),
            gpus=int(gpus[1]) if gpus else 0,
            began=fields["StartTime"],
            ended=fields["EndTime"],
        )


@dataclass
class Project:
    """A copy of the project, its run `tiny`, and the Snakemake that submits its jobs."""

    root: Path
    process: "subprocess.Popen[str] | None" = field(default=None, init=False)
    calls: int = field(default=0, init=False)
    before: frozenset[str] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        # Slurm remembers the jobs of other tests for a while, which may have had the same folder.
        self.before = frozenset(job.id for job in self.jobs())

    @property
    def layout(self) -> Layout:
        """Of the run."""
        return Layout(self.root / "results" / "tiny")

    def start(
        self,
        *arguments: str,
        python: str = sys.executable,
        path: Sequence[str] = (),
        **sections: object,
    ) -> None:
        """Call Snakemake with the Slurm profile, and wait for nothing.

        Args:
            arguments: of Snakemake's.
            python: that runs it.
            path: folders to look for commands in, if not as here.
            sections: of the settings, changed.
        """
        (self.root / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **sections}))
        self.calls += 1
        command = [python, "-m", "snakemake", *arguments, "--configfile", "tiny.yaml", "--nocolor"]
        command += ["--workflow-profile", "workflow/profiles/slurm", "--slurm-keep-successful-logs"]
        # Jobs are asked about after a second, and ten seconds later from one time to the next.
        command += ["--slurm-init-seconds-before-status-checks", "1"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.root,
                env={
                    **os.environ,
                    "PATH": ":".join(path) or os.environ["PATH"],
                    "PYTHONPATH": str(self.root),
                    "HF_HUB_OFFLINE": "1",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                # Tests that are run in the background ignore Ctrl-C, and so would what they start.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def said(self) -> str:
        """By the last Snakemake, until now."""
        return self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.root.with_name(f"{self.root.name}-{self.calls}.log")

    def signal(self, number: int) -> None:
        """Send the last Snakemake a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the last Snakemake; gives its exit status."""
        assert self.process is not None
        return self.process.wait(timeout=3 * NEVER)

    def run(self, *arguments: str, **sections: object) -> str:
        """Call Snakemake and wait for its success; gives what it says."""
        self.start(*arguments, **sections)
        assert self.end() == 0, self.said
        return self.said

    def jobs(self, rule: str = "", *states: str) -> list[Job]:
        """Those of this folder that Slurm remembers, of a rule and in one of some states if given."""
        lines = ask("scontrol", "--oneliner", "show", "job").splitlines()
        jobs = [Job.of(line) for line in lines if f" WorkDir={self.root} " in f"{line} "]
        jobs = [job for job in jobs if job.id not in self.before]
        return [
            job for job in jobs if job.rule.startswith(rule) and job.state in (states or {job.state})
        ]

    def wait_for(self, rule: str, *states: str, but: tuple[str, ...] = ()) -> Job:
        """Wait for a job, other than those by these ids; gives it."""
        found: list[Job] = []

        def there() -> bool:
            assert self.process is None or self.process.poll() is None, self.said
            found[:] = [job for job in self.jobs(rule, *states) if job.id not in but]
            return bool(found)

        wait_until(there, f"a job of {rule} that is {' or '.join(states)}")
        return found[0]

    def contents(self) -> dict[str, str]:
        """The content of every output; verified, so that it is what the files hold."""
        return contents_of(self.layout)

    def clear(self) -> None:
        """Leave neither a process nor a job."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if left := [job.id for job in self.jobs() if job.state not in ENDED]:
            subprocess.run(["scancel", *left], check=False)
