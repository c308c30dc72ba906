"""Second moments from the ``optimizer.pt`` that ``transformers.Trainer`` saves beside a checkpoint.

It is a pickle. It is read by torch's weights-only unpickler, which makes tensors and plain containers
and calls nothing that the file names.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trak_steps.errors import TrakError
from trak_steps.model.moments import unbiased
from trak_steps.projection.metric import SecondMoments

WITHOUT = "move it away: gradients of train rows stand in for it"
# Of Adam and AdamW, whoever wrote them.
MOMENT = "exp_avg_sq"


def moments_in(file: Path, model: nn.Module) -> tuple[dict[str, SecondMoments], float]:
    """v̂ of each trainable parameter, by name, and ε.

    Args:
        file: an optimizer's state.
        model: whose parameters it moved.

    Raises:
        TrakError: naming the file, if it is damaged, holds more than tensors, or is of another optimizer
            or of other parameters.
    """
    groups, states = _read(file)
    parameters = {name: of for name, of in model.named_parameters() if of.requires_grad}
    names = _names(file, model, parameters, groups, states)
    moments = {}
    for name, of in parameters.items():
        group, state = names[name]
        moment = torch.zeros(of.shape)  # of what was never moved
        if state:
            beta, step = _number(file, group["betas"][1]), _number(file, state["step"])
            if not (0 <= beta < 1 and step > 0):
                raise TrakError(f"{file}: {name} was moved by {step:g} steps, β₂ {beta:g}; {WITHOUT}")
            moment = unbiased(state[MOMENT].float(), beta, step)
        moments[name] = SecondMoments.of(moment)
    epsilon = _number(file, groups[0]["eps"])
    if not 0 <= epsilon < float("inf"):
        raise TrakError(f"{file}: has an ε of {epsilon:g}; {WITHOUT}")
    return moments, epsilon


def _read(file: Path) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """Its groups of parameters, and the state of each parameter that was moved."""
    try:
        # Mapped, not read: of its tensors only the second moments are looked at.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle, or a harmful one, makes torch raise anything
        words = str(error).strip().split("\n")[0][:160]
        raise TrakError(
            f"{file}: cannot be read as tensors alone ({type(error).__name__}: {words}); {WITHOUT}"
        ) from None
    groups = content.get("param_groups") if isinstance(content, dict) else None
    states = content.get("state") if isinstance(content, dict) else None
    if not (isinstance(groups, list) and groups and isinstance(states, dict)):
        raise TrakError(f"{file}: is not the state of an optimizer; {WITHOUT}")
    for group in groups:
        numbers = group.get("params") if isinstance(group, dict) else None
        if not (isinstance(numbers, list) and all(type(number) is int for number in numbers)):
            raise TrakError(f"{file}: is not the state of an optimizer; {WITHOUT}")
        betas = group.get("betas")
        if "eps" not in group or not (isinstance(betas, (tuple, list)) and len(betas) == 2):
            raise _another(file)
    for state in states.values():
        if not (isinstance(state, dict) and {MOMENT, "step"} <= set(state)):
            raise _another(file)
    return groups, states


def _another(file: Path) -> TrakError:
    return TrakError(
        f"{file}: is of another optimizer than Adam: it has no second moments ({MOMENT}); {WITHOUT}"
    )


def _names(
    file: Path,
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    groups: Sequence[Mapping[str, Any]],
    states: Mapping[int, dict[str, Any]],
) -> dict[str, tuple[Mapping[str, Any], dict[str, Any]]]:
    """Of each parameter its group and state. The file has numbers for names, in the groups' order."""
    for order in _orders(model, list(parameters)):
        if [len(names) for names in order] != [len(group["params"]) for group in groups]:
            continue
        pairs = [
            (name, (group, states.get(number, {})))
            for names, group in zip(order, groups, strict=True)
            for name, number in zip(names, group["params"], strict=True)
        ]
        if all(_fits(parameters[name], state) for name, (_, state) in pairs):
            return dict(pairs)
    sizes = " + ".join(str(len(group["params"])) for group in groups)
    raise TrakError(
        f"{file}: is of other parameters: it has {sizes}, the checkpoint {len(parameters)}, or others "
        "by their shapes: was it saved with this checkpoint, by `transformers.Trainer`, and were none "
        f"frozen? {WITHOUT}"
    )


def _orders(model: nn.Module, names: list[str]) -> Iterator[list[list[str]]]:
    """The groups that parameters may be in: Trainer's, which decays some; or all in one."""
    from transformers import Trainer  # a second to import, and few checkpoints have such a file

    # The method asks nothing of a Trainer.
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    yield [[n for n in names if n in decayed], [n for n in names if n not in decayed]]
    yield [names]


def _fits(parameter: nn.Parameter, state: Mapping[str, Any]) -> bool:
    if not state:  # it was never moved
        return True
    moment = state[MOMENT]
    return (
        isinstance(moment, torch.Tensor)
        and moment.shape == parameter.shape
        and moment.is_floating_point()
        and moment.layout == torch.strided
        and moment.device.type == "cpu"
    )


def _number(file: Path, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TrakError(f"{file}: has no number where one is; {WITHOUT}") from None
