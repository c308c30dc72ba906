"""The model output whose gradient is taken, and the weight that turns it into the loss.

Your own task is a class with these two methods; name it ``module:Class`` in
``features.model_output``. See ``docs/own_task.md``.
"""

import importlib
import sys
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from trak_steps.errors import TrakError

BUILT_IN = "text_classification"


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


def check_model_output(made: ModelOutput, name: str, outputs: int) -> None:
    """Try both methods on two made-up rows.

    Raises:
        TrakError: if one of them fails or does not give one number a row.
    """
    logits = torch.linspace(-1.0, 1.0, 2 * outputs).reshape(2, outputs)
    labels = torch.tensor([0, 1]) if outputs > 1 else torch.tensor([0.0, 1.5])
    for method in (made.output, made.loss_weight):
        try:
            found = method(logits, labels)
        except Exception as error:  # a custom code may fail in any way
            raise TrakError(
                f"features.model_output: `{name}.{method.__name__}` failed on logits "
                f"[2, {outputs}] and labels [2]: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (2,):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TrakError(
                f"features.model_output: `{name}.{method.__name__}` should give one number a row, "
                f"[2], for logits [2, {outputs}]; it gave {shape}"
            )


def load_model_output(name: str, loss_temperature: float) -> ModelOutput:
    """The built-in model output, or the class that ``module:Class`` names, made without arguments.

    The module is looked for in the working directory first.

    Raises:
        TrakError: if it cannot be found or lacks one of the two methods.
    """
    if name == BUILT_IN:
        return TextClassification(loss_temperature)
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        raise TrakError(
            f"features.model_output: there is no `{name}`; use `{BUILT_IN}`, or `module:Class`"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a custom module may fail in any way
        raise TrakError(
            f"features.model_output: the module `{module_name}` cannot be imported: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        raise TrakError(f"features.model_output: `{module_name}` has no `{class_name}`")
    if not isinstance(found, type):  # a function would be run, whatever it does
        raise TrakError(f"features.model_output: `{name}` is not a class")
    try:
        made = found()
    except Exception as error:
        raise TrakError(f"features.model_output: `{name}()` failed: {error}") from error
    for method in ("output", "loss_weight"):
        if not callable(getattr(made, method, None)):
            raise TrakError(f"features.model_output: `{name}` has no method `{method}`")
    return made  # type: ignore[no-any-return]
