"""Stores: complete or absent, compressed as asked, and never read when damaged."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xarray
from numpy.typing import NDArray
from stores import save_features
from zarr.storage import LocalStore

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.model.recipe import training_rows
from trak_steps.run.layout import Layout
from trak_steps.steps.kernels import kernel
from trak_steps.steps.scores import gather, score
from trak_steps.store import features as features_module
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import FeatureStore, PlainRows, TrainFeatures, new_features
from trak_steps.store.group import new_array, new_group
from trak_steps.store.manifest import Manifest
from trak_steps.store.scores import ScoreStore

Copy = Callable[[], tuple[Layout, Settings]]


def store(path: Path, features: NDArray[np.floating], codec: str = "none", keep_bits: int = 10) -> Path:
    n, dim = features.shape
    columns = {
        "loss_weight": np.ones(n, np.float32),
        "margin": np.ones(n, np.float32),
        "prediction": np.zeros(n, np.int64),
        "row": np.arange(n),
    }
    manifest = Manifest("features", settings={"dim": dim}, details={"start": 0, "stop": n})
    arguments = codec_arguments(codec, keep_bits, str(features.dtype))
    save_features(path, features, columns, manifest, arguments)
    return path


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"

    def fail() -> None:
        with complete_or_absent(path) as folder:
            folder.mkdir()
            (folder / "half").write_text("x")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert list(path.parent.iterdir()) == []


def test_files_and_folders_are_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with complete_or_absent(tmp_path / "file") as file:
            file.write_text(text)
        with complete_or_absent(tmp_path / "folder") as folder:
            folder.mkdir()
            (folder / text).write_text(text)
    assert (tmp_path / "file").read_text() == "two"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["two"]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_writer_left_is_cleared_and_a_living_ones_is_not(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    here = socket.gethostname()
    dead = tmp_path / f".out.{killed.pid}@{here}.0123abcd.tmp"
    alive = tmp_path / f".out.{os.getpid()}@{here}.0123abcd.tmp"
    elsewhere = tmp_path / f".out.{killed.pid}@another-host.0123abcd.tmp"
    for path in (dead, alive, elsewhere):
        path.mkdir()
    with complete_or_absent(tmp_path / "out") as file:
        file.write_text("x")
    assert not dead.exists()
    assert alive.exists()
    assert elsewhere.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TrakError, match="cannot be written"), complete_or_absent(tmp_path / "x" / "out"):
        pass


def test_a_path_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TrakError, match="cannot be written"),
        complete_or_absent(tmp_path / "file" / "out"),
    ):
        pass


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("codec", ["none", "zstd", "blosc"])
def test_lossless_codecs_give_back_every_bit(tmp_path: Path, codec: str, dtype: str) -> None:
    features = np.random.default_rng(0).standard_normal((30, 7)).astype(dtype)
    found = FeatureStore.open(store(tmp_path / "s.zarr", features, codec)).features(0, 30)
    assert found.dtype == features.dtype
    assert (found == features).all()


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_bitround_keeps_the_bits_it_promises(tmp_path: Path, bits: int) -> None:
    features = np.random.default_rng(0).standard_normal((30, 7)).astype(np.float32)
    found = FeatureStore.open(store(tmp_path / "s.zarr", features, "bitround", bits)).features(0, 30)
    error = np.abs(found - features) / np.abs(features)
    assert 0 < error.max() <= 2.0 ** -(bits + 1) * 1.0001


@pytest.mark.parametrize("codec", ["none", "zstd", "blosc", "bitround"])
def test_a_flipped_bit_is_found(tmp_path: Path, codec: str) -> None:
    features = np.random.default_rng(0).standard_normal((30, 7)).astype(np.float32)
    path = store(tmp_path / "s.zarr", features, codec)
    chunk = next(file for file in (path / "features").rglob("c/*/*") if file.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    with pytest.raises(TrakError, match="its features/c/0/0 was altered"):
        FeatureStore.open(path).features(0, 30)


def test_a_chunk_that_is_missing_is_found(tmp_path: Path) -> None:
    path = store(tmp_path / "s.zarr", np.ones((30, 7), np.float32))
    next(file for file in (path / "features").rglob("c/*/*") if file.is_file()).unlink()
    with pytest.raises(TrakError, match="its features/c/0/0 is missing"):
        FeatureStore.open(path).features(0, 30)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("blocks", [[1] * 10, [4, 6], [7, 3], [10]], ids=str)
def test_blocks_of_any_size_give_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[int], dtype: str
) -> None:
    """Chunks of four rows, each written once, and the last one cut off."""
    features = np.random.default_rng(0).standard_normal((10, 7)).astype(dtype)
    monkeypatch.setattr("trak_steps.store.features.CHUNK_BYTES", 4 * 7 * features.itemsize)
    whole = Manifest.load(store(tmp_path / "whole.zarr", features), "features")
    written: list[str] = []
    put = LocalStore.set

    async def counted(self: LocalStore, key: str, value: Any) -> None:
        written.append(key)
        await put(self, key, value)

    monkeypatch.setattr(LocalStore, "set", counted)
    manifest = Manifest("features", settings={"dim": 7}, details={"start": 0, "stop": 10})
    codec = codec_arguments("none", 10, dtype)
    with new_features(tmp_path / "s.zarr", (10, 7), dtype, manifest, codec) as writer:
        start = 0
        for rows in blocks:
            columns = {
                "loss_weight": np.ones(rows, np.float32),
                "margin": np.ones(rows, np.float32),
                "prediction": np.zeros(rows, np.int64),
                "row": np.arange(start, start + rows),
            }
            writer.add(features[start : start + rows], columns)
            start += rows
    found = Manifest.load(tmp_path / "s.zarr", "features")
    assert found.files == whole.files
    chunks = [key for key in written if key.startswith("features/c/")]
    assert sorted(chunks) == ["features/c/0/0", "features/c/1/0", "features/c/2/0"]
    assert (FeatureStore.open(tmp_path / "s.zarr").features(0, 10) == features).all()


@pytest.mark.parametrize("rows", [3, 5])
def test_a_store_with_too_few_or_too_many_rows_does_not_appear(tmp_path: Path, rows: int) -> None:
    manifest = Manifest("features", settings={"dim": 2}, details={"start": 0, "stop": 4})
    codec = codec_arguments("none", 10, "float32")

    def write() -> None:
        with new_features(tmp_path / "s.zarr", (4, 2), "float32", manifest, codec) as writer:
            writer.add(np.ones((rows, 2), np.float32), {"row": np.arange(rows)})

    with pytest.raises(ValueError, match=f"{rows}.* for a store of 4"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_rows_that_were_never_written_are_not_taken_for_zeros(tmp_path: Path) -> None:
    manifest = Manifest("features", settings={"dim": 2}, details={"start": 0, "stop": 4})
    with new_group(tmp_path / "s.zarr", manifest) as group:
        array = new_array(group, "features", (4, 2), "float32", ("row", "dim"), chunks=(2, 2))
        array[0:2] = np.zeros((2, 2), np.float32)
    opened = FeatureStore.open(tmp_path / "s.zarr")
    assert (opened.features(0, 2) == 0).all()
    with pytest.raises(TrakError, match="missing or non-finite"):
        opened.features(0, 4)


def test_a_store_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrakError, match=r"is missing; .*featurize"):
        FeatureStore.open(tmp_path / "nowhere.zarr")
    path = store(tmp_path / "s.zarr", np.ones((3, 2), np.float32))
    with pytest.raises(TrakError, match="holds features, expected scores"):
        ScoreStore.open(path)


def test_shards_are_read_as_one(small_run: tuple[Layout, Settings]) -> None:
    layout, _ = small_run
    paths = [layout.train_shard("0", f"{i:05d}") for i in range(3)]
    train = TrainFeatures(paths, 60)
    whole = np.concatenate(
        [
            FeatureStore.open(p).features(s, e)
            for p, s, e in zip(paths, (0, 25, 50), (25, 50, 60), strict=True)
        ]
    )
    assert (train.features(0, 60) == whole).all()
    assert (train.features(20, 55) == whole[20:55]).all()
    assert (train.column("row") == PreparedRows.load(layout.train).column("row")).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda layout: _remove(layout.train_shard("0", "00001")), "00001.zarr: is missing"),
        (lambda layout: _swap(layout, "00001", "00002"), "00001.zarr: begins at row 50, expected 25"),
        (
            lambda layout: _put(layout.train_shard("0-0.5", "00001"), layout.train_shard("0", "00001")),
            "00001.zarr: .*another checkpoint .*00000.zarr",
        ),
    ],
)
def test_shards_that_do_not_fit_are_refused(
    copy_run: Copy, damage: Callable[[Layout], None], message: str
) -> None:
    layout, settings = copy_run()
    _remove(layout.kernel("0"))
    damage(layout)
    with pytest.raises(TrakError, match=message):
        kernel.run(layout, settings, "0")
    assert not layout.kernel("0").exists()


def test_a_kernel_of_another_checkpoint_is_refused(copy_run: Copy) -> None:
    layout, settings = copy_run()
    _remove(layout.scores("validation"))
    _put(layout.kernel("0-0.5"), layout.kernel("0"))
    with pytest.raises(TrakError, match=r"kernel/0\.zarr: .*from features/0-0.5/.*not from features/0/"):
        score.run(layout, settings, "validation", 32)
    assert not layout.scores("validation").exists()


def test_targets_of_another_checkpoint_are_refused(copy_run: Copy) -> None:
    layout, settings = copy_run()
    _put(layout.target_features("0-0.5", "validation"), layout.target_features("0", "validation"))
    with pytest.raises(
        TrakError, match=r"validation\.zarr: .*from checkpoints/0-0.5, .*not from checkpoints/0;"
    ):
        score.run(layout, settings, "validation", 32)


def test_scores_of_other_rows_are_not_ranked(copy_run: Copy) -> None:
    layout, settings = copy_run()
    manifest = Manifest.load(layout.train, "data")
    Manifest("data", content="other", details=manifest.details).save(layout.train)
    with pytest.raises(TrakError, match=r"0-60\.0-5\.zarr: .*another data/train"):
        gather.run(layout, settings, "validation", 32)


def test_scores_open_in_xarray_with_their_labels(small_run: tuple[Layout, Settings]) -> None:
    layout, _ = small_run
    opened = xarray.open_zarr(layout.scores("validation"), consolidated=False)
    train = PreparedRows.load(layout.train)
    assert opened.scores.dims == ("train", "target")
    assert opened.train.values.tolist() == train.column("row").tolist()
    assert {"train_label", "target_label", "train_loss_weight", "target_margin"} <= set(opened.coords)
    assert opened.training_sum.dims == opened.training_margin.dims == ("training", "target")
    total, scores = opened.target_sum.values, opened.scores.values.astype(float)
    np.testing.assert_allclose(total, scores.sum(0), atol=1e-5 * np.abs(scores).sum(0).max())
    for name in ("sum", "margin"):
        mean = opened[f"training_{name}"].values.mean(0)
        np.testing.assert_allclose(mean, opened[f"target_{name}"].values, rtol=1e-6)
    assert "stable_sign_errors" not in opened.attrs  # of a single training
    row = int(train.column("row")[7])
    picked = opened.scores.sel(train=row).values
    assert (picked == ScoreStore.open(layout.scores("validation")).scores(7, 8)[0]).all()


def test_prepared_rows_stay_on_the_disk_until_they_are_used(small_run: tuple[Layout, Settings]) -> None:
    layout, _ = small_run
    before = pa.total_allocated_bytes()
    rows = PreparedRows.open(layout.train)
    assert pa.total_allocated_bytes() == before
    # The Trainer's view of them copies nothing either.
    trained_on = training_rows(rows.table)
    assert pa.total_allocated_bytes() == before
    assert trained_on.column_names[-1] == "labels"
    assert trained_on[7]["input_ids"] == rows.table["input_ids"][7].as_py()
    assert trained_on[7]["labels"] == rows.table["label"][7].as_py()


def test_some_rows_are_taken_from_many_batches(small_run: tuple[Layout, Settings]) -> None:
    rows = PreparedRows.load(small_run[0].train)
    many = replace(rows, table=pa.concat_tables([rows.table.slice(i, 7) for i in range(0, 60, 7)]))
    places = np.array([0, 6, 7, 30, 59])
    taken = many.take(places, ["question", "row"])
    assert taken.column_names == ["question", "row"]
    assert taken["row"].to_pylist() == rows.column("row")[places].tolist()
    assert taken["question"].to_pylist() == rows.column("question")[places].tolist()
    assert len(many.take(np.array([], int), ["row"])) == 0


def _remove(path: Path) -> None:
    shutil.rmtree(path)


def _put(source: Path, destination: Path) -> None:
    """A copy of one store in the place of another."""
    _remove(destination)
    shutil.copytree(source, destination)


def _swap(layout: Layout, first: str, second: str) -> None:
    a, b = layout.train_shard("0", first), layout.train_shard("0", second)
    a.rename(a.with_suffix(".x"))
    b.rename(a)
    a.with_suffix(".x").rename(b)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_rows_read_as_they_are_stored_are_those_that_zarr_reads(
    tmp_path: Path, dtype: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "CHUNK_BYTES", 7 * 5 * np.dtype(dtype).itemsize)
    values = np.random.default_rng(0).standard_normal((30, 5)).astype(dtype)
    manifest = Manifest("features", settings={"dim": 5}, details={"start": 100, "stop": 130})
    save_features(tmp_path / "f.zarr", values, {}, manifest, codec_arguments(codec, 10, dtype))
    store = FeatureStore.open(tmp_path / "f.zarr")
    plain = PlainRows.of(store, "features", (30, 5))
    assert (plain is not None) == (codec == "none")
    assert PlainRows.of(store, "features", (30, 6)) is None
    for start, stop in ((100, 130), (100, 101), (106, 108), (107, 114), (121, 130)):
        read = store.features(start, stop)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values[start - 100 : stop - 100])
