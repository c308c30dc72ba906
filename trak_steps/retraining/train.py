"""One training on a part of the train set, of which nothing but the model is wanted."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)

from trak_steps.model.recipe import Recipe, training_arguments


def retrain(
    make_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    recipe: Recipe,
    *,
    cpu: bool,
) -> PreTrainedModel:
    """Train as :func:`trak_steps.model.training.finetune` does, and save nothing on the way.

    Args:
        make_model: builds the model to train; called after the random numbers are seeded.
        tokenizer: pads the batches.
        rows: columns of model inputs and ``labels``.
        recipe: how to train; its kept states are not asked for.
        cpu: do not use a GPU.

    Returns:
        The model at the end of its training, in evaluation mode.
    """
    set_seed(recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=make_model(),
            args=training_arguments(
                recipe, recipe.steps(len(rows)), Path(folder), cpu=cpu, save_strategy="no"
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
    return trainer.model.eval()
