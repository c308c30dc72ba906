"""Features of rows: their gradients, projected, with margin and loss weight from the same pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.errors import TrakError
from trak_steps.gradients.errors import GradientError, Remedy
from trak_steps.gradients.rows import Row, batch_end
from trak_steps.gradients.source import GradientSource, Outputs, concatenate
from trak_steps.projection.base import Projection, Sketch

# What the CPU's allocator and CUDA's libraries say, which have no exception of their own.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")


@dataclass(frozen=True)
class Features:
    """Of the n rows of a window, in their order.

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
    windows: Iterable[tuple[Sequence[Row], NDArray[np.int64]]],
    *,
    memory: int,
    dtype: str,
    advance: Callable[[int], None],
    say: Callable[[str], None],
) -> Iterator[Features]:
    """Featurize rows, window by window: what is held does not grow with their number.

    Within a window rows of like length are batched, as many in one sketch as the memory allows. A batch
    that runs out of memory is halved, and so are those that follow.

    Args:
        source: computes the gradients.
        projection: projects them.
        windows: the tokenised rows of each window, and their ids for messages and the result.
        memory: bytes for the sketch.
        dtype: ``float32`` or ``float16``, of the features.
        advance: is told how many rows were done, to show progress.
        say: is told of batches that did not fit into memory.

    Yields:
        The features of each window.

    Raises:
        TrakError: naming a row whose margin, loss weight or features are not finite.
        GradientError: naming a row whose features overflow in ``dtype``, or that does not fit into
            memory alone.
    """
    waiting: _Window | None = None
    for rows, row_ids in windows:
        window = _begin(source, projection, rows, row_ids, memory, advance, say)
        # A device has its work for some time; meanwhile the window before it is looked at here.
        if waiting:
            yield waiting.finish(dtype)
        waiting = window
        if not window.on_device:
            yield window.finish(dtype)
            waiting = None
        del window  # or its features would be held while the next are computed
    if waiting:
        yield waiting.finish(dtype)


class _Window:
    """A window's results, batch after batch; from a device they are on their way.

    Args:
        row_ids: of its n rows.
        dim: k.
    """

    def __init__(self, row_ids: NDArray[np.int64], dim: int) -> None:
        self.on_device = False
        self._row_ids = row_ids
        self._dim = dim
        self._parts: list[tuple[NDArray[np.intp], list[Tensor], torch.cuda.Event | None]] = []

    def add(self, places: NDArray[np.intp], outputs: Outputs, projected: Tensor) -> None:
        """Take the rows of some places. The tensors may be written over when this returns."""
        given = [projected, outputs.margin.float(), outputs.loss_weight.float(), outputs.prediction]
        arrived = None
        if projected.device.type == "cuda":
            self.on_device = True
            given = [_begin_copy(tensor) for tensor in given]
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(projected.device))
        else:
            given[0] = projected.clone()
        self._parts.append((places, given, arrived))

    def finish(self, dtype: str) -> Features:
        """Wait for the results, and look at them."""
        n = len(self._row_ids)
        features = np.empty((n, self._dim), dtype)
        loss_weight = np.empty(n, np.float32)
        margin = np.empty(n, np.float32)
        prediction = np.empty(n, np.float64)
        classes = True
        while self._parts:
            places, tensors, arrived = self._parts.pop(0)
            if arrived:
                arrived.synchronize()
            projected, margin[places], loss_weight[places], predicted = (of.numpy() for of in tensors)
            prediction[places] = predicted
            classes = not np.issubdtype(predicted.dtype, np.floating)
            with np.errstate(over="ignore"):
                features[places] = projected
            row_ids = self._row_ids[places]
            _require_finite("margin", margin[places], row_ids)
            _require_finite("loss weight", loss_weight[places], row_ids)
            _require_finite("gradient", projected, row_ids)
            lost = _not_finite(features[places])
            if lost.size:
                raise GradientError(
                    f"row {row_ids[lost[0]]}: its projected gradient is not finite in {dtype}",
                    Remedy.WIDER_NUMBERS,
                )
        prediction = prediction.astype(np.int64 if classes else np.float32)
        return Features(features, loss_weight, margin, prediction, self._row_ids)


def _begin_copy(tensor: Tensor) -> Tensor:
    """A copy on the host, which is not there before what the device has to do is done."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _begin(
    source: GradientSource,
    projection: Projection,
    rows: Sequence[Row],
    row_ids: NDArray[np.int64],
    memory: int,
    advance: Callable[[int], None],
    say: Callable[[str], None],
) -> _Window:
    """Compute a window, or let a device compute it."""
    window = _Window(row_ids, projection.dim)
    order = np.argsort([len(row) for row in rows], kind="stable")
    together = projection.rows_at_once(memory)
    for start in range(0, len(rows), together):
        places = order[start : start + together]
        sketch = projection.sketch(len(places))
        outputs = _run(source, [rows[i] for i in places], row_ids[places], sketch, advance, say)
        window.add(places, outputs, sketch.finish())
    return window


def _run(
    source: GradientSource,
    rows: Sequence[Row],
    row_ids: NDArray[np.int64],
    sketch: Sketch,
    advance: Callable[[int], None],
    say: Callable[[str], None],
) -> Outputs:
    """Run rows, shortest first, batch by batch."""
    parts: list[Outputs] = []
    start = 0
    while start < len(rows):
        batch = slice(start, batch_end(rows, start, source.tokens))
        outputs = _try(source, rows[batch], sketch.part(batch))
        count, length = batch.stop - start, len(rows[batch.stop - 1])
        if outputs is None:
            sketch.part(batch).clear()
            if count == 1:
                raise GradientError(
                    f"row {row_ids[start]}: its {length} tokens alone do not fit into memory",
                    Remedy.SHORTER_ROWS,
                )
            source.tokens = count // 2 * length
            say(f"out of memory with {count} rows of {length} tokens: going on with {count // 2}")
            continue
        parts.append(outputs)
        advance(count)
        start = batch.stop
    return concatenate(parts)


def _try(source: GradientSource, rows: Sequence[Row], sketch: Sketch) -> Outputs | None:
    """Run a batch; none if memory ran out."""
    try:
        return source.run(rows, sketch)
    except (RuntimeError, MemoryError) as error:
        words = str(error)
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and not any(sign in words for sign in OUT_OF_MEMORY):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _require_finite(what: str, values: NDArray[np.floating], row_ids: NDArray[np.int64]) -> None:
    wrong = _not_finite(values)
    if wrong.size:
        raise TrakError(f"row {row_ids[wrong[0]]}: its {what} is not finite")


def _not_finite(values: NDArray[np.floating]) -> NDArray[np.intp]:
    """The places of rows [b, ...] that hold a number that is not finite."""
    return np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
