"""Turn a label column into class numbers, or into numbers to regress on, and refuse what is neither."""

import reprlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from trak_steps.errors import TrakError


@dataclass(frozen=True)
class Labels:
    """What the labels of a data set are.

    Attributes:
        classes: the values of the source in the order of the class numbers; none for regression.
        names: a name for each class; empty for regression.
    """

    classes: tuple[Any, ...] | None
    names: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """How many logits a model for these labels has: the classes, or one for regression."""
        return len(self.names) if self.classes is not None else 1


def labels_of(rows: datasets.Dataset, column: str, where: str) -> Labels:
    """Find out what the labels of a train split are.

    Declared classes keep their order. Undeclared ones, integers or texts, are sorted. Floats mean
    regression.

    Raises:
        TrakError: if the column is missing, holds something else, lacks a label, or has a single
            class.
    """
    require_column(rows, column, where, "dataset.label")
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        return _with_two_classes(Labels(tuple(range(len(names))), names), column, where)
    kind = getattr(feature, "dtype", str(feature))
    if kind.startswith("float"):
        # All rows count, chosen or not: one that is missing turns a column of integers into floats.
        encode(list(rows[column]), Labels(None, ()), range(len(rows)), where)
        return Labels(None, ())
    if not kind.startswith(("int", "uint", "bool", "string", "large_string")):
        held = {"null": "no label", "Json(decode=True)": "values of several kinds"}.get(kind, kind)
        raise TrakError(
            f"{where}: the label column `{column}` holds {held}; labels are integers, texts or floats, "
            "all of one kind"
        )
    values = rows.unique(column)
    _refuse_missing(rows, column, values, where)
    classes = tuple(sorted(values))
    return _with_two_classes(Labels(classes, tuple(map(str, classes))), column, where)


def in_the_order_of(
    labels: Labels,
    id2label: Mapping[int, str],
    named: str,
    classes: Sequence[str] | Mapping[str, str] = (),
) -> Labels:
    """The classes in the order of an imported checkpoint's outputs.

    Names are compared without regard to case, unless the data's differ in nothing else. A checkpoint
    whose classes have no names (``LABEL_0``, …) is taken to have them in the order of the data's,
    unless ``classes`` says otherwise.

    Args:
        labels: of the data.
        id2label: of the checkpoint's configuration.
        named: the checkpoint, for messages.
        classes: as ``checkpoints.classes``: the names in the order of the outputs, or the data's name
            for each of the checkpoint's.

    Raises:
        TrakError: if the checkpoint or ``classes`` names other classes than the data, or both name
            the data's in different orders.
    """
    if labels.classes is None:
        if classes:
            raise TrakError("checkpoints.classes: the labels are numbers to regress on; take it out")
        return labels
    theirs = [str(id2label[i]) for i in sorted(id2label)]
    if isinstance(classes, Mapping):
        # Another checkpoint may have them named as the data has already.
        known = sorted(classes) != sorted(theirs) and _reordered(labels, theirs) is not None
        classes = theirs if known else _renamed(theirs, classes, named)
    own = None if names_no_classes(id2label, labels) else _reordered(labels, theirs)
    if classes:
        chosen = _reordered(labels, classes)
        if chosen is None:
            raise TrakError(
                f"checkpoints.classes: names {some(classes)}; the data has {some(labels.names)}, each "
                "of which it has to name once"
            )
        if own is not None and own != chosen:
            raise TrakError(
                f"checkpoints.classes: has the order {some(classes)}; {named} itself names its classes "
                f"in the order {some(theirs)} (id2label in its config.json); take out or mend one"
            )
        return chosen
    if own is None and not names_no_classes(id2label, labels):
        raise TrakError(
            f"checkpoints.existing: {named} has the classes {some(theirs)}, the data has "
            f"{some(labels.names)}; name them alike in the checkpoint's config.json (id2label), or say "
            "in checkpoints.classes in which order it has them"
        )
    return own or labels


def _renamed(theirs: Sequence[str], classes: Mapping[str, str], named: str) -> list[str]:
    """The data's names for a checkpoint's classes, in the order of its outputs."""
    if sorted(classes) != sorted(theirs):
        raise TrakError(
            f"checkpoints.classes: is a mapping from {some(classes)}; {named} calls its classes "
            f"{some(theirs)} (id2label in its config.json), each of which it has to name"
        )
    return [classes[name] for name in theirs]


def names_no_classes(id2label: Mapping[int, str], labels: Labels) -> bool:
    """Whether a checkpoint's classes have the names that stand for none, ``LABEL_0``, ``LABEL_1``, …"""
    theirs = [str(id2label[i]) for i in sorted(id2label)]
    placeholders = [f"LABEL_{i}" for i in range(len(theirs))]
    return theirs == placeholders and set(labels.names) != set(placeholders)


def _reordered(labels: Labels, order: Sequence[str]) -> Labels | None:
    """The classes in an order given by their names; none if those are not the data's."""
    assert labels.classes is not None
    names = list(labels.names)
    if len({name.casefold() for name in names}) == len(names):
        names, order = [name.casefold() for name in names], [name.casefold() for name in order]
    if sorted(order) != sorted(names):
        return None
    chosen = [names.index(name) for name in order]
    return Labels(tuple(labels.classes[i] for i in chosen), tuple(labels.names[i] for i in chosen))


def encode(
    values: Sequence[Any], labels: Labels, row_ids: Sequence[int] | NDArray[np.int64], where: str
) -> NDArray[np.int64] | NDArray[np.float64]:
    """The class number of each value (or the value itself, for regression).

    Raises:
        TrakError: naming the first row whose label is missing or not one of the classes.
    """
    if labels.classes is None:
        numbers = np.array([_number(value) for value in values])
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if wrong.size:
            raise TrakError(
                f"{where}: row {row_ids[wrong[0]]} has no finite label; drop the row, or mend its label"
            )
        return numbers
    number = {value: i for i, value in enumerate(labels.classes)}
    encoded = np.empty(len(values), dtype=np.int64)
    for i, value in enumerate(values):
        if _unlabelled(value):
            raise _no_label(value, row_ids[i], where)
        # A list or a mapping cannot be looked up.
        if not isinstance(value, Hashable) or value not in number:
            raise TrakError(
                f"{where}: row {row_ids[i]} has the label {_shown(value)}; the train set knows "
                + some(map(_shown, labels.classes))
            )
        encoded[i] = number[value]
    return encoded


def _number(value: Any) -> float:
    """A label to regress on; not a number for what is none."""
    try:
        return float(value) if not isinstance(value, (str, bytes)) else np.nan
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _shown(value: Any) -> str:
    return reprlib.repr(value)


def some(names: Iterable[str]) -> str:
    """The first names of many, each shortened."""
    listed = [name if len(name) <= 80 else name[:79] + "…" for name in names]
    return ", ".join(listed[:10]) + (" …" if len(listed) > 10 else "")


def require_column(rows: datasets.Dataset, column: str, where: str, setting: str) -> None:
    """Raise TrakError unless the split has the column that a setting names."""
    if column not in rows.column_names:
        raise TrakError(
            f"{where}: there is no column `{column}` ({setting}); it has " + ", ".join(rows.column_names)
        )


def _refuse_missing(rows: datasets.Dataset, column: str, values: list[Any], where: str) -> None:
    for value in filter(_unlabelled, values):
        raise _no_label(value, list(rows[column]).index(value), where)


def _unlabelled(value: Any) -> bool:
    return value is None or (not isinstance(value, str) and value == -1)


def _no_label(value: Any, row: int, where: str) -> TrakError:
    shown = "no label" if value is None else "the label -1, which means unlabelled"
    return TrakError(f"{where}: row {row} has {shown}; choose a split with labels, or drop the row")


def _with_two_classes(labels: Labels, column: str, where: str) -> Labels:
    if len(labels.names) < 2:
        raise TrakError(
            f"{where}: every row has the same label in `{column}`; a classifier needs two classes"
        )
    return labels
