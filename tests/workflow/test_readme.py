"""What the README shows and CI cannot run to its end, planned by a dry run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trak_steps.config import parse_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def own_settings() -> str:
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def test_the_settings_shown_are_settings() -> None:
    settings = parse_settings(yaml.safe_load(own_settings()))
    assert settings.dataset.text == ["question", "sentence"]
    assert settings.targets["validation"].size == 100


@pytest.mark.parametrize("command", re.findall(r"^snakemake .*$", README, re.MULTILINE))
def test_the_commands_shown_plan_a_whole_run(command: str, tmp_path: Path) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    for folder in ("workflow", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "mine.yaml").write_text(own_settings())
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^summarize\s+1$", done.stdout + done.stderr, re.MULTILINE)
