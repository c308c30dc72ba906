"""Print the top of some targets, readably."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trak_steps.errors import TrakError

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
    try:
        wanted = (pc.field("target") < first) & (pc.field("rank") <= count) & (pc.field("side") == side)
        rows = pq.read_table(file, filters=wanted).to_pylist()
    except FileNotFoundError:
        raise TrakError(f"{file}: is missing; run `trak-steps rank` first") from None
    except (OSError, pa.ArrowException) as error:
        raise TrakError(f"{file}: is not a list of top rows ({error})") from None
    for _, of_target in groupby(rows, key=lambda row: row["target"]):
        listed = list(of_target)
        yield f"{_texts(listed[0], 'target')}   [{_label(listed[0], 'target')}]"
        for row in listed:
            yield f"  {row['score']:+.3f}  {_texts(row, 'train')}   [{_label(row, 'train')}]"


def _texts(row: dict[str, Any], whose: str) -> str:
    names = [name.removeprefix(f"{whose}_") for name in row if name.startswith(f"{whose}_")]
    return " | ".join(row[f"{whose}_{name}"] for name in names if name not in NOT_TEXTS)


def _label(row: dict[str, Any], whose: str) -> str:
    label = str(row.get(f"{whose}_label_name", row[f"{whose}_label"]))
    return f"{label}, flipped" if row.get(f"{whose}_flipped") else label
