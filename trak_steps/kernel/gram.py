"""Sum the kernel, add the ridge, factor it, apply its inverse.

K = Σ_i φ(x_i) φ(x_i)ᵀ over the train set, in float64 (Park et al. 2023, section 3.3), with
ridge · trace(K)/k added to its diagonal.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from trak_steps.errors import TrakError
from trak_steps.kernel.blocks import SOLVED_AT_ONCE

# Below this ratio of the smallest to the largest pivot, solving loses all float32 digits.
SINGULAR = 1e-9


class SingularKernelError(TrakError):
    """K with its ridge has no inverse: a larger ridge, fewer dimensions or more rows would help."""


class ZeroKernelError(TrakError):
    """Every gradient is zero."""


def sum_kernel(shards: Iterable[Tensor], dim: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """K without ridge, [k, k], and Σ_i φ(x_i), [k], in float64; and how many rows went into them.

    Args:
        shards: features of the train rows, [rows, k] each.
        dim: k.
        device: where to multiply.
    """
    kernel = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    total = torch.zeros(dim, dtype=torch.float64, device=device)
    n = 0
    for shard in shards:
        features = shard.to(device, torch.float64)
        kernel.addmm_(features.T, features)
        total += features.sum(0)
        n += len(features)
        del shard, features  # or they would be held while the next are read
    return kernel, total, n


def factor_kernel(kernel: Tensor, n: int, ridge: float) -> Tensor:
    """The lower Cholesky factor of K + ridge · trace(K)/k · I, [k, k] in float64.

    The ridge is added to K itself while it is factored, so that no third [k, k] is held.

    Args:
        kernel: K, [k, k] in float64; given back as it was.
        n: train rows summed in it.
        ridge: in units of the mean diagonal entry.

    Raises:
        TrakError: if K is not finite.
        ZeroKernelError: if it is zero.
        SingularKernelError: for fewer rows than dimensions without a ridge, or gradients that do not
            span k dimensions.
    """
    dim = len(kernel)
    require_usable(kernel)
    mean = kernel.diagonal().mean()
    if ridge == 0 and n < dim:
        raise SingularKernelError(
            f"the kernel is singular: {n} train rows cannot span {dim} dimensions without a ridge"
        )
    diagonal = kernel.diagonal().clone()
    kernel.diagonal().add_(ridge * mean)
    factor: Tensor
    try:
        factor, failed = torch.linalg.cholesky_ex(kernel)
    finally:
        kernel.diagonal().copy_(diagonal)
    pivots = factor.diagonal().square()
    if failed or pivots.min() < SINGULAR * pivots.max():
        raise SingularKernelError(
            f"the kernel is singular: the gradients of {n} rows do not span {dim} dimensions, and the "
            f"ridge of {ridge:g} is too small to make up for it"
        )
    return factor


def require_usable(kernel: Tensor) -> None:
    """Refuse a kernel [k, k] of which nothing can be made.

    No entry of a sum of outer products is larger than its diagonal's largest, so that is all that is
    looked at: looking at every entry would take more memory than K.

    Raises:
        TrakError: if K is not finite.
        ZeroKernelError: if it is zero.
    """
    if not torch.isfinite(kernel.diagonal()).all():
        raise TrakError("the kernel is not finite: some feature is too large; see the features")
    if kernel.diagonal().sum() <= 0:
        raise ZeroKernelError("the kernel is zero: every gradient is")


def solve_kernel(factor: Tensor, features: Tensor) -> Tensor:
    """(K + ridge)⁻¹ φ for each row of ``features`` [t, k]: solved in float64, given in float32 [t, k].

    Targets are solved for some at a time, so that only those are held in float64.
    """
    solved = torch.empty(features.shape, dtype=torch.float32, device=factor.device)
    for start in range(0, len(features), SOLVED_AT_ONCE):
        part = features[start : start + SOLVED_AT_ONCE].to(factor.dtype)
        solved[start : start + len(part)] = torch.cholesky_solve(part.T, factor).T
    return solved
