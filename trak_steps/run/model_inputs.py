"""Prepared rows as a model reads them."""

import pyarrow as pa

from trak_steps.data.prepared import PreparedRows, token_lists
from trak_steps.gradients.rows import Row


def as_rows(inputs: pa.Table) -> list[Row]:
    """The rows in a table of inputs (see :meth:`PreparedRows.inputs`)."""
    labels = inputs["label"].to_pylist()
    return [Row(label=label, **t) for label, t in zip(labels, token_lists(inputs), strict=True)]


def read_rows(rows: PreparedRows, start: int = 0, stop: int | None = None) -> list[Row]:
    """The rows with places ``start`` to ``stop``, or all."""
    return as_rows(rows.inputs(start, len(rows) if stop is None else stop))
