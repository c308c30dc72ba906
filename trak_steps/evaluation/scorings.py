"""What different scorings predict for subsets, all from the same sums of features.

Every prediction is [s, t] in float64: for each subset and target the sum of the scores of the rows
that the subset holds. Pure functions of arrays.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trak_steps.kernel.gram import factor_kernel


def solve(kernel: Tensor, targets: Tensor, *, n: int, ridge: float) -> Tensor:
    """(K + ridge)⁻¹ φ(z) in float64, [k, t]: summed features times this are one checkpoint's share.

    Args:
        kernel: K without ridge, [k, k].
        targets: features of the targets, [t, k].
        n: train rows.
        ridge: in units of the mean diagonal entry of K.

    Raises:
        TrakError: if K with its ridge is singular.
    """
    solved: Tensor = torch.cholesky_solve(targets.double().T, factor_kernel(kernel, n, ridge))
    return solved


def reference(sums: Tensor, kernel: Tensor, targets: Tensor) -> Tensor:
    """The same as `traker` 0.3.2 has it by default: no ridge, K⁻¹ over its mean absolute entry.

    Where K is singular, because there are fewer rows than dimensions, the pseudo-inverse stands for
    what the reference takes for an inverse then, which is noise.

    Args:
        sums: features summed over subsets with the loss weight as row weights, [s, k].
        kernel: K without ridge, [k, k].
        targets: features of the targets, [t, k].
    """
    inverse = torch.linalg.pinv(kernel, hermitian=True)
    scaled: Tensor = sums @ (inverse / inverse.abs().mean()) @ targets.double().T
    return scaled


def gradient_dot(sums: Tensor, targets: Tensor) -> Tensor:
    """The inner product of gradients: TRAK without its kernel."""
    return sums @ targets.double().T


def cosine(units: Tensor, targets: Tensor) -> Tensor:
    """The cosine of features, from sums of features of unit length [s, k]."""
    return units @ normalize(targets.double()).T
