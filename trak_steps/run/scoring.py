"""What the scores of a run are made from: the features and kernels of all its checkpoints."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import starmap
from typing import Self

import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.run.layout import Layout, checkpoint_names, training_of
from trak_steps.run.parts import (
    open_kernel,
    open_target_features,
    open_train_features,
    require_one_recipe,
)
from trak_steps.run.row_weights import row_weights_of
from trak_steps.scoring.solve import Solved, solve_targets
from trak_steps.scoring.units import means_of_trainings, sums_of_scores
from trak_steps.store.calibration import Calibration
from trak_steps.store.features import FeatureStore, TrainFeatures
from trak_steps.store.kernel import KernelStore

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Block:
    """Some train rows: those of places ``start`` to ``stop``.

    Attributes:
        features: by each of m checkpoints, [r, k] each in float32.
        weights: of each checkpoint's part in their scores, [m, r]; none if all are 1.
    """

    start: int
    stop: int
    features: list[Tensor]
    weights: Tensor | None


@dataclass(frozen=True)
class Scoring:
    """The features of train rows, and the kernels, of m checkpoints.

    Attributes:
        names: of the checkpoints.
        n: train rows that the kernels are of.
        features: of all these, or of some.
        kernels: of the checkpoints.
        weights: of each checkpoint's part in a row's score, [m, rows]; none if all are 1.
        balance: whether checkpoints count alike.
        device: where to compute.
    """

    names: Sequence[str]
    n: int
    features: Sequence[TrainFeatures]
    kernels: Sequence[KernelStore]
    weights: Tensor | None
    balance: bool
    device: torch.device

    @classmethod
    def open(
        cls,
        layout: Layout,
        settings: Settings,
        train: PreparedRows,
        span: tuple[int, int] | None = None,
        device: torch.device = CPU,
    ) -> Self:
        """Of the train set, or of its rows from one place to another.

        Raises:
            TrakError: if something is missing, was made otherwise, or does not fit together.
        """
        names = checkpoint_names(settings.checkpoints)
        features = [open_train_features(layout, settings, name, train, span) for name in names]
        kernels = [
            open_kernel(layout, settings, name, of_train, rows=len(train) if span else None)
            for name, of_train in zip(names, features, strict=True)
        ]
        for first, *others in (features, kernels):
            for other in others:
                other.manifest.require(other.path, version=first.manifest.version, by=str(first.path))
        require_one_recipe(layout, names, imported=bool(settings.checkpoints.existing))
        weights = row_weights_of(settings, features)
        return cls(names, len(train), features, kernels, weights, settings.scores.balance, device)

    @property
    def trainings(self) -> list[str]:
        """The training that each checkpoint is of."""
        return [training_of(name) for name in self.names]

    @property
    def dim(self) -> int:
        """k."""
        return self.features[0].dim

    def targets(self, layout: Layout, name: str, rows: PreparedRows) -> list[FeatureStore]:
        """The features of a target set by each checkpoint."""
        return [
            open_target_features(layout, checkpoint, name, rows, of_train)
            for checkpoint, of_train in zip(self.names, self.features, strict=True)
        ]

    def solve(self, targets: Iterable[Tensor], scale: float | None = None) -> Solved:
        """Solve for targets, by their features by each checkpoint [t, k], read one at a time."""
        return solve_targets(
            self.kernels, targets, self.n, alike=self.balance, scale=scale, device=self.device
        )

    def in_unit(
        self, targets: Iterable[Tensor], calibration: Calibration, totals: Sequence[Tensor]
    ) -> tuple[Solved, Tensor]:
        """Solve for targets, in the unit of the run's scores; and what the scores of each add up to.

        Args:
            targets: their features by each checkpoint, [t, k]; read one at a time.
            calibration: of the run.
            totals: of the train rows' features, as it has them, [k] each.

        Returns:
            The targets, with the roots that ranks are counted by, the rows' weights included; and the
            sums by each training, [trainings, t].
        """
        solved = self.solve(targets, calibration.scale)
        sums = means_of_trainings(sums_of_scores(solved.weights, totals).cpu(), self.trainings)
        return replace(solved, roots=calibration.weight_root * solved.roots), sums

    def blocks(self, at_once: int, spans: Sequence[tuple[int, int]] | None = None) -> Iterator[Block]:
        """The rows, or those from some places to others, in blocks.

        As many threads read a block as compute with it. Where another device computes, the next block
        is read meanwhile; on the CPU both would be slower.
        """
        first = self.features[0].start
        every = [
            (start, min(start + at_once, stop))
            for begin, stop in spans or [(first, self.features[0].stop)]
            for start in range(begin, stop, at_once)
        ]
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as ahead:
            if self.device.type == "cpu":
                for span in every:
                    yield self._block(*span, threads, readers)
                return
            waiting = [ahead.submit(self._block, *every[0], threads, readers)] if every else []
            for following in [*every[1:], None]:
                block = waiting.pop().result()
                if following is not None:
                    waiting.append(ahead.submit(self._block, *following, threads, readers))
                yield self._moved(block)

    def _block(self, start: int, stop: int, threads: int, readers: Executor) -> Block:
        """Rows as they are read, each thread some of them."""
        found = [torch.empty(stop - start, of.dim) for of in self.features]
        pieces = -(-threads // len(found))
        size = -(-(stop - start) // pieces)

        def read(place: int, at: int) -> None:
            end = min(at + size, stop)
            rows = self.features[place].features(at, end)
            found[place][at - start : end - start] = torch.from_numpy(rows)

        tasks = [(place, at) for place in range(len(found)) for at in range(start, stop, size)]
        for _ in readers.map(read, *zip(*tasks, strict=True)) if threads > 1 else starmap(read, tasks):
            pass
        first = self.features[0].start
        of_rows = slice(start - first, stop - first)
        return Block(start, stop, found, None if self.weights is None else self.weights[:, of_rows])

    def _moved(self, block: Block) -> Block:
        """A block where it is computed with."""
        weights = None if block.weights is None else block.weights.to(self.device)
        features = [of.to(self.device) for of in block.features]
        return Block(block.start, block.stop, features, weights)
