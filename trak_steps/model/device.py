"""Where to compute."""

import torch

from trak_steps.errors import TrakError


def training_device(name: str) -> torch.device:
    """The device to train on. Raises TrakError if it is not there, or the Trainer would take another."""
    device = pick_device(name)
    if device.index:
        raise TrakError(
            f"execution.device: training uses the first GPU it sees, not {device}; set "
            f"CUDA_VISIBLE_DEVICES={device.index} and execution.device: cuda"
        )
    return device


def pick_device(name: str) -> torch.device:
    """``auto`` takes a GPU if there is one. Raises TrakError if the device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        words = str(error).strip().split("\n")[0]
        raise TrakError(f"execution.device: {name} cannot be used: {words}") from None
    return device
