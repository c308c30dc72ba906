"""The model output whose gradient is taken, and the weight that turns it into the loss.

A custom task is a class with these two methods: see ``docs/custom_output.md``.
"""

from typing import Protocol

import torch
from torch import Tensor


class ModelOutput(Protocol):
    """What a task has to define. Both methods work on b rows at once, row by row."""

    def output(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The model output f of each row.

        Args:
            logits: [b, c], what the model gives; c is the number of classes, or 1.
            labels: [b], class numbers (int64), or numbers to regress on (float32).

        Returns:
            [b]; differentiable in the logits.
        """
        ...

    def loss_weight(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Q of each row, how strongly its loss pulls at the model output: [b], same arguments."""
        ...


def predict(logits: Tensor) -> Tensor:
    """The class of each row of logits [b, c] (int64), or the value itself where c is 1 (float32)."""
    return logits.argmax(1) if logits.shape[1] > 1 else logits.squeeze(1)


class TextClassification:
    """Classification with two or more classes (Park et al. 2023, section 3.1 and equation 10).

    Args:
        loss_temperature: divides the logits in the loss weight's softmax.
    """

    def __init__(self, loss_temperature: float = 1.0) -> None:
        self.loss_temperature = loss_temperature

    def output(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The margin: the label's logit less the log-sum-exp of the others, log(p / (1 − p))."""
        column = labels[:, None]
        own = logits.gather(1, column).squeeze(1)
        others = logits.scatter(1, column, float("-inf"))
        return own - others.logsumexp(1)

    def loss_weight(self, logits: Tensor, labels: Tensor) -> Tensor:
        """1 − p of the label, with the reference implementation's positive sign."""
        probabilities = torch.softmax(logits / self.loss_temperature, 1)
        # Summed over the other classes: 1 − p itself would round to zero where p is near one.
        return probabilities.scatter(1, labels[:, None], 0.0).sum(1)
