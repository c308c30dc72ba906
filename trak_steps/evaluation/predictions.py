"""What every way of scoring predicts for the subsets of a plan, from features and kernels.

One pass over each checkpoint's features; see :mod:`trak_steps.evaluation.sums`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.evaluation import baselines
from trak_steps.evaluation.sums import Sums, fold, fold_kernel, sum_features
from trak_steps.kernel.blocks import solved_targets, subset_sums
from trak_steps.kernel.gram import SingularKernelError, factor_kernel
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.scoring.scores import balanced, signed_power
from trak_steps.scoring.solve import Kernel
from trak_steps.scoring.units import shares_of_trainings

RIDGES = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
DOFS = (0.05, 0.1, 0.2, 0.4, 0.8)
POWERS = (0.0, 0.5, 1.0)
SMALLEST_DIM = 64
BASELINES = DOT, COSINE, RULE = "gradient dot product", "gradient cosine", "reference rule"
Array = NDArray[np.float64]
# Row weights: the checkpoints whose mean loss weight is taken, and its power.
Weighting = tuple[tuple[str, ...], float]


class Features(Protocol):
    """The features of n rows, opened for reading."""

    @property
    def n(self) -> int:
        """How many rows there are."""
        ...

    def features(self, start: int, stop: int) -> NDArray[np.floating]:
        """Of some rows, [rows, k]."""
        ...

    def column(self, name: str) -> NDArray[Any]:
        """``loss_weight`` of all rows, [n]."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's part in scores.

    Attributes:
        name: of the checkpoint.
        training: that it was kept from.
        fraction: of the training that was over then.
        train: features of the train set.
        kernel: of these.
        targets: features of each target set.
    """

    name: str
    training: str
    fraction: float
    train: Features
    kernel: Kernel
    targets: Mapping[str, Features]


@dataclass(frozen=True)
class Point:
    """A way to score: a point of the curve that shows what one choice does, the others being the run's.

    Attributes:
        curve: ``ridge``, ``effective_dof``, ``power``, ``dim``, ``balance`` or ``checkpoints``.
        checkpoints: what is averaged.
        dim: k.
        ridge: of the kernel; none where it is found by the effective_dof.
        effective_dof: share of the degrees of freedom.
        loss_weight: ``own``, each checkpoint's; or ``mean``, of all.
        power: of the loss weight.
        balance: whether checkpoints count alike.
    """

    curve: str
    checkpoints: tuple[str, ...]
    dim: int
    ridge: float | None
    effective_dof: float
    loss_weight: str
    power: float
    balance: bool


@dataclass(frozen=True)
class Predicted:
    """Sums of scores over the s subsets of a plan, for the t targets of a set.

    Attributes:
        points: by each way to score whose kernels are not singular, [s, t].
        baselines: by each of :data:`BASELINES`, [s, t].
    """

    points: dict[Point, Array]
    baselines: dict[str, Array]


def points(own: Point, checkpoints: Sequence[Checkpoint]) -> list[Point]:
    """The points of all curves; that of how the ridge is set has the run's own way to score, too.

    Args:
        own: the run's own way to score, by all checkpoints.
        checkpoints: those of each training in their order.
    """
    n, k = checkpoints[0].train.n, own.dim
    dims = [k]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= SMALLEST_DIM:
        dims.append(dims[-1] // 2)
    if own.ridge == 0:
        dims = [dim for dim in dims if n >= dim]
    ridges = {*RIDGES, *(() if own.ridge is None else (own.ridge,))} - ({0.0} if n < k else set())
    dofs = {*DOFS, own.effective_dof}
    found = [replace(own, curve="ridge", ridge=value) for value in sorted(ridges)]
    found += [
        replace(own, curve="effective_dof", ridge=None, effective_dof=value) for value in sorted(dofs)
    ]
    found += [replace(own, curve="power", power=value) for value in sorted({*POWERS, own.power})]
    found += [replace(own, curve="dim", dim=dim) for dim in dims]
    if len(own.checkpoints) > 1:
        found += [replace(own, curve="balance", balance=value) for value in (False, True)]
    sets = checkpoint_sets(checkpoints)
    return found + [replace(own, curve="checkpoints", checkpoints=some) for some in sets]


def some_at_once(sizes: Mapping[str, int], most: int) -> list[dict[str, tuple[int, int]]]:
    """All targets of some sets, in groups: of each set in it, the places from which and to which.

    Args:
        sizes: of the sets.
        most: targets of a group.
    """
    groups: list[dict[str, tuple[int, int]]] = [{}]
    left = most
    for of_set, size in sizes.items():
        first = 0
        while first < size:
            last = min(size, first + left)
            groups[-1][of_set] = first, last
            left -= last - first
            first = last
            if left == 0:
                groups.append({})
                left = most
    return [group for group in groups if group]


def final_of(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """The name of each training's last checkpoint."""
    return list({checkpoint.training: checkpoint.name for checkpoint in checkpoints}.values())


def checkpoint_sets(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, ...]]:
    """Of 1, 2, 4, … trainings the last checkpoints; all; where several are kept, those of a time."""
    trainings = list(dict.fromkeys(checkpoint.training for checkpoint in checkpoints))
    counts = sorted({2**i for i in range(len(trainings).bit_length())} | {len(trainings)})
    last = final_of(checkpoints)
    found = [tuple(last[:count]) for count in counts]
    if len(checkpoints) > len(last):
        found += [
            tuple(m.name for m in checkpoints if m.training in trainings[:count]) for count in counts
        ]
        fractions = sorted({m.fraction for m in checkpoints} - {1.0})
        at_once = [tuple(m.name for m in checkpoints if m.fraction == at) for at in fractions]
        # Imported trainings may have been kept at other times.
        found += [some for some in at_once if len(some) == len(trainings)]
    return found


def predict(
    checkpoints: Sequence[Checkpoint],
    kept: NDArray[np.bool_],
    chosen: Sequence[Point],
    *,
    targets: Mapping[str, tuple[int, int]],
    memory: int,
    advance: Callable[[int], None],
    say: Callable[[str], None],
) -> dict[str, Predicted]:
    """For some targets of each set what every point predicts, and what baselines made of gradients do.

    A point whose kernel is singular for some checkpoint is left out.

    Args:
        checkpoints: those of each training in their order.
        kept: the rows of each subset, [s, n].
        chosen: the points.
        targets: by their sets, the places from which and to which.
        memory: bytes for what is made of targets, what is found apart.
        advance: is told how many checkpoints were done, to show progress.
        say: is told which points are left out, and why.
    """
    every = tuple(checkpoint.name for checkpoint in checkpoints)
    # Those of a classifier are all 1; a regression's say which way a row pushes.
    signs, of_reference = (every, 0.0), (tuple(final_of(checkpoints)), 1.0)
    every_one = [_weighting(point, name) for point in chosen for name in point.checkpoints]
    weights = _Weights(checkpoints, [signs, of_reference, *every_one])
    sizes = {of_set: last - first for of_set, (first, last) in targets.items()}
    shape = len(kept), sum(sizes.values())
    of_points = {point: np.zeros(shape) for point in chosen}
    of_baselines = {name: np.zeros(shape) for name in BASELINES}
    shares = {point: _shares(checkpoints, point.checkpoints) for point in chosen}
    of_all = _shares(checkpoints, every)
    for checkpoint in checkpoints:
        name, n = checkpoint.name, checkpoint.train.n
        here = [point for point in of_points if name in point.checkpoints]
        wanted = [signs, *(_weighting(point, name) for point in here)]
        wanted += [of_reference] if name in of_reference[0] else []
        kernel = torch.from_numpy(checkpoint.kernel.kernel())
        blocks = _blocks(checkpoint.train, subset_sums(len(kernel)).at_once(memory // 2))
        of_signs = weights.values[weights.same[signs]]
        sums = sum_features(blocks, kept, weights.of(wanted), of_signs)
        phi = _of_targets(checkpoint, targets)
        # One, where trainings have as many.
        relative = of_all[name] * len(every)
        by_point = {point: weights.same[_weighting(point, name)] for point in here}
        counts = {point: shares[point][name] for point in here}
        for point, error in _add_points(of_points, by_point, counts, n, kernel, sums, phi, memory):
            say(f"left out, {point.curve} of checkpoint {name}: {error}")
            del of_points[point]
        plain = sums.by_weight[weights.same[signs]]
        rule = None
        if name in of_reference[0]:
            rule = _reference(kernel, sums.by_weight[weights.same[of_reference]], n)
        for places, part in _some_targets(phi, memory):
            of_baselines[DOT][:, places] += relative * baselines.gradient_dot(plain, part).numpy()
            of_baselines[COSINE][:, places] += relative * baselines.cosine(sums.units, part).numpy()
            if rule is not None:
                of_baselines[RULE][:, places] += (rule @ part.T).numpy()
        advance(1)
    found = {}
    start = 0
    for of_set, size in sizes.items():
        own = slice(start, start + size)
        found[of_set] = Predicted(
            {point: values[:, own] for point, values in of_points.items()},
            {name: values[:, own] for name, values in of_baselines.items()},
        )
        start = own.stop
    return found


def _shares(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> dict[str, float]:
    """What each of some checkpoints counts for, by its name: trainings count alike."""
    of = {checkpoint.name: checkpoint.training for checkpoint in checkpoints}
    return dict(zip(names, shares_of_trainings([of[name] for name in names]), strict=True))


def _weighting(point: Point, checkpoint: str) -> Weighting:
    """The row weights of a checkpoint's part in a point."""
    return (checkpoint,) if point.loss_weight == "own" else point.checkpoints, point.power


class _Weights:
    """Row weights, each set of numbers once: a classifier's with power 0 are 1 for all checkpoints.

    Attributes:
        values: [n] each.
        same: the name in ``values`` of each weighting that is wanted.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], wanted: Sequence[Weighting]) -> None:
        self.values: dict[Weighting, Array] = {}
        self.same: dict[Weighting, Weighting] = {}
        columns = {checkpoint.name: checkpoint.train.column("loss_weight") for checkpoint in checkpoints}
        for weighting in dict.fromkeys(wanted):
            names, power = weighting
            mean = np.mean([columns[name] for name in names], 0, dtype=np.float64)
            values = signed_power(torch.from_numpy(mean), power).numpy()
            equal = (known for known, of in self.values.items() if np.array_equal(of, values))
            self.same[weighting] = next(equal, weighting)
            self.values.setdefault(self.same[weighting], values)

    def of(self, wanted: Iterable[Weighting]) -> dict[Weighting, Array]:
        """Those that some weightings need."""
        names = dict.fromkeys(self.same[weighting] for weighting in wanted)
        return {name: self.values[name] for name in names}


def _blocks(features: Features, at_once: int) -> Iterator[tuple[int, NDArray[np.floating]]]:
    for start in range(0, features.n, at_once):
        yield start, features.features(start, min(start + at_once, features.n))


def _of_targets(checkpoint: Checkpoint, spans: Mapping[str, tuple[int, int]]) -> Tensor:
    """A checkpoint's features of some targets of each set, one set after the other, [t, k]."""
    parts = (checkpoint.targets[of_set].features(*span) for of_set, span in spans.items())
    return torch.cat([torch.from_numpy(features) for features in parts])


def _add_points(
    found: Mapping[Point, Array],
    here: Mapping[Point, Weighting],
    counts: Mapping[Point, float],
    n: int,
    kernel: Tensor,
    sums: Sums[Weighting],
    phi: Tensor,
    memory: int,
) -> list[tuple[Point, SingularKernelError]]:
    """Add a checkpoint's share to points; gives those whose kernel is singular.

    Each kernel is factored once, for all points and targets that want it, and then let go.

    Args:
        found: of each point, [s, t].
        here: the points that the checkpoint has a part in, and their row weights.
        counts: what it counts for in each of them.
        n: train rows.
        kernel: K without ridge, [k, k].
        sums: of the checkpoint's features.
        phi: its features of the targets, [t, k].
        memory: see :func:`predict`.
    """
    singular = []
    for dim in dict.fromkeys(point.dim for point in here):
        folded = fold_kernel(kernel, dim)
        for ridge, same in _by_ridge(folded, [p for p in here if p.dim == dim]).items():
            try:
                factor = factor_kernel(folded, n, ridge)
            except SingularKernelError as error:
                singular += [(point, error) for point in same]
                continue
            for places, part in _some_targets(phi, memory):
                solved = torch.cholesky_solve(fold(part, dim).T, factor)
                weights = {False: solved}
                if any(point.balance for point in same):
                    # Whatever all checkpoints are brought to: a target's scale orders nothing.
                    weights[True] = balanced([solved.T], [folded], n, to=1.0)[0].T
                for point in same:
                    share = fold(sums.by_weight[here[point]], dim) @ weights[point.balance]
                    found[point][:, places] += counts[point] * share.numpy()
    return singular


def _reference(kernel: Tensor, sums: Tensor, n: int) -> Tensor:
    """What the reference's rule predicts for unit vectors in the targets' place, [s, k].

    The rule is linear in a target's features, so this times them is what it predicts for any.
    """
    k = len(kernel)
    dim = baselines.reference_dim(k, n)
    units = fold(torch.eye(k, dtype=torch.float64), dim)
    return baselines.reference(fold(sums, dim), fold_kernel(kernel, dim), units)


def _some_targets(phi: Tensor, memory: int) -> Iterator[tuple[slice, Tensor]]:
    """The places of some targets, and their features in float64 [c, k], until all had their turn.

    As many at once as half the memory holds of what is made of them; kernels have the other half.
    """
    at_once = solved_targets(phi.shape[1]).at_once(memory // 2)
    for start in range(0, len(phi), at_once):
        yield slice(start, start + at_once), phi[start : start + at_once].double()


def _by_ridge(kernel: Tensor, points: Sequence[Point]) -> dict[float, list[Point]]:
    """Points of one k by the ridges that they have for its kernel [k, k]."""
    ridges = {point: point.ridge for point in points if point.ridge is not None}
    if len(ridges) < len(points):
        eigenvalues = spectrum(kernel)
        ridges |= {p: ridge_for(eigenvalues, p.effective_dof) for p in points if p.ridge is None}
    by_ridge: dict[float, list[Point]] = {}
    for point, ridge in ridges.items():
        by_ridge.setdefault(ridge, []).append(point)
    return by_ridge
