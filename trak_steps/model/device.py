"""Where to compute: what a device's name is worth, with and without a look at the machine.

torch is imported by what looks at the machine, so that settings are checked without it.
"""

import re
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from trak_steps.errors import TrakError

if TYPE_CHECKING:
    import torch

# Not `mps`: it lacks float64, which kernels are summed in.
NAMES = r"auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?"


def is_device(name: str) -> bool:
    """Whether it is the name of a device that this package computes on, here or elsewhere."""
    return re.fullmatch(NAMES, name) is not None


def refused_use(
    name: str, *, precision: str = "float32", of: str = "features", trains: bool = False
) -> str:
    """Why a device cannot be used so on any machine; empty if it can, and for ``auto``.

    Args:
        name: a device that :func:`is_device` knows.
        precision: of the model's pass, as ``features.precision``.
        of: the section of settings that the precision is of.
        trains: whether models are trained on it.
    """
    if precision == "float16" and name == "cpu":  # it loses small gradients, and a CPU gains nothing
        return (
            f"{of}.precision: float16 needs a GPU, and execution.device is cpu here; set "
            f"{of}.precision: float32 or bfloat16"
        )
    number = name.partition(":")[2]
    if trains and number not in ("", "0"):
        return (
            f"execution.device: training uses the first GPU it sees, not {name}; set "
            f"CUDA_VISIBLE_DEVICES={number} and execution.device: cuda"
        )
    return ""


def resolve_device(name: str) -> str:
    """The device's name, that of what this machine has for ``auto``: ``cuda`` or ``cpu``."""
    return name if name != "auto" else _best()


@cache
def _best() -> str:
    if not has_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# What NVIDIA's driver, also under Windows or on a Jetson, and AMD's show.
_DRIVERS = ("dev/nvidia[0-9]*", "proc/driver/nvidia", "dev/dxg", "dev/nvhost-gpu", "dev/kfd")


def has_driver() -> bool:
    """Whether there is a GPU's driver, without which to ask torch, that takes seconds to import."""
    found = any(any(Path("/").glob(pattern)) for pattern in _DRIVERS)
    return found or shutil.which("nvidia-smi") is not None


def check_device(
    name: str, *, precision: str = "float32", of: str = "features", trains: bool = False
) -> str:
    """The device to compute on, after a look at this machine.

    For the machine that computes: one that only hands jobs to others may have no GPU.

    Args:
        name, precision, of, trains: as of :func:`refused_use`.

    Returns:
        As :func:`resolve_device`.

    Raises:
        TrakError: if it is not there, or cannot be used so.
    """
    resolved = resolve_device(name)
    if resolved.startswith("cuda"):
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(resolved.partition(":")[2] or 0) >= count:
            raise TrakError(
                f"execution.device: {name} cannot be used: this machine has "
                + (f"{count} GPUs, numbered from 0" if count else "no GPU that torch can use")
                + "; set execution.device: auto"
            )
    refused = refused_use(resolved, precision=precision, of=of, trains=trains)
    if refused:
        raise TrakError(refused)
    return resolved


def training_device(name: str, precision: str) -> "torch.device":
    """The device to train on.

    Args:
        name: as :func:`is_device` knows it.
        precision: as ``finetune.precision``.

    Raises:
        TrakError: if it is not there or cannot be used so, or the Trainer would take another.
    """
    return _device(check_device(name, precision=precision, of="finetune", trains=True))


def pick_device(name: str) -> "torch.device":
    """``auto`` takes a GPU if there is one. Raises TrakError if the device is not there."""
    return _device(check_device(name))


def _device(name: str) -> "torch.device":
    import torch

    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except RuntimeError as error:  # it is there, and cannot be had
        words = str(error).strip().split("\n")[0]
        raise TrakError(f"execution.device: {name} cannot be used: {words}") from error
    return device
