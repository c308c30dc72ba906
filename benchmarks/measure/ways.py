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


class State:
    """One checkpoint's features, and what scores are made of.

    Attributes:
        train, targets: features, [n, k] and [t, k].
        weight: the loss weight 1 − p of the train rows, [n].
        margin: of the train rows, [n].
    """

    def __init__(self, train: Tensor, targets: Tensor, weight: Tensor, margin: Tensor) -> None:
        self.train, self.targets, self.weight, self.margin = train, targets, weight, margin

    @classmethod
    def read(cls, layout: Layout, name: str, targets: str, n: int) -> "State":
        """From a run's stores."""
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


def _one_kernel(states: list[State]) -> Tensor:
    """Scores by the inner products of all states' features side by side, each of mean length 1."""
    scales = [state.train.square().sum(1).mean() for state in states]
    pairs = list(zip(states, scales, strict=True))
    gram = torch.stack([state.train @ state.train.T / scale for state, scale in pairs]).sum(0)
    right = torch.stack([state.train @ state.targets.T / scale for state, scale in pairs]).sum(0)
    whole = Gram(gram)
    return whole.solve(whole.added(DOF), right)


def _added_up(states: list[State]) -> State:
    """The sum of all states' features, each of mean length 1: one state in their place.

    Projections of different checkpoints are drawn apart, so inner products of sums are, on average,
    sums of inner products.
    """
    scales = [state.train.square().sum(1).mean().sqrt() for state in states]
    train = torch.stack([state.train / s for state, s in zip(states, scales, strict=True)]).sum(0)
    targets = torch.stack([state.targets / s for state, s in zip(states, scales, strict=True)]).sum(0)
    return State(train, targets, states[0].weight, states[0].margin)


def ways_to_score(states: dict[str, State], last: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Names and scores [n, t]; the default first.

    Args:
        states: by their checkpoints' names.
        last: which of them are ends of a training run.
    """
    every = list(states)
    own = {name: state.scores() for name, state in states.items()}

    def default(names: list[str]) -> Tensor:
        return balanced_mean([own[name] for name in names])

    yield "default", default(every)
    yield "not balanced", torch.stack(list(own.values())).mean(0)
    yield from _sets_of_states(every, last, default)
    yield from _weights(states, last, default(every))
    yield from _kernels(states, last)
    yield "one kernel of all states", _one_kernel(list(states.values()))
    runs = dict.fromkeys(training_of(name) for name in every)
    of_runs = [[state for name, state in states.items() if training_of(name) == run] for run in runs]
    yield "one kernel of a run's states", balanced_mean([_one_kernel(of_run) for of_run in of_runs])
    yield "all states' features added up", _added_up(list(states.values())).scores()
    yield "a run's features added up", balanced_mean([_added_up(of_run).scores() for of_run in of_runs])
    yield from _baselines(states, last)


def _sets_of_states(
    every: list[str], last: list[str], default: Callable[[list[str]], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    early = [name for name in every if name not in last]
    yield "last states", default(last)
    yield "earlier states", default(early)
    for state in sorted({name.partition("-")[2] for name in early}):
        yield f"states at {state}", default([name for name in early if name.endswith(f"-{state}")])
    for runs in range(1, len(last)):
        word = "1 run" if runs == 1 else f"{runs} runs"
        some = [name for name in every if training_of(name) in map(training_of, last[:runs])]
        yield f"{word}, all states", default(some)
        yield f"{word}, last states", default(last[:runs])


def _weights(states: dict[str, State], last: list[str], default: Tensor) -> Iterator[tuple[str, Tensor]]:
    def mean(names: list[str], of: Callable[[State], Tensor]) -> Tensor:
        return torch.stack([of(states[name]) for name in names]).mean(0)[:, None]

    for names, word in ((list(states), "all"), (last, "last")):
        in_sample = mean(names, lambda state: state.weight)
        for power in POWERS:
            yield f"loss weight of {word} states to the power {power:g}", default * in_sample**power
        outside = mean(names, State.weight_out_of_sample)
        yield f"loss weight of {word} states out of sample", default * outside


def _kernels(states: dict[str, State], last: list[str]) -> Iterator[tuple[str, Tensor]]:
    dim = next(iter(states.values())).dim
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
        parts = {m: state.scores(**change) for m, state in states.items()}
        yield name, balanced_mean(list(parts.values()))
        if name.startswith("ridge"):
            yield f"{name}, not balanced", torch.stack(list(parts.values())).mean(0)
            ends = torch.stack([parts[m] for m in last]).mean(0)
            yield f"{name}, last states, not balanced", ends
        if name == OF_THE_LOSS:
            yield f"{name}, last states", balanced_mean([parts[m] for m in last])


def _baselines(states: dict[str, State], last: list[str]) -> Iterator[tuple[str, Tensor]]:
    at_the_end = torch.stack([states[name].weight for name in last]).mean(0)[:, None]
    for dim in REFERENCE_DIMS:
        parts = []
        for name in last:
            train, targets = fold(states[name].train, dim), fold(states[name].targets, dim)
            inverse = torch.linalg.inv(train.T @ train)
            parts.append(train @ (inverse / inverse.abs().mean()) @ targets.T)
        yield f"reference rule, k = {dim}", torch.stack(parts).mean(0) * at_the_end
    dots = [state.train @ state.targets.T for state in states.values()]
    yield "gradient dot product", torch.stack(dots).mean(0)
    cosines = [normalize(state.train) @ normalize(state.targets).T for state in states.values()]
    yield "gradient cosine", torch.stack(cosines).mean(0)
