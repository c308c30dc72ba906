"""What is said of a text: what the models answer, and which train rows made them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ClassExplanation:
    """What speaks for one class of a text, and against it.

    Attributes:
        label: the class number; for regression, a number.
        label_name: the class's name; for regression, none.
        margin: the model output for this label, the mean over the ends of the trainings: a classifier's
            is log p/(1 − p).
        margins: by the end of each training.
        probability: the mean of p over the ends of the trainings; for regression, none.
        sum_of_scores: what the scores of all train rows add up to.
        top_table: the strongest rows, proponents first: ``side``, ``rank``, ``score`` and its ``std``
            over trainings, ``sign_stable``, ``rank_best``, ``rank_worst``, and ``train_*``, the row.
    """

    label: int | float
    label_name: str | None
    margin: float
    margins: tuple[float, ...]
    probability: float | None
    sum_of_scores: float
    top_table: pa.Table = field(repr=False)

    @property
    def name(self) -> str:
        """The label as it is shown."""
        return f"{self.label:g}" if self.label_name is None else self.label_name

    @property
    def top(self) -> "pandas.DataFrame":
        """The strongest rows, in the columns of :meth:`trak_steps.Run.top`."""
        return self.top_table.to_pandas()

    @property
    def proponents(self) -> "pandas.DataFrame":
        """The rows that speak for it, strongest first."""
        return self._side("proponent").to_pandas()

    @property
    def opponents(self) -> "pandas.DataFrame":
        """The rows that speak against it, strongest first."""
        return self._side("opponent").to_pandas()

    def _side(self, side: str) -> pa.Table:
        return self.top_table.filter(pc.field("side") == side)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values; rows by side, their columns without ``train_``."""
        rows = {
            f"{side}s": [_row(values) for values in self._side(side).drop_columns(["side"]).to_pylist()]
            for side in ("proponent", "opponent")
        }
        return {
            "label": self.label,
            "label_name": self.label_name,
            "margin": self.margin,
            "margins": list(self.margins),
            "probability": self.probability,
            "sum_of_scores": self.sum_of_scores,
            **rows,
        }


@dataclass(frozen=True)
class Explanation:
    """Why the models answer a text as they do.

    Attributes:
        texts: by column.
        tokens: that the models read.
        tokens_cut: how many more there are, which they do not: the text is longer than the limit.
        asked: whether a label was asked for.
        prediction: the class that the ends of the trainings together give the largest margin; for
            regression, the mean of what they predict.
        prediction_name: the class's name; for regression, none.
        predictions: the class, or number, of each training's end.
        margins_of_classes: of every class, by name, the mean over trainings; for regression, none.
        classes: the label asked for; or, if none was, every class, the predicted one first. Of very many
            classes, those of the largest margins.
    """

    texts: Mapping[str, str]
    tokens: int
    tokens_cut: int
    asked: bool
    prediction: int | float
    prediction_name: str | None
    predictions: tuple[int | float, ...]
    margins_of_classes: Mapping[str, float]
    classes: tuple[ClassExplanation, ...]

    @property
    def explained(self) -> ClassExplanation:
        """The label asked for, or predicted."""
        return self.classes[0]

    @property
    def label(self) -> int | float:
        """The label asked for, or predicted: a class number, or a number."""
        return self.explained.label

    @property
    def label_name(self) -> str | None:
        """The class's name; for regression, none."""
        return self.explained.label_name

    @property
    def margin(self) -> float:
        """Of this label, the mean over the ends of the trainings."""
        return self.explained.margin

    @property
    def margins(self) -> tuple[float, ...]:
        """Of this label, by the end of each training."""
        return self.explained.margins

    @property
    def sum_of_scores(self) -> float:
        """What the scores of all train rows for this label add up to."""
        return self.explained.sum_of_scores

    @property
    def top(self) -> "pandas.DataFrame":
        """The strongest rows for this label and against it, in the columns of ``Run.top``."""
        return self.explained.top

    @property
    def proponents(self) -> "pandas.DataFrame":
        """The rows that speak for this label, strongest first."""
        return self.explained.proponents

    @property
    def opponents(self) -> "pandas.DataFrame":
        """The rows that speak against this label, strongest first."""
        return self.explained.opponents

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "texts": dict(self.texts),
            "tokens": self.tokens,
            "tokens_cut": self.tokens_cut,
            "asked": self.asked,
            "prediction": self.prediction,
            "prediction_name": self.prediction_name,
            "predictions": list(self.predictions),
            "margins_of_classes": dict(self.margins_of_classes),
            "classes": [of.to_dict() for of in self.classes],
        }


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("train_"): value for name, value in values.items()}
