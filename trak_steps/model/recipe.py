"""How a classifier is trained: the settings and rows of one training, as the Trainer takes them."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from transformers import TrainingArguments

from trak_steps.model.schedule import step_of, training_steps

INPUTS = ("input_ids", "token_type_ids")


@dataclass(frozen=True)
class Recipe:
    """How one classifier is trained.

    Attributes:
        epochs, batch_size, learning_rate, weight_decay, warmup_ratio, dropout: as the settings.
        seed: decides new weights, the order of rows, and dropout.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    dropout: float | None
    seed: int

    def steps(self, n: int) -> int:
        """Optimizer steps for n rows."""
        return training_steps(n, epochs=self.epochs, batch_size=self.batch_size)

    def step_at(self, fraction: float, n: int) -> int:
        """The step with which a fraction of the training for n rows ends; at least the first."""
        return step_of(fraction, self.steps(n))


def training_arguments(
    recipe: Recipe, steps: int, folder: Path, *, cpu: bool, **saving: Any
) -> TrainingArguments:
    """The recipe as the Trainer takes it.

    Args:
        recipe: how to train.
        steps: optimizer steps.
        folder: for what the Trainer writes.
        cpu: do not use a GPU.
        saving: what it saves, in the Trainer's own words.
    """
    made = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=math.ceil(recipe.warmup_ratio * steps),
        lr_scheduler_type="linear",
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=cpu,
        logging_steps=max(1, steps // 20),
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=not cpu,
        **saving,
    )
    # One job, one GPU: on several, the Trainer would multiply the batch and so the epochs.
    _ = made.device
    made._n_gpu = min(1, made._n_gpu)
    return made


def training_rows(table: pa.Table) -> datasets.Dataset:
    """What a model is trained on, of a tokenised train set with labels; nothing is copied."""
    names = [name for name in INPUTS if name in table.column_names]
    columns = table.select([*names, "label"]).rename_columns([*names, "labels"])
    # Without a fingerprint of ours, the library reads all rows to make one. It names files that are
    # derived from the rows, and none is.
    return datasets.Dataset(columns, fingerprint="rows")
