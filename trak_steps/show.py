"""Print the top of some targets, or a run's figures, readably."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from trak_steps.printable import printable
from trak_steps.store.document import load_document
from trak_steps.store.table import load_table

# Characters of a text that are shown; the file holds the whole.
SHOWN = 300
# Beside a score that may as well have the other sign.
UNSTABLE = "?"
NOT_TEXTS = ("row", "label", "label_name", "flipped", "group")


def top_lines(file: Path, *, first: int, count: int, side: str) -> Iterator[str]:
    """Lines that show the strongest rows of the first targets in a ``.top.parquet`` file.

    Args:
        file: written by ``trak-steps rank``.
        first: how many targets.
        count: how many rows of each.
        side: ``proponent`` or ``opponent``.

    Raises:
        TrakError: if there is no such file, or it is not one of ours.
    """
    first, count = min(first, 2**31), min(count, 2**31)
    table, _ = load_table(file, "top")
    wanted = (pc.field("target") < first) & (pc.field("rank") <= count) & (pc.field("side") == side)
    rows = table.filter(wanted).to_pylist()
    yield from _lines(rows)
    if any(_unstable(row) for row in rows):
        yield f"{UNSTABLE} another training run may give this score the other sign"


def suspect_lines(file: Path, *, first: int, count: int) -> Iterator[str]:
    """Lines that show the most suspicious train rows of a ``suspects.parquet``, and what argues against.

    Args:
        file: written by ``trak-steps find-mislabelled``.
        first: how many suspects.
        count: how many rows that argue against each.

    Raises:
        TrakError: if there is no such file, or it is not one of ours.
    """
    table, _ = load_table(file, "suspects")
    texts = [name.removeprefix("against_") for name in table.column_names if name.startswith("against_")]
    texts = [name for name in texts if name in table.column_names and name not in NOT_TEXTS]
    for row in table.slice(0, min(first, 2**31)).to_pylist():
        shown = " | ".join(printable(str(row[name]), SHOWN) for name in texts)
        given, predicted = (printable(row[name], SHOWN) for name in ("label_name", "predicted_name"))
        yield f"{shown}   [{given}, predicted {predicted}]"
        for place in range(min(count, len(row["against_row"]))):
            against = " | ".join(printable(str(row[f"against_{name}"][place]), SHOWN) for name in texts)
            label = printable(row["against_label_name"][place], SHOWN)
            yield f"  {row['against_score'][place]:+.3f}  {against}   [{label}]"


def figures(file: Path) -> str:
    """The figures of a ``summary.json``, or of the evaluation, as JSON without their manifest.

    Raises:
        TrakError: if there is no such file, it was altered, or it is not one of ours.
    """
    values, _ = load_document(file, None)
    return json.dumps(values, indent=2, ensure_ascii=False)


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for _, of_target in groupby(rows, key=lambda row: row["target"]):
        listed = list(of_target)
        yield f"{_texts(listed[0], 'target')}   [{_label(listed[0], 'target')}]"
        for row in listed:
            mark = UNSTABLE if _unstable(row) else " "
            yield f"  {row['score']:+.3f}{mark} {_texts(row, 'train')}   [{_label(row, 'train')}]"


def _unstable(row: dict[str, Any]) -> bool:
    """Whether the sign is known to be unstable; of a single checkpoint, or in older lists, it is not."""
    return row.get("sign_stable") is False


def _texts(row: dict[str, Any], whose: str) -> str:
    names = [name.removeprefix(f"{whose}_") for name in row if name.startswith(f"{whose}_")]
    texts = (row[f"{whose}_{name}"] for name in names if name not in NOT_TEXTS)
    return " | ".join(printable(str(text), SHOWN) for text in texts)


def _label(row: dict[str, Any], whose: str) -> str:
    label = row.get(f"{whose}_label_name")
    label = printable(str(row[f"{whose}_label"] if label is None else label), SHOWN)
    return f"{label}, flipped" if row.get(f"{whose}_flipped") else label
