"""Features in the rows' order, whatever the batches; numbers that are not finite name their row.

They come window by window, and what is held does not grow with their number.
"""

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.gradients import featurize as featurize_module
from trak_steps.gradients.errors import GradientError, Remedy
from trak_steps.gradients.featurize import Features, compute_features
from trak_steps.gradients.rows import WINDOW, Row, window_slices
from trak_steps.gradients.source import Outputs
from trak_steps.projection import DenseProjection, Parameter, Sketch
from trak_steps.run.featurizer import HELPS, naming_settings
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import FeatureStore, new_features
from trak_steps.store.manifest import Manifest

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
    said: list[str] | None = None,
) -> Features:
    rows = [Row([5] * (1 + i % 3), label) for i, label in enumerate(labels)]
    projection = DenseProjection("normal", size=SIZE, dim=DIM, key=1, device=torch.device("cpu"))
    ids = 100 + np.arange(len(rows))
    done: list[int] = []
    (found,) = compute_features(
        source or Lengths(),
        projection,
        [(rows, ids)],
        memory=memory,
        dtype=dtype,
        advance=done.append,
        say=said.append if said is not None else pytest.fail,
    )
    assert sum(done) == len(labels)
    return found


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("too much"), RuntimeError("[enforce] DefaultCPUAllocator: no")]
)
def test_out_of_memory_halves_the_batch_and_says_so(
    error: Exception,
) -> None:
    """What the failed batch had added is forgotten, and later batches start smaller."""
    labels = [float(i) for i in range(40)]
    source = Lengths(bears=5, error=error)
    said: list[str] = []
    found = featurize(labels, source=source, said=said)
    assert np.array_equal(found.features, featurize(labels).features)
    assert max(source.ran) <= 5
    assert said[0].startswith("out of memory with 14 rows")
    assert said[0].endswith("with 7")
    assert len(said) <= 4


def test_a_row_that_does_not_fit_alone_is_named() -> None:
    with (
        pytest.raises(TrakError, match=r"row 100: its 1 tokens .*model\.max_length"),
        naming_settings(),
    ):
        featurize([1.0, 2.0], source=Lengths(bears=0), said=[])


@pytest.mark.parametrize("remedy", Remedy)
def test_the_step_names_a_setting_for_whatever_is_wrong(remedy: Remedy) -> None:
    with pytest.raises(TrakError, match=r"^hooks fail; .*(features|model)\.[a-z_]+"), naming_settings():
        raise GradientError("hooks fail", remedy)
    assert set(HELPS) == set(Remedy)


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
    with pytest.raises(TrakError, match=r"row 102: .*not finite"):
        featurize([1.0, 2.0, wrong, 4.0])


def test_float16_that_overflows_names_the_row_and_the_setting() -> None:
    assert featurize([1.0, 2.0], dtype="float16").features.dtype == np.float16
    with (
        pytest.raises(TrakError, match=r"row 101: .* float16; .*features\.dtype: float32"),
        naming_settings(),
    ):
        featurize([1.0, 1e6], dtype="float16")


def test_windows_begin_at_the_same_rows_whatever_the_shard() -> None:
    whole = list(window_slices(0, 3 * WINDOW + 5))
    assert [(w.start, w.stop) for w in whole] == [
        (0, WINDOW),
        (WINDOW, 2 * WINDOW),
        (2 * WINDOW, 3 * WINDOW),
        (3 * WINDOW, 3 * WINDOW + 5),
    ]
    shards = [*window_slices(0, 2 * WINDOW), *window_slices(2 * WINDOW, 3 * WINDOW + 5)]
    assert shards == whole
    # A shard that begins elsewhere gets the rest of the window first.
    assert list(window_slices(WINDOW - 7, WINDOW + 3)) == [
        slice(WINDOW - 7, WINDOW),
        slice(WINDOW, WINDOW + 3),
    ]
    assert list(window_slices(5, 5)) == []


def windows(n: int, size: int) -> Iterator[tuple[list[Row], NDArray[np.int64]]]:
    """Rows made as they are asked for."""
    for start in range(0, n, size):
        places = range(start, min(start + size, n))
        yield (
            [Row([5] * (1 + i % 3), float(i % 7 + 1)) for i in places],
            100 + np.arange(start, places.stop),
        )


def test_windows_give_what_all_rows_at_once_give() -> None:
    """To rounding, since a projection multiplies as many rows as are there."""
    projection = DenseProjection("normal", size=SIZE, dim=DIM, key=1, device=torch.device("cpu"))

    def run(size: int) -> list[Features]:
        return list(
            compute_features(
                Lengths(),
                projection,
                windows(50, size),
                memory=10**6,
                dtype="float32",
                advance=lambda _: None,
                say=pytest.fail,
            )
        )

    (whole,) = run(50)
    parts = run(16)
    assert [len(part.row) for part in parts] == [16, 16, 16, 2]
    for name in ("row", "margin", "loss_weight", "prediction"):
        together = np.concatenate([getattr(part, name) for part in parts])
        assert together.dtype == getattr(whole, name).dtype
        assert np.array_equal(together, getattr(whole, name))
    features = np.concatenate([part.features for part in parts])
    assert np.abs(features - whole.features).max() < 1e-6 * np.abs(whole.features).max()


class Late(featurize_module._Window):
    """As if a device computed it."""

    def add(self, *given: Any) -> None:
        super().add(*given)
        self.on_device = True


@pytest.mark.parametrize("n", [0, 16, 50])
def test_a_device_begins_a_window_before_the_last_one_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    projection = DenseProjection("normal", size=SIZE, dim=DIM, key=1, device=torch.device("cpu"))
    begun: list[int] = []

    def run() -> Iterator[Features]:
        begun.clear()
        return compute_features(
            Lengths(),
            projection,
            windows(n, 16),
            memory=10**3,
            dtype="float32",
            advance=begun.append,
            say=pytest.fail,
        )

    at_once = list(run())
    monkeypatch.setattr(featurize_module, "_Window", Late)
    late = []
    for found in run():
        late.append(found)
        assert sum(begun) == min(n, 16 * (len(late) + 1))
    assert len(late) == len(at_once)
    for found, expected in zip(late, at_once, strict=True):
        for name, values in vars(expected).items():
            assert np.array_equal(getattr(found, name), values)


def _peak(path: Path, n: int, dim: int) -> int:
    """The most bytes that Python's and NumPy's memory takes while n rows are featurized and written."""
    projection = DenseProjection("normal", size=SIZE, dim=dim, key=1, device=torch.device("cpu"))
    manifest = Manifest("features", settings={"dim": dim}, details={"start": 0, "stop": n})
    codec = codec_arguments("none", 10, "float32")
    tracemalloc.start()
    try:
        with new_features(path, (n, dim), "float32", manifest, codec) as writer:
            for found in compute_features(
                Lengths(),
                projection,
                windows(n, 64),
                memory=10**7,
                dtype="float32",
                advance=lambda _: None,
                say=pytest.fail,
            ):
                writer.add(found.features, {"row": found.row, "margin": found.margin})
                del found
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_as_many_rows_need_no_more_memory(tmp_path: Path) -> None:
    """4 MB of features against 42: beside a window and a chunk, 12 bytes a row are held here."""
    _peak(tmp_path / "first.zarr", 64, 512)  # what libraries keep after their first use
    few, many = 2048, 20480
    peak = _peak(tmp_path / "few.zarr", few, 512)
    assert _peak(tmp_path / "many.zarr", many, 512) < 1.1 * peak + 3 * 12 * many
    store = FeatureStore.open(tmp_path / "many.zarr")
    assert store.column("row").tolist() == list(range(100, 100 + many))
    # Row i's gradient is its label throughout, so its features are so many times row 0's.
    labels = np.arange(many) % 7 + 1.0
    expected = np.outer(labels, store.features(0, 1)[0])
    assert np.abs(store.features(0, many) - expected).max() < 1e-5 * np.abs(expected).max()
