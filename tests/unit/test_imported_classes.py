"""Imported classifiers whose outputs stand for the classes in another order than one would think."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_settings
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from trak_steps.config import Settings
from trak_steps.data.labels import Labels, in_the_order_of
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.class_order import _counts, _tried, other_order
from trak_steps.model.files import SECOND_MOMENTS as FILE
from trak_steps.run.layout import Layout
from trak_steps.run.parts import require_one_recipe
from trak_steps.steps.checkpoints import finetune, import_checkpoint
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.features import featurize
from trak_steps.store.features import FeatureStore
from trak_steps.store.manifest import Manifest

NAMES = ("bad", "fine", "good")


def drawn(
    seed: int, n: int, shares: list[float], right: float, order: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of unequal classes, and the outputs of a model that is often right about them."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(len(shares), n, p=shares)
    wrong = draw.choice(len(shares), n, p=shares)
    classes = np.where(draw.random(n) < right, labels, wrong)
    return labels, np.argsort(order)[classes]


@pytest.mark.parametrize(
    ("shares", "right", "order"),
    [
        ([0.5, 0.5], 0.5, [1, 0]),
        ([0.9, 0.1], 0.9, [1, 0]),
        ([0.3, 0.3, 0.4], 0.6, [1, 2, 0]),
        ([0.05] * 20, 0.8, [1, 0, *range(2, 18), 19, 18]),
    ],
)
def test_another_order_is_found(shares: list[float], right: float, order: list[int]) -> None:
    for seed in range(20):
        labels, outputs = drawn(seed, 256, shares, right, order)
        found = other_order(labels, outputs, len(shares))
        assert found is not None
        assert found.accuracy == (labels == outputs).mean()
        as_meant = (labels == np.array(order)[outputs]).mean()
        if len(shares) < 20:  # of twenty classes some have too few rows
            assert found.classes == tuple(order)
            assert found.better == pytest.approx(as_meant)
        assert found.better > found.accuracy


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.8, 0.2], [0.2, 0.3, 0.5], [0.05] * 20])
def test_a_model_that_is_right_or_has_learnt_nothing_has_no_other_order(shares: list[float]) -> None:
    own = list(range(len(shares)))
    for seed in range(200):
        for right in (0.9, 0.2, 0.0):
            assert other_order(*drawn(seed, 256, shares, right, own), len(shares)) is None
        labels = drawn(seed, 256, shares, 0.0, own)[0]
        for constant in range(len(shares))[:3]:
            assert other_order(labels, np.full(256, constant), len(shares)) is None
    assert other_order(np.zeros(1, int), np.ones(1, int), len(shares)) is None
    assert other_order(np.zeros(0, int), np.zeros(0, int), len(shares)) is None


def test_chance_is_that_of_all_ways_to_deal_out_the_labels() -> None:
    labels, outputs = np.array([0, 1, 2, 2, 1, 2, 0]), np.array([1, 1, 0, 2, 2, 0, 0])
    order = np.array([2, 0, 1])
    gain, mean, variance, right = _tried(_counts(labels, outputs, 3), order)
    gains = [
        (np.array(dealt) == order[outputs]).sum() - (np.array(dealt) == outputs).sum()
        for dealt in itertools.permutations(labels.tolist())
    ]
    assert gain == gains[0]
    assert right == (labels == order[outputs]).sum()
    assert (mean, variance) == pytest.approx((np.mean(gains), np.var(gains)))


def test_the_setting_names_the_datas_classes_and_agrees_with_the_checkpoint() -> None:
    labels = Labels((0, 1), ("0", "1"))
    placeholders = {0: "LABEL_0", 1: "LABEL_1"}
    foreign = {0: "POSITIVE", 1: "NEGATIVE"}
    for names in (placeholders, foreign, {0: "1", 1: "0"}):
        assert in_the_order_of(labels, names, "c", ["1", "0"]).classes == (1, 0)
    mapping = {"POSITIVE": "1", "NEGATIVE": "0"}
    assert in_the_order_of(labels, foreign, "c", mapping).classes == (1, 0)
    assert in_the_order_of(labels, {0: "NEGATIVE", 1: "POSITIVE"}, "c", mapping).classes == (0, 1)
    assert in_the_order_of(labels, {0: "1", 1: "0"}, "c", mapping).classes == (1, 0)
    with pytest.raises(TrakError, match=r"is a mapping from .*POSITIVE.*; c calls .* LABEL_0, LABEL_1"):
        in_the_order_of(labels, placeholders, "c", mapping)
    with pytest.raises(TrakError, match=r"checkpoints\.classes: .* 1, 2; .* 0, 1"):
        in_the_order_of(labels, placeholders, "c", ["1", "2"])
    with pytest.raises(TrakError, match=r"checkpoints\.classes: .* order 1, 0; c itself .* order 0, 1"):
        in_the_order_of(labels, {0: "0", 1: "1"}, "c", ["1", "0"])
    with pytest.raises(TrakError, match=r"checkpoints\.classes"):
        in_the_order_of(labels, foreign, "c")
    with pytest.raises(TrakError, match=r"checkpoints\.classes: the labels are numbers"):
        in_the_order_of(Labels(None, ()), {0: "LABEL_0"}, "c", ["1", "0"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of three classes that one word tells apart, sorted by class."""
    folder = tmp_path_factory.mktemp("classes")
    rows = [f"it was a {NAMES[i % 3]} day number {i},{NAMES[i % 3]}" for i in range(300)]
    (folder / "train.csv").write_text("\n".join(["text,label", *sorted(rows, key=lambda r: r[-3:])]))
    return folder


def settings_of(data: Path, **sections: Any) -> Settings:
    dataset = {
        "path": "csv",
        "data_files": {"train": str(data / "train.csv")},
        "text": ["text"],
        "train_size": None,
        "group": None,
        "flip_labels": 0.1,
    }
    return small_settings(
        **{
            "dataset": dataset,
            "model": {"max_length": 16},
            "finetune": {"epochs": 8, "learning_rate": 2e-3},
            "features": {"shard_size": 300},
            "checkpoints": {"keep": [1.0]},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def trained(data: Path) -> Layout:
    """A classifier that tells the classes apart, whose outputs are bad, fine, good."""
    layout, settings = Layout(data / "trained"), settings_of(data)
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    finetune.run(layout, settings, 0)
    featurize.run_train(layout, settings, "0", 0)
    return layout


def turned(layout: Layout, folder: Path, order: list[int], names: list[str]) -> Path:
    """The same classifier with its outputs in another order, and other names for its classes."""
    shutil.copytree(layout.checkpoint("0"), folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].contiguous()
    save_file(weights, file, {"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    values["id2label"] = {str(i): name for i, name in enumerate(names)}
    values["label2id"] = {name: i for i, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def imported(data: Path, tmp_path: Path) -> Any:
    """Import a classifier into a run of its own, with settings."""
    count = itertools.count()

    def bring(folder: Path, **checkpoints: Any) -> tuple[Layout, Settings]:
        settings = settings_of(data, checkpoints={"existing": [str(folder)], **checkpoints})
        layout = Layout(tmp_path / f"run{next(count)}")
        base_model.run(layout, settings, str(folder))
        prepare.run_train(layout, settings)
        import_checkpoint.run(layout, settings, "0", str(folder))
        return layout, settings

    return bring


LABELS = ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_classes_without_names_in_another_order_are_refused_until_the_setting_names_them(
    trained: Layout, tmp_path: Path, imported: Any
) -> None:
    order = [1, 2, 0]
    folder = turned(trained, tmp_path / "turned", order, LABELS)
    with pytest.raises(TrakError) as error:
        imported(folder)
    said = str(error.value)
    for part in ("bad, fine, good", "fine, good, bad", "0%", "100%", "checkpoints.classes", "turned"):
        assert part in said, part
    assert not (tmp_path / "run0" / "checkpoints" / "0").exists()
    layout, settings = imported(folder, classes=["fine", "good", "bad"])
    rows, before = PreparedRows.load(layout.train), PreparedRows.load(trained.train)
    assert rows.label_names == ["fine", "good", "bad"]
    assert (np.array(order)[rows.column("label")] == before.column("label")).all()
    featurize.run_train(layout, settings, "0", 0)
    margins = [FeatureStore.open(of.train_shard("0", "00000")) for of in (layout, trained)]
    found, expected = (store.column("margin") for store in margins)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_classes_without_names_in_the_datas_order_need_no_setting(
    trained: Layout, tmp_path: Path, imported: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(turned(trained, tmp_path / "same", [0, 1, 2], LABELS))
    assert "warning" not in capsys.readouterr().err


def test_names_count_even_where_predictions_say_otherwise_with_a_warning(
    trained: Layout, tmp_path: Path, imported: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = turned(trained, tmp_path / "named", [1, 2, 0], list(NAMES))
    imported(folder)
    said = capsys.readouterr().err
    assert "warning" in said
    assert "fine, good, bad" in said
    foreign = turned(trained, tmp_path / "foreign", [0, 1, 2], ["a", "b", "c"])
    imported(foreign, classes=["good", "bad", "fine"])
    said = capsys.readouterr().err
    assert "warning" in said
    assert "checkpoints.classes" in said


def test_a_checkpoint_that_reads_fewer_tokens_than_the_rows_have_is_refused(
    trained: Layout, tmp_path: Path, data: Path
) -> None:
    first = turned(trained, tmp_path / "first", [0, 1, 2], list(NAMES))
    short = turned(trained, tmp_path / "short", [0, 1, 2], list(NAMES))
    file = short / "model.safetensors"
    weights = load_file(file)
    name = "bert.embeddings.position_embeddings.weight"
    save_file({**weights, name: weights[name][:4].contiguous()}, file, {"format": "pt"})
    values = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**values, "max_position_embeddings": 4}))
    settings = settings_of(data, checkpoints={"existing": [str(first), str(short)]})
    layout = Layout(tmp_path / "run")
    base_model.run(layout, settings, str(first))
    prepare.run_train(layout, settings)
    with pytest.raises(TrakError, match=r"short cannot read .*model\.max_length"):
        import_checkpoint.run(layout, settings, "1", str(short))


def test_second_moments_are_brought_along_or_estimated(
    trained: Layout, tmp_path: Path, imported: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = turned(trained, tmp_path / "same", [0, 1, 2], list(NAMES))
    layout, _ = imported(folder)
    kept = (layout.checkpoint("0") / FILE).read_bytes()
    assert kept == (trained.checkpoint("0") / FILE).read_bytes()
    assert "estimated" not in capsys.readouterr().err
    (folder / FILE).unlink()
    layout, settings = imported(folder)
    assert "no optimizer's second moments" in capsys.readouterr().err
    path = layout.checkpoint("0")
    made_from = Manifest.load(path, "checkpoint").made_from
    assert made_from["data/train#0:32"] == PreparedRows.load(layout.train).content_of(0, 32)
    # The same order of parameters by size as the optimizer's, which is what the metric asks.
    found, expected = (
        {name: float(value.mean()) for name, value in load_file(of / FILE).items() if "rows" in name}
        for of in (path, trained.checkpoint("0"))
    )
    assert found.keys() == expected.keys()
    moved = [name for name in found if found[name] > 1e-12]
    ranks = spearmanr([found[name] for name in moved], [expected[name] for name in moved])
    assert ranks.statistic > 0.7
    featurize.run_train(
        layout,
        settings.model_copy(
            update={"features": settings.features.model_copy(update={"metric": "adam"})}
        ),
        "0",
        0,
    )


def test_second_moments_that_are_of_no_use_are_refused(
    trained: Layout, tmp_path: Path, imported: Any
) -> None:
    folder = turned(trained, tmp_path / "wrong", [0, 1, 2], list(NAMES))
    moments = load_file(folder / FILE)
    save_file(
        {"other.weight.rows": torch.ones(3)}, folder / FILE, metadata={"about": '{"epsilon": 1e-8}'}
    )
    with pytest.raises(TrakError, match=rf"wrong/{FILE}: .*other parameters.*move it away"):
        imported(folder)
    name = "classifier.weight.rows"
    moments[name][0] = torch.inf
    save_file(moments, folder / FILE, metadata={"about": '{"epsilon": 1e-8}'})
    with pytest.raises(TrakError, match=rf"wrong/{FILE}: classifier\.weight .*not finite; move it"):
        imported(folder)
    assert not (tmp_path / "run1" / "checkpoints" / "0").exists()


def test_checkpoints_with_and_without_second_moments_are_scored_together(
    trained: Layout, tmp_path: Path, data: Path
) -> None:
    """Whichever is the first."""
    brought = turned(trained, tmp_path / "brought", [0, 1, 2], list(NAMES))
    estimated = turned(trained, tmp_path / "estimated", [0, 1, 2], list(NAMES))
    (estimated / FILE).unlink()
    for place, order in enumerate(([brought, estimated], [estimated, brought])):
        settings = settings_of(data, checkpoints={"existing": list(map(str, order))})
        layout = Layout(tmp_path / f"both{place}")
        base_model.run(layout, settings, str(order[0]))
        prepare.run_train(layout, settings)
        for number, folder in enumerate(order):
            import_checkpoint.run(layout, settings, str(number), str(folder))
        require_one_recipe(layout, ["0", "1"], imported=True)
