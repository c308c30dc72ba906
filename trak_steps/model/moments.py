"""Second moments, kept beside a checkpoint's weights in the form that Adam's metric needs.

``second_moments.safetensors`` has, for each parameter, ``<name>.rows`` and, of a matrix,
``<name>.columns``, as :class:`~trak_steps.projection.metric.SecondMoments` says; a parameter that the
optimizer never moved has zeros. Its metadata has Adam's ε, and where the moments are from.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from trak_steps.errors import TrakError
from trak_steps.model.files import SECOND_MOMENTS
from trak_steps.projection.base import Parameter
from trak_steps.projection.metric import SecondMoments

ADVICE = "fine-tune or import this checkpoint anew, or set features.metric: none"
# torch's own default, for moments that no optimizer made.
EPSILON = 1e-8
ABOUT = "about"
OPTIMIZER, GRADIENTS = "the optimizer", "gradients of train rows"


def moments_of(optimizer: Any, model: nn.Module) -> tuple[dict[str, SecondMoments], float]:
    """v̂ of each trainable parameter, with the bias of the moments' start taken out, and ε.

    Args:
        optimizer: Adam or AdamW, or what wraps it.
        model: whose parameters it moves.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    found: dict[nn.Parameter, torch.Tensor] = {}
    for group in inner.param_groups:
        for parameter in group["params"]:
            state = inner.state.get(parameter)
            if state:
                found[parameter] = unbiased(state["exp_avg_sq"], group["betas"][1], state["step"])
    moments = {
        name: SecondMoments.of(found.get(parameter, torch.zeros_like(parameter)).detach())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return moments, float(inner.param_groups[0]["eps"])


def unbiased(moment: torch.Tensor, beta: float, step: Any) -> torch.Tensor:
    """v̂, from Adam's running mean of squares after so many steps, which began at zero."""
    found: torch.Tensor = moment / (1 - beta ** float(step))
    return found


def save_moments(
    folder: Path, moments: Mapping[str, SecondMoments], epsilon: float, source: str
) -> None:
    """Write second moments beside a checkpoint's weights.

    Args:
        folder: of the checkpoint.
        moments: of each trainable parameter, by name.
        epsilon: Adam's ε.
        source: :data:`OPTIMIZER` or :data:`GRADIENTS`.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, of in moments.items():
        tensors[f"{name}.rows"] = of.rows.float().cpu()
        if of.columns is not None:
            tensors[f"{name}.columns"] = of.columns.float().cpu()
    # One entry: several are written in an order that differs from time to time.
    about = json.dumps({"epsilon": epsilon, "source": source})
    save_file(tensors, folder / SECOND_MOMENTS, metadata={ABOUT: about})


def load_moments(
    folder: Path, parameters: Sequence[Parameter], advice: str = ADVICE
) -> tuple[dict[str, SecondMoments], float]:
    """Those of some parameters, by name, and Adam's ε.

    Args:
        folder: of a checkpoint.
        parameters: whose.
        advice: what to do about a file that is of no use.

    Raises:
        TrakError: if there are none, or they are damaged, of other parameters, not finite, negative, or
            all zero.
    """
    path = folder / SECOND_MOMENTS
    if not path.is_file():
        raise TrakError(f"{path}: is missing, so the optimizer's metric is not known; {advice}")
    found: dict[str, SecondMoments] = {}
    try:
        with safe_open(path, "pt") as file:
            epsilon = float(json.loads((file.metadata() or {})[ABOUT])["epsilon"])
            keys = set(file.keys())
            for parameter in parameters:
                columns = f"{parameter.name}.columns"
                found[parameter.name] = SecondMoments(
                    file.get_tensor(f"{parameter.name}.rows").double(),
                    file.get_tensor(columns).double() if columns in keys else None,
                )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrakError(f"{path}: is damaged, or of other parameters ({error}); {advice}") from error
    for parameter in parameters:
        _check(path, parameter, found[parameter.name], advice)
    if not any(moments.rows.any() for moments in found.values()):
        raise TrakError(f"{path}: all second moments are zero: was nothing trained? {advice}")
    return found, epsilon


def _check(path: Path, parameter: Parameter, moments: SecondMoments, advice: str) -> None:
    shape = parameter.shape
    wanted = [shape[0], parameter.size // shape[0]] if len(shape) > 1 else [parameter.size]
    parts = [moments.rows, *([] if moments.columns is None else [moments.columns])]
    if [part.numel() for part in parts] != wanted:
        found = [part.numel() for part in parts]
        raise TrakError(
            f"{path}: {parameter.name} has second moments of {found} rows and columns, and the "
            f"parameter {wanted}; are they another model's? {advice}"
        )
    for part in parts:
        if not bool(torch.isfinite(part).all()) or bool((part < 0).any()):
            raise TrakError(
                f"{path}: {parameter.name} has second moments that are negative or not finite; {advice}"
            )
