"""Ask autograd for the gradients of some parameters and of no others."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def differentiating(model: nn.Module, tensors: Collection[Tensor] = ()) -> Iterator[None]:
    """Within, exactly these parameters of a model require a gradient; then all is as it was."""
    before = [(tensor, tensor.requires_grad) for tensor in model.parameters()]
    wanted = {id(tensor) for tensor in tensors}
    try:
        for tensor, _ in before:
            tensor.requires_grad_(id(tensor) in wanted)
        yield
    finally:
        for tensor, required in before:
            tensor.requires_grad_(required)
