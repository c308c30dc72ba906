"""What each step is made of: its module, and the settings that its output depends on.

The workflow reruns a step when one of these settings, or its version, has changed.
:data:`HANDED` are never listed: what of them matters shows in the names of outputs.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from trak_steps.config import Settings
from trak_steps.model.device import resolve_device
from trak_steps.run.step_version import step_version

# Every step may read these, and a change of them reruns nothing that is there: how to compute, and which
# checkpoints of a training are wanted.
HANDED = ("execution", "checkpoints.keep", "checkpoints.existing")
# Where the workflow puts them for its jobs, as JSON.
HANDED_VARIABLE = "TRAK_STEPS_HANDED"


@dataclass(frozen=True)
class Step:
    """A step of the pipeline.

    Attributes:
        module: below ``trak_steps.steps``.
        reads: dotted names of settings; ``{targets}`` stands for the target set at hand.
        gpu: whether it computes on a GPU where there is one.
    """

    module: str
    reads: tuple[str, ...]
    gpu: bool = False


_TEXTS = ("dataset.path", "dataset.name", "dataset.revision", "dataset.data_files", "dataset.text")
_ROWS = (
    "seed",
    *_TEXTS,
    "dataset.label",
    "dataset.row_id",
    "dataset.group",
    "dataset.sample",
    "model.max_length",
    "model.trust_remote_code",
)
_RECIPE = ("finetune", "model.max_length", "model.trust_remote_code")
# Later steps read what earlier ones did to hold an output's manifest against the settings.
_FEATURES = ("run", "seed", "features")
_KERNEL = (*_FEATURES, "kernel")
_SCORES = (*_KERNEL, "checkpoints", "scores.loss_weight", "scores.loss_weight_power", "scores.balance")
_CHECKPOINTS = (*_FEATURES, "checkpoints")
_SUSPECTS = (*_KERNEL, "checkpoints", "evaluation.suspects")
_PARTS = ("scores.rows_per_job", "scores.targets_per_job")
_RETRAINING = (
    "run",
    "seed",
    "targets",
    *_RECIPE,
    "features.model_output",
    "evaluation.models_per_job",
)
_ANSWERS = ("targets", *_RECIPE, "evaluation.models_per_job", "evaluation.bootstrap")

STEPS = {
    # Where checkpoints are imported, a tokenizer may be that of the model named.
    "model": Step(
        "data.model", ("run", "model.trust_remote_code", "model.name_or_path", "model.revision")
    ),
    "prepare": Step(
        "data.prepare",
        (
            "run",
            *_ROWS,
            "dataset.train_split",
            "dataset.train_size",
            "dataset.flip_labels",
            "checkpoints.classes",
            "features.model_output",
        ),
    ),
    "prepare-targets": Step("data.prepare", ("run", *_ROWS, "targets.{targets}")),
    "finetune": Step("checkpoints.finetune", ("run", "seed", *_RECIPE), gpu=True),
    "import-checkpoint": Step(
        "checkpoints.import_checkpoint",
        ("run", "model.trust_remote_code"),
    ),
    "featurize": Step("features.featurize", (*_FEATURES, "model.trust_remote_code"), gpu=True),
    "sum-kernel": Step("kernels.sum_kernel", _FEATURES, gpu=True),
    "kernel": Step("kernels.kernel", _KERNEL, gpu=True),
    "sum-weighted": Step(
        "scores.sum_weighted", (*_CHECKPOINTS, "scores.loss_weight", "scores.loss_weight_power")
    ),
    "calibrate": Step("scores.calibrate", _SCORES, gpu=True),
    "score": Step("scores.score", (*_SCORES, "scores.matrix", *_PARTS), gpu=True),
    "gather": Step("scores.gather", (*_SCORES, "scores.matrix", *_PARTS)),
    "rank": Step("scores.rank", (*_SCORES, "scores.top")),
    "summarize": Step("summary.summarize", ("run", "targets", "checkpoints")),
    "provenance": Step(
        "summary.provenance",
        ("run", "targets", "checkpoints", "features.shard_size", "features.dim", *_PARTS),
    ),
    "check-recipe": Step(
        "evaluation.check_recipe",
        ("run", "seed", "targets", *_RECIPE, "model.name_or_path", "features.model_output"),
        gpu=True,
    ),
    "plan-subsets": Step(
        "evaluation.plan_subsets",
        ("run", "seed", "checkpoints.existing", "evaluation.lds"),
    ),
    "plan-removal": Step(
        "evaluation.plan_removal",
        (*_SCORES, "targets", "model.trust_remote_code", "evaluation.removal"),
        gpu=True,
    ),
    "retrain-subsets": Step("evaluation.retrain", _RETRAINING, gpu=True),
    "retrain-removal": Step("evaluation.retrain", _RETRAINING, gpu=True),
    "measure-lds": Step("evaluation.measure_lds", (*_SCORES, *_ANSWERS, "evaluation.lds"), gpu=True),
    "measure-removal": Step(
        "evaluation.measure_removal",
        ("run", "seed", "features.model_output", *_ANSWERS, "evaluation.removal"),
    ),
    "measure-stability": Step(
        "evaluation.measure_stability",
        (*_SCORES, "targets"),
    ),
    "sum-classes": Step("evaluation.sum_classes", (*_CHECKPOINTS, "evaluation.suspects")),
    "find-support": Step("evaluation.find_support", _SUSPECTS),
    "pick-suspects": Step("evaluation.pick_suspects", _SUSPECTS),
    "find-opponents": Step("evaluation.find_opponents", (*_SCORES, "evaluation.suspects")),
    "find-mislabelled": Step(
        "evaluation.find_mislabelled",
        (*_SCORES, "evaluation.suspects"),
    ),
    # What is shown are all settings of the run.
    "report": Step(
        "summary.report",
        (
            *("run", "seed", "scoring", "dataset", "targets", "model", "checkpoints", "finetune"),
            *("features", "kernel", "scores", "evaluation"),
        ),
    ),
}


def version_of(step: str) -> int:
    """The version of a step: see :func:`~trak_steps.run.step_version.step_version`."""
    return step_version(STEPS[step].module)


NO_GPU_ASKED = (
    "execution.device: auto means cpu for jobs that others run, as on a cluster, where no GPU is given "
    "unasked; set execution.device: cuda to ask for GPUs, or cpu"
)


def device_of_jobs(settings: Settings, elsewhere: bool) -> str:
    """The device that jobs compute on: never ``auto``, so that they ask for what they use.

    Args:
        settings: of the run.
        elsewhere: whether other machines run the jobs, such as a cluster's nodes. What those have is
            not known here, and they give a GPU to the jobs that ask for one: ``auto`` is ``cpu``.
    """
    device = settings.execution.device
    return "cpu" if device == "auto" and elsewhere else resolve_device(device)


def hand_to_jobs(settings: Settings, device: str) -> None:
    """Put into this process's environment, and so its jobs', what is not in their commands.

    That is :data:`HANDED`, and this Python's commands, activated or not.

    Args:
        settings: of the run.
        device: that jobs compute on.
    """
    values = settings.model_dump(mode="json")
    values["execution"]["device"] = device
    given = {}
    for name in HANDED:
        section, _, key = name.partition(".")
        given[name] = values[section][key] if key else values[section]
    os.environ[HANDED_VARIABLE] = json.dumps(given)
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, path])


def reads(step: str, settings: Settings, targets: str = "") -> tuple[str, ...]:
    """The settings that a step's output depends on.

    Args:
        step: a key of :data:`STEPS`.
        settings: of the run.
        targets: the name of the target set, for steps that work on one.
    """
    names = [name.format(targets=targets) for name in STEPS[step].reads]
    existing = settings.checkpoints.existing
    if step == "model" and not existing and settings.model.name_or_path == "demo":
        # Its vocabulary is made from the train texts; a fetched model knows no data.
        names += ["seed", *_TEXTS, "dataset.train_split"]
    if step in ("model", "check-recipe", "plan-subsets", "plan-removal") and existing:
        names.append("evaluation.retrain_imported")
    if step == "featurize" and not existing:
        names.append("finetune")
    split = {
        "model": settings.dataset.train_split,
        "prepare": settings.dataset.train_split,
        "prepare-targets": settings.targets[targets].split if targets in settings.targets else "",
    }.get(step)
    of_splits = "dataset.data_files" in names and "." not in (split or ".")
    if of_splits and split in (settings.dataset.data_files or {}):
        # The files of another split are none of this step's business.
        names[names.index("dataset.data_files")] += f".{split}"
    return tuple(names)
