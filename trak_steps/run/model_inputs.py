"""Prepared rows as a model reads them."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trak_steps.data.prepared import PreparedRows, token_lists
from trak_steps.gradients.rows import Row, window_slices


def as_rows(inputs: pa.Table) -> list[Row]:
    """The rows in a table of inputs (see :meth:`PreparedRows.inputs`)."""
    labels = inputs["label"].to_pylist()
    return [Row(label=label, **t) for label, t in zip(labels, token_lists(inputs), strict=True)]


def read_rows(rows: PreparedRows, start: int = 0, stop: int | None = None) -> list[Row]:
    """The rows with places ``start`` to ``stop``, or all."""
    return as_rows(rows.inputs(start, len(rows) if stop is None else stop))


def read_windows(
    rows: PreparedRows, start: int, stop: int
) -> Iterator[tuple[list[Row], NDArray[np.int64]]]:
    """The rows with places ``start`` to ``stop`` and their ids, read window by window."""
    for window in window_slices(start, stop):
        inputs = rows.inputs(window.start, window.stop)
        yield as_rows(inputs), inputs["row"].to_numpy(zero_copy_only=False)


def shortest_and_longest(rows: PreparedRows, start: int, stop: int) -> tuple[Row, Row]:
    """The first of the shortest and of the longest rows with places ``start`` to ``stop``.

    All rows are held to their digests on the way, so that damage is found before anything is computed.
    Their lengths come from Arrow's offsets: the tokens of these two alone are read.
    """
    found: list[tuple[int, Row]] = []
    for window in window_slices(start, stop):
        inputs = rows.inputs(window.start, window.stop)
        lengths = pc.list_value_length(inputs["input_ids"]).to_numpy()
        for place in (int(lengths.argmin()), int(lengths.argmax())):
            found.append((int(lengths[place]), as_rows(inputs.slice(place, 1))[0]))
        found = [min(found, key=_length), max(found, key=_length)]
    return found[0][1], found[1][1]


def _length(found: tuple[int, Row]) -> int:
    return found[0]
