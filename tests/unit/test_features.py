"""Features in the rows' order, whatever the batches; numbers that are not finite name their row."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from trak_steps.errors import TrakError
from trak_steps.features import Features, compute_features
from trak_steps.gradients.source import Outputs, Parameter, Row
from trak_steps.projection import DenseProjection
from trak_steps.projection.base import Sketch

SIZE, DIM = 10, 4


class Lengths:
    """A source whose gradient, margin and weight of a row are its label, repeated."""

    parameters = (Parameter("a", (2, 3), 0), Parameter("b", (4,), 6))

    def run(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        values = torch.tensor([float(row.label) for row in rows])
        for parameter in self.parameters:
            sketch.add(parameter.start, range(len(rows)), values[:, None].expand(-1, parameter.size))
        margin = values.clamp(-1e3, 1e3).nan_to_num(0.0)
        return Outputs(margin, margin, torch.zeros(len(rows), dtype=torch.int64))


def featurize(labels: list[float], *, memory: int = 10**6, dtype: str = "float32") -> Features:
    def track(batches: Iterator[Sequence[int]], total: int) -> Iterator[Sequence[int]]:
        seen = list(batches)
        assert len(seen) == total
        return iter(seen)

    rows = [Row([5] * (1 + i % 3), label) for i, label in enumerate(labels)]
    projection = DenseProjection("normal", size=SIZE, dim=DIM, key=1, device=torch.device("cpu"))
    ids = 100 + np.arange(len(rows))
    return compute_features(Lengths(), projection, rows, ids, memory=memory, dtype=dtype, track=track)


@pytest.mark.parametrize("memory", [0, 33_200, 10**6], ids=["one by one", "few", "all"])
def test_rows_come_back_in_their_order(memory: int) -> None:
    labels = [float(i) for i in range(11)]
    found = featurize(labels, memory=memory)
    assert found.row.tolist() == list(range(100, 111))
    assert found.margin.tolist() == labels
    expected = np.outer(labels, featurize([1.0]).features[0])
    assert np.abs(found.features - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_names_its_row(wrong: float) -> None:
    with pytest.raises(TrakError, match="row 102: its gradient is not finite"):
        featurize([1.0, 2.0, wrong, 4.0])


def test_float16_that_overflows_names_the_row_and_the_setting() -> None:
    assert featurize([1.0, 2.0], dtype="float16").features.dtype == np.float16
    with pytest.raises(TrakError, match=r"row 101: .* in float16; set features\.dtype: float32"):
        featurize([1.0, 1e6], dtype="float16")
