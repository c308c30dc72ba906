"""What every way of scoring predicts for the subsets of a plan, from a run's own features and scores.

One pass over each checkpoint's features; see :mod:`trak_steps.evaluation.sums`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation import scorings
from trak_steps.evaluation.sums import fold, fold_kernel, sum_features
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.layout import Layout, checkpoint_names, last_states, run_of
from trak_steps.progress import progress, say
from trak_steps.scoring.scores import balanced, signed_power
from trak_steps.steps.hidden import HiddenStates
from trak_steps.steps.parts import open_kernel, open_target_features, open_train_features
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.features import TrainFeatures
from trak_steps.store.scores import ScoreStore

RIDGES = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
FREEDOMS = (0.05, 0.1, 0.2, 0.4, 0.8)
POWERS = (0.0, 0.5, 1.0)
SMALLEST_DIM = 64
# The row weights of the reference's rule, which no power has.
REFERENCE = -1.0
ROWS_AT_ONCE = 1024
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A way to score: a point of the curve that shows what one choice does, the others being the run's.

    Attributes:
        curve: ``ridge``, ``freedom``, ``power``, ``dim``, ``balance`` or ``checkpoints``.
        checkpoints: what is averaged.
        dim: k.
        ridge: of the kernel; none where it is found by the freedom.
        freedom: share of the degrees of freedom.
        power: of the loss weight.
        balance: whether checkpoints count alike.
    """

    curve: str
    checkpoints: tuple[str, ...]
    dim: int
    ridge: float | None
    freedom: float
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
        settings.kernel.freedom,
        settings.scores.loss_weight_power,
        settings.scores.balance,
    )
    dims = [k]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= SMALLEST_DIM:
        dims.append(dims[-1] // 2)
    if ridge == 0:
        dims = [dim for dim in dims if n >= dim]
    ridges = {*RIDGES, *(() if ridge is None else (ridge,))} - ({0.0} if n < k else set())
    freedoms = {*FREEDOMS, own.freedom}
    found = [replace(own, curve="ridge", ridge=value) for value in sorted(ridges)]
    found += [replace(own, curve="freedom", ridge=None, freedom=value) for value in sorted(freedoms)]
    found += [replace(own, curve="power", power=value) for value in sorted({*POWERS, own.power})]
    found += [replace(own, curve="dim", dim=dim) for dim in dims]
    if len(own.checkpoints) > 1:
        found += [replace(own, curve="balance", balance=value) for value in (False, True)]
    sets = checkpoint_sets(settings)
    return found + [replace(own, curve="checkpoints", checkpoints=some) for some in sets]


def checkpoint_sets(settings: Settings) -> list[tuple[str, ...]]:
    """Of 1, 2, 4, … runs the last states; all states; and, where several are kept, each alone."""
    names = checkpoint_names(settings.checkpoints)
    runs = list(dict.fromkeys(map(run_of, names)))
    counts = sorted({2**i for i in range(len(runs).bit_length())} | {len(runs)})
    last = last_states(settings.checkpoints)
    found = [tuple(last[:count]) for count in counts]
    if len(names) > len(last):
        found += [tuple(m for m in names if run_of(m) in runs[:count]) for count in counts]
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
        self._weights[REFERENCE] = self._mean_weight(last_states(settings.checkpoints)).numpy()

    def _mean_weight(self, names: Sequence[str]) -> Tensor:
        columns = [self._features[name].column("loss_weight") for name in names]
        return torch.from_numpy(np.mean(columns, 0, dtype=np.float64))

    @property
    def made_from(self) -> dict[str, str]:
        """The contents of the features and kernels that were read, by path in the run."""
        found = {store.path: store.manifest for store in self._kernels.values()}
        for name in last_states(self._settings.checkpoints):
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
        singular: set[Point] = set()
        found: dict[str, tuple[dict[Point, Array], dict[str, Array]]] = {
            name: ({}, {}) for name in targets
        }
        last = last_states(self._settings.checkpoints)
        for name in progress(self._names, total=len(self._names), label="sums", unit="checkpoint"):
            features = self._features[name]
            sums = sum_features(self._blocks(features), self._kept, self._weights)
            kernel = torch.from_numpy(self._kernels[name].kernel())
            for of_set, rows in targets.items():
                of_points, baselines = found[of_set]
                store = open_target_features(self._layout, name, of_set, rows, features)
                phi = torch.from_numpy(store.features(0, len(rows))).double()
                solver = _Solver(kernel, phi, len(self._train))
                for point in chosen:
                    if name not in point.checkpoints or point in singular:
                        continue
                    try:
                        share = fold(sums.by_weight[point.power], point.dim) @ solver(point)
                    except TrakError as error:
                        say(f"left out, {point.curve} of checkpoint {name}: {error}")
                        singular.add(point)
                    else:
                        _add(of_points, point, share / len(point.checkpoints))
                dot = scorings.gradient_dot(sums.by_weight[0.0], phi)
                _add(baselines, "gradient dot product", dot)
                _add(baselines, "gradient cosine", scorings.cosine(sums.units, phi))
                if name in last:
                    of_rule = scorings.reference(sums.by_weight[REFERENCE], kernel, phi)
                    _add(baselines, "reference rule", of_rule)
        for of_points, _ in found.values():
            for point in singular & of_points.keys():
                del of_points[point]
        return found

    def of_hidden_states(self, targets: Mapping[str, PreparedRows]) -> dict[str, Array]:
        """By the cosine of last hidden states, averaged over the last state of each run."""
        found: dict[str, Array] = {}
        for name in last_states(self._settings.checkpoints):
            states = HiddenStates(self._layout, self._settings, name, self._train.outputs)
            kept = torch.from_numpy(self._kept).double()
            parts = [
                kept[:, start : start + len(block)] @ block
                for start, block in states.blocks(self._train)
            ]
            sums = torch.stack(parts).sum(0)
            for of_set, rows in targets.items():
                _add(found, of_set, sums @ states.all(rows).T)
        return found

    def _blocks(self, features: TrainFeatures) -> Iterator[tuple[int, NDArray[np.floating]]]:
        for start in range(0, features.n, ROWS_AT_ONCE):
            yield start, features.features(start, min(start + ROWS_AT_ONCE, features.n))


class _Solver:
    """(K + ridge)⁻¹ φ(z) of one checkpoint, [k, t], at every point; what points share is kept."""

    def __init__(self, kernel: Tensor, targets: Tensor, n: int) -> None:
        self._kernel = kernel
        self._targets = targets
        self._n = n
        self._kernels: dict[int, Tensor] = {}
        self._spectra: dict[int, Tensor] = {}
        self._solved: dict[tuple[int, float, bool], Tensor] = {}

    def __call__(self, point: Point) -> Tensor:
        dim = point.dim
        if dim not in self._kernels:
            whole = dim == len(self._kernel)
            self._kernels[dim] = self._kernel if whole else fold_kernel(self._kernel, dim)
        ridge = self._ridge(point)
        what = (dim, ridge, point.balance)
        if what not in self._solved:
            kernel, targets = self._kernels[dim], fold(self._targets, dim)
            found = scorings.solve(kernel, targets, n=self._n, ridge=ridge)
            if point.balance:
                # Whatever all checkpoints are brought to: a target's scale orders nothing.
                found = balanced([found.T], [kernel], self._n, to=1.0)[0].T
            self._solved[what] = found
        return self._solved[what]

    def _ridge(self, point: Point) -> float:
        if point.ridge is not None:
            return point.ridge
        if point.dim not in self._spectra:
            self._spectra[point.dim] = spectrum(self._kernels[point.dim])
        return ridge_for(self._spectra[point.dim], point.freedom)


def _add(found: dict[Any, Array], name: Any, values: Tensor) -> None:
    found[name] = found.get(name, 0.0) + values.numpy()
