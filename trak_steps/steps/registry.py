"""What each step is made of: its module, and the settings that its output depends on.

The workflow reruns a step when one of these settings, or the code below its module, has changed.
``execution`` is never listed: it says how to compute, not what, and every step may read it.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trak_steps.config import Settings

EXECUTION = "execution"
# Where the workflow puts the execution settings for its steps, as JSON.
EXECUTION_VARIABLE = "TRAK_STEPS_EXECUTION"


@dataclass(frozen=True)
class Step:
    """A step of the pipeline.

    Attributes:
        module: of ``trak_steps.steps``.
        reads: dotted names of settings; ``{targets}`` stands for the target set at hand.
        after: the steps whose outputs it reads: it runs again after them.
        rows: the steps whose rows or classes it reads: it runs again if they came out different.
    """

    module: str
    reads: tuple[str, ...]
    after: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


_TEXTS = ("dataset.path", "dataset.name", "dataset.data_files", "dataset.text")
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
_TRAINING = (*_RECIPE, "checkpoints.keep")
# Later steps read what earlier ones did to hold an output's manifest against the settings.
_FEATURES = ("run", "seed", "features")
_KERNEL = (*_FEATURES, "kernel")
_SCORES = (*_KERNEL, "checkpoints", "scores.loss_weight_power", "scores.balance")
_BOTH = ("prepare", "prepare-targets")
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
    "model": Step("base_model", ("run", "model.trust_remote_code")),
    "prepare": Step(
        "prepare",
        (
            "run",
            *_ROWS,
            "dataset.train_split",
            "dataset.train_size",
            "dataset.flip_labels",
            "checkpoints.classes",
            "features.model_output",
        ),
        after=("model",),
    ),
    "prepare-targets": Step(
        "prepare_targets", ("run", *_ROWS, "targets.{targets}"), after=("model",), rows=("prepare",)
    ),
    "finetune": Step("finetune", ("run", "seed", *_TRAINING), after=("model",), rows=("prepare",)),
    "import-checkpoint": Step(
        "import_checkpoint", ("run", "model.trust_remote_code"), after=("model",), rows=("prepare",)
    ),
    "featurize": Step(
        "featurize",
        (*_FEATURES, "model.trust_remote_code"),
        after=("finetune", "import-checkpoint"),
        rows=_BOTH,
    ),
    "kernel": Step("kernel", _KERNEL, after=("featurize",)),
    "score": Step("score", _SCORES, after=("featurize", "kernel"), rows=_BOTH),
    "rank": Step("rank", (*_SCORES, "scores.top"), after=("score",), rows=_BOTH),
    "summarize": Step(
        "summarize", ("run", "targets", "checkpoints"), after=("featurize", "rank"), rows=_BOTH
    ),
    "provenance": Step(
        "provenance",
        ("run", "targets", "checkpoints", "features.shard_size"),
        after=("finetune", "import-checkpoint", "kernel", "summarize"),
        rows=_BOTH,
    ),
    "plan-subsets": Step(
        "plan_subsets",
        ("run", "seed", "checkpoints.existing", "evaluation.lds"),
        rows=("prepare",),
    ),
    "plan-removal": Step(
        "plan_removal",
        (*_SCORES, "targets", "model.trust_remote_code", "evaluation.removal"),
        after=("score",),
        rows=_BOTH,
    ),
    "retrain-subsets": Step("retrain", _RETRAINING, after=("model", "plan-subsets"), rows=_BOTH),
    "retrain-removal": Step("retrain", _RETRAINING, after=("model", "plan-removal"), rows=_BOTH),
    "measure-lds": Step(
        "measure_lds",
        (*_SCORES, *_ANSWERS, "evaluation.lds"),
        after=("retrain-subsets", "score"),
        rows=_BOTH,
    ),
    "measure-removal": Step(
        "measure_removal",
        ("run", "seed", "features.model_output", *_ANSWERS, "evaluation.removal"),
        after=("retrain-removal",),
        rows=_BOTH,
    ),
    "measure-stability": Step(
        "measure_stability",
        (*_SCORES, "targets"),
        after=("featurize", "kernel"),
        rows=_BOTH,
    ),
    "find-mislabelled": Step(
        "find_mislabelled",
        (*_SCORES, "evaluation.suspects"),
        after=("featurize", "kernel"),
        rows=("prepare",),
    ),
}


def what_follows(steps: Iterable[str]) -> tuple[list[str], list[str]]:
    """What runs again with some steps.

    Returns:
        All steps that do, those given among them; and those that do besides if rows, classes or
        texts came out different. In the order of the pipeline.
    """
    always = _closure(set(steps), lambda step: step.after)
    perhaps = _closure(always, lambda step: (*step.after, *step.rows)) - always
    return [name for name in STEPS if name in always], [name for name in STEPS if name in perhaps]


def _closure(start: set[str], reasons: Callable[[Step], tuple[str, ...]]) -> set[str]:
    found = set(start)
    for name, step in STEPS.items():  # each stands after those that it reads
        if found & set(reasons(step)):
            found.add(name)
    return found


def hand_to_jobs(settings: Settings) -> None:
    """Put into this process's environment, and so its jobs', what is not in their commands.

    That is the execution settings, and this Python's commands, activated or not.
    """
    os.environ[EXECUTION_VARIABLE] = settings.execution.model_dump_json()
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])


def reads(step: str, settings: Settings, targets: str = "") -> tuple[str, ...]:
    """The settings that a step's output depends on.

    Args:
        step: a key of :data:`STEPS`.
        settings: of the run.
        targets: the name of the target set, for steps that work on one.
    """
    names = [name.format(targets=targets) for name in STEPS[step].reads]
    existing = settings.checkpoints.existing
    if step == "model" and not existing:
        names.append("model.name_or_path")
        if settings.model.name_or_path == "demo":
            # Its vocabulary is made from the train texts; a fetched model knows no data.
            names += ["seed", *_TEXTS, "dataset.train_split"]
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
