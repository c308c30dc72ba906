"""How a model uses its parameters, found by running it: what hooks can see, and what they cannot."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trak_steps.gradients.frozen import differentiating
from trak_steps.gradients.rows import Row, collate
from trak_steps.gradients.rules import rule_of


@dataclass(frozen=True)
class Survey:
    """What the hooks have to know about a model.

    Attributes:
        unseen: parameters that are used otherwise than by calling a module that has a rule.
        unbatched: parameters of modules that are called with something without rows, so that what
            comes out belongs to the whole batch.
    """

    unseen: frozenset[str]
    unbatched: frozenset[str]


def is_shared_lookup(module: nn.Module, given: Tensor) -> bool:
    """Whether ids are looked up once for all rows, [1, tokens], as positions often are."""
    return isinstance(module, nn.Embedding) and given.dim() == 2 and len(given) == 1


def survey(model: nn.Module, tensors: Mapping[str, Tensor], example: Row, pad: int) -> Survey:
    """Run two and three copies of a row, and compare the uses of each parameter with the calls.

    Args:
        model: in evaluation mode.
        tensors: the parameters to look at.
        example: the row.
        pad: the padding token's id.
    """
    names = {id(tensor): name for name, tensor in tensors.items()}
    calls: Counter[str] = Counter()
    unbatched: set[str] = set()
    for rows in (2, 3):
        calls.clear()
        watch = partial(_watch, names=names, rows=rows, calls=calls, unbatched=unbatched)
        with _hooks(model, watch), differentiating(model, tensors.values()), torch.enable_grad():
            batch = collate([example] * rows, next(model.parameters()).device, pad)
            del batch["label"]
            uses = _uses(model(**batch).logits, names)
    unseen = {name for name, count in uses.items() if count > calls[name]}
    return Survey(frozenset(unseen), frozenset(unbatched - unseen))


def _watch(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    named: dict[str, Any],
    _: Tensor,
    *,
    names: Mapping[int, str],
    rows: int,
    calls: Counter[str],
    unbatched: set[str],
) -> None:
    """Count a call for each of a module's own parameters."""
    given = inputs[0] if inputs else next(iter(named.values()))
    for tensor in module.parameters(recurse=False):
        if name := names.get(id(tensor)):
            calls[name] += 1
            if len(given) != rows and not is_shared_lookup(module, given):
                unbatched.add(name)


def _uses(result: Tensor, names: Mapping[int, str]) -> Counter[str]:
    """How often the graph of a result reads each parameter."""
    uses: Counter[str] = Counter()
    left, seen = [result.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if name := names.get(id(getattr(following, "variable", None))):
                uses[name] += 1
            left.append(following)
    return uses


@contextmanager
def _hooks(model: nn.Module, watch: Callable[..., None]) -> Iterator[None]:
    ruled = [module for module in model.modules() if rule_of(module)]
    handles = [module.register_forward_hook(watch, with_kwargs=True) for module in ruled]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
