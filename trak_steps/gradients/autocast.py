"""Forward passes below float32."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLS = (torch.masked_fill, Tensor.masked_fill, Tensor.masked_fill_)


@contextmanager
def autocast(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Within, a model's passes are computed in a precision; in float32 all is as without."""
    if precision == torch.float32:
        yield
        return
    with torch.autocast(device.type, precision), _FillsInRange():
        yield


class _FillsInRange(TorchFunctionMode):
    """Keeps the number that masks attention scores within the range of the scores' type.

    DeBERTa takes the smallest number of its queries' type. Under autocast these are float32, since a
    bias was added to them, and their products are not: the number overflows there, which is an error.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _FILLS and len(args) == 3 and not isinstance(args[2], Tensor):
            filled, mask, value = args
            if filled.is_floating_point() and not math.isinf(value):
                limits = torch.finfo(filled.dtype)
                args = (filled, mask, min(max(value, limits.min), limits.max))
        return function(*args, **(kwargs or {}))
