"""Where to compute."""

import torch

from trak_steps.errors import TrakError


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
