"""The workflow as a user runs it: from a dry run to what reruns after a change."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forked_jobs import startup_of_shells
from workspace import TINY, WHOLE, Workspace

AFTER_SUMMARY = {"provenance": 1}
AFTER_RANK = {"summarize": 1, **AFTER_SUMMARY}
AFTER_SCORE = {"gather": 1, "rank": 1, **AFTER_RANK}
AFTER_KERNEL = {"calibrate": 1, "score": 1, **AFTER_SCORE}
AFTER_FEATURES = {"kernel": 2, **AFTER_KERNEL}
FEATURES = {"featurize": 4, "featurize_targets": 2}
AFTER_CHECKPOINTS = {**FEATURES, **AFTER_FEATURES}
AFTER_TRAIN = {"prepare_targets": 1, "finetune": 2, **AFTER_CHECKPOINTS}
EVERYTHING = {"model": 1, "prepare": 1, **AFTER_TRAIN}


@pytest.fixture(scope="module")
def done(finished: Workspace) -> Workspace:
    """A workspace whose tiny run is complete."""
    return finished


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
    ran = done.snakemake("--cores", "2", *WHOLE)
    assert ran.returncode == 0
    assert "Nothing to be done" in ran.stdout + ran.stderr


def test_a_run_from_nothing_plans_everything(done: Workspace) -> None:
    assert done.planned(run="fresh") == EVERYTHING


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
        ("evaluation", "measure_lds"),
    ],
)
def test_every_stage_is_a_target(done: Workspace, stage: str, last: str) -> None:
    jobs = done.planned(stage, "--forceall")
    assert last in jobs
    assert ("summarize" in jobs) == (stage in ("summary", "evaluation"))


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
    assert re.search(r"features\.dims: .*features\.dim\?", output)
    assert "Traceback" not in output


def test_a_failing_job_says_why_and_leaves_nothing(done: Workspace) -> None:
    dataset = {"path": "demo", "train_size": 3000}
    ran = done.snakemake("--cores", "1", run="wrong", dataset=dataset)
    output = ran.stdout + ran.stderr
    assert ran.returncode != 0
    assert re.search("train set: 3000 rows .* 2304", output)
    assert "Traceback" not in output
    assert not (done.root / "results" / "wrong" / "data").exists() or not list(
        (done.root / "results" / "wrong" / "data").iterdir()
    )


def test_a_training_with_all_its_checkpoints_is_one_job_a_stage_and_shard(done: Workspace) -> None:
    jobs = done.planned(run="states", checkpoints={"count": 2, "keep": [0.5, 1.0]})
    for rule, count in {**FEATURES, "finetune": 2, "kernel": 2}.items():
        assert jobs[rule] == count, rule


def test_imported_checkpoints_are_not_trained(done: Workspace) -> None:
    existing = [str(done.root / "results" / "tiny" / "checkpoints" / m) for m in ("0", "1")]
    jobs = done.planned(run="imported", checkpoints={"existing": existing})
    assert jobs["import_checkpoint"] == 2
    assert "finetune" not in jobs


def test_a_trainings_folder_is_imported_checkpoint_by_checkpoint(done: Workspace) -> None:
    """Trainings may have kept others each, so a job has one of their checkpoints."""
    checkpoints = done.root / "results" / "tiny" / "checkpoints"
    trainings = [
        {"run": str(checkpoints), "checkpoints": {"0": 0.25, "1": 1.0}},
        {"run": str(checkpoints.parent), "checkpoints": {"checkpoints/0": 0.5}},
    ]
    jobs = done.planned(run="imported", checkpoints={"existing": trainings})
    shards = FEATURES["featurize"] // TINY["checkpoints"]["count"]
    assert jobs["import_checkpoint"] == jobs["kernel"] == jobs["featurize"] // shards == 3
    assert "finetune" not in jobs


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
    assert done.planned("data", **own) == {"prepare": 1}
    weights = done.root / "own_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert done.planned("data", **own) == {"model": 1, "prepare": 1, "prepare_targets": 1}


@pytest.mark.parametrize("value", [3, "three"])
def test_a_forked_job_says_and_returns_what_the_real_command_does(done: Workspace, value: Any) -> None:
    """So do all jobs of these tests, those of test_upgrade aside."""
    command = ["trak-steps", "settings", "--config", "own.yaml", "--set", f"features.dim={value}"]
    (done.root / "own.yaml").write_text("seed: 7\n")
    said = [
        subprocess.run(
            ["bash", "-c", f"type -P trak-steps; {' '.join(command)}"],
            cwd=done.root,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(done.root),
                **shells,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        for shells in ({}, {"BASH_ENV": str(startup_of_shells())})
    ]
    paths, outputs = zip(*(each.stdout.split("\n", 1) for each in said), strict=True)
    assert paths[0] != paths[1]
    assert outputs[0] == outputs[1]
    assert (said[0].returncode, said[0].stderr) == (said[1].returncode, said[1].stderr)
    assert said[0].returncode == (value != 3)
