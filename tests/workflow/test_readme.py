"""What the README shows and CI cannot run to its end, planned by a dry run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workspace import leave_trainings

from trak_steps.config import parse_settings
from trak_steps.run.layout import imported

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [page.relative_to(ROOT) for page in (ROOT / "docs").glob("*.md")]


def blocks(language: str) -> list[str]:
    """The code blocks in a language; in none are outputs, and commands that need a user's files."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


PLANNED = re.findall(r"^snakemake .*$", "".join(blocks("")), re.MULTILINE)


def test_the_settings_shown_are_settings() -> None:
    settings = parse_settings(yaml.safe_load(blocks("yaml")[0]))
    assert settings.dataset.text == ["question", "sentence"]
    assert settings.targets["validation"].size == 100


def test_own_checkpoints_are_imported_by_the_settings_shown_and_by_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block stands for whole sections of the settings above it."""
    leave_trainings(tmp_path)
    monkeypatch.chdir(tmp_path)
    whole = {**yaml.safe_load(blocks("yaml")[0]), **yaml.safe_load(blocks("yaml")[1])}
    del whole["model"]
    example = yaml.safe_load((ROOT / "config" / "own_checkpoints.yaml").read_text(encoding="utf-8"))
    for shown in (whole, example):
        checkpoints = parse_settings(shown).checkpoints
        named = imported(checkpoints)
        assert named["1-0.125"] == "./models/seed-1/checkpoint-10"
        assert len(named) == 3 * len(checkpoints.existing)
        assert checkpoints.classes == {"LABEL_0": "negative", "LABEL_1": "positive"}


@pytest.mark.parametrize("page", ["README.md", "config/README.md", *sorted(map(str, DOCS))])
def test_a_target_stands_before_the_options(page: str) -> None:
    """`--configfile` takes every word after it for another file."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for command in re.findall(r"^snakemake .*$|`snakemake [^`\n]*`", text, re.MULTILINE):
        words = command.strip("`").split()[1:]
        first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        stages = {"data", "checkpoints", "features", "kernels", "scores", "summary", "evaluation"}
        assert not stages & set(words[first:]), command


@pytest.mark.parametrize("command", PLANNED)
def test_the_commands_shown_plan_a_run(command: str, tmp_path: Path) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    for folder in ("workflow", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0])
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^rank\s+1$", done.stdout + done.stderr, re.MULTILINE)
