"""The digest of a custom model output's source."""

from pathlib import Path

import pytest

from trak_steps.run.custom_code import custom_code


def test_a_custom_module_counts_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_task.py").write_text("x = 1\n")
    first = custom_code("my_own_task:Task")
    (tmp_path / "my_own_task.py").write_text("x = 2\n")
    assert first != custom_code("my_own_task:Task") != ""
    assert custom_code("there_is_no_such_module:Task") == ""


def test_what_a_custom_module_imports_beside_it_counts_too(
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
    found = {custom_code("own_outputs.out:Out")}
    for name in ("parts.py", "more.py", "out.py"):
        (folder / name).write_text((folder / name).read_text() + "z = 2\n")
        found.add(custom_code("own_outputs.out:Out"))
    assert len(found) == 4
    (tmp_path / "broken_output.py").write_text("def (")
    (folder / "__init__.py").write_text("raise RuntimeError")
    assert custom_code("broken_output.sub:Out") == ""
    assert custom_code("own_outputs.nothing:Out") == ""


def test_a_file_named_like_the_built_in_output_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text_classification.py").write_text("x = 1\n")
    assert custom_code("text_classification") == ""
