"""The calibration of a run's scores: ``total`` [m, k] in float64, the sum of the train rows' features by
each checkpoint, weighted as their scores are.

The group's attributes have ``scale``, the factor of all scores, which may be none; ``weight_root``, the
root mean square of the weights of rows' scores; ``base_margin``, what
a target's scores add up to its margin less; and ``stable_signs``: ``errors``, how many standard errors a
listed score has to be off zero for its sign to be called stable, and what else is known of that.

Where the sum is taken in parts, each has ``total`` of some rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.store.group import Group, new_group, put_array
from trak_steps.store.manifest import Manifest


def save_calibration(
    path: Path, totals: NDArray[np.float64], found: Mapping[str, Any], manifest: Manifest
) -> None:
    """Write a calibration, complete or absent.

    Args:
        path: where.
        totals: of the train rows' features, [m, k].
        found: ``scale``, ``weight_root``, ``base_margin`` and ``stable_signs``.
        manifest: of the calibration.
    """
    with new_group(path, manifest, found) as group:
        put_array(group, "total", totals, ("checkpoint", "dim"))


def save_weighted_sums(path: Path, totals: NDArray[np.float64], manifest: Manifest) -> None:
    """Write the sums over some rows, [m, k], complete or absent."""
    with new_group(path, manifest) as group:
        put_array(group, "total", totals, ("checkpoint", "dim"))


@dataclass(frozen=True)
class WeightedSums(Group):
    """The sums over some rows, opened for reading."""

    KIND = "weighted-sums"
    STEP = "`trak-steps sum-weighted`"

    def totals(self, checkpoints: int, dim: int) -> NDArray[np.float64]:
        """Of the rows' features, [m, k]."""
        return self.read("total", (checkpoints, dim))


@dataclass(frozen=True)
class Calibration(Group):
    """A run's calibration, opened for reading."""

    KIND = "calibration"
    STEP = "`trak-steps calibrate`"

    def totals(self, checkpoints: int, dim: int) -> NDArray[np.float64]:
        """Of the train rows' features, [m, k]."""
        return self.read("total", (checkpoints, dim))

    @property
    def scale(self) -> float | None:
        """The factor of all scores; none where sums of scores do not go with margins."""
        scale: Any = self.group.attrs["scale"]
        return None if scale is None else float(scale)

    @property
    def weight_root(self) -> float:
        """The root mean square of the weights of rows' scores."""
        root: Any = self.group.attrs["weight_root"]
        return float(root)

    @property
    def base_margin(self) -> float:
        """The margin before anything was learnt."""
        base: Any = self.group.attrs["base_margin"]
        return float(base)

    @property
    def stable_signs(self) -> dict[str, float] | None:
        """When a listed score's sign is called stable; none of a single training: that is not known."""
        found: Any = self.group.attrs["stable_signs"]
        return None if found is None else dict(found)

    @property
    def errors(self) -> float:
        """How many standard errors a listed score has to be off zero for that; else infinite."""
        return (self.stable_signs or {"errors": math.inf})["errors"]
