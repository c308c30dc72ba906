"""What every way of scoring predicts for the subsets of a plan, from a run's own features and scores.

One pass over each checkpoint's features; see :mod:`trak_steps.evaluation.sums`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation import baselines
from trak_steps.evaluation.sums import Sums, fold, fold_kernel, sum_features
from trak_steps.kernel.blocks import solved_targets, subset_sums
from trak_steps.kernel.gram import factor_kernel
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.run.hidden_states import HiddenStates
from trak_steps.run.layout import Layout, checkpoint_names, final_checkpoints, training_of
from trak_steps.run.parts import open_kernel, open_target_features, open_train_features
from trak_steps.scoring.scores import balanced, signed_power
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.features import TrainFeatures
from trak_steps.store.scores import ScoreStore

RIDGES = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
DOFS = (0.05, 0.1, 0.2, 0.4, 0.8)
POWERS = (0.0, 0.5, 1.0)
SMALLEST_DIM = 64
# The row weights of the reference's rule, which no power has.
REFERENCE = -1.0
BASELINES = DOT, COSINE, RULE = "gradient dot product", "gradient cosine", "reference rule"
MIB = 2**20
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A way to score: a point of the curve that shows what one choice does, the others being the run's.

    Attributes:
        curve: ``ridge``, ``effective_dof``, ``power``, ``dim``, ``balance`` or ``checkpoints``.
        checkpoints: what is averaged.
        dim: k.
        ridge: of the kernel; none where it is found by the effective_dof.
        effective_dof: share of the degrees of freedom.
        power: of the loss weight.
        balance: whether checkpoints count alike.
    """

    curve: str
    checkpoints: tuple[str, ...]
    dim: int
    ridge: float | None
    effective_dof: float
    power: float
    balance: bool


def points(settings: Settings, n: int) -> list[Point]:
    """The points of all curves; that of how the ridge is set has the run's own way to score, too."""
    k, ridge = settings.features.dim, settings.kernel.ridge
    own = Point(
        "",
        tuple(checkpoint_names(settings.checkpoints)),
        k,
        ridge,
        settings.kernel.effective_dof,
        settings.scores.loss_weight_power,
        settings.scores.balance,
    )
    dims = [k]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= SMALLEST_DIM:
        dims.append(dims[-1] // 2)
    if ridge == 0:
        dims = [dim for dim in dims if n >= dim]
    ridges = {*RIDGES, *(() if ridge is None else (ridge,))} - ({0.0} if n < k else set())
    dofs = {*DOFS, own.effective_dof}
    found = [replace(own, curve="ridge", ridge=value) for value in sorted(ridges)]
    found += [
        replace(own, curve="effective_dof", ridge=None, effective_dof=value) for value in sorted(dofs)
    ]
    found += [replace(own, curve="power", power=value) for value in sorted({*POWERS, own.power})]
    found += [replace(own, curve="dim", dim=dim) for dim in dims]
    if len(own.checkpoints) > 1:
        found += [replace(own, curve="balance", balance=value) for value in (False, True)]
    sets = checkpoint_sets(settings)
    return found + [replace(own, curve="checkpoints", checkpoints=some) for some in sets]


def checkpoint_sets(settings: Settings) -> list[tuple[str, ...]]:
    """Of 1, 2, 4, … runs the last states; all states; and, where several are kept, each alone."""
    names = checkpoint_names(settings.checkpoints)
    runs = list(dict.fromkeys(map(training_of, names)))
    counts = sorted({2**i for i in range(len(runs).bit_length())} | {len(runs)})
    last = final_checkpoints(settings.checkpoints)
    found = [tuple(last[:count]) for count in counts]
    if len(names) > len(last):
        found += [tuple(m for m in names if training_of(m) in runs[:count]) for count in counts]
        states = {m.partition("-")[2] for m in names} - {""}
        found += [tuple(m for m in names if m.endswith(f"-{state}")) for state in sorted(states)]
    return found


class Predictions:
    """Sums of scores over the subsets of a plan, [s, t] each, by many ways to score.

    Args:
        layout, settings: of the run.
        train: its rows.
        kept: the rows of each subset, [s, n].
    """

    def __init__(
        self, layout: Layout, settings: Settings, train: PreparedRows, kept: NDArray[np.bool_]
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._train = train
        self._kept = kept
        self._names = checkpoint_names(settings.checkpoints)
        self._features = {
            name: open_train_features(layout, settings, name, train) for name in self._names
        }
        self._kernels = {
            name: open_kernel(layout, settings, name, self._features[name]) for name in self._names
        }
        weight = self._mean_weight(self._names)
        powers = {*POWERS, settings.scores.loss_weight_power}
        self._weights = {power: signed_power(weight, power).numpy() for power in powers}
        self._weights[REFERENCE] = self._mean_weight(final_checkpoints(settings.checkpoints)).numpy()

    def _mean_weight(self, names: Sequence[str]) -> Tensor:
        columns = [self._features[name].column("loss_weight") for name in names]
        return torch.from_numpy(np.mean(columns, 0, dtype=np.float64))

    @property
    def made_from(self) -> dict[str, str]:
        """The contents of the features and kernels that were read, by path in the run."""
        found = {store.path: store.manifest for store in self._kernels.values()}
        for name in final_checkpoints(self._settings.checkpoints):
            folder = self._layout.checkpoint(name)
            found[folder] = artefact_manifest(folder, "checkpoint")
        for features in self._features.values():
            found |= {shard.path: shard.manifest for shard in features.shards}
        return {self._layout.name(path): manifest.content for path, manifest in found.items()}

    def of_scores(self, store: ScoreStore) -> Array:
        """By the run's own scores, as they are stored."""
        n, t = store.shape
        found = np.zeros((len(self._kept), t))
        for start in range(0, n, store.block_rows):
            block = store.scores(start, min(start + store.block_rows, n))
            found += self._kept[:, start : start + len(block)].astype(np.float64) @ block
        return found

    def of_points(
        self, targets: Mapping[str, PreparedRows], chosen: Sequence[Point]
    ) -> dict[str, tuple[dict[Point, Array], dict[str, Array]]]:
        """For each target set what every point predicts, and what baselines made of gradients do.

        A point whose kernel is singular for some checkpoint is left out.
        """
        shape = len(self._kept), sum(map(len, targets.values()))
        of_points = {point: np.zeros(shape) for point in chosen}
        baselines = {name: np.zeros(shape) for name in BASELINES}
        for name in progress(self._names, total=len(self._names), label="sums", unit="checkpoint"):
            features = self._features[name]
            # Those of a classifier are all 1; a regression's say which way a row pushes.
            signs = self._weights[0.0]
            sums = sum_features(self._blocks(features), self._kept, self._weights, signs)
            kernel = torch.from_numpy(self._kernels[name].kernel())
            phi = self._of_targets(name, targets)
            self._add_points(of_points, name, kernel, sums, phi)
            self._add_baselines(baselines, name, kernel, sums, phi)
        found = {}
        start = 0
        for of_set, rows in targets.items():
            own = slice(start, start + len(rows))
            found[of_set] = (
                {point: values[:, own] for point, values in of_points.items()},
                {name: values[:, own] for name, values in baselines.items()},
            )
            start = own.stop
        return found

    def _of_targets(self, name: str, targets: Mapping[str, PreparedRows]) -> Tensor:
        """A checkpoint's features of all target sets, one after the other, [t, k]."""
        parts = []
        for of_set, rows in targets.items():
            store = open_target_features(self._layout, name, of_set, rows, self._features[name])
            parts.append(torch.from_numpy(store.features(0, len(rows))))
        return torch.cat(parts)

    def _add_points(
        self, found: dict[Point, Array], name: str, kernel: Tensor, sums: Sums, phi: Tensor
    ) -> None:
        """Add a checkpoint's share; points whose kernel is singular are taken out.

        Each kernel is factored once, for all points and targets that want it, and then let go.
        """
        n = len(self._train)
        here = [point for point in found if name in point.checkpoints]
        for dim in dict.fromkeys(point.dim for point in here):
            folded = fold_kernel(kernel, dim)
            for ridge, same in _by_ridge(folded, [p for p in here if p.dim == dim]).items():
                try:
                    factor = factor_kernel(folded, n, ridge)
                except TrakError as error:
                    for point in same:
                        say(f"left out, {point.curve} of checkpoint {name}: {error}")
                        del found[point]
                    continue
                for places, part in self._some_targets(phi):
                    solved = torch.cholesky_solve(fold(part, dim).T, factor)
                    weights = {False: solved}
                    if any(point.balance for point in same):
                        # Whatever all checkpoints are brought to: a target's scale orders nothing.
                        weights[True] = balanced([solved.T], [folded], n, to=1.0)[0].T
                    for point in same:
                        share = fold(sums.by_weight[point.power], dim) @ weights[point.balance]
                        found[point][:, places] += share.numpy() / len(point.checkpoints)

    def _add_baselines(
        self, found: dict[str, Array], name: str, kernel: Tensor, sums: Sums, phi: Tensor
    ) -> None:
        """Add what baselines make of a checkpoint; the reference's rule, of last states only."""
        rule = None
        if name in final_checkpoints(self._settings.checkpoints):
            rule = self._reference(kernel, sums.by_weight[REFERENCE])
        for places, part in self._some_targets(phi):
            dot = baselines.gradient_dot(sums.by_weight[0.0], part)
            found[DOT][:, places] += dot.numpy()
            found[COSINE][:, places] += baselines.cosine(sums.units, part).numpy()
            if rule is not None:
                found[RULE][:, places] += (rule @ part.T).numpy()

    def _reference(self, kernel: Tensor, sums: Tensor) -> Tensor:
        """What the reference's rule predicts for unit vectors in the targets' place, [s, k].

        The rule is linear in a target's features, so this times them is what it predicts for any.
        """
        k = len(kernel)
        dim = baselines.reference_dim(k, len(self._train))
        units = fold(torch.eye(k, dtype=torch.float64), dim)
        return baselines.reference(fold(sums, dim), fold_kernel(kernel, dim), units)

    def _some_targets(self, phi: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The places of some targets, and their features in float64 [c, k], until all had their turn.

        As many at once as half the memory holds of what is made of them; kernels have the other half.
        """
        memory = self._settings.execution.memory_mb * MIB // 2
        at_once = solved_targets(phi.shape[1]).at_once(memory)
        for start in range(0, len(phi), at_once):
            yield slice(start, start + at_once), phi[start : start + at_once].double()

    def of_hidden_states(self, targets: Mapping[str, PreparedRows]) -> dict[str, Array]:
        """By the cosine of last hidden states, averaged over the last state of each run."""
        found = {of_set: np.zeros((len(self._kept), len(rows))) for of_set, rows in targets.items()}
        for name in final_checkpoints(self._settings.checkpoints):
            states = HiddenStates(self._layout, self._settings, name, self._train.outputs)
            parts = (
                torch.from_numpy(self._kept[:, start : start + len(block)]).double() @ block
                for start, block in states.blocks(self._train)
            )
            sums = reduce(torch.add, parts)
            for of_set, rows in targets.items():
                found[of_set] += (sums @ states.of(rows).T).numpy()
        return found

    def _blocks(self, features: TrainFeatures) -> Iterator[tuple[int, NDArray[np.floating]]]:
        memory = self._settings.execution.memory_mb * MIB // 2
        at_once = subset_sums(features.dim).at_once(memory)
        for start in range(0, features.n, at_once):
            yield start, features.features(start, min(start + at_once, features.n))


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
