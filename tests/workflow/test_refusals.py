"""A refusal is final: retries of Snakemake's compute nothing again."""

from pathlib import Path

import pytest
from workspace import Workspace, copy_project

from trak_steps.errors import TrakError
from trak_steps.workflow.refused import VARIABLE, forget_refusals, keep_refusal, refused_before

AGAIN = "refused before; not computed again"


def test_a_retry_says_the_same_without_computing(tmp_path: Path) -> None:
    copy_project(tmp_path)
    # Each time that rows are read leaves a line.
    source = tmp_path / "trak_steps" / "steps" / "data" / "prepare.py"
    source.write_text(source.read_text() + "\n_run = run_train\ndef run_train(layout, settings):\n")
    with source.open("a") as file:
        file.write("    open('computed', 'a').write('once\\n')\n    _run(layout, settings)\n")
    space = Workspace(tmp_path)
    wrong = {"dataset": {"path": "demo", "train_size": 3000}}
    ran = space.snakemake("--cores", "1", "--retries", "2", "data", **wrong)
    assert ran.returncode != 0
    assert (ran.stdout + ran.stderr).count("Trying to restart job") == 2
    log = (tmp_path / "results" / "tiny" / "logs" / "data" / "train.log").read_text()
    assert AGAIN in log
    assert "3000 rows" in log
    assert (tmp_path / "computed").read_text() == "once\n"
    # The next workflow asks again.
    space.snakemake("--cores", "1", "data", **wrong)
    log = (tmp_path / "results" / "tiny" / "logs" / "data" / "train.log").read_text()
    assert AGAIN not in log
    assert (tmp_path / "computed").read_text() == "once\nonce\n"


def test_what_may_pass_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ["kernel", "--checkpoint", "0"]
    keep_refusal(step, TrakError("by hand"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / ".refused"))
    assert refused_before(step) is None
    full = TrakError("the disk is full")
    full.__cause__ = OSError()
    keep_refusal(step, full)
    assert refused_before(step) is None
    keep_refusal(step, TrakError("no such rows"))
    assert refused_before(step) == "no such rows"
    assert refused_before([*step, "--set", "seed=1"]) is None
    forget_refusals(tmp_path / ".refused")
    assert refused_before(step) is None
