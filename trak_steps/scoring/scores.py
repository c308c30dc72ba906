"""The score of train rows for targets.

τ(z)_i = mean_m[ φ_m(z)ᵀ K_m⁻¹ φ_m(x_i) ] · mean_m[ Q_m(x_i) ]^power

(Park et al. 2023, equation 13, with the two means taken apart as the reference does). The mean is over
trainings, of each the mean over its checkpoints. Each Q may be kept with its checkpoint instead: see
:func:`row_weights`. With K⁻¹ applied to the targets beforehand, each
block of train rows needs one product per checkpoint.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trak_steps.kernel.blocks import FEWEST_ROWS, SOLVED_AT_ONCE

# Rows among which a training's scores are shuffled.
CELL = FEWEST_ROWS


@dataclass(frozen=True)
class ScoreBlock:
    """Scores of r train rows for t targets.

    Attributes:
        scores: τ, [r, t].
        std: how far trainings differ: the standard deviation of each training's own score, the mean
            over its checkpoints, [r, t]. Of a single training, that of its checkpoints' own scores;
            not a number where there is a single checkpoint.
    """

    scores: Tensor
    std: Tensor


class Scorer:
    """Scores train rows for t targets, block by block.

    What it gives is written over with the next block: arrays of a block are made once, for to make
    them anew costs more than to fill them.

    Args:
        solved: K_m⁻¹ φ_m(z) of the targets, [t, k] for each of m checkpoints. Scores have their type.
        trainings: the one that each checkpoint is of; one of its own, if none are named.
    """

    def __init__(self, solved: Sequence[Tensor], trainings: Sequence[str] | None = None) -> None:
        self._solved = solved
        self._groups = _groups(trainings, len(solved))
        self._arrays: list[Tensor] = []

    def __call__(
        self,
        features: Sequence[Tensor],
        weights: Tensor | None = None,
        targets: slice = slice(None),
    ) -> ScoreBlock:
        """Score one block of train rows.

        Args:
            features: φ_m(x) of the block for each of m checkpoints, [r, k] each.
            weights: of each checkpoint's part in a row's score, [m, r]: see :func:`row_weights`.
            targets: some of them.
        """
        _, *work = self._block(len(features[0]), targets)
        return spread(self.of_trainings(features, weights, targets), *work)

    def of_trainings(
        self,
        features: Sequence[Tensor],
        weights: Tensor | None = None,
        targets: slice = slice(None),
    ) -> Iterator[Tensor]:
        """Each training's own scores of a block, [r, t]; of a single training, each checkpoint's.

        Args:
            features, weights, targets: as above.
        """
        own, *_ = self._block(len(features[0]), targets)
        for group in self._groups:
            for count, place in enumerate(group):
                of_targets = self._solved[place][targets]
                rows = features[place].to(of_targets.dtype)
                if weights is not None:
                    rows = rows * weights[place, :, None].to(rows.dtype)
                if count:
                    own.addmm_(rows, of_targets.T, alpha=1 / len(group))
                else:
                    torch.mm(rows, of_targets.T, out=own).div_(len(group))
            yield own

    def work(self, targets: slice, rows: int) -> Tensor:
        """An array of a block's shape that is free once the block is made, [r, t]."""
        return self._block(rows, targets)[0]

    def _block(self, rows: int, targets: slice) -> list[Tensor]:
        """Four arrays of so many rows, [r, t]."""
        first = self._solved[0]
        shape = rows, len(range(*targets.indices(len(first))))
        size = shape[0] * shape[1]
        if not self._arrays or len(self._arrays[0]) < size:
            self._arrays = [first.new_empty(size) for _ in range(4)]
        return [array[:size].view(shape) for array in self._arrays]


def spread(values: Iterable[Tensor], mean: Tensor, squares: Tensor, step: Tensor) -> ScoreBlock:
    """The mean and the standard deviation of arrays that come one after the other, by Welford's sums.

    Args:
        values: of one shape each; they are written over.
        mean, squares, step: of the same shape, to work in; two of them are given back.
    """
    mean.zero_()
    squares.zero_()
    count = 0
    for count, each in enumerate(values, start=1):
        torch.sub(each, mean, out=step)
        mean.add_(step, alpha=1 / count)
        squares.addcmul_(step, each.sub_(mean))
    if count < 2:
        return ScoreBlock(mean, squares.fill_(torch.nan))
    return ScoreBlock(mean, squares.div_(count - 1).sqrt_())


def score_block(
    features: Sequence[Tensor],
    solved: Sequence[Tensor],
    weights: Tensor | None = None,
    trainings: Sequence[str] | None = None,
) -> ScoreBlock:
    """Score a single block of train rows: see :class:`Scorer`."""
    return Scorer(solved, trainings)(features, weights)


def by_chance(of_trainings: Iterable[Tensor], trainings: int) -> ScoreBlock:
    """What a block's scores would be if trainings had nothing in common.

    Args:
        of_trainings: each training's own scores of the block, [r, t].
        trainings: how many there are.
    """
    moved = [_shuffled(own, place, trainings) for place, own in enumerate(of_trainings)]
    return spread(moved, *(torch.empty_like(moved[0]) for _ in range(3)))


def _shuffled(scores: Tensor, training: int, trainings: int) -> Tensor:
    """A copy of a training's scores [r, t], moved on among the rows of a cell, by a step of its own.

    A row's size, which trainings do share, stays: what moves on is a score over the root mean square of
    its row. The cells are those of the train set, for blocks begin at multiples of them: so what comes
    out does not depend on the blocks. Where rows are sorted, by their labels say, neighbours are alike,
    chance looks less like chance than it is, and fewer signs are called stable. A last cell of fewer
    rows than trainings is left out.
    """
    size = scores.square().mean(1, keepdim=True).sqrt()
    relative = scores / torch.where(size > 0, size, torch.ones_like(size))
    moved = [
        cell.roll(training * max(1, len(cell) // trainings), 0)
        for cell in torch.split(relative, CELL)
        if len(cell) >= trainings
    ]
    together = torch.cat(moved) if moved else relative[:0]
    return together * size[: len(together)]


def _groups(trainings: Sequence[str] | None, checkpoints: int) -> list[list[int]]:
    """The places of each training's checkpoints; of a single training, each checkpoint by itself."""
    alone = [[place] for place in range(checkpoints)]
    if trainings is None:
        return alone
    of_training: dict[str, list[int]] = {}
    for place, training in zip(range(checkpoints), trainings, strict=True):
        of_training.setdefault(training, []).append(place)
    return list(of_training.values()) if len(of_training) > 1 else alone


def root_mean_square(solved: Tensor, kernel: Tensor, n: int) -> Tensor:
    """That of one checkpoint's scores of n train rows for each target, [t].

    The scores are Φ w with w = (K + ridge)⁻¹ φ(z), so that their mean square is wᵀ K w / n.

    Args:
        solved: w of the targets, [t, k]; widened to float64 some at a time.
        kernel: K without ridge, [k, k].
        n: train rows.
    """
    kernel = kernel.to(solved.device)
    squares = [
        torch.einsum("tk,tk->t", wide @ kernel, wide)
        for wide in (part.double() for part in torch.split(solved, SOLVED_AT_ONCE))
    ]
    return (torch.cat(squares) / n).clamp(min=0).sqrt()


def balance(solved: Sequence[Tensor], roots: Sequence[Tensor], *, to: float | None = None) -> None:
    """Scale, in place, what each checkpoint does to a target, so that all of them count alike.

    Each one's scores for a target are brought to the mean, over checkpoints, of their root mean squares:
    units stay.

    Args:
        solved: w of the targets, [t, k] for each of m checkpoints.
        roots: their :func:`root_mean_square`, [t] each.
        to: what to bring them to, if not to the mean.
    """
    wanted = torch.stack(list(roots)).mean(0) if to is None else torch.full_like(roots[0], to)
    for weights, root in zip(solved, roots, strict=True):
        factor = torch.where(root > 0, wanted / root, torch.zeros_like(root))
        weights *= factor[:, None].to(weights.dtype)


def balanced(
    solved: Sequence[Tensor], kernels: Iterable[Tensor], n: int, *, to: float | None = None
) -> list[Tensor]:
    """As :func:`balance`, in copies.

    Args:
        solved: w of the targets, [t, k] for each of m checkpoints.
        kernels: K without ridge of each, [k, k]; read one at a time.
        n: train rows.
        to: what root mean square to bring them to, if not to the mean.
    """
    pairs = zip(solved, kernels, strict=True)
    roots = [root_mean_square(weights, kernel, n) for weights, kernel in pairs]
    found = [weights.clone() for weights in solved]
    balance(found, roots, to=to)
    return found


def row_weights(loss_weights: Tensor, power: float, *, own: bool) -> Tensor | None:
    """What each checkpoint's part in the scores of r rows is multiplied by, [m, r] in float32.

    None if all are 1.

    Args:
        loss_weights: Q_m(x), [m, r].
        power: of them.
        own: each checkpoint's own; else the mean of all, for all.

    A row's part in the score of one checkpoint is what it did to the weights times what that does to the
    target, and a row that is fitted does little: 1 − p.
    """
    values = loss_weights if own else loss_weights.mean(0, dtype=torch.float64)
    weights = signed_power(values, power).float()
    return None if bool((weights == 1).all()) else weights.expand_as(loss_weights)


def signed_power(values: Tensor, power: float) -> Tensor:
    """sign(x)·|x|^power, with power 0 giving 1 for 0: a weight's sign survives any power.

    The loss weight of a classifier is never negative; a regression's is, where lowering the loss
    means lowering the model output.
    """
    return torch.where(values < 0, -1.0, 1.0) * values.abs() ** power
