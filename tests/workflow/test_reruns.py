"""What runs again after a change: what depends on it, and no more."""

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from reruns import AFTER, PRESETS, ROWS, steps_that_read, what_follows
from workspace import TINY, WHOLE, Workspace

from trak_steps.config import parse_settings
from trak_steps.config.load import setting_names
from trak_steps.config.settings import Settings
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune
from trak_steps.store.artefact import artefact_manifest
from trak_steps.workflow.registry import STEPS

# Another value of every setting; the run's name is another run, and brought checkpoints other rules.
OTHER_VALUES: dict[str, Any] = {
    "seed": 1,
    "scoring": "reference",
    "dataset.path": "csv",
    "dataset.name": "other",
    "dataset.data_files": {"train": "t.csv", "validation": "v.csv"},
    "dataset.train_split": "validation",
    "dataset.text": ["question"],
    "dataset.label": "other",
    "dataset.row_id": "id",
    "dataset.group": "town",
    "dataset.train_size": 60,
    "dataset.sample": "first",
    "dataset.flip_labels": 0.5,
    "targets.NAME.split": "train",
    "targets.NAME.size": 6,
    "model.name_or_path": "other",
    "model.max_length": 40,
    "model.trust_remote_code": True,
    "checkpoints.count": 3,
    "checkpoints.keep": [0.5, 1.0],
    "finetune.epochs": 2,
    "finetune.batch_size": 10,
    "finetune.learning_rate": 1e-4,
    "finetune.weight_decay": 0.0,
    "finetune.warmup_ratio": 0.5,
    "finetune.dropout": 0.0,
    "features.dim": 4,
    "features.projection": "rademacher",
    "features.gradients": "functional",
    "features.precision": "bfloat16",
    "features.parameters.include": [".*weight"],
    "features.parameters.exclude": [".*bias"],
    "features.model_output": "json:JSONDecoder",
    "features.loss_temperature": 2.0,
    "features.dtype": "float16",
    "features.shard_size": 30,
    "features.codec": "zstd",
    "features.keep_bits": 12,
    "kernel.ridge": 1.0,
    "kernel.effective_dof": 0.5,
    "scores.top": 2,
    "scores.loss_weight_power": 1.0,
    "scores.balance": False,
    "evaluation.preset": "thorough",
    "evaluation.lds.subsets": 9,
    "evaluation.lds.share": 0.6,
    "evaluation.lds.repeats": 3,
    "evaluation.removal.targets": 1,
    "evaluation.removal.rows": 3,
    "evaluation.removal.repeats": 3,
    "evaluation.suspects": 5,
    "evaluation.bootstrap": 150,
    "evaluation.models_per_job": 5,
    "execution.device": "cpu",
    "execution.threads": 2,
    "execution.save_every": 0.5,
    "execution.batch_tokens": 512,
    "execution.memory_mb": 512,
}
ELSEWHERE = {"run", "checkpoints.existing", "checkpoints.classes"}
# Rules by the step that they run; several run the same.
RULES = {"featurize_targets": "featurize"}
ABSENT = {"import-checkpoint"}  # a run has this or fine-tuning


def _steps(jobs: dict[str, int]) -> set[str]:
    return {RULES.get(rule, rule).replace("_", "-") for rule in jobs}


def _changed(name: str, value: Any) -> dict[str, Any]:
    """The tiny settings' section with one of its settings changed."""
    if name == "scoring":  # a preset, where the settings themselves say nothing
        return {"scoring": value, "kernel": {}}
    if name == "evaluation.preset":
        left = {key: inner for key, inner in TINY["evaluation"].items() if key not in ("lds", "removal")}
        return {"evaluation": {**left, "preset": value}}
    head, *rest = name.replace("NAME", "validation").split(".")
    if not rest:
        return {head: value}
    section: dict[str, Any] = json.loads(json.dumps(TINY.get(head, {})))
    inner = section
    for part in rest[:-1]:
        inner = inner.setdefault(part, {})
    inner[rest[-1]] = value
    return {head: section}


def _planned(direct: set[str]) -> set[str]:
    """What a dry run shows: the steps that read the change, and those after them.

    What hangs by rows alone on a step that runs is looked at when that step is done.
    """
    shown: set[str] = set()
    touched: set[str] = set()
    for name in STEPS:
        above = touched & {*AFTER[name], *ROWS[name]}
        if shown & set(AFTER[name]) or (name in direct and not above):
            shown.add(name)
        if name in shown or above:
            touched.add(name)
    return shown - ABSENT


def test_every_setting_plans_what_the_table_says(finished: Workspace) -> None:
    """A dry run for each setting with another value."""
    assert set(OTHER_VALUES) | ELSEWHERE == set(setting_names(Settings))

    def plan(name: str) -> set[str]:
        return _steps(finished.planned(*WHOLE, **_changed(name, OTHER_VALUES[name])))

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(OTHER_VALUES, pool.map(plan, OTHER_VALUES), strict=True))
    expected = {name: _planned(set(steps_that_read(name))) for name in OTHER_VALUES}
    # The tiny run says itself which states to keep, so that preset changes what is left.
    left = [name for name in PRESETS["scoring"] if name != "checkpoints.keep"]
    expected["scoring"] = _planned({step for name in left for step in steps_that_read(name)})
    assert found == expected
    for name in OTHER_VALUES:
        always, perhaps = what_follows(steps_that_read(name))
        assert found[name] <= {*always, *perhaps}


@pytest.mark.parametrize("step", ["rank", "kernel", "finetune", "prepare-targets", "plan-subsets"])
def test_a_raised_version_reruns_its_step_and_what_follows(finished: Workspace, step: str) -> None:
    """And edited code whose version stays reruns nothing: no one loses work by an upgrade."""
    file = (finished.root / "trak_steps" / "steps").joinpath(*STEPS[step].module.split("."))
    file = file.with_suffix(".py")
    before = file.read_text()
    try:
        file.write_text(before + "\nNEW_CODE = 1\n")
        assert finished.planned(*WHOLE) == {}
        file.write_text(before.replace("VERSION = 1", "VERSION = 2"))
        assert _steps(finished.planned(*WHOLE)) == _planned({step})
    finally:
        file.write_text(before)


Ran = Callable[..., dict[str, list[str]]]


@pytest.fixture
def run(finished: Workspace, tmp_path: Path) -> Ran:
    """Run the tiny run with changes, in a copy; gives the messages of the jobs of each rule."""
    space = Workspace(tmp_path / "copy")
    shutil.copytree(finished.root, space.root, symlinks=True)

    def ran(**changes: Any) -> dict[str, list[str]]:
        done = space.snakemake("--cores", "2", **changes)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        again = space.snakemake("--cores", "2", **changes)
        assert "Nothing to be done" in again.stdout + again.stderr
        jobs: dict[str, list[str]] = {}
        rule = ""
        for line in output.splitlines():
            if re.match(r"Job \d+: ", line):
                rule = line.partition(": ")[2]
                jobs.setdefault(rule.split(":")[0].split(" ")[0], []).append(rule)
        jobs.pop("run", None)
        return jobs

    ran.root = space.root  # type: ignore[attr-defined]
    return ran


def test_another_group_trains_and_featurizes_nothing(run: Ran) -> None:
    """Only the lists and figures that show it are made again."""
    jobs = run(dataset={"path": "demo", "train_size": 40})
    assert set(jobs) == {"prepare", "rank", "summary", "provenance"}


def test_flipped_labels_change_what_was_learnt_from_them(run: Ran) -> None:
    """All rows' digests are asked for anew in the same call, once they are prepared."""
    jobs = run(dataset={**TINY["dataset"], "flip_labels": 0.5})
    assert {name: len(found) for name, found in jobs.items()} == {
        "prepare": 1,
        "finetune": 2,
        "featurize": 6,
        "kernel": 2,
        "score": 1,
        "rank": 1,
        "summary": 1,
        "provenance": 1,
    }


def test_a_larger_train_set_computes_only_the_new_shards(run: Ran) -> None:
    """With imported checkpoints: those that are trained here see every row."""
    root: Path = run.root  # type: ignore[attr-defined]
    checkpoints = root / "results" / "tiny" / "checkpoints"
    brought = {"run": "brought", "checkpoints": {"existing": [str(checkpoints / "0")]}}
    first = run(**brought)
    assert len(first["featurize"]) == 3
    before = _contents(root / "results" / "brought")
    larger = run(**brought, dataset={**TINY["dataset"], "train_size": 75})
    assert set(larger) == {
        *("prepare", "featurize", "kernel", "score", "rank", "summary", "provenance"),
    }
    assert sorted(larger["featurize"]) == [
        "featurize: checkpoint 0, shard 00002",
        "featurize: checkpoint 0, shard 00003",
    ]
    after = _contents(root / "results" / "brought")
    for name in ("features/0/train/00000.zarr", "features/0/train/00001.zarr", "checkpoints/0"):
        assert after[name] == before[name]
    both = {**brought, "checkpoints": {"existing": [str(checkpoints / "0"), str(checkpoints / "1")]}}
    more = run(**both, dataset={**TINY["dataset"], "train_size": 75})
    assert more["checkpoint"] == ["checkpoint 1: imported, into results/brought/checkpoints/1"]
    assert all("checkpoint 1" in job for job in more["featurize"])
    assert len(more["featurize"]) == 5
    assert len(more["kernel"]) == 1


def _contents(run: Path) -> dict[str, str]:
    found = [*run.glob("features/*/*/*.zarr"), *run.glob("checkpoints/*")]
    return {str(path.relative_to(run)): artefact_manifest(path).content for path in found}


def test_more_training_runs_train_and_featurize_only_the_new_ones(run: Ran) -> None:
    jobs = run(checkpoints={"count": 3, "keep": [1.0]})
    assert len(jobs["finetune"]) == 1
    assert all("checkpoint 2" in job for job in jobs["featurize"])
    assert len(jobs["featurize"]) == 3
    assert len(jobs["kernel"]) == 1
    assert "prepare" not in jobs


def test_a_training_that_snakemake_does_not_know_to_be_finished_is_not_repeated(run: Ran) -> None:
    """As when it was killed after the training's job, before it took note: it deletes what was made."""
    root: Path = run.root  # type: ignore[attr-defined]
    folder = root / "results" / "tiny"
    shutil.rmtree(folder / "checkpoints" / "0")
    finetune.run(Layout(folder), parse_settings(TINY), 0)
    assert (folder / "training" / "0" / "states").is_dir()
    for name in ("checkpoints/0", "features/0", "kernel", "scores"):
        shutil.rmtree(folder / name)
    for name in ("summary.json", "provenance.json"):
        (folder / name).unlink()
    assert "finetune" in run()
    assert "trained already" in (folder / "logs" / "checkpoints" / "0.log").read_text()
    assert not (folder / "training" / "0").exists()
