"""A run in a storage, by jobs that share no files: each starts in a folder with its inputs alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults.damage import files_of
from forked_jobs import startup_of_shells
from snakemake.cli import get_argument_parser
from workspace import ROOT, STAGES, TINY, WHOLE, copy_project

from trak_steps.audit.verify import verify_run
from trak_steps.config import parse_settings
from trak_steps.run.layout import Layout
from trak_steps.workflow.memory import SUBMITTED

PLUGINS = Path(__file__).parents[1] / "plugins"
# How many rows a shard has is only known once rows are prepared.
SETTINGS = {**TINY, "features": {"dim": 8}}
# These tell when and where a job ran, or are no outputs.
OTHERS = (".locks/", "logs/", "benchmarks/", "training/")

WANTING = [name for name in ("snakemake_storage_plugin_fs",) if find_spec(name) is None]
WANTING += [name for name in ("rsync",) if shutil.which(name) is None]
in_storage = pytest.mark.skipif(bool(WANTING), reason=f"not installed: {', '.join(WANTING)}")


@dataclass(frozen=True)
class Started:
    """A folder that a workflow is started in, and where its run lies."""

    root: Path
    store: Path

    @property
    def run(self) -> Path:
        """The run's outputs."""
        return self.store / "results" / "tiny"

    def snakemake(self, *arguments: str) -> str:
        """What Snakemake says with the run in the storage; fails if it does."""
        code, said = self.try_snakemake(*arguments)
        assert code == 0, said
        return said

    def try_snakemake(self, *arguments: str) -> tuple[int, str]:
        """Its exit status, and what it says."""
        where = ("--default-storage-provider", "fs", "--default-storage-prefix", str(self.store))
        return _snakemake(self.root, *where, *arguments)

    def planned(self, *arguments: str) -> set[str]:
        """The rules that would run."""
        said = self.snakemake("-n", "--cores", "1", *arguments)
        return set(re.findall(r"^(\w+) +\d+$", said, re.MULTILINE)) - {"total", *STAGES}


def _snakemake(root: Path, *arguments: str) -> tuple[int, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(PLUGINS)]),
        "BASH_ENV": str(startup_of_shells()),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "snakemake", "--nocolor", "--configfile", "tiny.yaml", *arguments]
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def _project(root: Path, settings: dict[str, Any]) -> Path:
    root.mkdir()
    copy_project(root)
    (root / "tiny.yaml").write_text(yaml.safe_dump(settings))
    return root


def _outputs(run: Path) -> dict[str, bytes]:
    names = {file.relative_to(run).as_posix(): file for file in files_of(run)}
    found = {name: file.read_bytes() for name, file in names.items() if not name.startswith(OTHERS)}
    if page := found.get("report.html"):
        found["report.html"] = _shown(page)
    return found


def _shown(page: bytes) -> bytes:
    """A page without what the run took, which a storage does not know, and without the manifest."""
    for part in (
        rb"<h3>Time, memory and disk</h3>.*?(?=<h3>)",
        rb'<script type="application/json".*?</script>',
    ):
        page = re.sub(part, b"", page, flags=re.DOTALL)
    return page


APART = ("--shared-fs-usage", "none", "--executor", "apart", "--jobs", "2")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Started:
    """A run whose jobs share nothing but the storage."""
    folder = tmp_path_factory.mktemp("storage")
    started = Started(_project(folder / "project", SETTINGS), folder / "store")
    started.snakemake(*APART, *WHOLE)
    return started


@in_storage
def test_every_file_is_that_of_a_run_in_a_shared_folder(apart: Started, tmp_path: Path) -> None:
    plain = _project(tmp_path / "project", SETTINGS)
    code, said = _snakemake(plain, "--cores", "2", *WHOLE)
    assert code == 0, said
    expected = _outputs(plain / "results" / "tiny")
    found = _outputs(apart.run)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert "evaluation/lds.json" in found
    assert "provenance.json" in found
    assert not verify_run(Layout(apart.run)).problems


@in_storage
def test_jobs_of_parts_are_brought_what_they_read(tmp_path: Path) -> None:
    """Of a train set that is summed, and looked at for wrong labels, in three parts."""
    settings = {
        **TINY,
        "features": {"dim": 8, "shard_size": 14},
        "checkpoints": {"count": 1, "keep": [0.5, 1.0]},
        "scores": {"top": 3, "loss_weight_power": 1.0},
        "execution": {**TINY["execution"], "rows_per_job": 14},
    }
    started = Started(_project(tmp_path / "project", settings), tmp_path / "store")
    started.snakemake(*APART, "summary", "find_mislabelled")
    run = Layout(started.run)
    assert not verify_run(run, parse_settings(settings)).problems
    for path in (run.kernel_part("0-0.5", "14-28"), run.weighted_sums("28-40"), run.opponents("0-14")):
        assert path.is_dir()


@in_storage
def test_nothing_of_a_run_in_a_storage_is_left_where_it_was_started(apart: Started) -> None:
    left = [file for file in (apart.root / "results").rglob("*") if file.is_file()]
    assert left == [apart.root / "results" / "tiny" / ".locks" / "snakemake"]


@in_storage
def test_a_whole_run_in_a_storage_runs_nothing(apart: Started) -> None:
    assert "Nothing to be done" in apart.snakemake(*APART, *WHOLE)


@in_storage
def test_what_is_deleted_from_a_storage_is_made_again(apart: Started) -> None:
    before = _outputs(apart.run)
    (apart.run / "summary.json").unlink()
    assert apart.planned(*WHOLE) == {"summarize", "provenance", "report"}
    # Also by jobs on this machine, which Snakemake then brings the same inputs.
    apart.snakemake("--cores", "2", *WHOLE)
    assert _outputs(apart.run) == before
    shutil.rmtree(apart.run / "kernel" / "0.zarr")
    assert apart.planned("kernels") == {"kernel"}
    said = apart.snakemake(*APART, "kernels")
    assert _outputs(apart.run) == before
    asked = re.search(r"kernel asks for (\d+) MB", said)
    assert asked
    assert int(asked[1]) > SUBMITTED


@in_storage
def test_a_storage_that_cannot_be_written_is_refused_before_the_first_job(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    started = Started(_project(tmp_path / "project", SETTINGS), file)
    code, said = started.try_snakemake("--cores", "1")
    assert code != 0
    assert f"{file}/results/tiny/.asked.json: cannot be written" in said
    assert "set --default-storage-prefix to a place that you may write to" in said
    assert "Traceback" not in said
    assert "model: demo" not in said
    assert file.read_bytes() == b""


@in_storage
def test_rows_of_local_files_are_prepared_where_they_are(tmp_path: Path) -> None:
    """And how many there are is asked of the storage."""
    settings = {
        **SETTINGS,
        "dataset": {
            "path": "json",
            "data_files": {"train": "train.jsonl", "validation": "some.jsonl"},
            "text": "text",
        },
        "targets": {"validation": {"split": "validation"}},
        "checkpoints": {"count": 1, "keep": [1.0]},
    }
    plain = _project(tmp_path / "plain", settings)
    started = Started(_project(tmp_path / "apart", settings), tmp_path / "store")
    # The second time there are other targets, and one more.
    for first, some in ((0, 6), (1, 7)):
        for root in (plain, started.root):
            _write_rows(root / "train.jsonl", 0, 30)
            _write_rows(root / "some.jsonl", first, some)
        code, said = _snakemake(plain, "--cores", "2", "scores")
        assert code == 0, said
        started.snakemake(*APART, "scores")
        found = _outputs(started.run)
        assert found == _outputs(plain / "results" / "tiny")
        assert f"scores/validation/0-30.0-{some}.zarr/manifest.json" in found
        assert "Nothing to be done" in started.snakemake(*APART, "scores")


def _write_rows(file: Path, first: int, count: int) -> None:
    rows = [{"text": f"{i} and {i * i}", "label": i % 2} for i in range(first, first + count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_profile_for_kubernetes_says_what_snakemake_knows() -> None:
    profile = yaml.safe_load((ROOT / "workflow/profiles/kubernetes/profile.yaml").read_text())
    known = {name for action in get_argument_parser()._actions for name in action.option_strings}
    assert [key for key in profile if f"--{key}" not in known] == []
    # As the plugin has it: a GPU needs a limit and a maker, also where a job asks for none.
    assert profile["default-resources"] == {"scale": 0, "gpu_manufacturer": "nvidia"}
