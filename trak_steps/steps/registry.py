"""What each step is made of: its module, and the settings that its output depends on.

The workflow reruns a step when one of these settings, or the code below its module, has changed.
``execution`` is never listed: it says how to compute, not what, and every step may read it.
"""

import os
import sys
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
    """

    module: str
    reads: tuple[str, ...]


_MODEL = ("model.name_or_path", "model.trust_remote_code", "checkpoints.existing")
_DATA = ("seed", "dataset", "model.max_length", "model.trust_remote_code")

STEPS = {
    "model": Step("base_model", ("run", *_MODEL)),
    "prepare": Step("prepare", ("run", *_DATA, "checkpoints.existing")),
    "prepare-targets": Step("prepare_targets", ("run", *_DATA, "targets.{targets}")),
    "finetune": Step(
        "finetune",
        ("run", "seed", "finetune", "checkpoints.keep", "model.max_length", "model.trust_remote_code"),
    ),
    "import-checkpoint": Step(
        "import_checkpoint", ("run", "model.trust_remote_code", "checkpoints.existing")
    ),
    "featurize": Step("featurize", ("run", "seed", "features", "model.trust_remote_code")),
    "kernel": Step("kernel", ("run", "features.shard_size", "kernel")),
    "score": Step("score", ("run", "features.shard_size", "checkpoints", "scores.loss_weight_power")),
    "rank": Step("rank", ("run", "scores.top")),
    "summarize": Step("summarize", ("run", "targets", "checkpoints")),
}


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
    names = tuple(name.format(targets=targets) for name in STEPS[step].reads)
    if step == "model" and settings.model.name_or_path == "demo":
        # The demo's vocabulary is made from the train texts; a fetched model knows no data.
        names += ("seed", "dataset")
    return names
