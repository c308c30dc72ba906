"""How a classifier is trained: the settings and rows of one training, as the Trainer takes them."""

import math
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from trak_steps.errors import TrakError
from trak_steps.model.schedule import step_of, training_steps

INPUTS = ("input_ids", "token_type_ids")


@dataclass(frozen=True)
class Recipe:
    """How one classifier is trained.

    Attributes:
        epochs, batch_size, learning_rate, weight_decay, warmup_ratio, dropout: as the settings.
        seed: decides new weights, the order of rows, and dropout.
        precision, accumulation, recompute: as the settings.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    dropout: float | None
    seed: int
    precision: str = "float32"
    accumulation: int = 1
    recompute: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from other recipes: what came later is named where it is not as before."""
        added = {one.name: one.default for one in fields(self) if one.default is not MISSING}
        values = vars(self)
        return {name: values[name] for name in values if values[name] != added.get(name, MISSING)}

    def steps(self, n: int) -> int:
        """Optimizer steps for n rows."""
        return training_steps(n, epochs=self.epochs, batch_size=self.batch_size)

    def step_at(self, fraction: float, n: int) -> int:
        """The step with which a fraction of the training for n rows ends; at least the first."""
        return step_of(fraction, self.steps(n))


def trainer_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    cpu: bool,
    callbacks: Sequence[TrainerCallback] = (),
    **saving: Any,
) -> Trainer:
    """A Trainer that trains a model by a recipe.

    Args:
        model: to train; it was built after the random numbers were seeded.
        tokenizer: pads the batches.
        rows: of :func:`training_rows`.
        recipe: how to train.
        folder: for what the Trainer writes.
        cpu: do not use a GPU.
        callbacks: of the Trainer.
        saving: what it saves, in the Trainer's own words.

    Raises:
        TrakError: if the model cannot be trained so.
    """
    if recipe.recompute and not model.supports_gradient_checkpointing:
        raise TrakError(
            f"finetune.recompute: {type(model).__name__} has no gradient checkpointing; set it to "
            "false, and finetune.accumulation higher to save memory"
        )
    trainer = Trainer(
        model=model,
        args=_arguments(recipe, recipe.steps(len(rows)), folder, cpu=cpu, **saving),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=list(callbacks),
    )
    # The Trainer takes it from a model's signature that its loss is over the rows of the whole step,
    # and adds up parts. A classifier's is the mean over those that it is given.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def _arguments(
    recipe: Recipe, steps: int, folder: Path, *, cpu: bool, **saving: Any
) -> TrainingArguments:
    """The recipe as the Trainer takes it."""
    if recipe.recompute:
        # The other kind computes no gradients where the inputs are frozen, and is being retired.
        saving |= {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        }
    made = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size // recipe.accumulation,
        gradient_accumulation_steps=recipe.accumulation,
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
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
