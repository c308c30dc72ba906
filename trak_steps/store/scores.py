"""Score stores: every train row's score for every target of a set, labelled for xarray.

``scores`` and ``std``, their standard deviation over trainings, [train, target] in float32.
Coordinates: ``train`` and ``target`` are the rows' ids in the source. Beside them ride ``train_label``
and ``target_label``; ``train_loss_weight``, the mean over checkpoints; ``target_margin``, the mean over
the ends of trainings, and ``target_sum``, that of a target's scores over all train rows; and the same of
each training, ``training_margin`` and ``training_sum``.

    xarray.open_zarr(path, consolidated=False).scores.sel(target=17).sortby(...)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.store.group import Group, new_array, new_group, put_array
from trak_steps.store.manifest import Manifest

SIGNS = "stable_sign_"


@dataclass(frozen=True)
class ScoreBlockRows:
    """What is written for the train rows from place ``start`` on: [r, t] each."""

    start: int
    scores: NDArray[np.float32]
    std: NDArray[np.float32]


def save_scores(
    path: Path,
    blocks: Iterator[ScoreBlockRows],
    *,
    coordinates: Mapping[str, tuple[tuple[str, ...], NDArray[Any]]],
    block_rows: int,
    manifest: Manifest,
    signs: Callable[[], Mapping[str, float]],
    units: str,
) -> None:
    """Write a score store from blocks of train rows as they come, complete or absent.

    Args:
        path: where.
        blocks: in order, of ``block_rows`` rows each but the last.
        coordinates: name → (dimensions, values); must hold ``train`` and ``target``.
        block_rows: rows of a block, and of a chunk.
        manifest: of the store.
        signs: asked after the last block: ``errors``, how many standard errors a listed score has to be
            off zero for its sign to be called stable, and what else is known of that; may be empty.
        units: of scores.
    """
    n, t = len(coordinates["train"][1]), len(coordinates["target"][1])
    others = " ".join(
        name
        for name, (dimensions, _) in coordinates.items()
        if name not in ("train", "target") and "training" not in dimensions
    )
    with new_group(path, manifest, {"coordinates": others}) as group:
        for name, (dimensions, values) in coordinates.items():
            put_array(group, name, values, dimensions)
        arrays = {
            name: new_array(
                group,
                name,
                (n, t),
                "float32",
                ("train", "target"),
                chunks=(min(n, block_rows), t),
                attributes={"units": units, "coordinates": others},
            )
            for name in ("scores", "std")
        }
        for block in blocks:
            rows = slice(block.start, block.start + len(block.scores))
            arrays["scores"][rows] = block.scores
            arrays["std"][rows] = block.std
        group.attrs.update({f"{SIGNS}{name}": value for name, value in signs().items()})


@dataclass(frozen=True)
class ScoreStore(Group):
    """Scores of n train rows for t targets, opened for reading."""

    KIND = "scores"
    STEP = "`trak-steps score`"

    @property
    def shape(self) -> tuple[int, int]:
        """(n, t)."""
        return int(self.manifest.details["train"]), int(self.manifest.details["targets"])

    def scores(self, start: int, stop: int) -> NDArray[np.float32]:
        """Scores of the train rows with places ``start`` to ``stop``, [rows, t]."""
        return self.read("scores", self.shape, rows=slice(start, stop))

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
        return self.read("std", self.shape, rows=slice(start, stop), finite=False)

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

    @property
    def block_rows(self) -> int:
        """Rows of a chunk: what is best read at once."""
        return int(self.manifest.details["block_rows"])
