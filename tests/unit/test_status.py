"""How far a run has come, on folders that hold what a workflow leaves at some moment."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner
from workspace import ROOT, TINY

from trak_steps.audit.find import find
from trak_steps.audit.status import RECENT, StageStatus, Status, status_of
from trak_steps.audit.status_lines import duration, status_lines, status_values
from trak_steps.cli import app
from trak_steps.config import Settings, parse_settings
from trak_steps.console.job_log import JobLog
from trak_steps.errors import TrakError
from trak_steps.run.asked import Asked
from trak_steps.run.jobs import Job, jobs_of
from trak_steps.run.layout import Layout
from trak_steps.store.lock import is_held, mark_alive, try_lock

HERE = socket.gethostname()
# In the order of the pipeline: model, rows, training 0.
FIRST = ("model", "data/train", "data/targets/validation", "checkpoints/0")


@dataclass(frozen=True)
class Run:
    """A folder of a run, into which jobs are said to have put something."""

    layout: Layout
    settings: Settings

    @property
    def jobs(self) -> dict[str, Job]:
        groups = jobs_of(self.settings, self.layout)
        return {job.name: job for group in groups for job in group.jobs or ()}

    def ask(self, *targets: str, again: tuple[str, ...] = ()) -> None:
        Asked(self.settings, targets or ("all",), frozenset(again)).save(self.layout)

    def finish(self, *names: str, seconds: float = 10.0) -> None:
        for name in names:
            for file in self.jobs[name].outputs:
                _write(file, "x")
            _write(self.layout.times(name), f"s\th:m:s\n{seconds}\t0:00:10\n")

    def say(self, name: str, *lines: str, began: float = 60.0, host: str = HERE) -> Path:
        """What a job says that began some seconds ago."""
        when = datetime.fromtimestamp(time.time() - began, UTC).isoformat()
        text = "\n".join([f"began {when} on {host}, process 1", *lines])
        return _write(self.layout.log(name), text)

    def status(self) -> Status:
        return status_of(self.layout)

    def shown(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["status", str(self.layout.root), *arguments])

    def lines(self) -> str:
        return "\n".join(status_lines(self.status(), 80))


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def _made(tmp_path: Path, **changes: Any) -> Run:
    layout = Layout(tmp_path / "tiny")
    layout.root.mkdir()
    return Run(layout, parse_settings({**TINY, **changes}))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that was asked for, and of which nothing is there."""
    made = _made(tmp_path)
    made.ask()
    return made


@contextmanager
def working(layout: Layout) -> Iterator[None]:
    """A workflow, which this process stands for."""
    layout.lock("snakemake").parent.mkdir(exist_ok=True)
    held = try_lock(layout.lock("snakemake"))
    assert held is not None
    try:
        yield
    finally:
        os.close(held)


@contextmanager
def alive(log: Path) -> Iterator[None]:
    """A job that writes this log."""
    with log.open("a") as file:
        mark_alive(file.fileno())
        yield


def _stage(status: Status, name: str) -> StageStatus:
    return next(stage for stage in status.stages if stage.name == name)


def _counts(status: Status) -> dict[str, tuple[int, int, int, int, int]]:
    """Of each stage with jobs: how many, and how many are done, run, failed and are left."""
    states = ("done", "running", "failed", "left")
    return {
        stage.name: (len(stage.jobs), *(stage.count(state) for state in states))  # type: ignore[misc]
        for stage in status.stages
        if stage.jobs
    }


def _age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_before_anything_all_is_left(run: Run) -> None:
    status = run.status()
    assert status.state == "stopped"
    assert _counts(status) == {
        "data": (3, 0, 0, 0, 3),
        "checkpoints": (2, 0, 0, 0, 2),
        "features": (6, 0, 0, 0, 6),
        "kernels": (2, 0, 0, 0, 2),
        "scores": (4, 0, 0, 0, 4),
        "summary": (3, 0, 0, 0, 3),
    }
    assert [stage.to_go for stage in status.stages] == [None] * 7
    shown = run.shown()
    assert shown.exit_code == 1
    assert "0 of 20 jobs done; nothing runs" in shown.output
    assert re.search("^evaluation +not asked for$", shown.output, re.MULTILINE)
    assert "run the same snakemake command again" in shown.output


def test_a_run_at_work_says_what_runs_and_for_how_long(run: Run) -> None:
    run.finish(*FIRST[:3])
    run.finish("checkpoints/0", seconds=100)
    bar = "trained:  10%|#\rtrained:  90%|#########\r\ttrained: 27 of 30 (step), 80 s, 9 s left\r\n"
    log = run.say("checkpoints/1", "reading", bar, "{'loss': 0.5}", began=75)
    with working(run.layout), alive(log):
        status = run.status()
        shown = run.shown()
    assert _counts(status)["checkpoints"] == (2, 1, 1, 0, 0)
    (job,) = status.jobs("running")
    assert job.job.name == "checkpoints/1"
    assert job.seconds == pytest.approx(75, abs=20)
    stage = _stage(status, "checkpoints")
    assert stage.seconds == pytest.approx(175, abs=20)
    assert stage.to_go is not None
    assert 0 < stage.to_go <= 25
    assert not stage.at_least
    assert shown.exit_code == 0
    assert (
        f"running, 4 of 20 jobs done; started 0 s ago, process {os.getpid()} on {HERE}" in shown.output
    )
    assert re.search(
        r"^  checkpoints/1  \d+ s +\\ttrained: 27 of 30 \(step\), 80 s, 9 s left$",
        shown.output,
        re.MULTILINE,
    )
    assert "to go on" not in shown.output


def test_time_left_is_by_jobs_of_the_same_kind_that_run_beside_each_other(run: Run) -> None:
    run.finish(*FIRST, "checkpoints/1")
    run.finish("features/0/train/00000", seconds=30)
    run.finish("features/0/train/00001", seconds=50)
    logs = [run.say(f"features/1/train/{shard}", began=20) for shard in ("00000", "00001")]
    _age(run.layout.asked, 1e6)
    with working(run.layout), alive(logs[0]), alive(logs[1]):
        stage = _stage(run.status(), "features")
    # Two of 40 s that have run for 20, beside each other; no features of targets are known.
    assert stage.to_go == pytest.approx(20, abs=10)
    assert stage.at_least
    assert _stage(run.status(), "features").to_go is None  # nothing runs
    assert "over " in "\n".join(
        status_lines(Status(run.layout.root, ("all",), [stage], "1 on x", 0.0, 1.0), 80)
    )


def test_a_job_that_failed_is_shown_with_its_last_lines(run: Run) -> None:
    run.finish("model")
    lines = [f"line {i}" for i in range(9)]
    log = run.say("data/train", *lines, "error: the settings:", "  no\x1bsuch column", began=4)
    shown = run.shown()
    assert shown.exit_code == 1
    assert f"{run.layout.root}: failed, 1 of 20 jobs done; nothing runs" in shown.output
    assert f"  {log}, after 4 s" in shown.output
    last = ["line 6", "line 7", "line 8", "error: the settings:", r"  no\x1bsuch column"]
    assert "\n".join(f"    {line}" for line in last) in shown.output
    assert "line 5" not in shown.output
    assert "remove the cause" in shown.output
    assert _counts(run.status())["data"] == (3, 1, 0, 1, 1)
    with working(run.layout):  # jobs beside it may still run
        assert run.status().state == "running"
        assert run.shown().exit_code == 1


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ("Traceback (most recent call last):\n  File\nRuntimeError: no", "failed"),
        ("torch.OutOfMemoryError: CUDA", "failed"),
        ("/bin/bash: line 1: trak-steps: command not found", "failed"),
        ("Usage: x\n\nError: No such option", "failed"),
        ("Traceback (most recent call last):\n  File\nKeyboardInterrupt", "stopped"),
        ("an error: is not at the beginning of a line", "stopped"),
        ("", "stopped"),
    ],
)
def test_an_error_is_told_from_a_kill(run: Run, last: str, state: str) -> None:
    run.say("model", "reading", last)
    (job,) = run.status().jobs(state)
    assert job.job.name == "model"


def test_after_a_kill_what_had_begun_is_left_and_named(run: Run) -> None:
    run.finish(*FIRST[:3])
    progress = "trained: 3 of 30 (step), 8 s, 90 s left"
    log = run.say("checkpoints/0", "training 30 of 30 steps", progress, began=7300)
    without_a_word = run.say("checkpoints/1")
    shown = run.shown()
    assert shown.exit_code == 1
    assert "stopped, 3 of 20 jobs done; nothing runs" in shown.output
    assert f"  {log}, after 2 h 02 min\n    {progress}\n  {without_a_word}\n" in f"{shown.output}\n"
    assert _counts(run.status())["checkpoints"] == (2, 0, 0, 0, 2)


def test_jobs_may_outlive_their_workflow(run: Run) -> None:
    run.finish("model")
    with alive(run.say("data/train")):
        status, shown = run.status(), run.shown()
    assert _counts(status)["data"] == (3, 1, 1, 0, 1)
    assert shown.exit_code == 1
    assert "jobs go on, without the workflow" in shown.output


def test_a_complete_run_is_good(run: Run) -> None:
    run.finish(*(name for name in run.jobs if not name.startswith("evaluation")), seconds=0.5)
    shown = run.shown()
    assert shown.exit_code == 0
    assert "complete, 20 of 20 jobs done\n" in shown.output
    run.layout.top("validation").unlink()
    assert run.shown().exit_code == 1
    assert _counts(run.status())["scores"] == (4, 3, 0, 0, 1)


def test_the_evaluation_counts_if_it_was_asked_for_or_has_begun(run: Run) -> None:
    run.finish(*(name for name in run.jobs if not name.startswith("evaluation")))
    run.finish("evaluation/subsets.plan")
    assert _counts(run.status())["evaluation"] == (1, 1, 0, 0, 0)
    assert run.status().state == "complete"
    run.ask("evaluation")
    assert _counts(run.status())["evaluation"] == (8, 1, 0, 0, 7)
    assert "asked for: evaluation" in run.lines()
    assert run.status().state == "stopped"


def test_only_what_is_needed_for_what_was_asked_is_left(run: Run) -> None:
    run.ask("results/tiny/evaluation/stability.json")
    assert _counts(run.status())["summary"] == (3, 0, 0, 0, 3)  # a file may be of any stage
    run.ask("summary")
    assert _counts(run.status())["summary"] == (2, 0, 0, 0, 2)  # the page is not of it
    run.ask("checkpoints")
    assert _counts(run.status()) == {"data": (2, 0, 0, 0, 2), "checkpoints": (2, 0, 0, 0, 2)}
    run.ask("results/tiny/kernel/0.zarr/done")
    assert len(_counts(run.status())) == 6


def test_a_number_that_is_not_known_yet_is_no_number(tmp_path: Path) -> None:
    run = _made(tmp_path, dataset={"path": "demo"}, targets={"validation": {"split": "validation"}})
    run.ask()
    status = run.status()
    assert [stage.name for stage in status.stages if stage.more] == ["features", "scores"]
    text = run.lines()
    assert re.search(r"^features +2\+\? +- +- +- +2\+\?$", text, re.MULTILINE)
    assert "0 of 15 or more jobs done" in text
    run.finish(*(name for name in run.jobs if not name.startswith("evaluation")))
    assert run.status().state == "stopped"


def test_what_is_to_be_made_anew_is_left_until_it_is(run: Run) -> None:
    run.finish(*FIRST, "checkpoints/1")
    for name in ("checkpoints/0", "checkpoints/1"):
        _age(run.jobs[name].outputs[0], 60)
        _age(_write(run.layout.log(name), "error: of an earlier run"), 60)
    run.ask(again=("checkpoints/0", "checkpoints/1"))
    assert _counts(run.status())["checkpoints"] == (2, 0, 0, 0, 2)
    run.finish("checkpoints/0")
    assert _counts(run.status())["checkpoints"] == (2, 1, 0, 0, 1)
    run.ask()  # as the workflow does at its good end
    assert _counts(run.status())["checkpoints"] == (2, 2, 0, 0, 0)


def test_a_log_of_a_job_that_ended_well_or_of_an_earlier_run_tells_nothing(run: Run) -> None:
    """What they made was deleted since."""
    log = run.say("model", "wrote model")
    run.finish("model")
    run.jobs["model"].outputs[0].unlink()
    _age(log, 5)
    _age(run.say("data/train", "error: of an earlier run"), 60)
    assert _counts(run.status())["data"] == (3, 0, 0, 0, 3)


def test_of_another_machine_what_was_written_lately_is_what_is_known(run: Run) -> None:
    run.finish("model")
    _write(run.layout.lock("snakemake"), "5 on elsewhere")
    _age(run.layout.asked, 1e6)
    log = run.say("data/train", host="elsewhere")
    status = run.status()
    assert (status.state, status.process) == ("running", "5 on elsewhere")
    assert _counts(status)["data"] == (3, 1, 1, 0, 1)
    for path in (log, *run.jobs["model"].outputs):
        assert run.status().state == "running"
        _age(path, RECENT + 1)
    assert run.status().state == "stopped"
    # On this machine, whose locks are seen, such a job is over.
    _write(run.layout.lock("snakemake"), f"{os.getpid()} on {HERE}")
    run.say("data/train")
    assert run.status().state == "stopped"


def test_a_process_is_asked_where_a_file_system_knows_no_locks(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trak_steps.audit.status.is_held", lambda path: path.stat() and None)
    _write(run.layout.lock("snakemake"), f"{os.getpid()} on {HERE}")
    assert run.status().process == f"{os.getpid()} on {HERE}"
    for gone in (f"999999999 on {HERE}", f"unknown on {HERE}", ""):
        _write(run.layout.lock("snakemake"), gone)
        assert run.status().process is None


def test_nothing_is_changed_or_made(run: Run) -> None:
    run.finish(*FIRST)
    run.say("checkpoints/1", "error: no")
    _write(run.layout.lock("snakemake"), f"1 on {HERE}")

    def state() -> dict[Path, tuple[int, int]]:
        found = [run.layout.root, *run.layout.root.rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = state()
    run.shown()
    run.shown("--json")
    assert state() == before


def test_what_is_asked_is_no_output_and_nothing_to_clean(run: Run) -> None:
    run.finish("model")
    _write(run.layout.model / "config.json", "{}")
    assert find(run.layout, run.settings).there == [run.layout.model]
    cleaned = CliRunner().invoke(app, ["clean", str(run.layout.root)])
    assert ".asked" not in cleaned.output


def test_programs_are_told_the_same(run: Run) -> None:
    run.finish(*FIRST)
    log = run.say("checkpoints/1", "one", "error: no", began=4)
    told = json.loads(run.shown("--json").output)
    assert (told["run"], told["state"], told["asked"]) == ("tiny", "failed", ["all"])
    assert told["workflow"] is None
    assert told["started"] == run.layout.asked.stat().st_mtime
    (stage,) = (stage for stage in told["stages"] if stage["name"] == "checkpoints")
    counts = {name: stage[name] for name in ("jobs", "done", "running", "failed", "stopped", "left")}
    assert counts == {"jobs": 2, "done": 1, "running": 0, "failed": 1, "stopped": 0, "left": 0}
    (job,) = told["jobs"]
    assert (job["name"], job["rule"], job["state"]) == ("checkpoints/1", "finetune", "failed")
    assert (job["log"], job["said"]) == (str(log), ["one", "error: no"])
    documented = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for key in {*told, *stage, *job}:
        assert f"`{key}`" in documented, key


def test_many_jobs_are_counted_and_not_all_shown(tmp_path: Path) -> None:
    run = _made(tmp_path, checkpoints={"count": 30, "keep": [1.0]})
    run.ask()
    for i in range(30):
        run.say(f"checkpoints/{i}", "error: no")
    text = run.lines()
    assert text.count("error: no") == 3
    assert "… and 27 more" in text
    assert len(status_values(run.status())["jobs"]) == 30


def _by_hand(layout: Layout) -> None:
    layout.model.mkdir()


def _of(**changes: Any) -> Any:
    def alter(layout: Layout) -> None:
        Asked(parse_settings(TINY), ("all",)).save(layout)
        values = json.loads(layout.asked.read_text())
        layout.asked.write_text(json.dumps({**values, **changes}))

    return alter


def _unreadable_log(layout: Layout) -> None:
    Asked(parse_settings(TINY), ("all",)).save(layout)
    layout.log("model").mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda layout: layout.root.rmdir(), "tiny: there is no such run"),
        (lambda layout: layout.lock("x").mkdir(parents=True), "tiny: holds no run"),
        (_by_hand, "by hand or by an earlier version; give the run's settings with -c"),
        (_of(format=99), "asked.json: has layout 99, this version reads 1"),
        (_of(settings={"features": {"old": 1}}), "features.old: there is no such setting"),
        (_of(settings=3), "should be a mapping"),
        (_of(targets=[1]), "asked.json: was altered"),
        (_of(again=None), "asked.json: was altered"),
        (lambda layout: layout.asked.write_text("[]"), "has layout None"),
        (lambda layout: layout.asked.write_bytes(b"\xff{"), "asked.json: cannot be read"),
        (lambda layout: layout.asked.mkdir(), "asked.json: cannot be read"),
        (_unreadable_log, "logs/model.log: cannot be read"),
    ],
)
def test_what_cannot_be_told_is_one_clear_message(tmp_path: Path, make: Any, message: str) -> None:
    layout = Layout(tmp_path / "tiny")
    layout.root.mkdir()
    make(layout)
    with pytest.raises(TrakError, match=re.escape(message)):
        status_of(layout)


def test_a_file_of_settings_says_what_a_run_is_to_hold(run: Run, tmp_path: Path) -> None:
    run.finish(*FIRST)
    file = tmp_path / "more.yaml"
    file.write_text(yaml.safe_dump({**TINY, "checkpoints": {"count": 5, "keep": [1.0]}}))
    asked = run.layout.asked
    for alter in (lambda: None, lambda: asked.write_text("{}"), asked.unlink):
        alter()
        assert re.search(r"^checkpoints +5 +1 ", run.shown("-c", str(file)).output, re.MULTILINE)
    file.write_text(yaml.safe_dump({**TINY, "run": "other"}))
    with pytest.raises(TrakError, match="is for the run other"):
        CliRunner().invoke(
            app, ["status", str(run.layout.root), "-c", str(file)], catch_exceptions=False
        )


def test_imported_checkpoints_need_not_be_there_any_more(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    for step in (10, 20):
        state = {"global_step": step, "max_steps": 20}
        _write(folder / f"checkpoint-{step}" / "trainer_state.json", json.dumps(state))
    run = _made(tmp_path, checkpoints={"existing": [{"run": str(folder)}]})
    run.ask("all", "evaluation")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    counts = _counts(run.status())
    assert counts["checkpoints"][0] == counts["kernels"][0] == 2
    assert counts["evaluation"][0] == 2  # how they were trained is not known


def test_looking_loads_no_large_library(run: Run) -> None:
    heavy = ["torch", "transformers", "datasets", "zarr", "numpy", "pyarrow", "scipy", "rich"]
    asked = (
        "import sys; from trak_steps.cli import app\n"
        f"try: app(['status', {str(run.layout.root)!r}])\n"
        f"except SystemExit: print([m for m in {heavy} if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def test_a_steps_log_says_when_it_began_and_is_held_by_it(tmp_path: Path) -> None:
    """That of a step; what other commands say is a user's own."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "trak_steps", "kernel", "--checkpoint", "0", "--set", "run=x"]
    before = time.time()
    with log.open("w") as file:
        subprocess.run(command, cwd=tmp_path, stdout=file, stderr=file, check=False)
    read = JobLog.read(log)
    assert read is not None
    assert read.began is not None
    assert before - 1 <= read.began <= time.time()
    assert (read.alive, read.failed) == (False, True)
    assert read.lines[-1].startswith("error: ")
    program = (
        "import sys; from trak_steps.console import job_log\n"
        "job_log.begin(); job_log.begin(); print('ready', flush=True); sys.stdin.read()"
    )
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        file.close()
        read = JobLog.read(log)
        process.kill()
        process.wait()
    assert read is not None
    assert (read.alive, read.lines) == (True, ())
    assert log.read_text().count("began") == 1
    read = JobLog.read(log)
    assert read is not None
    assert read.alive is False


def test_asking_about_a_lock_takes_none(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with suppress(FileNotFoundError):
        is_held(lock)
        pytest.fail("there is no lock")
    held = try_lock(lock)
    assert held is not None
    assert is_held(lock) is True
    assert try_lock(lock) is None
    with lock.open("a") as other:
        mark_alive(other.fileno())  # goes without
        os.close(held)
        assert is_held(lock) is False
    held = try_lock(lock)
    assert held is not None
    os.close(held)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (99.4, "99 s"), (101, "2 min"), (5900, "98 min"), (6000, "1 h 40 min")],
)
def test_times_are_said_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said
