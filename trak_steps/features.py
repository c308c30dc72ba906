"""Features of rows: their gradients, projected, with margin and loss weight from the same pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.gradients.source import GradientSource, Row
from trak_steps.projection.base import Projection


@dataclass(frozen=True)
class Features:
    """Of n rows, in their order.

    Attributes:
        features: φ, [n, k].
        loss_weight: Q, [n].
        margin: the model output f, [n], in logits.
        prediction: class numbers or, for regression, values, [n].
        row: the rows' ids in the source, [n].
    """

    features: NDArray[np.floating]
    loss_weight: NDArray[np.float32]
    margin: NDArray[np.float32]
    prediction: NDArray[np.generic]
    row: NDArray[np.int64]


def compute_features(
    source: GradientSource,
    projection: Projection,
    rows: Sequence[Row],
    row_ids: NDArray[np.int64],
    *,
    memory: int,
    dtype: str,
    track: Callable[[Iterator[Sequence[int]], int], Iterator[Sequence[int]]],
) -> Features:
    """Featurize rows, as many at a time as the projection can take within the memory.

    Args:
        source: computes the gradients.
        projection: projects them.
        rows: n tokenised rows.
        row_ids: their ids, for messages and the result, [n].
        memory: bytes for the sketch.
        dtype: ``float32`` or ``float16``, of the features.
        track: wraps the batches of places, to show progress; gets their number.

    Raises:
        TrakError: naming the first row whose margin, loss weight or features are not finite, or
            overflow in ``dtype``.
    """
    n = len(rows)
    features = np.empty((n, projection.dim), dtype)
    loss_weight = np.empty(n, np.float32)
    margin = np.empty(n, np.float32)
    prediction = np.empty(n, np.float64)
    classes = True
    batches = list(_batches(rows, projection.rows_at_once(memory)))
    for places in track(iter(batches), len(batches)):
        sketch = projection.sketch(len(places))
        outputs = source.run([rows[place] for place in places], sketch)
        margin[places] = outputs.margin.float().cpu().numpy()
        loss_weight[places] = outputs.loss_weight.float().cpu().numpy()
        prediction[places] = outputs.prediction.cpu().numpy()
        classes = not outputs.prediction.is_floating_point()
        projected = sketch.finish().cpu().numpy()
        with np.errstate(over="ignore"):
            features[places] = projected
        batch_ids = row_ids[places]
        _require_finite("margin", margin[places], batch_ids)
        _require_finite("loss weight", loss_weight[places], batch_ids)
        _require_finite("gradient", projected, batch_ids)
        advice = f" in {dtype}; set features.dtype: float32"
        _require_finite("projected gradient", features[places], batch_ids, advice)
    prediction = prediction.astype(np.int64 if classes else np.float32)
    return Features(features, loss_weight, margin, prediction, row_ids)


def _batches(rows: Sequence[Row], size: int) -> Iterator[list[int]]:
    """Places by length, so that what runs together is of one length as far as possible."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _require_finite(
    what: str, values: NDArray[np.floating], row_ids: NDArray[np.int64], advice: str = ""
) -> None:
    wrong = np.flatnonzero(~np.isfinite(values).reshape(len(row_ids), -1).all(axis=1))
    if wrong.size:
        raise TrakError(f"row {row_ids[wrong[0]]}: its {what} is not finite{advice}")
