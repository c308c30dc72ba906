"""How many tokens to run together, from the memory there is."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from trak_steps.gradients.rows import Row, collate

# More tokens fall out of a CPU's cache and cost time: a MiniLM takes 3 % less at 1024 than at 512,
# and no less beyond.
CPU_TOKENS = 1024
# What a backward pass and a sketch hold beside what the forward pass has made.
ROOM = 2


def tokens_at_once(model: PreTrainedModel, longest: Row, memory: int) -> int:
    """The tokens, with padding, whose forward and backward pass fits into ``memory`` bytes.

    Found by running the longest row once: attention's memory grows with the square of the length, so
    shorter rows take less for each token.
    """
    made = _Made()
    batch = collate([longest], model.device)
    del batch["label"]
    with torch.no_grad(), made:
        model(**batch)
    tokens = memory * len(longest) // max(1, ROOM * made.bytes)
    if model.device.type == "cpu":
        tokens = min(tokens, CPU_TOKENS)
    return max(tokens, len(longest))


class _Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations make, whether or not they are kept."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        given = {_place(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _place(leaf) not in given:
                self.bytes += leaf.untyped_storage().nbytes()
        return result


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
