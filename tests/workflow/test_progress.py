"""How far a real workflow has come, while it runs, after it was killed, and when it is done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from workspace import STAGES, TINY, Workspace, copy_project

from trak_steps.audit.find import present
from trak_steps.audit.status import Status, status_of
from trak_steps.config import parse_settings
from trak_steps.run.asked import Asked
from trak_steps.run.jobs import asked_rules, jobs_of
from trak_steps.run.layout import Layout
from trak_steps.store.tree import RECEIPT


def test_the_jobs_of_a_run_are_those_of_its_workflow(finished: Workspace) -> None:
    """By their logs and times, and what they make."""
    layout = Layout(finished.root / "results" / "tiny")
    jobs = [job for group in jobs_of(parse_settings(TINY), layout) for job in group.jobs or ()]
    names = {job.name for job in jobs}
    for place in (layout.log("x"), layout.times("x")):
        files = (file.relative_to(place.parent) for file in place.parent.rglob(f"*{place.suffix}"))
        assert {file.as_posix().removesuffix(place.suffix) for file in files} == names
    made = [file.parent if file.name == RECEIPT else file for job in jobs for file in job.outputs]
    assert sorted(made) == sorted(present(layout))


IMPORTED = {"checkpoints": {"existing": ["some/model", "another/model"]}}
RECIPE = {
    "model": {**TINY["model"], "name_or_path": "some/base"},
    "evaluation": {**TINY["evaluation"], "retrain_imported": True},
}
# Rows are weighted, and summed in parts.
PARTS = {
    "scores": {**TINY["scores"], "loss_weight_power": 1.0},
    "execution": {**TINY["execution"], "rows_per_job": 20},
}


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        *((stage, {}) for stage in STAGES),
        *((stage, PARTS) for stage in ("kernels", "scores", "evaluation")),
        ("evaluation", {**IMPORTED, **PARTS}),
        ("checkpoints", IMPORTED),
        ("evaluation", IMPORTED),
        ("evaluation", {**IMPORTED, **RECIPE}),
    ],
)
def test_a_stage_needs_the_jobs_that_its_workflow_plans(
    finished: Workspace, stage: str, changes: dict[str, Any]
) -> None:
    settings = parse_settings({**TINY, **changes, "run": "other"})
    groups = jobs_of(settings, Layout(finished.root / "results" / "other"))
    wanted = asked_rules([stage])
    counts = {group.rule: len(group.jobs or ()) for group in groups if group.rule in wanted}
    assert finished.planned(stage, page=True, **changes, run="other") == counts


def test_a_complete_run_is_complete_and_one_with_other_settings_is_made_anew(
    finished: Workspace,
) -> None:
    layout = Layout(finished.root / "results" / "tiny")
    assert status_of(layout).state == "complete"
    assert status_of(layout).asked == ("all", "evaluation")
    wrong = {**TINY["dataset"], "train_size": 3000}
    assert finished.snakemake("--cores", "1", "features", dataset=wrong).returncode != 0
    asked = Asked.load(layout)
    assert asked is not None
    assert asked.settings.dataset.train_size == 3000
    assert asked.targets == ("features",)
    assert "data/train" in asked.again
    status = status_of(layout)
    assert status.state == "failed"
    (failed,) = status.jobs("failed")
    assert failed.job.name == "data/train"
    assert "3000 rows" in failed.said[-1]
    assert finished.snakemake("--cores", "2", "all", "evaluation").returncode == 0
    assert status_of(layout).good


def test_a_workflow_is_seen_at_work_and_killed(tmp_path: Path) -> None:
    """Its jobs are of the real command, and train for long."""
    copy_project(tmp_path)
    slow = {**TINY, "finetune": {"epochs": 10000, "batch_size": 2}}
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(slow))
    layout = Layout(tmp_path / "results" / "tiny")
    command = ["--cores", "2", "--nocolor", "--configfile", "slow.yaml"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "features", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        status = _when_two_train(layout, process, tmp_path / "said")
        assert (status.state, status.asked, status.good) == ("running", ("features",), True)
        assert status.process is not None
        assert status.process.startswith(f"{process.pid} on ")
        assert {one.job.name for one in status.jobs("running")} == {"checkpoints/0", "checkpoints/1"}
        assert all(one.seconds is not None and one.seconds > 0 for one in status.jobs("running"))
        done = {one.job.name for one in status.jobs("done")}
        assert {"model", "data/train"} <= done
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        status = status_of(layout)
        assert (status.state, status.process, status.good) == ("stopped", None, False)
        assert len(status.jobs("running")) == 2
    finally:
        _kill_session(process.pid)
    status = status_of(layout)
    assert status.state == "stopped"
    assert {one.job.name for one in status.jobs("stopped")} == {"checkpoints/0", "checkpoints/1"}
    assert {one.job.name for one in status.jobs("done")} >= done


def _when_two_train(layout: Layout, process: "subprocess.Popen[bytes]", said: Path) -> Status:
    """Once two trainings run and have said so."""
    while process.poll() is None:
        if layout.asked.exists():
            status = status_of(layout)
            at_work = [one for one in status.jobs("running") if one.job.rule == "finetune"]
            if sum("training" in line for one in at_work for line in one.said[:1]) == 2:
                return status
        time.sleep(0.2)
    raise AssertionError(said.read_text())


def _kill_session(session: int) -> None:
    """All processes of it, and wait until they are gone."""
    members = []
    for member in psutil.process_iter():
        try:
            if os.getsid(member.pid) == session:
                member.send_signal(signal.SIGKILL)
                members.append(member)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    psutil.wait_procs(members)
