"""Print the top of some targets, what the evaluation lists, or a run's figures, readably."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.compute as pc

from trak_steps.console.printable import printable
from trak_steps.errors import TrakError
from trak_steps.store.document import load_document
from trak_steps.store.table import load_table, table_manifest

# Characters of a text that are shown; the file holds the whole.
SHOWN = 300
# Beside a score that may as well have the other sign.
UNSTABLE = "?"
LEGEND = f"{UNSTABLE} another training may give this score the other sign"
NOT_TEXTS = ("row", "label", "label_name", "flipped", "group")
TAKES = (
    "show takes scores/<set>.top.parquet, suspects.parquet, lds.parquet, removal.parquet and JSON files"
)


def lines(file: Path, *, first: int, count: int, side: str) -> Iterator[str]:
    """Lines that show what a file of the pipeline holds.

    Args:
        file: a JSON file of figures, or a parquet file of a kind that is shown.
        first: how many targets, or suspects.
        count: how many rows of each.
        side: ``proponent`` or ``opponent``, of a list of top rows.

    Raises:
        TrakError: if there is no such file, or it is none that can be shown.
    """
    if file.is_dir():
        raise TrakError(f"{file}: is a folder; {TAKES}")
    if file.suffix == ".json":
        yield figures(file)
        return
    kind = table_manifest(file, None).kind
    if kind == "top":
        yield from top_lines(file, first=first, count=count, side=side)
    elif kind == "suspects":
        yield from suspect_lines(file, first=first, count=count)
    elif kind == "lds":
        yield from curve_lines(file)
    elif kind == "removal":
        yield from removal_lines(file, first=first)
    else:
        raise TrakError(f"{file}: holds {kind}; {TAKES}")


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
        yield LEGEND


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
    texts = [name for name in table.column_names if name.startswith("text_")]
    if not len(table):
        yield "no suspects: the labels are numbers, not classes"
    unstable = False
    for row in table.slice(0, min(first, 2**31)).to_pylist():
        shown = " | ".join(printable(row[name], SHOWN) for name in texts)
        given, predicted = (printable(row[name], SHOWN) for name in ("label_name", "predicted_name"))
        yield f"{shown}   [{given}, predicted {predicted}]"
        for place in range(min(count, len(row["against_row"]))):
            against = " | ".join(printable(row[f"against_{name}"][place], SHOWN) for name in texts)
            label = printable(row["against_label_name"][place], SHOWN)
            stable = row["against_sign_stable"][place]
            unstable |= stable is False
            mark = UNSTABLE if stable is False else " "
            yield f"  {row['against_score'][place]:+.3f}{mark} {against}   [{label}]"
    if unstable:
        yield LEGEND


def curve_lines(file: Path) -> Iterator[str]:
    """Lines that show the LDS along each curve of an ``lds.parquet``, one block for each target set's.

    Raises:
        TrakError: if there is no such file, or it is not one of ours.
    """
    table, _ = load_table(file, "lds")
    curves = groupby(table.to_pylist(), key=lambda row: (row["targets"], row["curve"]))
    for (targets, curve), points in curves:
        cells: list[tuple[str, ...]] = [(curve, "LDS", "class-adjusted LDS")]
        for row in points:
            cells.append((_value(row[curve]), *(_interval(row, of) for of in ("lds", "class_adjusted"))))
        yield f"{targets}, by {curve}"
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            yield f"  {'   '.join(padded)}".rstrip()


def removal_lines(file: Path, *, first: int) -> Iterator[str]:
    """Lines that show what became of the first targets of a ``removal.parquet``.

    Raises:
        TrakError: if there is no such file, or it is not one of ours.
    """
    table, _ = load_table(file, "removal")
    targets = groupby(table.to_pylist(), key=lambda row: (row["target"], row["target_row"]))
    for (target, of_row), removals in islice(targets, min(first, 2**31)):
        listed = list(removals)
        yield f"target {target}, row {of_row}: margin {fmean(listed[0]['margin']):+.3f}"
        for row in listed:
            what = f"less {fmean(row['lost']):+.3f}, predicted {row['predicted']:+.3f}"
            flipped = (
                f", prediction flipped in {row['flipped']:.2f}" if row["flipped"] is not None else ""
            )
            yield f"  {what}   without {row['without']}{flipped}"


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
        margin = listed[0].get("margin")
        of = "" if margin is None else f", margin {margin:+.2f}"
        yield f"{_texts(listed[0], 'target')}   [{_label(listed[0], 'target')}{of}]"
        for row in listed:
            mark = UNSTABLE if _unstable(row) else " "
            yield f"  {row['score']:+.3f}{mark} {_texts(row, 'train')}   [{_label(row, 'train')}]"


def _unstable(row: dict[str, Any]) -> bool:
    """Whether the sign is known to be unstable; of a single training, or in older lists, it is not."""
    return row.get("sign_stable") is False


def _texts(row: dict[str, Any], whose: str) -> str:
    names = [name.removeprefix(f"{whose}_") for name in row if name.startswith(f"{whose}_")]
    texts = (row[f"{whose}_{name}"] for name in names if name not in NOT_TEXTS)
    return " | ".join(printable(str(text), SHOWN) for text in texts)


def _label(row: dict[str, Any], whose: str) -> str:
    label = row.get(f"{whose}_label_name")
    label = printable(str(row[f"{whose}_label"] if label is None else label), SHOWN)
    return f"{label}, flipped" if row.get(f"{whose}_flipped") else label


def _value(value: bool | float | Sequence[str]) -> str:
    """What a curve's setting is at one of its points."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else ", ".join(value)


def _interval(row: dict[str, Any], name: str) -> str:
    """A figure with its bounds; it may not be known."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "-" if value is None or isnan(value) else f"{value:.2f} ({low:.2f} to {high:.2f})"
