"""What runs again after a change of a setting or of a step's version: what the workflow is held to."""

from collections.abc import Callable, Iterable
from typing import Any

from trak_steps.config.load import parse_settings
from trak_steps.workflow.registry import STEPS, reads

# What a step reads: the steps whose outputs it is made again after.
AFTER: dict[str, tuple[str, ...]] = {
    "model": (),
    "prepare": ("model",),
    "prepare-targets": ("model",),
    "finetune": ("model",),
    "import-checkpoint": ("model",),
    "featurize": ("finetune", "import-checkpoint"),
    "sum-kernel": ("featurize",),
    "kernel": ("featurize", "sum-kernel"),
    "sum-weighted": ("featurize",),
    "calibrate": ("featurize", "kernel", "sum-weighted"),
    "score": ("featurize", "kernel", "calibrate"),
    "gather": ("calibrate", "score"),
    "rank": ("gather",),
    "summarize": ("featurize", "gather", "rank"),
    "provenance": ("finetune", "import-checkpoint", "kernel", "calibrate", "score", "summarize"),
    "check-recipe": ("model", "featurize"),
    # Of imported checkpoints, both come after "check-recipe".
    "plan-subsets": (),
    "plan-removal": ("featurize", "kernel", "calibrate"),
    "retrain-subsets": ("model", "plan-subsets"),
    "retrain-removal": ("model", "plan-removal"),
    "measure-lds": ("retrain-subsets", "featurize", "kernel", "calibrate"),
    "measure-removal": ("retrain-removal",),
    "measure-stability": ("featurize", "kernel", "calibrate"),
    "sum-classes": ("featurize",),
    "find-support": ("featurize", "kernel", "sum-classes"),
    "pick-suspects": ("featurize", "find-support"),
    "find-opponents": ("featurize", "kernel", "calibrate", "pick-suspects"),
    "find-mislabelled": ("featurize", "kernel", "calibrate", "find-support", "find-opponents"),
    # Of the evaluation where that is asked for, too.
    "report": (
        *("featurize", "gather", "rank", "summarize", "provenance"),
        *("measure-lds", "measure-removal", "measure-stability", "find-mislabelled"),
    ),
}
# And those whose rows or classes it reads: it is made again if they came out different.
ROWS: dict[str, tuple[str, ...]] = {
    "model": (),
    "prepare": (),
    "prepare-targets": ("prepare",),
    "finetune": ("prepare",),
    "import-checkpoint": ("prepare",),
    "featurize": ("prepare", "prepare-targets"),
    "sum-kernel": (),
    "kernel": (),
    "sum-weighted": (),
    "calibrate": ("prepare",),
    "score": ("prepare", "prepare-targets"),
    "gather": ("prepare", "prepare-targets"),
    "rank": ("prepare", "prepare-targets"),
    "summarize": ("prepare", "prepare-targets"),
    "provenance": ("prepare", "prepare-targets"),
    "check-recipe": ("prepare", "prepare-targets"),
    "plan-subsets": ("prepare",),
    "plan-removal": ("prepare", "prepare-targets"),
    "retrain-subsets": ("prepare", "prepare-targets"),
    "retrain-removal": ("prepare", "prepare-targets"),
    "measure-lds": ("prepare", "prepare-targets"),
    "measure-removal": ("prepare", "prepare-targets"),
    "measure-stability": ("prepare", "prepare-targets"),
    "sum-classes": (),
    "find-support": (),
    "pick-suspects": (),
    "find-opponents": (),
    "find-mislabelled": ("prepare",),
    "report": ("prepare", "prepare-targets"),
}

# What a step reads depends on these; the table is for both.
_KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"model": {"name_or_path": "other"}},
    {"checkpoints": {"existing": ["imported"]}},
)


# Steps that a run has only if one job would take too long for what others do.
OF_PARTS = (
    "sum-kernel",
    "sum-weighted",
    "sum-classes",
    "find-support",
    "pick-suspects",
    "find-opponents",
)
# What these change is which jobs there are: those of the new checkpoints, or of parts.
_OF_NEW_JOBS = {
    "checkpoints.count": ("finetune",),
    "checkpoints.keep": ("finetune",),
    "checkpoints.existing": ("import-checkpoint",),
    "execution.rows_per_job": OF_PARTS,
}


# What these change is other settings.
PRESETS = {
    "scoring": (
        *("checkpoints.keep", "features.metric", "kernel.ridge"),
        *("scores.loss_weight", "scores.loss_weight_power", "scores.balance"),
    ),
    "evaluation.preset": ("evaluation.lds.subsets", "evaluation.removal.targets"),
}


def steps_that_read(setting: str) -> list[str]:
    """The steps whose output depends on a setting.

    Args:
        setting: a dotted name, ``NAME`` standing for the name of an entry.
    """
    named = PRESETS.get(setting, (setting,))
    direct = {step for name in named for step in _direct(name)}
    return [*_OF_NEW_JOBS.get(setting, ()), *(step for step in STEPS if step in direct)]


def _direct(setting: str) -> list[str]:
    name = setting.replace("targets.NAME", "targets.validation")
    found = []
    for step in STEPS:
        known = {
            part for kind in _KINDS for part in reads(step, parse_settings(kind), targets="validation")
        }
        if any(name == part or name.startswith(part + ".") for part in known):
            found.append(step)
    return found


def what_follows(steps: Iterable[str]) -> tuple[list[str], list[str]]:
    """What runs again with some steps.

    Returns:
        All steps that do, those given among them; and those that do besides if rows, classes or
        texts came out different. In the order of the pipeline.
    """
    always = _closure(set(steps), AFTER.__getitem__)
    perhaps = _closure(always, lambda name: (*AFTER[name], *ROWS[name])) - always
    return [name for name in STEPS if name in always], [name for name in STEPS if name in perhaps]


def _closure(start: set[str], reasons: Callable[[str], tuple[str, ...]]) -> set[str]:
    found = set(start)
    for name in STEPS:  # each stands after those that it reads
        if found & set(reasons(name)):
            found.add(name)
    return found
