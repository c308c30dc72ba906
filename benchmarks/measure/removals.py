"""What leaving rows out did to margins, by method: figures of numbers alone.

r are trainings, each with a seed of its own that all methods share, and q targets.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.evaluation.calibration import calibrate
from trak_steps.evaluation.intervals import interval, mean_interval

Array = NDArray[np.float64]
RESAMPLES, SEED = 2000, 0


@dataclass(frozen=True)
class Removal:
    """What became of targets without the rows that one method names for each.

    Attributes:
        lost: by how much the margin of each target fell, from the model of all rows that shares the
            seed, [r, q].
        flipped: whether its prediction became another, [r, q].
        predicted: the sum of the default scores of the rows left out, [q].
    """

    lost: Array
    flipped: NDArray[np.bool_]
    predicted: Array


def compared(removals: Mapping[str, Removal], default: str) -> dict[str, Any]:
    """Figures of every method, and of the default against each other one.

    Intervals are of 95 %, over targets and trainings; those of comparisons are paired, as targets and
    seeds are the same.
    """
    own = removals.get(default)
    found: dict[str, Any] = {}
    for name, removal in removals.items():
        figures: dict[str, Any] = {
            "margin_lost": _mean(removal.lost),
            "margin_predicted": float(removal.predicted.mean()),
            "predictions_flipped": float(removal.flipped.mean()),
        }
        if own is not None and name != default:
            figures["default_over"] = ratio(own.lost, removal.lost)
            figures["default_less"] = _mean(own.lost - removal.lost)
        found[name] = figures
    return found


def slope(removals: Mapping[str, Removal]) -> dict[str, Any] | None:
    """How much margin is lost for each unit that the default scores predict, over all removals."""
    q = next(iter(removals.values())).lost.shape[1]
    found = calibrate(
        np.concatenate([removal.lost for removal in removals.values()], 1),
        np.concatenate([removal.predicted for removal in removals.values()]),
        np.tile(np.arange(q), len(removals)),
        resamples=RESAMPLES,
        seed=SEED,
    )
    return asdict(found) if found else None


def ratio(own: Array, other: Array) -> dict[str, float | None]:
    """How many times as much one loses on average as the other, both [r, q], with its interval.

    The interval is that of the angle whose tangent the ratio is, from paired resamples of targets and
    trainings. So it stays in order where the other's loss may be zero, and has no upper end there: it,
    or the value, is none where the other may have lost nothing. Where both gained, that counts as the
    lowest.
    """
    r, q = own.shape
    draw = np.random.default_rng([SEED, RESAMPLES])
    angles = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        some = np.ix_(draw.integers(0, r, r), draw.integers(0, q, q))
        angles[i] = np.arctan2(own[some].mean(), other[some].mean())
    found = interval(np.arctan2(own.mean(), other.mean()), angles, q)
    return {name: _tangent(angle) for name, angle in asdict(found).items()}


def _tangent(angle: float) -> float | None:
    return float(np.tan(angle)) if abs(angle) < np.pi / 2 else None


def _mean(values: Array) -> dict[str, float]:
    found = mean_interval(values, resamples=RESAMPLES, seed=SEED)
    assert found is not None, "an interval needs two targets"
    return asdict(found)
