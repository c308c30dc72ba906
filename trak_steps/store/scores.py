"""Score stores: what is known of a set's targets, and every train row's score for each, where kept.

``scores`` and ``std``, their standard deviation over trainings, [train, target] in float32, if the run
keeps them. Coordinates: ``train`` and ``target`` are the rows' ids in the source. Beside them ride
``train_label`` and ``target_label``; ``train_loss_weight``, the mean over checkpoints;
``target_margin``, the mean over the ends of trainings, and ``target_sum``, that of a target's scores
over all train rows; and the same of each training, ``training_margin`` and ``training_sum``. Of the
strongest rows of each target, strongest first, ``proponent_*`` and ``opponent_*`` [target, rank]: their
``place`` in the train set, ``score``, ``std``, ``sign_stable``, ``rank_best`` and ``rank_worst``.

    xarray.open_zarr(path, consolidated=False).scores.sel(target=17).sortby(...)
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.group import Group, new_group, put_array
from trak_steps.store.manifest import Manifest
from trak_steps.store.score_parts import new_matrix

SIGNS = "stable_sign_"
SIDES = ("proponent", "opponent")
LISTED = ("place", "score", "std", "sign_stable", "rank_best", "rank_worst")


@dataclass(frozen=True)
class MatrixBlock:
    """What is written of a matrix from a row and a target on: [r, t] by array."""

    start: int
    first: int
    values: Mapping[str, NDArray[np.float32]]


def save_scores(
    path: Path,
    blocks: Iterator[MatrixBlock],
    *,
    coordinates: Mapping[str, tuple[tuple[str, ...], NDArray[Any]]],
    listed: Mapping[str, Mapping[str, NDArray[Any]]],
    matrix: Iterable[str],
    manifest: Manifest,
    signs: Mapping[str, float],
    units: str,
) -> None:
    """Write a score store, complete or absent.

    Args:
        path: where.
        blocks: of the matrix, in whole chunks.
        coordinates: name → (dimensions, values); must hold ``train`` and ``target``.
        listed: what is known of the strongest rows of each side, [t, listed], by :data:`LISTED`.
        matrix: which of ``scores`` and ``std`` are kept.
        manifest: of the store.
        signs: ``errors``, how many standard errors a listed score has to be off zero for its sign to be
            called stable, and what else is known of that; may be empty.
        units: of scores.
    """
    n, t = len(coordinates["train"][1]), len(coordinates["target"][1])
    others = " ".join(
        name
        for name, (dimensions, _) in coordinates.items()
        if name not in ("train", "target") and "training" not in dimensions
    )
    attributes = {f"{SIGNS}{name}": value for name, value in signs.items()}
    with new_group(path, manifest, {"coordinates": others, **attributes}) as group:
        for name, (dimensions, values) in coordinates.items():
            put_array(group, name, values, dimensions)
        for side, of in listed.items():
            for name, values in of.items():
                put_array(group, f"{side}_{name}", values, ("target", "rank"))
        arrays = new_matrix(group, matrix, (n, t), {"units": units, "coordinates": others})
        for block in blocks:
            for name, values in block.values.items():
                rows, targets = values.shape
                of_rows = slice(block.start, block.start + rows)
                arrays[name][of_rows, block.first : block.first + targets] = values


@dataclass(frozen=True)
class ScoreStore(Group):
    """Scores of n train rows for t targets, opened for reading."""

    KIND = "scores"
    STEP = "`trak-steps gather`"

    @property
    def shape(self) -> tuple[int, int]:
        """(n, t)."""
        return int(self.manifest.details["train"]), int(self.manifest.details["targets"])

    @property
    def matrix(self) -> tuple[str, ...]:
        """Which of ``scores`` and ``std`` it has."""
        return tuple(self.manifest.details["matrix"])

    def scores(self, start: int, stop: int) -> NDArray[np.float32]:
        """Scores of the train rows with places ``start`` to ``stop``, [rows, t].

        Raises:
            TrakError: also if they are not kept.
        """
        return self._of_matrix("scores", start, stop)

    def listed(self, side: str, name: str) -> NDArray[Any]:
        """Of the strongest rows of a side, strongest first, one of :data:`LISTED`, [t, listed]."""
        shape = self.shape[1], int(self.manifest.details["listed"])
        return self.read(f"{side}_{name}", shape, finite=name != "std")

    def column(self, name: str) -> NDArray[Any]:
        """What is known of the targets: ``target_margin`` or ``target_sum``, [t]."""
        return self.read(name, self.shape[1:])

    def of_trainings(self, name: str, trainings: int) -> NDArray[Any]:
        """The same of each training: ``training_margin`` or ``training_sum``, [trainings, t]."""
        return self.read(name, (trainings, self.shape[1]))

    def std(self, start: int, stop: int) -> NDArray[np.float32]:
        """Their standard deviation over trainings, or over the checkpoints of a single one.

        Not a number for a single checkpoint.
        """
        return self._of_matrix("std", start, stop)

    def _of_matrix(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        if name not in self.matrix:
            raise TrakError(
                f"{self.path}: `{name}` of all rows are not kept; set scores.matrix to "
                f"{'scores' if name == 'scores' else 'scores_and_std'}"
            )
        return self.read(name, self.shape, rows=slice(start, stop), finite=name == "scores")

    @property
    def stable_signs(self) -> dict[str, float] | None:
        """When a listed score's sign is called stable; none of a single training: that is not known."""
        found = {
            name.removeprefix(SIGNS): float(value)  # type: ignore[arg-type]
            for name, value in self.group.attrs.items()
            if name.startswith(SIGNS)
        }
        return found or None

    @property
    def errors(self) -> float:
        """How many standard errors a listed score has to be off zero for that; else infinite."""
        return (self.stable_signs or {"errors": math.inf})["errors"]
