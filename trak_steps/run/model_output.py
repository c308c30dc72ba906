"""The run's model output: the built-in one, or a custom class that ``features.model_output`` names."""

import importlib
import sys
from pathlib import Path

import torch
from torch import Tensor

from trak_steps.config.settings import BUILT_IN
from trak_steps.errors import TrakError
from trak_steps.gradients.model_output import ModelOutput, TextClassification


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
