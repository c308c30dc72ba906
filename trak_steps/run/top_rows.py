"""Listed rows as columns of a table: what is known of them, and the rows themselves, with texts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.data.prepared import PreparedRows
from trak_steps.store.texts import cut


def listed_columns(of: Mapping[str, NDArray[Any]], errors: float) -> dict[str, Any]:
    """``score``, ``std``, ``sign_stable``, ``rank_best`` and ``rank_worst`` of one row after the other.

    Args:
        of: by :data:`~trak_steps.store.scores.LISTED`, [t, top] each.
        errors: standard errors by which a sign is stable; infinite where that is not known.
    """
    columns: dict[str, Any] = {
        "score": of["score"].reshape(-1),
        "std": pa.array(of["std"].reshape(-1), from_pandas=True),
    }
    # Of a single training nothing is known of another.
    known = np.isfinite(of["std"]).reshape(-1) & bool(np.isfinite(errors))
    for name in ("sign_stable", "rank_best", "rank_worst"):
        columns[name] = pa.array(of[name].reshape(-1), mask=~known)
    return columns


def row_columns(name: str, rows: PreparedRows, places: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Rows at some places, in any order and repeated: ``<name>_row``, ``_label``, ``_<text>`` and more.

    Args:
        name: ``train`` or ``target``.
        rows: of a set.
        places: in it.
    """
    columns: dict[str, pa.Array] = {}
    some, back = np.unique(places, return_inverse=True)
    kept = ["row", "label", *rows.text_columns]
    kept += [column for column in ("flipped", "group") if column in rows.table.column_names]
    picked = rows.take(some, kept)
    for column in kept:
        values = picked[column]
        if column in rows.text_columns:
            values = cut(values)
        values = values.take(pa.array(back))
        columns[f"{name}_{column}"] = values
        if column == "label" and rows.label_names:
            names = pa.array(rows.label_names)
            columns[f"{name}_label_name"] = names.take(values.combine_chunks())
    return columns
