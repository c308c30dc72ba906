"""Lists of top rows in a format that another viewer reads: that of PAIR-code/pretraining-tda.

A JSON object for each target, on a line of its own (https://github.com/PAIR-code/pretraining-tda): the
target as ``inputs_plaintext`` and ``targets_plaintext``, its rows as ``proponents`` and ``opponents``,
with ``…_ids`` and ``…_scores``.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

BETWEEN = " | "


def viewer_records(
    table: pa.Table, targets: str, texts: list[str], *, probabilities: bool
) -> Iterator[dict[str, Any]]:
    """A record for each target of a list of top rows, in its order.

    Args:
        table: as :meth:`trak_steps.Run.top_table` gives it, or some of its rows.
        targets: the name of the target set.
        texts: the names of the text columns.
        probabilities: whether a margin says how likely the label is.
    """
    place = table["target"].to_numpy()
    starts: list[int] = np.flatnonzero(np.diff(place, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(place)]):
        rows = table.slice(start, stop - start).to_pylist()
        first = rows[0]
        record: dict[str, Any] = {
            "example_id": f"{targets}/{first['target_row']}",
            "query_set": targets,
            "inputs_plaintext": _text(first, "target", texts),
            "targets_plaintext": _label(first, "target"),
        }
        if probabilities:
            record["model_confidence"] = 1 / (1 + math.exp(-max(-700.0, min(700.0, first["margin"]))))
        for side in ("proponent", "opponent"):
            of_side = [row for row in rows if row["side"] == side]
            # The viewer has no place of its own for a row's label.
            shown = [f"{_text(row, 'train', texts)} [{_label(row, 'train')}]" for row in of_side]
            record[f"{side}s"] = shown
            record[f"{side}_ids"] = [str(row["train_row"]) for row in of_side]
            record[f"{side}_scores"] = [row["score"] for row in of_side]
        if "target_group" in first:
            record["proponent_correct"] = [
                row["train_group"] == row["target_group"] for row in rows if row["side"] == "proponent"
            ]
        yield record


def _text(row: dict[str, Any], whose: str, texts: list[str]) -> str:
    return BETWEEN.join(str(row[f"{whose}_{name}"]) for name in texts)


def _label(row: dict[str, Any], whose: str) -> str:
    return str(row.get(f"{whose}_label_name", row[f"{whose}_label"]))
