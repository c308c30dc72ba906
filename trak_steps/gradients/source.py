"""The small interface between what computes per-sample gradients and what projects them.

A :class:`GradientSource` runs rows through the model and hands each parameter's share of the
per-sample gradients to a sketch (:mod:`trak_steps.projection.base`). It never has to hold whole
gradients: that is the sketch's choice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from trak_steps.errors import TrakError
from trak_steps.projection.base import Sketch


@dataclass(frozen=True)
class Parameter:
    """A parameter that the gradient is taken over, and its place in the gradient's p numbers."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class Row:
    """One tokenised row, without padding."""

    input_ids: Sequence[int]
    label: int | float
    token_type_ids: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


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


def predict(logits: Tensor) -> Tensor:
    """The class of each row of logits [b, c] (int64), or the value itself where c is 1 (float32)."""
    return logits.argmax(1) if logits.shape[1] > 1 else logits.squeeze(1)


class GradientSource(Protocol):
    """Computes per-sample gradients of a model output over selected parameters."""

    parameters: Sequence[Parameter]

    def run(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        """Add every row's gradient to ``sketch`` (row i of ``rows`` is row i of the sketch).

        Any order, any grouping; results do not depend on which rows come together.

        Args:
            rows: as many as the sketch has rows.
            sketch: receives ``add(parameter.start, places, gradient)`` with gradient [b, size].

        Returns:
            In the rows' order.
        """
        ...


def select_parameters(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> list[Parameter]:
    """The parameters whose names match, in the model's order, numbered through.

    Raises:
        TrakError: if a pattern is not a regular expression, or nothing is left.
    """
    included = [_compile(pattern, "include") for pattern in include]
    excluded = [_compile(pattern, "exclude") for pattern in exclude]
    chosen: list[Parameter] = []
    start = 0
    for name, tensor in model.named_parameters():
        if any(p.fullmatch(name) for p in excluded) or not any(p.fullmatch(name) for p in included):
            continue
        parameter = Parameter(name, tuple(tensor.shape), start)
        chosen.append(parameter)
        start += parameter.size
    if not chosen:
        names = [name for name, _ in model.named_parameters()]
        raise TrakError(
            "features.parameters: no parameter matches; this model has " + ", ".join(names[:6]) + " …"
        )
    return chosen


def total_size(parameters: Sequence[Parameter]) -> int:
    """p, the length of a per-sample gradient."""
    return parameters[-1].start + parameters[-1].size


def _compile(pattern: str, setting: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise TrakError(
            f"features.parameters.{setting}: {pattern!r} is not a regular expression: {error}"
        ) from None
