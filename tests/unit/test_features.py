"""Features in the rows' order, whatever the batches; numbers that are not finite name their row."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from trak_steps.errors import TrakError
from trak_steps.gradients.featurize import Features, compute_features
from trak_steps.gradients.rows import Row
from trak_steps.gradients.source import Outputs
from trak_steps.projection import DenseProjection, Parameter, Sketch

SIZE, DIM = 10, 4


class Lengths:
    """A source whose gradient, margin and weight of a row are its label, repeated.

    It runs out of memory with more rows than it bears, after it has given some of the gradients.
    """

    parameters = (Parameter("a", (2, 3), 0), Parameter("b", (4,), 6))

    def __init__(self, bears: int = 1000, error: Exception | None = None) -> None:
        self.tokens = 24
        self.ran: list[int] = []
        self._bears = bears
        self._error = error or torch.OutOfMemoryError("too much")

    def run(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        values = torch.tensor([float(row.label) for row in rows])
        for parameter in self.parameters:
            sketch.add(parameter, values[:, None].expand(-1, parameter.size))
            if len(rows) > self._bears:
                raise self._error
        self.ran.append(len(rows))
        margin = values.clamp(-1e3, 1e3).nan_to_num(0.0)
        return Outputs(margin, margin, torch.zeros(len(rows), dtype=torch.int64))


def featurize(
    labels: list[float],
    *,
    memory: int = 10**6,
    dtype: str = "float32",
    source: Lengths | None = None,
) -> Features:
    rows = [Row([5] * (1 + i % 3), label) for i, label in enumerate(labels)]
    projection = DenseProjection("normal", size=SIZE, dim=DIM, key=1, device=torch.device("cpu"))
    ids = 100 + np.arange(len(rows))
    done: list[int] = []
    found = compute_features(
        source or Lengths(),
        projection,
        rows,
        ids,
        memory=memory,
        dtype=dtype,
        advance=done.append,
    )
    assert sum(done) == len(labels)
    return found


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("too much"), RuntimeError("[enforce] DefaultCPUAllocator: no")]
)
def test_out_of_memory_halves_the_batch_and_says_so(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the failed batch had added is forgotten, and later batches start smaller."""
    labels = [float(i) for i in range(40)]
    source = Lengths(bears=5, error=error)
    found = featurize(labels, source=source)
    assert np.array_equal(found.features, featurize(labels).features)
    assert max(source.ran) <= 5
    said = capsys.readouterr().err
    assert said.startswith("out of memory with 14 rows of 1 tokens: going on with 7\n")
    assert said.count("out of memory") <= 4


def test_a_row_that_does_not_fit_alone_is_named() -> None:
    with pytest.raises(TrakError, match=r"row 100: its 1 tokens alone do not fit into memory"):
        featurize([1.0, 2.0], source=Lengths(bears=0))


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        featurize([1.0, 2.0], source=Lengths(bears=0, error=RuntimeError("something else")))


def test_batches_keep_to_their_tokens_with_padding() -> None:
    source = Lengths()
    featurize([1.0] * 30, source=source)
    # Ten rows of one token and two of two are 12 of two with padding; then 8 of two, 8 of three.
    assert source.ran == [12, 8, 8, 2]


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
