"""Texts and labels as a person gives them, checked before a model reads them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trak_steps.data.prepared import PreparedRows
from trak_steps.data.text import is_empty
from trak_steps.errors import TrakError

# A row's texts, in the order of the run's columns or by their names; a single one also as it is.
Text = str | Sequence[str] | Mapping[str, Any]
# A class by name or number, or a number to regress on; none stands for what the models predict.
Label = str | int | float | None
# Names that an error lists.
NAMED = 10


@dataclass(frozen=True)
class Query:
    """A row to explain.

    Attributes:
        texts: in the order of the run's columns.
        label: the class number, or the number to regress on; none for what the models predict.
    """

    texts: tuple[str, ...]
    label: int | float | None = None


def queries(
    texts: Iterable[Text], label: Label | Iterable[Label], train: PreparedRows
) -> Iterator[Query]:
    """Rows to explain, one after the other.

    Args:
        texts: of each row.
        label: one for all, or one for each.
        train: whose columns and classes they have.

    Raises:
        TrakError: naming the text and what is wrong with it.
    """
    if not isinstance(texts, Iterable):
        raise TrakError(
            f"texts: are {texts!r}, which holds none; give a text, a tuple or a mapping of "
            f"{_named(train.text_columns)}, or many of these"
        )
    labels = iter(label) if isinstance(label, Iterable) and not isinstance(label, str) else None
    ended = object()
    number = 0
    for number, text in enumerate(texts, start=1):
        where = f"text {number}"
        of_text: Any = label if labels is None else next(labels, ended)
        if of_text is ended:
            raise TrakError(
                f"label: {number - 1} are given for more texts; give one for each, or one for all"
            )
        yield Query(_texts(text, train.text_columns, where), _label(of_text, train, where))
    if labels is not None and next(labels, ended) is not ended:
        raise TrakError(f"label: more are given than there are texts, {number}; give one for each")


def query_of_object(values: Any, train: PreparedRows, where: str) -> Query:
    """A row to explain, from a JSON object with the run's text columns and, perhaps, ``label``."""
    if not isinstance(values, dict):
        raise TrakError(f"{where}: is no JSON object with {_named(train.text_columns)}")
    return Query(_texts(values, train.text_columns, where), _label(values.get("label"), train, where))


def _texts(given: Any, columns: Sequence[str], where: str) -> tuple[str, ...]:
    if isinstance(given, Mapping):
        for column in columns:
            if column not in given:
                raise TrakError(f"{where}: has no `{column}`; this run's models read {_named(columns)}")
        found = tuple(given[column] for column in columns)
    else:
        found = (given,) if isinstance(given, str) or not isinstance(given, Sequence) else tuple(given)
    if len(found) != len(columns):
        raise TrakError(
            f"{where}: has {len(found)} of the {len(columns)} that this run's models read, "
            f"{_named(columns)}"
        )
    for column, text in zip(columns, found, strict=True):
        if not isinstance(text, str):
            what = "missing" if text is None else f"of type {type(text).__name__}, not text"
            raise TrakError(f"{where}: `{column}` is {what}")
        if is_empty(text):
            raise TrakError(f"{where}: `{column}` is empty")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TrakError(
                f"{where}: `{column}` is not valid Unicode: it has half a character"
            ) from None
    return found


def _label(given: Any, train: PreparedRows, where: str) -> int | float | None:
    names = train.label_names
    if given is None:
        return None
    if not names:
        try:
            value = math.nan if isinstance(given, bool) else float(given)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise TrakError(f"{where}: the label `{given}` is no number; this run's labels are numbers")
        return value
    if isinstance(given, str) and given in names:
        return names.index(given)
    number = -1
    if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < 10:
        number = int(given)
    elif hasattr(given, "__index__") and not isinstance(given, bool):
        number = given.__index__()
    if not 0 <= number < len(names):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        known = ", ".join(names[:NAMED]) + more
        raise TrakError(f"{where}: there is no label `{given}`; the run's classes are {known}")
    return number


def _named(columns: Sequence[str]) -> str:
    return " and ".join(f"`{column}`" for column in columns)
