"""The targets and train rows that a page shows, each once, in columns that compress well."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trak_steps.api.run import Run
from trak_steps.scoring.uncertainty import standard_error
from trak_steps.store.scores import SIDES

# Characters of a text that the page holds.
LONGEST = 1500

Values = dict[str, Any]


@dataclass(frozen=True)
class TargetSet:
    """A target set's targets, in the order in which they are shown: wrong and unsure ones first.

    Attributes:
        name: of the set.
        target: their places in the set, [t].
        row: their ids, [t].
        texts: of each text column, [t].
        label: by number, [t].
        votes: how many trainings' ends give each class, [t, classes]; none for numbers.
        prediction: the class that most give, [t]; none for numbers.
        margin: the mean over trainings, [t].
        margins: of each training, [trainings, t].
        total: the sum of all rows' scores, [t].
        lists: of each side, the lists' columns by name, [t, c] each; ``row`` are ids.
    """

    name: str
    target: NDArray[np.int64]
    row: NDArray[np.int64]
    texts: list[list[str]]
    label: NDArray[Any]
    prediction: NDArray[np.int64] | None
    margin: NDArray[np.float64]
    margins: NDArray[np.float64]
    total: NDArray[np.float64]
    lists: dict[str, dict[str, NDArray[Any]]]

    def __len__(self) -> int:
        return len(self.target)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which targets most trainings get wrong; of numbers none."""
        if self.prediction is None:
            return np.zeros(len(self), bool)
        found: NDArray[np.bool_] = self.prediction != self.label
        return found


def read_targets(run: Run, name: str) -> tuple[TargetSet, pa.Table]:
    """A target set, and the table that its lists are from."""
    table = run.top_table(name)
    t = int(pc.max(table["target"]).as_py()) + 1
    of_sides = {side: table.filter(pc.field("side") == side) for side in SIDES}
    # The table is ordered by target, side and rank.
    first = of_sides[SIDES[0]].filter(pc.field("rank") == 1)
    margin = first["margin"].to_numpy().astype(np.float64)
    votes = run.predictions(name) if run.labels else None
    label = first["target_label"].to_numpy()
    prediction = None if votes is None else most_given(votes, len(run.labels), label, margin)
    # By margin, which is below zero where most of the probability is another class's.
    order = np.argsort(margin, kind="stable")
    if prediction is not None:
        order = np.lexsort((margin, prediction == label))

    def texts(column: str) -> list[str]:
        return _shortened(first[f"target_{column}"].take(pa.array(order)))

    lists = {}
    for side, rows in of_sides.items():
        shape = t, len(rows) // t
        columns = {
            name: rows[of].to_numpy(zero_copy_only=False).reshape(shape)[order]
            for name, of in (("row", "train_row"), ("score", "score"), ("std", "std"))
        }
        columns["error"] = error_of(columns.pop("std"), run.trainings)
        for of in ("sign_stable", "rank_best", "rank_worst"):
            known = pc.is_valid(rows[of]).to_numpy(zero_copy_only=False)
            values = rows[of].cast(pa.int64()).fill_null(-1).to_numpy()
            columns[of] = np.where(known, values, -1).reshape(shape)[order]
        lists[side] = columns
    return TargetSet(
        name=name,
        target=order.astype(np.int64),
        row=first["target_row"].to_numpy()[order],
        texts=[texts(column) for column in run.text_columns],
        label=label[order],
        prediction=None if prediction is None else prediction[order],
        margin=margin[order],
        margins=run.margins(name)[:, order],
        total=first["sum_of_scores"].to_numpy().astype(np.float64)[order],
        lists=lists,
    ), table


def error_of(std: NDArray[np.floating], trainings: int) -> NDArray[np.floating]:
    """The standard error of scores over trainings, [any]; not a number of a single one."""
    return standard_error(std, trainings) if trainings > 1 else np.full_like(std, np.nan)


def most_given(
    votes: NDArray[np.int64], classes: int, label: NDArray[np.int64], margin: NDArray[np.floating]
) -> NDArray[np.int64]:
    """The class that most trainings give, [t].

    Of several it is the label where the mean margin says so, else another one.

    Args:
        votes: the class that each training gives, [trainings, t].
        classes: how many there are.
        label: of each target, [t].
        margin: of its label, the mean over trainings, [t].
    """
    counts = np.stack([(votes == of).sum(0) for of in range(classes)]).astype(float)
    counts[label, np.arange(len(label))] += np.where(margin > 0, 0.5, -0.5)
    found: NDArray[np.int64] = counts.argmax(0)
    return found


def _shortened(texts: pa.ChunkedArray) -> list[str]:
    short = pc.utf8_slice_codeunits(texts.cast(pa.large_string()), 0, LONGEST)
    cut = pc.greater(pc.utf8_length(texts), LONGEST).to_pylist()
    return [f"{text}…" if longer else text for text, longer in zip(short.to_pylist(), cut, strict=True)]


@dataclass(frozen=True)
class TrainRows:
    """The train rows that a page names, each once.

    Attributes:
        row: their ids, ascending, [n].
        texts: of each text column, [n].
        label: by number, [n].
        flipped: whether the run gave it a wrong label on purpose, [n].
    """

    row: NDArray[np.int64]
    texts: list[list[str]]
    label: NDArray[Any]
    flipped: NDArray[np.bool_]

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows with these ids stand here."""
        return np.searchsorted(self.row, ids)


def read_train_rows(run: Run, tables: Sequence[pa.Table], suspects: pa.Table | None) -> TrainRows:
    """Every train row that a list or the suspects name."""
    named = [table["train_row"].to_numpy() for table in tables]
    if suspects is not None and len(suspects):
        named += [
            suspects["row"].to_numpy(),
            suspects["against_row"].combine_chunks().flatten().to_numpy(),
        ]
    ids = np.unique(np.concatenate(named))
    every = run.train_rows.column("row")
    places = np.flatnonzero(np.isin(every, ids))
    kept = ["row", "label", "flipped", *run.text_columns]
    # Ids need not ascend in the source.
    rows = run.train_rows.take(places, kept).sort_by("row")
    return TrainRows(
        row=rows["row"].to_numpy(),
        texts=[_shortened(rows[column]) for column in run.text_columns],
        label=rows["label"].to_numpy(),
        flipped=rows["flipped"].to_numpy(zero_copy_only=False).astype(bool),
    )
