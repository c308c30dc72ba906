"""The settings that decide each output, as its manifest holds them and as later steps expect them."""

from typing import Any

from trak_steps.config import Settings
from trak_steps.config.checkpoints import MOST_TRAININGS
from trak_steps.config.settings import DatasetSettings
from trak_steps.run.custom_code import custom_code
from trak_steps.run.layout import checkpoint_names


def row_settings(dataset: DatasetSettings, *, train: bool) -> dict[str, Any]:
    """Of the rows of the train set, or of a target set: what the step may see and depends on."""
    only_train = ("train_split", "train_size", "flip_labels")
    return {name: value for name, value in vars(dataset).items() if train or name not in only_train}


def recipe_settings(settings: Settings, run: int) -> dict[str, Any]:
    """Of the checkpoints of a training."""
    return {**settings.finetune.model_dump(), "seed": settings.seed + run}


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


def answers_settings(settings: Settings) -> dict[str, Any]:
    """Of what retrained models say of the targets."""
    return {**settings.finetune.model_dump(), **output_settings(settings)}


def retraining_seed(settings: Settings, repeat: int) -> int:
    """The seed of a training on a part of the rows: none that a checkpoint can have."""
    return settings.seed + MOST_TRAININGS + repeat


def plan_settings(settings: Settings, name: str) -> dict[str, Any]:
    """Of a plan of retraining; that of removal is for the first target set."""
    if name == "subsets":
        return {"seed": settings.seed, **settings.evaluation.lds.model_dump()}
    of = next(iter(settings.targets))
    return {"seed": settings.seed, "of": of, **settings.evaluation.removal.model_dump()}
