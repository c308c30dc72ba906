"""One training on a part of the train set, of which nothing but the model is wanted.

All that decides the model is here or below.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedModel, set_seed

from trak_steps.model.load import load_for_training, load_tokenizer
from trak_steps.model.recipe import Recipe, trainer_of, training_rows


@dataclass(frozen=True)
class Base:
    """What every training starts from.

    Attributes:
        folder: of the model to fine-tune.
        outputs: how many logits the labels ask for.
        label_names: of the classes; none for regression.
        max_length: tokens of the longest row.
        trust_remote_code: run Python code of the folder.
    """

    folder: Path
    outputs: int
    label_names: list[str]
    max_length: int
    trust_remote_code: bool


def retrain(
    base: Base, rows: pa.Table, kept: NDArray[np.bool_], recipe: Recipe, *, cpu: bool
) -> PreTrainedModel:
    """Train as :func:`trak_steps.model.training.finetune` does, and save nothing on the way.

    Args:
        base: what to train.
        rows: the tokenised train set, with a column ``label``; n of them.
        kept: which to train on, [n].
        recipe: how to train; its intermediate checkpoints are not asked for.
        cpu: do not use a GPU.

    Returns:
        The model at the end of its training, in evaluation mode.
    """
    part = training_rows(rows).select(np.flatnonzero(kept))
    tokenizer = load_tokenizer(
        base.folder, max_length=base.max_length, trust_remote_code=base.trust_remote_code
    )
    # Before the model is built, whose new head is drawn.
    set_seed(recipe.seed)
    model = load_for_training(
        base.folder,
        outputs=base.outputs,
        label_names=base.label_names,
        dropout=recipe.dropout,
        trust_remote_code=base.trust_remote_code,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, tokenizer, part, recipe, Path(folder), cpu=cpu, save_strategy="no")
        trainer.train()
        # It answers in float32, whatever it was trained in.
        trained: PreTrainedModel = trainer.accelerator.unwrap_model(
            trainer.model, keep_fp32_wrapper=False
        )
    return trained.eval()
