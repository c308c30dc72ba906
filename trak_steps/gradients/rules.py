"""How each kind of module gives the per-sample gradients of its own parameters.

A rule turns what went into a module and the gradient at what came out, b rows first in both, into the
gradients of the module's parameters, row by row, without asking autograd for them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Product:
    """A matrix's gradient Σ_t left_t ⊗ right_t: left [b, tokens, rows], right [b, tokens, columns]."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Lookup:
    """A matrix's gradient at the rows that were looked up: ids [b, tokens], [b, tokens, columns]."""

    ids: Tensor
    values: Tensor


Gradient = Product | Lookup | Tensor
# Takes the module, what went in, the gradient at what came out, and the names that are wanted.
Rule = Callable[[nn.Module, Tensor, Tensor, Collection[str]], dict[str, Gradient]]


def rule_of(module: nn.Module) -> Rule | None:
    """The rule for a module's own parameters, or none where there is no exact one."""
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return linear
    if forward is Conv1D.forward:
        return conv1d
    if isinstance(module, nn.Embedding):
        plain = forward is nn.Embedding.forward and not module.scale_grad_by_freq
        return embedding if plain and module.max_norm is None else None
    if type(module).__name__.endswith(("LayerNorm", "RMSNorm")):
        own = dict(module.named_parameters(recurse=False))
        if (
            "weight" in own
            and own.keys() <= {"weight", "bias"}
            and all(value.dim() == 1 for value in own.values())
        ):
            return norm
    return None


def linear(
    module: nn.Module, given: Tensor, gradient: Tensor, wanted: Collection[str]
) -> dict[str, Gradient]:
    """y = x Wᵀ + b."""
    out = _tokens(gradient)
    return _affine(Product(out, _tokens(given)), out, wanted)


def conv1d(
    module: nn.Module, given: Tensor, gradient: Tensor, wanted: Collection[str]
) -> dict[str, Gradient]:
    """y = x W + b, GPT-2's linear layer."""
    out = _tokens(gradient)
    return _affine(Product(_tokens(given), out), out, wanted)


def _affine(weight: Product, out: Tensor, wanted: Collection[str]) -> dict[str, Gradient]:
    """What a linear layer's weight and bias get."""
    found: dict[str, Gradient] = {}
    if "weight" in wanted:
        found["weight"] = weight
    if "bias" in wanted:
        found["bias"] = out.sum(1)
    return found


def embedding(
    module: nn.Module, given: Tensor, gradient: Tensor, wanted: Collection[str]
) -> dict[str, Gradient]:
    """y = W[ids]; the padding id, if the module has one, gets no gradient."""
    assert isinstance(module, nn.Embedding)
    ids, values = given.flatten(1), _tokens(gradient)
    if module.padding_idx is not None:
        values = values * (ids != module.padding_idx)[:, :, None]
    return {"weight": Lookup(ids, values)}


def norm(
    module: nn.Module, given: Tensor, gradient: Tensor, wanted: Collection[str]
) -> dict[str, Gradient]:
    """y = x̂ ⊙ w + b; x̂ comes from the module itself, run with w = 1 and b = 0.

    A norm of another class may scale by 1 + w: what it gives with w = 0 is taken off.
    """
    found: dict[str, Gradient] = {}
    out = _tokens(gradient)
    if "weight" in wanted:
        own = dict(module.named_parameters(recurse=False))
        zeros = {name: torch.zeros_like(value) for name, value in own.items()}
        ones = {**zeros, "weight": torch.ones_like(own["weight"])}
        with torch.no_grad():
            normalised = functional_call(module, ones, (given,))
            if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
                normalised = normalised - functional_call(module, zeros, (given,))
        found["weight"] = (out * _tokens(normalised)).sum(1)
    if "bias" in wanted:
        found["bias"] = out.sum(1)
    return found


def _tokens(tensor: Tensor) -> Tensor:
    """[b, ..., size] as [b, tokens, size]."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])
