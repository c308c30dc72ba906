"""What runs again after a change: what depends on it, and no more."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults.damage import files_of
from reruns import AFTER, OF_PARTS, PRESETS, ROWS, steps_that_read, what_follows
from workspace import TINY, WHOLE, Workspace

from trak_steps.config.load import setting_names
from trak_steps.config.settings import Settings
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.tree import RECEIPT
from trak_steps.workflow.registry import STEPS

# Another value of every setting; the run's name is another run, imported checkpoints have other rules.
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
    "features.metric": "none",
    "features.precision": "bfloat16",
    "features.parameters.include": [".*weight"],
    "features.parameters.exclude": [".*bias"],
    "features.model_output": "json:JSONDecoder",
    "features.loss_temperature": 2.0,
    "features.dtype": "float16",
    "finetune.precision": "bfloat16",
    "finetune.accumulation": 2,
    "finetune.recompute": True,
    "features.shard_size": 30,
    "features.codec": "zstd",
    "features.keep_bits": 12,
    "kernel.ridge": 1.0,
    "kernel.effective_dof": 0.5,
    "scores.top": 2,
    "scores.loss_weight": "own",
    "scores.loss_weight_power": 1.0,
    "scores.matrix": "none",
    "scores.rows_per_job": 10,
    "scores.targets_per_job": 2,
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
    "execution.save_minutes": 9.0,
    "execution.batch_tokens": 512,
    "execution.memory_mb": 512,
    "execution.rows_per_job": 20,
}
# A run has no other value for them, or not beside the others here.
ELSEWHERE = {
    *("run", "checkpoints.existing", "checkpoints.classes", "evaluation.retrain_imported"),
    *("dataset.revision", "model.revision"),
}
# Rules by the step that they run; several run the same.
RULES = {"featurize_targets": "featurize"}
# A run has these or fine-tuning; others only if it is large, or rows are weighted.
ABSENT = {"import-checkpoint", "check-recipe", "sum-weighted"}


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
    return shown - ABSENT - (set() if direct == set(OF_PARTS) else set(OF_PARTS))


def test_every_setting_plans_what_the_table_says(finished: Workspace) -> None:
    """A dry run for each setting with another value."""
    assert set(OTHER_VALUES) | ELSEWHERE == set(setting_names(Settings))

    def plan(name: str) -> set[str]:
        return _steps(finished.planned(*WHOLE, page=True, **_changed(name, OTHER_VALUES[name])))

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(OTHER_VALUES, pool.map(plan, OTHER_VALUES), strict=True))
    expected = {name: _planned(set(steps_that_read(name))) for name in OTHER_VALUES}
    # The tiny run says itself which checkpoints to keep, so that preset changes what is left.
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
        assert finished.planned(*WHOLE, page=True) == {}
        file.write_text(before.replace("\nVERSION = ", "\nVERSION = 1"))
        of_module = {name for name in STEPS if STEPS[name].module == STEPS[step].module}
        assert _steps(finished.planned(*WHOLE, page=True)) == _planned(of_module)
    finally:
        file.write_text(before)


@dataclass(frozen=True)
class Copy:
    """A copy of the finished run that a test may change."""

    space: Workspace

    @property
    def results(self) -> Path:
        return self.space.root / "results"

    def run(self, *targets: str, **changes: Any) -> dict[str, list[str]]:
        """Run with changes until nothing is left to do; gives the messages of the jobs of each step."""
        self._forget_logs()
        done = self.space.snakemake("--cores", "2", *targets, **changes)
        assert done.returncode == 0, done.stdout
        assert self.space.planned(*targets, **changes) == {}
        jobs: dict[str, list[str]] = {}
        for message in re.findall(r"^Job \d+: (.*)", done.stdout, re.MULTILINE):
            if not re.search(": done|is complete", message):  # of the rules that are targets alone
                jobs.setdefault(message.partition(":")[0], []).append(message)
        return jobs

    def _forget_logs(self) -> None:
        for log in self.results.glob("*/logs/**/*.log"):
            log.unlink()

    def said(self, what: str) -> set[str]:
        """The outputs that the jobs of the last run say they ``wrote`` or ``kept``, within their run."""
        logs = "".join(log.read_text() for log in self.results.glob("*/logs/**/*.log"))
        return set(re.findall(rf"^{what} results/\w+/([^:\s]+)", logs, re.MULTILINE))

    def log(self, name: str) -> str:
        return (self.results / "tiny" / "logs" / f"{name}.log").read_text()

    def files(self, *patterns: str) -> dict[str, tuple[int, bytes]]:
        """When each file of some outputs was written, and what it holds; receipts aside."""
        run = self.results / "tiny"
        return {
            str(file.relative_to(run)): (file.stat().st_mtime_ns, file.read_bytes())
            for pattern in patterns
            for path in run.glob(pattern)
            for file in files_of(path)
        }


@pytest.fixture
def copy(finished: Workspace, tmp_path: Path) -> Copy:
    """A copy of the finished run."""
    space = Workspace(tmp_path / "copy")
    shutil.copytree(finished.root, space.root, symlinks=True)
    return Copy(space)


def test_another_group_trains_and_featurizes_nothing(copy: Copy) -> None:
    """Only the lists and figures that show it are made again."""
    jobs = copy.run(dataset={"path": "demo", "train_size": 40})
    assert set(jobs) == {"prepare", "rank", "summary", "provenance", "report"}


def test_flipped_labels_change_what_was_learnt_from_them(copy: Copy) -> None:
    """All rows' digests are asked for anew in the same call, once they are prepared."""
    jobs = copy.run(dataset={**TINY["dataset"], "flip_labels": 0.5})
    assert {name: len(found) for name, found in jobs.items()} == {
        "prepare": 1,
        "finetune": 2,
        "featurize": 6,
        "kernel": 2,
        "calibrate": 1,
        "score": 1,
        "gather": 1,
        "rank": 1,
        "summary": 1,
        "provenance": 1,
        "report": 1,
    }
    assert copy.said("kept") == set()


def test_a_larger_train_set_computes_only_the_new_shards(copy: Copy) -> None:
    """With imported checkpoints: those that are trained here see every row."""
    checkpoints = copy.results / "tiny" / "checkpoints"
    imported = {"run": "imported", "checkpoints": {"existing": [str(checkpoints / "0")]}}
    first = copy.run(**imported)
    assert first["import-checkpoint"] == ["import-checkpoint: 0"]
    assert len(first["featurize"]) == 3
    assert "finetune" not in first
    assert (copy.results / "imported" / "summary.json").is_file()
    before = _contents(copy.results / "imported")
    larger = copy.run(**imported, dataset={**TINY["dataset"], "train_size": 75})
    assert set(larger) == {
        *(
            "prepare",
            "featurize",
            "kernel",
            "calibrate",
            "score",
            "gather",
            "rank",
            "summary",
            "provenance",
            "report",
        ),
    }
    assert sorted(larger["featurize"]) == [
        "featurize: training 0, shard 00002",
        "featurize: training 0, shard 00003",
    ]
    after = _contents(copy.results / "imported")
    for name in ("features/0/train/00000.zarr", "features/0/train/00001.zarr", "checkpoints/0"):
        assert after[name] == before[name]
    both = {**imported, "checkpoints": {"existing": [str(checkpoints / "0"), str(checkpoints / "1")]}}
    more = copy.run(**both, dataset={**TINY["dataset"], "train_size": 75})
    assert more["import-checkpoint"] == ["import-checkpoint: 1"]
    assert all("training 1" in job for job in more["featurize"])
    assert len(more["featurize"]) == 5
    assert len(more["kernel"]) == 1


def _contents(run: Path) -> dict[str, str]:
    found = [*run.glob("features/*/*/*.zarr"), *run.glob("checkpoints/*")]
    return {str(path.relative_to(run)): artefact_manifest(path).content for path in found}


def test_more_trainings_train_and_featurize_only_the_new_ones(copy: Copy) -> None:
    jobs = copy.run(checkpoints={"count": 3, "keep": [1.0]})
    assert jobs["finetune"] == ["finetune: training 2"]
    assert all("training 2" in job for job in jobs["featurize"])
    assert len(jobs["featurize"]) == 3
    assert jobs["kernel"] == ["kernel: training 2"]
    assert "prepare" not in jobs


OF_CHECKPOINT = ("checkpoints/{}", "features/{}/*/*.zarr", "kernel/{}.zarr")


def test_an_intermediate_checkpoint_is_added_dropped_and_added_back(copy: Copy) -> None:
    """The training goes only as far as the new one, and what is there is computed once."""
    one = {"checkpoints": {"count": 1, "keep": [1.0]}}
    two = {"checkpoints": {"count": 1, "keep": [0.5, 1.0]}}
    of_end = [pattern.format("0") for pattern in OF_CHECKPOINT]
    of_both = [*of_end, *(pattern.format("0-0.5") for pattern in OF_CHECKPOINT)]
    before = copy.files(*of_end)
    assert before

    assert copy.run("kernels", **two)["finetune"] == ["finetune: training 0"]
    assert "kept 1 of 2 checkpoints" in copy.log("checkpoints/0")
    assert "training 1 of 2 steps" in copy.log("checkpoints/0")
    made = {
        *("features/{}/train/00000.zarr", "features/{}/train/00001.zarr", "kernel/{}.zarr"),
    }
    assert copy.said("wrote") == {"checkpoints/0-0.5", *(name.format("0-0.5") for name in made)}
    assert copy.said("kept") == {name.format("0") for name in made}
    assert copy.files(*of_end) == before

    copy.run("features", **two)
    assert copy.said("wrote") == {"features/0-0.5/targets/validation.zarr"}
    whole = copy.files(*of_both)
    for settings in (one, two):
        assert "finetune" not in copy.run("features", "kernels", **settings)
        assert copy.said("wrote") == set()
        assert copy.files(*of_both) == whole


def test_a_new_target_set_featurizes_that_set_alone(copy: Copy) -> None:
    patterns = ("checkpoints/*", "features/*/*/*.zarr", "kernel/*", "scores/validation*")
    before = copy.files(*patterns)
    jobs = copy.run(targets={**TINY["targets"], "few": {"split": "validation", "size": 3}})
    after = {"score", "gather", "rank", "summary", "provenance", "report"}
    assert set(jobs) == {"prepare", "featurize", *after}
    assert sorted(jobs["featurize"]) == [f"featurize: training {m}, targets few" for m in range(2)]
    assert jobs["score"] == ["score: targets few, part 0-40.0-3"]
    assert [job.partition(" into")[0] for job in jobs["rank"]] == ["rank: targets few"]
    after = copy.files(*patterns)
    assert {name: after[name] for name in before} == before
    assert {f"features/{m}/targets/few.zarr/zarr.json" for m in range(2)} <= set(after) - set(before)


def test_a_training_that_snakemake_does_not_know_to_be_finished_is_not_repeated(copy: Copy) -> None:
    """As when it was killed after the training's job, before it took note: it deletes the receipt."""
    before = copy.files("checkpoints/*")
    receipt = copy.results / "tiny" / "checkpoints" / "0" / RECEIPT
    told = receipt.read_bytes()
    receipt.unlink()
    assert copy.run("checkpoints") == {"finetune": ["finetune: training 0"]}
    assert "kept 1 of 1 checkpoints" in copy.log("checkpoints/0")
    assert "steps" not in copy.log("checkpoints/0")
    assert copy.files("checkpoints/*") == before
    assert receipt.read_bytes() == told
