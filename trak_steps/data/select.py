"""Choose the rows of a split, name them, and check their texts."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import datasets
import numpy as np
from numpy.typing import NDArray

from trak_steps.data.labels import require_column
from trak_steps.data.text import is_empty
from trak_steps.errors import TrakError


def choose_rows(
    available: int, size: int | None, sample: Literal["random", "first"], seed: int, purpose: str
) -> NDArray[np.int64]:
    """Places of the chosen rows in the split.

    A random sample is the beginning of one seeded permutation of the split, so that a larger sample
    begins with the smaller one.

    Args:
        available: rows in the split.
        size: rows to take; none takes all, in the split's order.
        sample: how to choose.
        seed: with ``purpose``, decides the permutation.
        purpose: what the rows are for, so that train set and targets are drawn independently.

    Raises:
        TrakError: if more rows are asked for than there are.
    """
    if size is None:
        return np.arange(available)
    if size > available:
        raise TrakError(f"{purpose}: {size} rows are asked for, the split has {available}")
    if sample == "first":
        return np.arange(size)
    return stream(seed, purpose).permutation(available)[:size]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose, the same wherever and whenever they are drawn."""
    name = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, name])


def row_ids(rows: datasets.Dataset, column: str | None, where: str) -> NDArray[np.int64]:
    """The id of every row of a split: its place, or the unique integers of a column.

    Raises:
        TrakError: if the column is missing, or does not hold unique integers.
    """
    if column is None:
        return np.arange(len(rows), dtype=np.int64)
    require_column(rows, column, where, "dataset.row_id")
    values = list(rows[column])
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise TrakError(f"{where}: `{column}` (dataset.row_id) does not hold integers in every row")
    try:
        ids = np.array(values, dtype=np.int64)
    except OverflowError:
        raise TrakError(
            f"{where}: `{column}` (dataset.row_id) holds integers of more than 64 bits"
        ) from None
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise TrakError(
            f"{where}: `{column}` (dataset.row_id) has {unique[counts.argmax()]} more than once"
        )
    return ids


def check_texts(
    rows: datasets.Dataset, columns: Sequence[str], ids: NDArray[np.int64], where: str
) -> None:
    """Raise TrakError, naming the row, where a text is missing, empty or not text."""
    for column in columns:
        require_column(rows, column, where, "dataset.text")
        for i, text in zip(ids, rows[column], strict=True):
            if not isinstance(text, str):
                found = f"of type {type(text).__name__}, not text; save the column as texts"
                if text is None:
                    found = "missing; drop the row, or fill it in"
                raise TrakError(f"{where}: `{column}` of row {i} is {found}")
            if is_empty(text):
                raise TrakError(f"{where}: `{column}` of row {i} is empty; drop the row, or fill it in")


def flip_labels(
    labels: NDArray[np.int64], places: NDArray[np.int64], classes: int, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Give a share of the rows a wrong label, each wrong class as likely as any other.

    Whether a row is flipped, and to what, depends on the seed and its place in the split alone.

    Args:
        labels: class numbers [n].
        places: each row's place in the split [n].
        classes: how many classes there are.
        share: the probability of a flip.
        seed: decides which.

    Returns:
        The labels with flips [n], and which were flipped [n].
    """
    if not len(places):
        return labels, np.zeros(0, dtype=bool)
    draws = stream(seed, "flip labels").random((int(places.max()) + 1, 2))[places]
    flipped = draws[:, 0] < share
    shift = 1 + (draws[:, 1] * (classes - 1)).astype(np.int64)
    return np.where(flipped, (labels + shift) % classes, labels), flipped
