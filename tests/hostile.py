"""What tests of hostile input share: input that would run code, and what the user is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trak_steps.errors import TrakError

CPU = torch.device("cpu")
ESCAPES = "a\x1b[2J\x1b]0;title\x07\r\n\t\x00\x7f\x9b1m\u202eb\u200b"


class Creates:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self._path,))


def message(call: Callable[[], object]) -> str:
    """What the user is told."""
    with pytest.raises(TrakError) as error:
        call()
    return str(error.value)
