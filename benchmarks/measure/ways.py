"""Ways to score: those of the pipeline, and others that were tried, all from the same features.

Everything is [n, t] in float64, for few train rows: whole arrays, and inner products of rows where the
pipeline has the kernel of features.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trak_steps.evaluation.sums import fold
from trak_steps.kernel.ridge import ridge_for, without_rounding
from trak_steps.run.layout import Layout, training_of
from trak_steps.store.features import FeatureStore, TrainFeatures

DOF = 0.15
DOFS = (0.05, 0.1, 0.15, 0.2, 0.4, 0.8)
RIDGES = (0.1, 1.0, 10.0, 100.0)
POWERS = (0.5, 1.0)
REFERENCE_DIMS = (256, 512)
# The checkpoints that plain gradients were scored by before the metric was there; and other sets.
PLAIN_BEFORE = ("0.25", "0.5", "1")
MORE_SETS = (
    ("0.125", "0.25", "0.5", "1"),
    ("0.0635", "0.125", "0.25", "1"),
    ("0.0635", "0.125", "0.25", "0.5", "1"),
)
OF_THE_LOSS = "features of the loss"
# Of the fraction of variance that a ridge leaves to a row itself, so that what is left stays finite.
MOST_LEVERAGE = 0.99


class Checkpoint:
    """One checkpoint's features, and what scores are made of.

    Attributes:
        train, targets: features, [n, k] and [t, k].
        weight, target_weight: the loss weight 1 − p of the train rows and of the targets, [n] and [t].
        margin: of the train rows, [n].
    """

    def __init__(
        self, train: Tensor, targets: Tensor, weight: Tensor, target_weight: Tensor, margin: Tensor
    ) -> None:
        self.train, self.targets = train, targets
        self.weight, self.target_weight, self.margin = weight, target_weight, margin

    @classmethod
    def read(cls, layout: Layout, name: str, targets: str, n: int) -> "Checkpoint":
        """From a training's stores."""
        train = TrainFeatures(sorted(layout.train_features(name).glob("*.zarr")), n)
        store = FeatureStore.open(layout.target_features(name, targets))
        return cls(
            torch.from_numpy(train.features(0, n)).double(),
            torch.from_numpy(store.features(0, store.stop)).double(),
            torch.from_numpy(train.column("loss_weight")).double(),
            torch.from_numpy(store.column("loss_weight")).double(),
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
    first = checkpoints[0]
    return Checkpoint(train, targets, first.weight, first.target_weight, first.margin)


@dataclass(frozen=True)
class Checkpoints:
    """What is there to score by, by the checkpoints' names.

    Attributes:
        default: the run's own.
        more: of the same trainings, at other times.
        plain: of the same trainings, with gradients as they are, not in the optimizer's metric.
    """

    default: Mapping[str, Checkpoint]
    more: Mapping[str, Checkpoint]
    plain: Mapping[str, Checkpoint]

    @property
    def last(self) -> list[str]:
        """The ends of trainings."""
        return [name for name in self.default if "-" not in name]

    def every(self) -> dict[str, Checkpoint]:
        """All in the metric."""
        return {**self.default, **self.more}


def ways_to_score(checkpoints: Checkpoints) -> Iterator[tuple[str, Tensor]]:
    """Names and scores [n, t]; the default first."""
    default, last = checkpoints.default, checkpoints.last
    own = {name: checkpoint.scores() for name, checkpoint in checkpoints.every().items()}

    def mean(names: Iterable[str]) -> Tensor:
        return balanced_mean([own[name] for name in names])

    yield "default", mean(default)
    yield "not balanced", torch.stack([own[name] for name in default]).mean(0)
    plain = {name: checkpoint.scores() for name, checkpoint in checkpoints.plain.items()}
    for fractions in (fractions_of(default), PLAIN_BEFORE):
        some = [name for name in plain if fraction_of(name) in fractions]
        shown = f"plain gradients at {_listed(fractions)}"
        yield shown, balanced_mean([plain[name] for name in some])
        for count in (1, 3):
            few = [plain[name] for name in some if int(training_of(name)) < count]
            yield f"{shown}, {count} training{'s' if count > 1 else ''}", balanced_mean(few)
    yield from _sets_of_checkpoints(checkpoints, mean)
    yield from _weights(default, own, mean(default))
    yield from _kernels(default, last)
    yield "one kernel of all checkpoints", _one_kernel(list(default.values()))
    trainings = dict.fromkeys(training_of(name) for name in default)
    of_trainings = [
        [checkpoint for name, checkpoint in default.items() if training_of(name) == training]
        for training in trainings
    ]
    yield (
        "one kernel of a training's checkpoints",
        balanced_mean([_one_kernel(of_training) for of_training in of_trainings]),
    )
    yield "all checkpoints' features added up", _added_up(list(default.values())).scores()
    yield (
        "a training's features added up",
        balanced_mean([_added_up(of_training).scores() for of_training in of_trainings]),
    )
    yield from _baselines(checkpoints.plain, last)


def fraction_of(name: str) -> str:
    """When a checkpoint was kept, as its name says."""
    return name.partition("-")[2] or "1"


def fractions_of(names: Iterable[str]) -> list[str]:
    """The times of checkpoints."""
    return sorted({fraction_of(name) for name in names}, key=float)


def _listed(fractions: Sequence[str]) -> str:
    return f"{', '.join(fractions[:-1])} and {fractions[-1]}"


def _sets_of_checkpoints(
    checkpoints: Checkpoints, mean: Callable[[Iterable[str]], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    default, last = checkpoints.default, checkpoints.last
    every = checkpoints.every()
    early = [name for name in default if name not in last]
    yield "last checkpoints", mean(last)
    yield "earlier checkpoints", mean(early)
    for fraction in fractions_of(every):
        if fraction != "1":
            yield f"checkpoints at {fraction}", mean(n for n in every if fraction_of(n) == fraction)
    for fractions in MORE_SETS:
        yield (
            f"checkpoints at {_listed(fractions)}",
            mean(name for name in every if fraction_of(name) in fractions),
        )
    for trainings in range(1, len(last)):
        word = "1 training" if trainings == 1 else f"{trainings} trainings"
        of = set(map(training_of, last[:trainings]))
        yield f"{word}, all checkpoints", mean(name for name in default if training_of(name) in of)
        yield f"{word}, earlier checkpoints", mean(name for name in early if training_of(name) in of)
        yield f"{word}, last checkpoints", mean(last[:trainings])


def _weights(
    checkpoints: Mapping[str, Checkpoint], own: Mapping[str, Tensor], default: Tensor
) -> Iterator[tuple[str, Tensor]]:
    mean = torch.stack([checkpoint.weight for checkpoint in checkpoints.values()]).mean(0)[:, None]
    for power in POWERS:
        weighed = [
            own[name] / own[name].square().mean(0).sqrt() * checkpoint.weight[:, None] ** power
            for name, checkpoint in checkpoints.items()
        ]
        yield f"own loss weight to the power {power:g}", torch.stack(weighed).mean(0)
        yield f"mean loss weight to the power {power:g}", default * mean**power
    outside = torch.stack([checkpoint.weight_out_of_sample() for checkpoint in checkpoints.values()])
    yield "mean loss weight out of sample", default * outside.mean(0)[:, None]


def _kernels(checkpoints: Mapping[str, Checkpoint], last: list[str]) -> Iterator[tuple[str, Tensor]]:
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


def _baselines(plain: Mapping[str, Checkpoint], last: list[str]) -> Iterator[tuple[str, Tensor]]:
    at_the_end = torch.stack([plain[name].weight for name in last]).mean(0)[:, None]
    for dim in REFERENCE_DIMS:
        parts = []
        for name in last:
            train, targets = fold(plain[name].train, dim), fold(plain[name].targets, dim)
            inverse = torch.linalg.inv(train.T @ train)
            parts.append(train @ (inverse / inverse.abs().mean()) @ targets.T)
        yield f"reference rule, k = {dim}", torch.stack(parts).mean(0) * at_the_end
    yield from gradient_similarities(plain)


def gradient_similarities(plain: Mapping[str, Checkpoint]) -> Iterator[tuple[str, Tensor]]:
    """Names and means over checkpoints, [n, t], of what needs no kernel."""
    dots = [checkpoint.train @ checkpoint.targets.T for checkpoint in plain.values()]
    yield "gradient dot product", torch.stack(dots).mean(0)
    cosines = [
        normalize(checkpoint.train) @ normalize(checkpoint.targets).T for checkpoint in plain.values()
    ]
    yield "gradient cosine", torch.stack(cosines).mean(0)
