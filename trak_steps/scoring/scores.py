"""The score of train rows for targets.

τ(z)_i = mean_m[ φ_m(z)ᵀ K_m⁻¹ φ_m(x_i) ] · mean_m[ Q_m(x_i) ]^power

(Park et al. 2023, equation 13, with the two means taken apart as the reference does). With K⁻¹
applied to the targets beforehand, each block of train rows needs one product per checkpoint.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreBlock:
    """Scores of r train rows for t targets.

    Attributes:
        scores: τ, [r, t].
        std: the standard deviation over checkpoints of each checkpoint's own score, [r, t]; not a
            number where there is a single checkpoint.
    """

    scores: Tensor
    std: Tensor


def score_block(
    features: Sequence[Tensor], solved: Sequence[Tensor], loss_weights: Tensor, power: float
) -> ScoreBlock:
    """Score one block of train rows.

    Args:
        features: φ_m(x) of the block for each of m checkpoints, [r, k] each.
        solved: K_m⁻¹ φ_m(z) of the targets, [t, k] each.
        loss_weights: Q_m(x), [m, r].
        power: of the mean loss weight, in [0, 1].
    """
    count = len(features)
    mean = torch.zeros(len(features[0]), len(solved[0]), dtype=torch.float64)
    mean = mean.to(solved[0].device)
    deviations = torch.zeros_like(mean)
    for seen, (rows, weights) in enumerate(zip(features, solved, strict=True), start=1):
        product = rows.to(weights.dtype) @ weights.T
        step = product - mean
        mean += step / seen
        deviations += step * (product - mean)
    scale = signed_power(loss_weights.double().mean(0), power)[:, None]
    spread = deviations / (count - 1) if count > 1 else torch.full_like(mean, torch.nan)
    return ScoreBlock(mean * scale, spread.sqrt() * scale.abs())


def balanced(
    solved: Sequence[Tensor], kernels: Iterable[Tensor], n: int, *, to: float | None = None
) -> list[Tensor]:
    """Scale what each checkpoint does to a target, so that all of them count alike.

    One checkpoint's scores of n train rows for a target, Φ w with w = (K + ridge)⁻¹ φ(z), have the mean
    square wᵀ K w / n. Each is brought to the mean, over checkpoints, of the roots: units stay.

    Args:
        solved: w of the targets, [t, k] for each of m checkpoints.
        kernels: K without ridge of each, [k, k]; read one at a time.
        n: train rows.
        to: what root mean square to bring them to, if not to the mean.
    """
    roots = []
    for weights, kernel in zip(solved, kernels, strict=True):
        wide = weights.double()
        squares = torch.einsum("tk,tk->t", wide @ kernel.to(wide.device), wide) / n
        roots.append(squares.clamp(min=0).sqrt())
    wanted = torch.stack(roots).mean(0) if to is None else torch.full_like(roots[0], to)
    found = []
    for weights, root in zip(solved, roots, strict=True):
        factor = torch.where(root > 0, wanted / root, torch.zeros_like(root))
        found.append(weights * factor[:, None].to(weights.dtype))
    return found


def signed_power(values: Tensor, power: float) -> Tensor:
    """sign(x)·|x|^power, with power 0 giving 1 for 0: a weight's sign survives any power.

    The loss weight of a classifier is never negative; a regression's is, where lowering the loss
    means lowering the model output.
    """
    return torch.where(values < 0, -1.0, 1.0) * values.abs() ** power
