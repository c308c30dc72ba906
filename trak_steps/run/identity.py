"""The settings that decide each output, as its manifest holds them and as later steps expect them."""

from collections.abc import Sequence
from typing import Any

from trak_steps.config import Settings
from trak_steps.config.checkpoints import MOST_TRAININGS
from trak_steps.config.settings import BUILT_IN, DatasetSettings
from trak_steps.run.custom_code import custom_code
from trak_steps.run.layout import checkpoint_names

FEWEST_LISTED = 32
# What a matrix of scores and one of their spread may take, where the settings leave it open.
FLOAT, AUTO_BYTES = 4, 10**9


def row_settings(dataset: DatasetSettings, *, train: bool) -> dict[str, Any]:
    """Of the rows of the train set, or of a target set: what the step may see and depends on."""
    left_out = dataset.unwritten.union(() if train else ("train_split", "train_size", "flip_labels"))
    return {name: value for name, value in vars(dataset).items() if name not in left_out}


def recipe_settings(settings: Settings, run: int) -> dict[str, Any]:
    """Of the checkpoints of a training."""
    return {**_finetune_settings(settings), "seed": settings.seed + run}


def _finetune_settings(settings: Settings) -> dict[str, Any]:
    """Those that are not written are none: as in manifests of before they were."""
    return {**settings.finetune.model_dump(), **dict.fromkeys(settings.finetune.unwritten)}


def output_settings(settings: Settings) -> dict[str, Any]:
    """Of the model output: its name, and its code if it is a custom one."""
    output = settings.features.model_output
    return {"model_output": output, "output_code": custom_code(output)}


def feature_settings(settings: Settings) -> dict[str, Any]:
    """Of the features of every checkpoint."""
    chosen = settings.features.model_dump(exclude={"shard_size"})
    return {**chosen, **output_settings(settings), "seed": settings.seed}


def kernel_settings(settings: Settings) -> dict[str, Any]:
    """Of every checkpoint's kernel."""
    return {**feature_settings(settings), **settings.kernel.model_dump()}


def score_settings(settings: Settings) -> dict[str, Any]:
    """Of the scores of every target set."""
    return {
        **kernel_settings(settings),
        "checkpoints": checkpoint_names(settings.checkpoints),
        "loss_weight": settings.scores.loss_weight,
        "loss_weight_power": settings.scores.loss_weight_power,
        "balance": settings.scores.balance,
    }


def rows_are_weighted(settings: Settings) -> bool:
    """Whether scores are multiplied by the train rows' loss weights.

    A classifier's is never negative, so its power 0 is 1: nothing of all rows has to be read.
    """
    return settings.scores.loss_weight_power > 0 or settings.features.model_output != BUILT_IN


def weighted_settings(settings: Settings) -> dict[str, Any]:
    """Of the sums of all checkpoints' features, weighted as scores are."""
    return {
        **feature_settings(settings),
        "checkpoints": checkpoint_names(settings.checkpoints),
        "loss_weight": settings.scores.loss_weight,
        "loss_weight_power": settings.scores.loss_weight_power,
    }


def part_settings(settings: Settings, matrix: Sequence[str], listed: int) -> dict[str, Any]:
    """Of a part of the scores of a target set.

    Args:
        settings: of the run.
        matrix: what of all rows is kept.
        listed: rows of a list.
    """
    return {
        **score_settings(settings),
        "listed": listed,
        "matrix": list(matrix),
    }


def rows_listed(top: int) -> int:
    """How many rows a part lists for each side of a target: more than are shown, in powers of two.

    So a few more to be shown need no new scores.
    """
    return max(FEWEST_LISTED, 1 << (top - 1).bit_length())


def matrix_of(settings: Settings, n: int, t: int) -> tuple[str, ...]:
    """Which of ``scores`` and ``std`` of n train rows and t targets are kept."""
    chosen = settings.scores.matrix
    if chosen == "auto":
        chosen = "scores_and_std" if 2 * FLOAT * n * t <= AUTO_BYTES else "none"
    return {"none": (), "scores": ("scores",), "scores_and_std": ("scores", "std")}[chosen]


def answers_settings(settings: Settings) -> dict[str, Any]:
    """Of what retrained models say of the targets."""
    return {**_finetune_settings(settings), **output_settings(settings)}


def retraining_seed(settings: Settings, repeat: int) -> int:
    """The seed of a training on a part of the rows: none that a checkpoint can have."""
    return settings.seed + MOST_TRAININGS + repeat


def plan_settings(settings: Settings, name: str) -> dict[str, Any]:
    """Of a plan of retraining; that of removal is for the first target set."""
    if name == "subsets":
        return {"seed": settings.seed, **settings.evaluation.lds.model_dump()}
    of = next(iter(settings.targets))
    return {"seed": settings.seed, "of": of, **settings.evaluation.removal.model_dump()}
