"""The featurize step: window by window, several checkpoints in one process, and below float32."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_settings
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.bert.modeling_bert import BertPooler

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.gradients.rows import Row
from trak_steps.run import featurizer
from trak_steps.run import model_inputs as tokens
from trak_steps.run.layout import Layout
from trak_steps.steps.features import featurize
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.features import FeatureStore, TrainFeatures

Run = tuple[Layout, Settings]
Copy = Callable[[], Run]


def windows_of(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("trak_steps.gradients.rows.WINDOW", rows)


def written(run: Run, path: Path, rows: PreparedRows, checkpoint: str = "0") -> FeatureStore:
    featurize.featurize_rows(*run, checkpoint, rows, 0, len(rows), path)
    return FeatureStore.open(path)


def distance(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest distance of a row's features from what they should be, relative to these."""
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(error.max())


def test_shards_and_windows_change_nothing_but_the_last_digits(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store of 60 rows in windows of 16, against three in one window each."""
    layout, _ = small_run
    shards = TrainFeatures([layout.train_shard("0", f"{i:05d}") for i in range(3)], 60)
    windows_of(monkeypatch, 16)
    rows = PreparedRows.open(layout.train)
    found = written(small_run, tmp_path / "whole.zarr", rows)
    assert (found.start, found.stop) == (0, 60)
    assert distance(found.features(0, 60), shards.features(0, 60)) < 1e-5
    for name in ("row", "prediction"):
        assert found.column(name).dtype == np.int64
        assert np.array_equal(found.column(name), shards.column(name))
    for name in ("margin", "loss_weight"):
        assert found.column(name).dtype == np.float32
        assert np.allclose(found.column(name), shards.column(name), rtol=1e-5, atol=1e-6)


def test_shards_that_begin_with_a_window_have_the_same_bits(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, settings = small_run
    windows_of(monkeypatch, 8)
    rows = PreparedRows.open(layout.train)
    whole = written(small_run, tmp_path / "whole.zarr", rows)
    featurize.featurize_rows(layout, settings, "0", rows, 16, 40, tmp_path / "part.zarr")
    part = FeatureStore.open(tmp_path / "part.zarr")
    assert np.array_equal(part.features(16, 40), whole.features(16, 40))
    assert np.array_equal(part.column("margin"), whole.column("margin")[16:40])


def test_no_more_than_two_windows_of_rows_are_held(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of one window, and those of the next while they are read."""
    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    most = 0
    read = tokens.as_rows

    class Seen(Row):
        __hash__ = object.__hash__

    def counted(*arguments: object) -> list[Row]:
        nonlocal most
        made = [Seen(r.input_ids, r.label, r.token_type_ids) for r in read(*arguments)]  # type: ignore[arg-type]
        alive.update(made)
        most = max(most, len(alive))
        return list(made)

    monkeypatch.setattr(tokens, "as_rows", counted)
    windows_of(monkeypatch, 8)
    written(small_run, tmp_path / "whole.zarr", PreparedRows.open(small_run[0].train))
    # The shortest and the longest row, perhaps of two windows each, stay for the self-check.
    assert 8 < most <= 2 * 8 + 4


def test_the_longest_and_shortest_rows_are_found_across_windows(
    small_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = PreparedRows.open(small_run[0].train)
    every = tokens.read_rows(rows)
    for size in (1, 7, 60):
        windows_of(monkeypatch, size)
        found = tokens.shortest_and_longest(rows, 3, 58)
        assert found == (min(every[3:58], key=len), max(every[3:58], key=len))


def test_a_damaged_row_is_found_before_anything_is_computed(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, settings = small_run
    rows = PreparedRows.open(layout.train)
    digests = rows.digests.copy()
    digests[57] ^= 1
    rows = replace(rows, digests=digests)
    windows_of(monkeypatch, 8)
    monkeypatch.setattr(featurizer, "check_gradients", lambda *_: pytest.fail("too late"))
    with pytest.raises(TrakError, match="row 57 is damaged"):
        featurize.featurize_rows(layout, settings, "0", rows, 0, 60, tmp_path / "s.zarr")


def test_checkpoints_one_after_the_other_give_what_they_give_alone(
    small_run: Run, tmp_path: Path
) -> None:
    layout, _ = small_run
    rows = PreparedRows.open(layout.targets("validation"))
    for checkpoint in ("0-0.5", "0"):
        found = written(small_run, tmp_path / f"{checkpoint}.zarr", rows, checkpoint)
        alone = layout.target_features(checkpoint, "validation")
        assert found.manifest.content == artefact_manifest(alone).content


def test_a_failure_on_the_way_leaves_nothing(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows_of(monkeypatch, 16)
    layout, settings = small_run
    right = featurize.read_windows

    def cut(*arguments: object) -> object:
        for number, window in enumerate(right(*arguments)):  # type: ignore[arg-type]
            if number == 2:
                raise TrakError("stopped")
            yield window

    monkeypatch.setattr(featurize, "read_windows", cut)
    rows = PreparedRows.open(layout.train)
    with pytest.raises(TrakError, match="stopped"):
        featurize.featurize_rows(layout, settings, "0", rows, 0, 60, tmp_path / "out" / "s.zarr")
    assert list((tmp_path / "out").iterdir()) == []


def test_bfloat16_on_a_cpu_is_near_float32(small_run: Run, tmp_path: Path) -> None:
    """Within 2 % of the float32 features, row by row."""
    layout, _ = small_run
    low = small_settings(features={"precision": "bfloat16"}, execution={"device": "cpu"})
    rows = PreparedRows.open(layout.train)
    found = written((layout, low), tmp_path / "low.zarr", rows)
    exact = TrainFeatures([layout.train_shard("0", f"{i:05d}") for i in range(3)], 60)
    assert 1e-5 < distance(found.features(0, 60), exact.features(0, 60)) < 0.02
    assert np.allclose(found.column("margin"), exact.column("margin"), atol=0.02)
    assert found.manifest.settings["precision"] == "bfloat16"


def test_a_model_that_cannot_be_run_in_a_precision_is_refused(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own code adds numbers of two types, which only autocast makes different."""
    right = BertPooler.forward

    def mixing(self: BertPooler, hidden: Tensor) -> Tensor:
        pooled = right(self, hidden)
        sums = torch.zeros(pooled.shape, dtype=torch.float32)
        return sums.index_add(0, torch.arange(len(pooled)), self.dense(hidden[:, 0])) + pooled

    monkeypatch.setattr(BertPooler, "forward", mixing)
    layout, _ = small_run
    rows = PreparedRows.open(layout.train)
    low = small_settings(features={"precision": "bfloat16"}, execution={"device": "cpu"})
    with pytest.raises(TrakError, match=r"features\.precision: Bert.* bfloat16"):
        featurize.featurize_rows(layout, low, "0", rows, 0, 60, tmp_path / "s.zarr")
    exact = small_settings(execution={"device": "cpu"})
    featurize.featurize_rows(layout, exact, "0", rows, 0, 60, tmp_path / "s.zarr")
