"""The workflow as a person runs it: from a dry run to what reruns after a change."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "run": "tiny",
    "dataset": {"path": "demo", "train_size": 40, "group": "fact"},
    "targets": {"validation": {"split": "validation", "size": 12}},
    "model": {"max_length": 48},
    "checkpoints": {"count": 2},
    "finetune": {"epochs": 1, "batch_size": 20},
    "features": {"dim": 8, "shard_size": 20},
    "kernel": {"ridge": 0.1},
    "scores": {"top": 3},
    "execution": {"memory_mb": 256},
}
AFTER_SUMMARY = {"provenance": 1}
AFTER_RANK = {"summarize": 1, **AFTER_SUMMARY}
AFTER_SCORE = {"rank": 1, **AFTER_RANK}
AFTER_KERNEL = {"score": 1, **AFTER_SCORE}
AFTER_FEATURES = {"kernel": 2, **AFTER_KERNEL}
FEATURES = {"featurize": 4, "featurize_targets": 2}
AFTER_CHECKPOINTS = {**FEATURES, **AFTER_FEATURES}
AFTER_TRAIN = {"prepare_targets": 1, "finetune": 2, **AFTER_CHECKPOINTS}
EVERYTHING = {"model": 1, "prepare": 1, **AFTER_TRAIN}


@dataclass(frozen=True)
class Workspace:
    """A copy of the project in which a run lives."""

    root: Path

    def snakemake(self, *arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with the tiny settings, some sections changed."""
        values = {**TINY, **changes}
        config = self.root / "tiny.yaml"
        config.write_text(yaml.safe_dump(values))
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "--configfile", str(config), "--nocolor", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def planned(self, *arguments: str, **changes: Any) -> dict[str, int]:
        """How many jobs of each rule a dry run would start, aggregate targets left out."""
        done = self.snakemake("-n", *arguments, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        table = re.search(r"Job stats:\n.*?\n-+.*?\n(.*?)\ntotal", done.stdout + done.stderr, re.DOTALL)
        jobs = {}
        for line in table[1].splitlines() if table else []:
            rule, count = line.split()
            jobs[rule] = int(count)
        targets = ("all", "data", "checkpoints", "features", "kernels", "scores", "summary")
        return {rule: count for rule, count in jobs.items() if rule not in targets}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose tiny run is complete."""
    space = Workspace(tmp_path_factory.mktemp("workspace"))
    for folder in ("workflow", "config", "trak_steps"):
        shutil.copytree(ROOT / folder, space.root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert space.planned() == EVERYTHING
    ran = space.snakemake("--cores", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return space


def test_a_run_leaves_every_output_and_a_log_of_each_job(done: Workspace) -> None:
    run = done.root / "results" / "tiny"
    for path in (
        "model/config.json",
        "data/train/manifest.json",
        "data/targets/validation/manifest.json",
        "checkpoints/1/model.safetensors",
        "features/0/train/00001.zarr/zarr.json",
        "features/1/targets/validation.zarr/zarr.json",
        "kernel/0.zarr/zarr.json",
        "scores/validation.zarr/zarr.json",
        "scores/validation.top.parquet",
        "logs/features/1/train/00000.log",
        "benchmarks/kernel/1.tsv",
    ):
        assert (run / path).is_file(), path
    summary = json.loads((run / "summary.json").read_text())
    assert {"accuracy", "recall_at_3", "recall_at_3_chance"} <= set(summary)
    assert not list(run.rglob("*.tmp"))
    assert not list((run / "training").glob("*"))


def test_a_second_run_does_nothing(done: Workspace) -> None:
    ran = done.snakemake("--cores", "2")
    assert ran.returncode == 0
    assert "Nothing to be done" in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"execution": {"memory_mb": 512, "threads": 2, "device": "cpu"}}, {}),
        ({"scores": {"top": 2}}, {"rank": 1, "summarize": 1}),
        ({"scores": {"top": 3, "loss_weight_power": 1.0}}, AFTER_KERNEL),
        ({"kernel": {"ridge": 1.0}}, AFTER_FEATURES),
        ({"features": {"dim": 4, "shard_size": 20}}, AFTER_CHECKPOINTS),
        ({"finetune": {"epochs": 2, "batch_size": 20}}, {"finetune": 2, **AFTER_CHECKPOINTS}),
        ({"seed": 1}, EVERYTHING),
        (
            {"checkpoints": {"count": 3}},
            {
                "finetune": 1,
                "featurize": 2,
                "featurize_targets": 1,
                "kernel": 1,
                "score": 1,
                "rank": 1,
                "summarize": 1,
            },
        ),
        (
            {"targets": {**TINY["targets"], "more": {"split": "validation", "size": 6}}},
            {"prepare_targets": 1, "featurize_targets": 2, "score": 1, "rank": 1, "summarize": 1},
        ),
        (
            {"targets": {"validation": {"split": "validation", "size": 6}}},
            {"prepare_targets": 1, "featurize_targets": 2, "score": 1, "rank": 1, "summarize": 1},
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_a_changed_setting_reruns_what_depends_on_it(
    done: Workspace, changes: dict[str, Any], expected: dict[str, int]
) -> None:
    assert done.planned(**changes) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("steps/rank.py", AFTER_SCORE),
        (
            "steps/prepare_targets.py",
            {"prepare_targets": 1, "featurize_targets": 2, **AFTER_KERNEL},
        ),
        ("scoring/scores.py", AFTER_KERNEL),
        ("kernel/gram.py", AFTER_FEATURES),
        ("projection/dense.py", AFTER_CHECKPOINTS),
        ("model/training.py", {"finetune": 2, **AFTER_CHECKPOINTS}),
        ("cli.py", {}),
        ("progress.py", {}),
    ],
)
def test_edited_code_reruns_its_step_and_what_follows(
    done: Workspace, module: str, expected: dict[str, int]
) -> None:
    file = done.root / "trak_steps" / module
    before = file.read_text()
    try:
        file.write_text(before + "\n# only a comment\n")
        assert done.planned() == {}
        file.write_text(before + "\nNEW_CODE = 1\n")
        assert done.planned() == expected
    finally:
        file.write_text(before)


def test_one_stage_is_forced(done: Workspace) -> None:
    assert done.planned("-R", "kernel") == AFTER_FEATURES


@pytest.mark.parametrize(
    ("stage", "last"),
    [
        ("data", "prepare_targets"),
        ("checkpoints", "finetune"),
        ("features", "featurize"),
        ("kernels", "kernel"),
        ("scores", "rank"),
        ("summary", "summarize"),
    ],
)
def test_every_stage_is_a_target(done: Workspace, stage: str, last: str) -> None:
    jobs = done.planned(stage, "--forceall")
    assert last in jobs
    assert ("summarize" in jobs) == (stage == "summary")


def test_a_deleted_shard_is_made_again_alone(done: Workspace) -> None:
    shard = done.root / "results" / "tiny" / "features" / "0" / "train" / "00001.zarr"
    aside = shard.with_name("aside")
    shard.rename(aside)
    try:
        assert done.planned("features") == {"featurize": 1}
    finally:
        aside.rename(shard)


def test_the_number_of_rows_may_be_left_open(done: Workspace) -> None:
    """Without dataset.train_size, the shards are known after the rows are prepared."""
    dataset = {"path": "demo", "group": "fact"}
    planned = done.planned(run="open", dataset=dataset)
    assert "featurize" not in planned
    ran = done.snakemake("--cores", "2", "data", run="open", dataset=dataset)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert done.planned(run="open", dataset=dataset)["featurize"] == 2 * -(-2304 // 20)


def test_a_wrong_setting_stops_before_any_job(done: Workspace) -> None:
    ran = done.snakemake("-n", features={"dims": 8})
    output = ran.stdout + ran.stderr
    assert ran.returncode != 0
    assert "features.dims: there is no such setting; did you mean features.dim?" in output
    assert "Traceback" not in output


def test_a_failing_job_says_why_and_leaves_nothing(done: Workspace) -> None:
    dataset = {"path": "demo", "train_size": 3000}
    ran = done.snakemake("--cores", "1", run="wrong", dataset=dataset)
    output = ran.stdout + ran.stderr
    assert ran.returncode != 0
    assert "train set: 3000 rows are asked for, the split has 2304" in output
    assert "Traceback" not in output
    assert not (done.root / "results" / "wrong" / "data").exists() or not list(
        (done.root / "results" / "wrong" / "data").iterdir()
    )


def test_states_along_a_run_are_checkpoints_too(done: Workspace) -> None:
    jobs = done.planned(run="states", checkpoints={"count": 2, "keep": [0.5, 1.0]})
    assert (jobs["finetune"], jobs["kernel"], jobs["featurize"]) == (2, 4, 8)


def test_existing_checkpoints_are_not_trained(done: Workspace) -> None:
    existing = [str(done.root / "results" / "tiny" / "checkpoints" / m) for m in ("0", "1")]
    settings = {"run": "brought", "checkpoints": {"existing": existing}}
    assert "finetune" not in done.planned(**settings)
    ran = done.snakemake("--cores", "2", **settings)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (done.root / "results" / "brought" / "summary.json").is_file()


def test_an_edited_file_of_ones_own_reruns_what_is_made_from_it(done: Workspace) -> None:
    """A local data file and a local model's folder are inputs of the workflow."""
    rows = "question,sentence,label\n" + "".join(
        f"who is {i}?,number {i} is here.,{i % 2}\n" for i in range(12)
    )
    for name in ("train", "dev"):
        (done.root / f"{name}.csv").write_text(rows)
    shutil.copytree(done.root / "results" / "tiny" / "model", done.root / "own_model")
    shutil.copyfile(
        done.root / "results" / "tiny" / "checkpoints" / "0" / "model.safetensors",
        done.root / "own_model" / "model.safetensors",
    )
    own: dict[str, Any] = {
        "run": "files",
        "dataset": {
            "path": "csv",
            "data_files": {"train": "train.csv", "validation": "dev.csv"},
            "text": ["question", "sentence"],
            "train_size": 12,
        },
        "targets": {"validation": {}},
        "model": {"name_or_path": "own_model", "max_length": 32},
    }
    ran = done.snakemake("--cores", "2", "data", **own)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert done.planned("data", **own) == {}
    (done.root / "dev.csv").write_text(rows.replace("here", "there"))
    assert done.planned("data", **own) == {"prepare_targets": 1}
    (done.root / "train.csv").write_text(rows.replace("here", "there"))
    assert done.planned("data", **own) == {"prepare": 1, "prepare_targets": 1}
    weights = done.root / "own_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert done.planned("data", **own) == {"model": 1, "prepare": 1, "prepare_targets": 1}
