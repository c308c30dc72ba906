"""Which code a step's result depends on, and what changes its digest."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from trak_steps import fingerprint as fp
from trak_steps.steps.registry import STEPS


def covers(step: str) -> frozenset[str]:
    return fp.depends_on(f"steps.{STEPS[step].module}")


def test_a_step_covers_what_its_numbers_come_from_and_no_more() -> None:
    assert {"trak_steps.gradients.functional", "trak_steps.projection.dense"} <= covers("featurize")
    assert "trak_steps.scoring.scores" in covers("score")
    assert "trak_steps.kernel.gram" in covers("kernel") & covers("score")
    assert "trak_steps.model.training" in covers("finetune")
    for step in ("kernel", "score", "rank", "summarize"):
        assert not any(".gradients" in name or ".projection" in name for name in covers(step)), step
    for step in ("model", "prepare", "finetune"):
        assert not any(".gradients" in name or ".scoring" in name for name in covers(step)), step
    assert "trak_steps.model.training" not in covers("featurize")
    assert "trak_steps.scoring.top" not in covers("score")


@pytest.mark.parametrize("step", STEPS)
def test_settings_and_messages_do_not_count(step: str) -> None:
    for name in covers(step):
        assert not name.startswith(("trak_steps.config", "trak_steps.cli"))
        assert name not in ("trak_steps.errors", "trak_steps.progress")


@pytest.mark.parametrize("step", STEPS)
def test_a_digest_stays_the_same(step: str) -> None:
    module = f"steps.{STEPS[step].module}"
    assert fp.fingerprint(module) == fp.fingerprint(module)
    assert len(fp.fingerprint(module)) == 16


def test_comments_docstrings_and_layout_do_not_count_but_code_does() -> None:
    code = 'def f(x):\n    """Doc."""\n    return x + 1\n'
    same = "def f(x):\n    # why\n    return (\n        x + 1\n    )\n"
    other = "def f(x):\n    return x + 2\n"
    plain = [fp._plain(ast.parse(text)) for text in (code, same, other)]
    assert plain[0] == plain[1] != plain[2]


def test_a_persons_own_module_counts_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_task.py").write_text("x = 1\n")
    first = fp.foreign_fingerprint("my_own_task")
    (tmp_path / "my_own_task.py").write_text("x = 2\n")
    assert first != fp.foreign_fingerprint("my_own_task") != ""
    assert fp.foreign_fingerprint("there_is_no_such_module") == ""


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_covers_is_what_python_loads_for_it(step: str) -> None:
    """Neither a module that it uses is missing, nor does one count that it does not use."""
    program = (
        f"import sys, trak_steps.steps.{STEPS[step].module}; "
        "print(*(name for name in sys.modules if name.startswith('trak_steps.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not fp._left_out(name)}
    assert loaded - {"trak_steps.steps"} == covers(step) - {"trak_steps.steps"}


def test_what_a_persons_own_module_imports_beside_it_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "own_outputs"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "out.py").write_text("import json\nfrom own_outputs.parts import x\nfrom . import more\n")
    (folder / "parts.py").write_text("x = 1\n")
    (folder / "more.py").write_text("y = 1\n")
    found = {fp.foreign_fingerprint("own_outputs.out")}
    for name in ("parts.py", "more.py", "out.py"):
        (folder / name).write_text((folder / name).read_text() + "z = 2\n")
        found.add(fp.foreign_fingerprint("own_outputs.out"))
    assert len(found) == 4
    (tmp_path / "broken_output.py").write_text("def (")
    (folder / "__init__.py").write_text("raise RuntimeError")
    assert fp.foreign_fingerprint("broken_output.sub") == ""
    assert fp.foreign_fingerprint("own_outputs.nothing") == ""
