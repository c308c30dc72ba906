"""Targets solved for by each checkpoint's kernel: what scores are then one product away from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.kernel.gram import solve_kernel
from trak_steps.scoring.scores import balance, root_mean_square


class Kernel(Protocol):
    """A checkpoint's kernel; its arrays are read when asked for."""

    @property
    def cholesky(self) -> NDArray[np.float64]:
        """The lower factor of K with its ridge, [k, k]."""
        ...

    def kernel(self) -> NDArray[np.float64]:
        """K without ridge, [k, k]."""
        ...


@dataclass(frozen=True)
class Solved:
    """What scores of t targets are one product away from.

    Attributes:
        weights: (K + ridge)⁻¹ φ(z) by each of m checkpoints, balanced and scaled, [t, k] each.
        roots: the mean over checkpoints of the root mean square of their scores, [t] in float64.
    """

    weights: list[Tensor]
    roots: Tensor


def solve_targets(
    kernels: Sequence[Kernel],
    targets: Iterable[Tensor],
    n: int,
    *,
    alike: bool,
    scale: float | None = None,
    device: torch.device | None = None,
) -> Solved:
    """Solve for the targets by each of m checkpoints, one kernel at a time.

    Args:
        kernels: of the checkpoints.
        targets: the targets' features by each checkpoint, [t, k]; read one at a time.
        n: train rows.
        alike: whether to balance them, so that checkpoints count alike.
        scale: of all scores, where they have one.
        device: where to solve, if not on the CPU.
    """
    solved, roots = [], []
    for kernel, wanted in zip(kernels, targets, strict=True):
        factor = torch.from_numpy(kernel.cholesky).to(device)
        solved.append(solve_kernel(factor, wanted.to(device)))
        del factor
        roots.append(root_mean_square(solved[-1], torch.from_numpy(kernel.kernel()), n))
    if alike:
        balance(solved, roots)
    mean = torch.stack(roots).mean(0)
    if scale is not None:
        mean *= scale
        for of_targets in solved:
            of_targets *= scale
    return Solved(solved, mean)
