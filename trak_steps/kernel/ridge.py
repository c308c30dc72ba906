"""Choose the ridge from the kernel alone: as much as leaves it a share of its degrees of freedom.

The effective degrees of freedom of a ridge regression are trace(K (K + λ)⁻¹): the rank of K without a
ridge, falling to zero as λ grows. How large a λ that takes depends on the spectrum, which differs by
orders of magnitude between the checkpoints of one training; the share that predicts best hardly does
(docs/evaluation.md).
"""

import torch
from torch import Tensor

from trak_steps.kernel.gram import require_usable

STEPS = 100


def spectrum(kernel: Tensor) -> Tensor:
    """The eigenvalues of K [k, k], ascending, those that are rounding as zero: [k] in float64.

    Raises:
        TrakError: if K is not finite.
        ZeroKernelError: if it is zero.
    """
    require_usable(kernel)
    values: Tensor = torch.linalg.eigvalsh(kernel)
    return without_rounding(values)


def without_rounding(values: Tensor) -> Tensor:
    """Eigenvalues, ascending, with those that may be rounding as zero."""
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return torch.where(values > rounding, values, torch.zeros_like(values))


def ridge_for(eigenvalues: Tensor, share: float) -> float:
    """The ridge that leaves K a share of its degrees of freedom, in units of its mean diagonal entry.

    Args:
        eigenvalues: of :func:`spectrum`, [k].
        share: of the rank of K, between 0 and 1.
    """
    wanted = share * int((eigenvalues > 0).sum())
    mean = float(eigenvalues.mean())
    # Between these, in logarithms: no effective_dof but a rest, and all but a rest.
    low, high = (float((eigenvalues[-1] / mean).log()) + bound for bound in (-80.0, 80.0))
    for _ in range(STEPS):
        middle = (low + high) / 2
        ridge = float(torch.tensor(middle, dtype=torch.float64).exp())
        if float((eigenvalues / (eigenvalues + ridge * mean)).sum()) > wanted:
            low = middle
        else:
            high = middle
    return float(torch.tensor((low + high) / 2, dtype=torch.float64).exp())
