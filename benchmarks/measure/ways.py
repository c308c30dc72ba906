"""Ways to score: those of the pipeline, and others that were tried, all from the same features.

Everything is [n, t] in float64, for few train rows: whole arrays, and inner products of rows where the
pipeline has the kernel of features.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trak_steps.evaluation.sums import fold
from trak_steps.kernel.ridge import ridge_for, without_rounding
from trak_steps.run.layout import Layout, training_of
from trak_steps.store.features import FeatureStore, TrainFeatures

DOF = 0.2
DOFS = (0.05, 0.1, 0.2, 0.4, 0.8)
RIDGES = (0.1, 1.0, 10.0, 100.0)
POWERS = (0.5, 1.0)
REFERENCE_DIMS = (256, 512)
OF_THE_LOSS = "features of the loss"
# Of the fraction of variance that a ridge leaves to a row itself, so that what is left stays finite.
MOST_LEVERAGE = 0.99


class Checkpoint:
    """One checkpoint's features, and what scores are made of.

    Attributes:
        train, targets: features, [n, k] and [t, k].
        weight: the loss weight 1 − p of the train rows, [n].
        margin: of the train rows, [n].
    """

    def __init__(self, train: Tensor, targets: Tensor, weight: Tensor, margin: Tensor) -> None:
        self.train, self.targets, self.weight, self.margin = train, targets, weight, margin

    @classmethod
    def read(cls, layout: Layout, name: str, targets: str, n: int) -> "Checkpoint":
        """From a training's stores."""
        train = TrainFeatures(sorted(layout.train_features(name).glob("*.zarr")), n)
        store = FeatureStore.open(layout.target_features(name, targets))
        return cls(
            torch.from_numpy(train.features(0, n)).double(),
            torch.from_numpy(store.features(0, store.stop)).double(),
            torch.from_numpy(train.column("loss_weight")).double(),
            torch.from_numpy(train.column("margin")).double(),
        )

    @cached_property
    def _gram(self) -> "Gram":
        return Gram(self.train @ self.train.T)

    @property
    def dim(self) -> int:
        """k."""
        return self.train.shape[1]

    def scores(
        self,
        *,
        effective_dof: float | None = DOF,
        ridge: float = 0.0,
        dim: int | None = None,
        centre: bool = False,
        unit: bool = False,
        of_loss: bool = False,
        weighted: bool = False,
    ) -> Tensor:
        """Scores of all train rows for all targets, [n, t].

        Args:
            effective_dof: share of the degrees of freedom; none for a ridge in mean diagonal entries.
            ridge: that.
            dim: k, if fewer than there are.
            centre: take the mean feature off.
            unit: features of unit length.
            of_loss: features of the loss, not the margin: the gradient times −Q.
            weighted: a kernel of Σ p(1 − p) φφᵀ, as logistic regression has it.
        """
        dim = dim or self.dim
        train, targets = fold(self.train, dim), fold(self.targets, dim)
        if centre:
            mean = train.mean(0)
            train, targets = train - mean, targets - mean
        if unit:
            train, targets = normalize(train), normalize(targets)
        if of_loss:
            train = train * self.weight[:, None]
        within = train * (self.weight * (1 - self.weight)).sqrt()[:, None] if weighted else train
        changed = centre or unit or of_loss or weighted or dim != self.dim
        gram = Gram(within @ within.T) if changed else self._gram
        added = gram.added(effective_dof) if effective_dof is not None else ridge * gram.trace / dim
        solved = gram.solve(added, within @ targets.T)
        if not weighted:
            return solved
        return (train @ targets.T - train @ within.T @ solved) / added

    def weight_out_of_sample(self) -> Tensor:
        """1 − p of each row as if it had not been trained on, [n], from its leverage in the kernel."""
        gram = self._gram
        leverage = gram.solve(gram.added(DOF), gram.matrix).diagonal().clamp(max=MOST_LEVERAGE)
        return torch.sigmoid(-(self.margin - leverage / (1 - leverage)))


class Gram:
    """Inner products of n rows' features [n, n], decomposed once for every ridge."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.trace = float(matrix.trace())
        self._values, self._vectors = torch.linalg.eigh(matrix)

    def added(self, effective_dof: float) -> float:
        """The ridge, in its own units, that leaves a share of the degrees of freedom."""
        return ridge_for(without_rounding(self._values), effective_dof) * self.trace / len(self.matrix)

    def solve(self, added: float, right: Tensor) -> Tensor:
        """(G + added)⁻¹ G_z: the same as Φ (ΦᵀΦ + added)⁻¹ φ(z), for fewer rows than dimensions."""
        values = self._values.clamp(min=0) + added
        return self._vectors @ ((self._vectors.T @ right) / values[:, None])


def balanced_mean(parts: list[Tensor]) -> Tensor:
    """The mean of scores [n, t], each brought to the same root mean square for a target."""
    return torch.stack([part / part.square().mean(0).sqrt() for part in parts]).mean(0)


def _one_kernel(checkpoints: list[Checkpoint]) -> Tensor:
    """Scores by the inner products of all checkpoints' features side by side, each of mean length 1."""
    scales = [checkpoint.train.square().sum(1).mean() for checkpoint in checkpoints]
    pairs = list(zip(checkpoints, scales, strict=True))
    gram = torch.stack(
        [checkpoint.train @ checkpoint.train.T / scale for checkpoint, scale in pairs]
    ).sum(0)
    right = torch.stack(
        [checkpoint.train @ checkpoint.targets.T / scale for checkpoint, scale in pairs]
    ).sum(0)
    whole = Gram(gram)
    return whole.solve(whole.added(DOF), right)


def _added_up(checkpoints: list[Checkpoint]) -> Checkpoint:
    """The sum of all checkpoints' features, each of mean length 1: one checkpoint in their place.

    Projections of different checkpoints are drawn apart, so inner products of sums are, on average,
    sums of inner products.
    """
    scales = [checkpoint.train.square().sum(1).mean().sqrt() for checkpoint in checkpoints]
    train = torch.stack(
        [checkpoint.train / s for checkpoint, s in zip(checkpoints, scales, strict=True)]
    ).sum(0)
    targets = torch.stack(
        [checkpoint.targets / s for checkpoint, s in zip(checkpoints, scales, strict=True)]
    ).sum(0)
    return Checkpoint(train, targets, checkpoints[0].weight, checkpoints[0].margin)


def ways_to_score(checkpoints: dict[str, Checkpoint], last: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Names and scores [n, t]; the default first.

    Args:
        checkpoints: by their checkpoints' names.
        last: which of them are ends of a training.
    """
    every = list(checkpoints)
    own = {name: checkpoint.scores() for name, checkpoint in checkpoints.items()}

    def default(names: list[str]) -> Tensor:
        return balanced_mean([own[name] for name in names])

    yield "default", default(every)
    yield "not balanced", torch.stack(list(own.values())).mean(0)
    yield from _sets_of_checkpoints(every, last, default)
    yield from _weights(checkpoints, last, default(every))
    yield from _kernels(checkpoints, last)
    yield "one kernel of all checkpoints", _one_kernel(list(checkpoints.values()))
    trainings = dict.fromkeys(training_of(name) for name in every)
    of_trainings = [
        [checkpoint for name, checkpoint in checkpoints.items() if training_of(name) == training]
        for training in trainings
    ]
    yield (
        "one kernel of a training's checkpoints",
        balanced_mean([_one_kernel(of_training) for of_training in of_trainings]),
    )
    yield "all checkpoints' features added up", _added_up(list(checkpoints.values())).scores()
    yield (
        "a training's features added up",
        balanced_mean([_added_up(of_training).scores() for of_training in of_trainings]),
    )
    yield from _baselines(checkpoints, last)


def _sets_of_checkpoints(
    every: list[str], last: list[str], default: Callable[[list[str]], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    early = [name for name in every if name not in last]
    yield "last checkpoints", default(last)
    yield "earlier checkpoints", default(early)
    for checkpoint in sorted({name.partition("-")[2] for name in early}):
        yield (
            f"checkpoints at {checkpoint}",
            default([name for name in early if name.endswith(f"-{checkpoint}")]),
        )
    for trainings in range(1, len(last)):
        word = "1 training" if trainings == 1 else f"{trainings} trainings"
        some = [name for name in every if training_of(name) in map(training_of, last[:trainings])]
        yield f"{word}, all checkpoints", default(some)
        yield f"{word}, last checkpoints", default(last[:trainings])


def _weights(
    checkpoints: dict[str, Checkpoint], last: list[str], default: Tensor
) -> Iterator[tuple[str, Tensor]]:
    def mean(names: list[str], of: Callable[[Checkpoint], Tensor]) -> Tensor:
        return torch.stack([of(checkpoints[name]) for name in names]).mean(0)[:, None]

    for names, word in ((list(checkpoints), "all"), (last, "last")):
        in_sample = mean(names, lambda checkpoint: checkpoint.weight)
        for power in POWERS:
            yield f"loss weight of {word} checkpoints to the power {power:g}", default * in_sample**power
        outside = mean(names, Checkpoint.weight_out_of_sample)
        yield f"loss weight of {word} checkpoints out of sample", default * outside


def _kernels(checkpoints: dict[str, Checkpoint], last: list[str]) -> Iterator[tuple[str, Tensor]]:
    dim = next(iter(checkpoints.values())).dim
    dims = [dim // 2**i for i in range(1, 5)][::-1]
    changes: dict[str, dict[str, Any]] = {
        **{f"effective_dof {share}": {"effective_dof": share} for share in DOFS if share != DOF},
        **{f"ridge {r:g} of the mean diagonal": {"effective_dof": None, "ridge": r} for r in RIDGES},
        **{f"k = {k}": {"dim": k} for k in dims},
        "centred features": {"centre": True},
        "features of unit length": {"unit": True},
        OF_THE_LOSS: {"of_loss": True},
        "kernel weighted by p(1 − p)": {"weighted": True},
    }
    for name, change in changes.items():
        parts = {m: checkpoint.scores(**change) for m, checkpoint in checkpoints.items()}
        yield name, balanced_mean(list(parts.values()))
        if name.startswith("ridge"):
            yield f"{name}, not balanced", torch.stack(list(parts.values())).mean(0)
            ends = torch.stack([parts[m] for m in last]).mean(0)
            yield f"{name}, last checkpoints, not balanced", ends
        if name == OF_THE_LOSS:
            yield f"{name}, last checkpoints", balanced_mean([parts[m] for m in last])


def _baselines(checkpoints: dict[str, Checkpoint], last: list[str]) -> Iterator[tuple[str, Tensor]]:
    at_the_end = torch.stack([checkpoints[name].weight for name in last]).mean(0)[:, None]
    for dim in REFERENCE_DIMS:
        parts = []
        for name in last:
            train, targets = fold(checkpoints[name].train, dim), fold(checkpoints[name].targets, dim)
            inverse = torch.linalg.inv(train.T @ train)
            parts.append(train @ (inverse / inverse.abs().mean()) @ targets.T)
        yield f"reference rule, k = {dim}", torch.stack(parts).mean(0) * at_the_end
    dots = [checkpoint.train @ checkpoint.targets.T for checkpoint in checkpoints.values()]
    yield "gradient dot product", torch.stack(dots).mean(0)
    cosines = [
        normalize(checkpoint.train) @ normalize(checkpoint.targets).T
        for checkpoint in checkpoints.values()
    ]
    yield "gradient cosine", torch.stack(cosines).mean(0)
