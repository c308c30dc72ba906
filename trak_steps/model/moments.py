"""Adam's second moments, kept beside a checkpoint's weights in the form that the metric needs.

``second_moments.safetensors`` has, for each parameter, ``<name>.rows`` and, of a matrix,
``<name>.columns``, as :class:`~trak_steps.projection.metric.SecondMoments` says; a parameter that the
optimizer never moved has zeros.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from trak_steps.errors import TrakError
from trak_steps.projection.base import Parameter
from trak_steps.projection.metric import SecondMoments

FILE = "second_moments.safetensors"
ADVICE = "fine-tune or import this checkpoint anew, or set features.metric: none"


def save_moments(optimizer: Any, model: nn.Module, folder: Path) -> None:
    """Write v̂ of each trainable parameter, with the bias of the moments' start taken out.

    Args:
        optimizer: Adam or AdamW, or what wraps it.
        model: whose parameters it moves.
        folder: where to.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    found: dict[nn.Parameter, torch.Tensor] = {}
    for group in inner.param_groups:
        for parameter in group["params"]:
            state = inner.state.get(parameter)
            if state:
                unbiased = 1 - group["betas"][1] ** float(state["step"])
                found[parameter] = state["exp_avg_sq"] / unbiased
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            moments = SecondMoments.of(found.get(parameter, torch.zeros_like(parameter)).detach())
            tensors[f"{name}.rows"] = moments.rows.float().cpu()
            if moments.columns is not None:
                tensors[f"{name}.columns"] = moments.columns.float().cpu()
    save_file(tensors, folder / FILE, metadata={"epsilon": repr(float(inner.param_groups[0]["eps"]))})


def load_moments(
    folder: Path, parameters: Sequence[Parameter]
) -> tuple[dict[str, SecondMoments], float]:
    """Those of some parameters, by name, and Adam's ε.

    Args:
        folder: of a checkpoint.
        parameters: whose.

    Raises:
        TrakError: if there are none, or they are damaged, of other parameters, not finite, negative, or
            all zero.
    """
    path = folder / FILE
    if not path.is_file():
        raise TrakError(f"{path}: is missing, so the optimizer's metric is not known; {ADVICE}")
    found: dict[str, SecondMoments] = {}
    try:
        with safe_open(path, "pt") as file:
            epsilon = float((file.metadata() or {})["epsilon"])
            keys = set(file.keys())
            for parameter in parameters:
                columns = f"{parameter.name}.columns"
                found[parameter.name] = SecondMoments(
                    file.get_tensor(f"{parameter.name}.rows").double(),
                    file.get_tensor(columns).double() if columns in keys else None,
                )
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrakError(f"{path}: is damaged, or of other parameters ({error}); {ADVICE}") from error
    for parameter in parameters:
        _check(path, parameter, found[parameter.name])
    if not any(moments.rows.any() for moments in found.values()):
        raise TrakError(f"{path}: all second moments are zero: was nothing trained? {ADVICE}")
    return found, epsilon


def _check(path: Path, parameter: Parameter, moments: SecondMoments) -> None:
    shape = parameter.shape
    wanted = [shape[0], parameter.size // shape[0]] if len(shape) > 1 else [parameter.size]
    parts = [moments.rows, *([] if moments.columns is None else [moments.columns])]
    if [part.numel() for part in parts] != wanted:
        found = [part.numel() for part in parts]
        raise TrakError(
            f"{path}: {parameter.name} has second moments of {found} rows and columns, and the "
            f"parameter {wanted}; are they another model's? {ADVICE}"
        )
    for part in parts:
        if not bool(torch.isfinite(part).all()) or bool((part < 0).any()):
            raise TrakError(
                f"{path}: {parameter.name} has second moments that are negative or not finite; {ADVICE}"
            )
