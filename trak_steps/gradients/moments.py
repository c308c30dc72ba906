"""Second moments of a model's own gradients, where those of its optimizer are not known.

Adam's v̂ is a running mean of the squares of batches' gradients of the loss. The mean of the squares of
single rows' gradients of the model output differs from it in scale, and in how the rows are weighed;
what the metric asks of it, how parameters and their rows and columns compare, is much the same
(measured: docs/evaluation.md).
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from trak_steps.gradients.model_output import ModelOutput
from trak_steps.gradients.rows import Row
from trak_steps.gradients.selfcheck import autograd_of
from trak_steps.gradients.source import select_parameters
from trak_steps.projection.metric import SecondMoments


def mean_squares(
    model: PreTrainedModel, output: ModelOutput, rows: Sequence[Row]
) -> dict[str, SecondMoments]:
    """The mean of the squared gradients of single rows, for each trainable parameter, by name.

    Row by row with plain autograd: for few rows.

    Args:
        model: in evaluation mode.
        output: the function of the logits to differentiate.
        rows: at least one.
    """
    parameters = select_parameters(model, [".*"], [])
    found = {of.name: SecondMoments.of(torch.zeros(of.shape)) for of in parameters}
    for row in rows:
        for name, gradient in autograd_of(model, output, parameters, row).items():
            found[name] = found[name].plus(SecondMoments.of(gradient.square()), 1 / len(rows))
    return found
