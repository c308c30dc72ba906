"""Two runs on the same rows: how far their lists and scores agree."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.ranks import spearman

if TYPE_CHECKING:
    import pandas

    from trak_steps.api.run import Run

# Targets whose scores are ranked at once.
AT_ONCE = 64


@dataclass(frozen=True)
class Comparison:
    """How far two runs agree on the targets that both have.

    Attributes:
        top: rows of a list that were compared, of each side.
        table: for each target, by its ``target_row``: ``shared_proponents`` and ``shared_opponents``,
            the share of the one's list that the other's has too; and ``correlation``, the rank
            correlation of all train rows' scores, where both runs keep them.
    """

    top: int
    table: pa.Table

    @property
    def targets(self) -> "pandas.DataFrame":
        """The table."""
        return self.table.to_pandas()

    @property
    def shared_proponents(self) -> float:
        """The mean over targets."""
        return self._mean("shared_proponents")

    @property
    def shared_opponents(self) -> float:
        """The mean over targets."""
        return self._mean("shared_opponents")

    @property
    def correlation(self) -> float | None:
        """The mean over targets; none where a run does not keep its scores."""
        return self._mean("correlation") if "correlation" in self.table.column_names else None

    def _mean(self, name: str) -> float:
        return float(np.nanmean(self.table[name].to_numpy()))


def compare(first: "Run", second: "Run", targets: str, top: int) -> Comparison:
    """Compare two runs on the targets of a set that both have.

    Args:
        first, second: on the same train rows, in any order.
        targets: the set's name in both.
        top: rows of a list, of each side; no more than the runs list.

    Raises:
        TrakError: if their train rows differ, naming the first difference; or no target is in both.
    """
    both = f"{first.path} and {second.path}"
    if top < 1:
        raise TrakError(f"top: is {top}; a list has at least one row")
    rows = _same_rows(first.train_rows, second.train_rows, both)
    first_targets, second_targets = first.target_rows(targets), second.target_rows(targets)
    shared, places = _shared(first_targets, second_targets)
    if not len(shared):
        raise TrakError(f"{both}: share no target of {targets}; compare runs with the same targets")
    top = min(top, first.settings.scores.top, second.settings.scores.top)
    columns: dict[str, Any] = {"target_row": shared}
    for side in ("proponent", "opponent"):
        lists = [_lists(run, targets, side, top) for run in (first, second)]
        pairs = [(lists[0][i], lists[1][j]) for i, j in places]
        columns[f"shared_{side}s"] = [len(mine & theirs) / len(mine) for mine, theirs in pairs]
    stores = [run.score_store(targets) for run in (first, second)]
    if all("scores" in store.matrix for store in stores):
        scores = [
            store.scores(0, store.shape[0])[order][:, columns_of]
            for store, order, columns_of in zip(stores, rows, places.T, strict=True)
        ]
        columns["correlation"] = np.concatenate(
            [
                spearman(scores[0][:, at : at + AT_ONCE], scores[1][:, at : at + AT_ONCE])
                for at in range(0, len(shared), AT_ONCE)
            ]
        )
    return Comparison(top, pa.table(columns))


def _same_rows(first: PreparedRows, second: PreparedRows, both: str) -> list[NDArray[np.intp]]:
    """The places of the same rows in either set, by their ids. Raises TrakError if others are there."""
    if first.text_columns != second.text_columns:
        raise TrakError(f"{both}: have rows of other columns; compare runs on the same rows")
    orders = [np.argsort(rows.column("row"), kind="stable") for rows in (first, second)]
    ids, others = first.column("row")[orders[0]], second.column("row")[orders[1]]
    if not np.array_equal(ids, others):
        common = len(np.intersect1d(ids, others))
        raise TrakError(
            f"{both}: have other train rows, {len(ids)} and {len(others)} with {common} in both; "
            "compare runs on the same rows"
        )
    of_second = _identity(second)
    for column, values in _identity(first).items():
        differ = np.flatnonzero(values[orders[0]] != of_second[column][orders[1]])
        if len(differ):
            raise TrakError(
                f"{both}: train row {ids[differ[0]]} has another {column} in each"
                + (f", as have {len(differ) - 1} more" if len(differ) > 1 else "")
                + "; compare runs on the same rows"
            )
    return orders


def _identity(rows: PreparedRows) -> dict[str, NDArray[Any]]:
    """What makes a row what it is, beside its id: its texts and its label, by name where it has one."""
    labels = rows.column("label")
    if rows.label_names:
        labels = np.array(rows.label_names, object)[labels]
    return {**{name: rows.column(name) for name in rows.text_columns}, "label": labels}


def _shared(first: PreparedRows, second: PreparedRows) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The ids of the targets that are in both sets, and their places in either, [t, 2]."""
    ids, mine, theirs = np.intersect1d(
        first.column("row"), second.column("row"), assume_unique=True, return_indices=True
    )
    same = np.ones(len(ids), bool)
    if first.text_columns != second.text_columns:
        same[:] = False
    else:
        of_second = _identity(second)
        for column, values in _identity(first).items():
            same &= values[mine] == of_second[column][theirs]
    return ids[same], np.stack([mine, theirs], 1)[same]


def _lists(run: "Run", targets: str, side: str, top: int) -> list[set[int]]:
    """The ids of each target's strongest rows of a side."""
    ids = run.train_rows.column("row")
    found = run.score_store(targets).listed(side, "place")[:, :top]
    return [set(ids[of_target].tolist()) for of_target in found]
