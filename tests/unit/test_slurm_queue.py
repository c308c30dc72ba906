"""What a killed Snakemake left in the queue is cancelled where it is seen to be gone, and only there."""

import os
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from trak_steps.errors import TrakError
from trak_steps.workflow import slurm
from trak_steps.workflow.slurm import cancel_left

NAME = "6567651d-1368-4769-93bb-37c6abc94209"
HERE = socket.gethostname()


@pytest.fixture
def record(tmp_path: Path) -> Path:
    file = tmp_path / ".submitted"
    file.write_text(f"{NAME}\n")
    return file


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What Slurm is asked; it has two jobs, until they are cancelled."""
    commands: list[list[str]] = []

    def ask(command: list[str]) -> subprocess.CompletedProcess[str]:
        gone = any(earlier[0] == "scancel" for earlier in commands)
        commands.append(command)
        queued = "" if gone or command[0] != "squeue" else "11\n12\n"
        return subprocess.CompletedProcess(command, 0, queued, "")

    monkeypatch.setattr(slurm, "_ask", ask)
    return commands


def _gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert not psutil.pid_exists(process.pid)
    return process.pid


def test_jobs_of_a_snakemake_that_is_gone_are_cancelled(record: Path, asked: list[list[str]]) -> None:
    assert cancel_left(record, f"{_gone()} on {HERE}", time.time()) == ["11", "12"]
    assert ["scancel", "11", "12"] in asked


@pytest.mark.parametrize("before", ["{pid} on {host}", "1 on another", "unknown", ""])
def test_jobs_of_one_that_may_run_are_named_and_stay(
    record: Path, asked: list[list[str]], before: str
) -> None:
    """Locks of another machine may not be seen, and some file systems have none."""
    before = before.format(pid=os.getpid(), host=HERE)
    with pytest.raises(TrakError, match=rf"jobs 11, 12 .*scancel --name {NAME}"):
        cancel_left(record, before, time.time())
    assert all(command[0] == "squeue" for command in asked)


def test_a_process_that_began_later_is_another(record: Path, asked: list[list[str]]) -> None:
    """The number of one that is gone was given anew."""
    assert cancel_left(record, f"{os.getpid()} on {HERE}", 1e6) == ["11", "12"]
    assert asked
