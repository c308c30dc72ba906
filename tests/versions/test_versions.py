"""No step's numbers change unnoticed: what they depend on is recorded, with the step's version."""

import ast
import shutil
from pathlib import Path

import pytest
from loads import loaded

from trak_steps.workflow.registry import STEPS
from versions.digest import PACKAGE, ROOT, depends_on, digest_of, left_out, plain
from versions.record import now, recorded

# What the settings import to check themselves.
_SETTINGS = {
    f"{PACKAGE}.{name}"
    for name in (
        *("data", "data.patterns"),
        *("kernel", "kernel.blocks"),
        *("model", "model.device", "model.files", "model.schedule", "model.trainer_folder"),
    )
}


def _covers(step: str) -> frozenset[str]:
    return depends_on(f"steps.{STEPS[step].module}")


@pytest.mark.parametrize("step", STEPS)
def test_a_steps_numbers_are_those_of_its_version(step: str) -> None:
    before, is_now = recorded()[step], now()[step]
    if is_now["code"] != before["code"] and is_now["version"] == before["version"]:
        pytest.fail(
            f"what the numbers of `{step}` depend on has changed. If its numbers have, too: "
            f"`make new-numbers STEPS={step}` raises its version, and upgraded runs make it again. If "
            f"they are the same: `make same-numbers STEPS={step}`."
        )
    assert is_now == before, f"the version was raised by hand: `make same-numbers STEPS={step}`"


def test_a_step_covers_what_its_numbers_come_from_and_no_more() -> None:
    assert {"trak_steps.gradients.functional", "trak_steps.projection.dense"} <= _covers("featurize")
    assert "trak_steps.scoring.scores" in _covers("score")
    assert "trak_steps.kernel.gram" in _covers("kernel") & _covers("score")
    assert "trak_steps.model.training" in _covers("finetune")
    for step in ("kernel", "score", "rank", "summarize"):
        assert not any(".gradients" in name or ".projection" in name for name in _covers(step)), step
    for step in ("model", "prepare", "finetune"):
        assert not any(".scoring" in name for name in _covers(step)), step
    assert "trak_steps.model.training" not in _covers("featurize")
    assert "trak_steps.evaluation.lds" not in _covers("score")


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_covers_is_what_python_loads_for_it(step: str) -> None:
    """No module that it loads is missing, but for those that decide no numbers and what they load."""
    _, ours = loaded()[step]
    assert {name for name in ours if not left_out(name)} - _SETTINGS <= _covers(step)


def test_comments_docstrings_messages_and_versions_do_not_count_but_code_does() -> None:
    code = 'VERSION = 1\ndef f(x):\n    """Doc."""\n    say("a")\n    return x + 1\n'
    same = 'VERSION = 2\ndef f(x):\n    # why\n    say(f"b {x}")\n    return (\n        x + 1\n    )\n'
    other = 'def f(x):\n    say("a")\n    return x + 2\n'
    plains = [plain(ast.parse(text)) for text in (code, same, other)]
    assert plains[0] == plains[1] != plains[2]


def test_mathematics_that_is_edited_is_noticed_and_a_message_is_not(tmp_path: Path) -> None:
    copy = tmp_path / PACKAGE
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def changed() -> set[str]:
        return {
            name
            for name, step in STEPS.items()
            if digest_of(f"steps.{step.module}", copy) != digest_of(f"steps.{step.module}")
        }

    assert changed() == set()
    _edit(copy / "store" / "atomic.py", "cannot be written", "could not be written")
    _edit(copy / "kernel" / "gram.py", "the kernel is not finite", "K is not finite")
    assert changed() == set()
    _edit(copy / "scoring" / "lists.py", "ordered if largest", "-ordered if largest")
    assert changed() == {
        *("calibrate", "score", "gather", "report"),
        *("measure-stability", "find-mislabelled"),
        *("sum-weighted", "sum-classes", "find-support", "pick-suspects", "find-opponents"),
    }
    _edit(copy / "kernel" / "gram.py", "SINGULAR = 1e-9", "SINGULAR = 1e-8")
    assert {"kernel", "score", "measure-lds"} <= changed()
    assert not {"finetune", "featurize"} & changed()


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
