"""What a model says of targets. All that decides it, beside model and targets, is here or below."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from trak_steps.errors import TrakError
from trak_steps.gradients.model_output import ModelOutput, predict
from trak_steps.gradients.rows import Row
from trak_steps.model.forward import forward


def ask(
    model: PreTrainedModel, output: ModelOutput, rows: Sequence[Row]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The model output f of each row, [t], and what the model predicts, [t].

    Raises:
        TrakError: if a row's is not finite.
    """
    logits = forward(model, rows).logits
    margin = output.output(logits, torch.tensor([row.label for row in rows]))
    if not torch.isfinite(margin).all():
        raise TrakError("a target's margin is not finite")
    return margin.float().numpy(), predict(logits).numpy()
