"""The small interface of what computes per-sample gradients.

A :class:`GradientSource` runs rows through the model and hands each parameter's share of the
per-sample gradients to a sketch (:mod:`trak_steps.projection.base`). It never has to hold whole
gradients: that is the sketch's choice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trak_steps.gradients.errors import GradientError, Remedy
from trak_steps.gradients.rows import Row
from trak_steps.projection.base import Parameter, Sketch


@dataclass(frozen=True)
class Outputs:
    """What the same pass gives beside gradients.

    Attributes:
        margin: the model output f, [b].
        loss_weight: Q, [b].
        prediction: the class with the largest logit, or a regression's value, [b].
    """

    margin: Tensor
    loss_weight: Tensor
    prediction: Tensor


def concatenate(parts: Sequence[Outputs]) -> Outputs:
    """Outputs of batches, one after the other."""
    return Outputs(
        torch.cat([part.margin for part in parts]),
        torch.cat([part.loss_weight for part in parts]),
        torch.cat([part.prediction for part in parts]),
    )


class GradientSource(Protocol):
    """Computes per-sample gradients of a model output over selected parameters.

    Attributes:
        parameters: what the gradient is taken over.
        tokens: how many tokens, with padding, may be run together.
    """

    parameters: Sequence[Parameter]
    tokens: int

    def run(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        """Add every row's gradient to ``sketch``, and give the rows' outputs.

        Results do not depend on which rows come together.

        Args:
            rows: a batch, shortest first; row i is row i of the sketch.
            sketch: receives the gradients.
        """
        ...


def select_parameters(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> list[Parameter]:
    """The trainable parameters whose names match, in the model's order, numbered through.

    Args:
        model: any.
        include: regular expressions, one of which must match a name in full.
        exclude: those of which none may.

    Raises:
        GradientError: if nothing is left.
    """
    chosen: list[Parameter] = []
    start = 0
    trainable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    for name, tensor in trainable.items():
        if _matches(name, exclude) or not _matches(name, include):
            continue
        parameter = Parameter(name, tuple(tensor.shape), start)
        chosen.append(parameter)
        start += parameter.size
    if not chosen:
        names = ", ".join(list(trainable)[:6])
        raise GradientError(
            f"no trainable parameter matches, this model has {names} …", Remedy.OTHER_PARAMETERS
        )
    return chosen


def tables_of(model: nn.Module) -> set[str]:
    """The names of matrices whose rows tokens, or their places, look up."""
    return {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
