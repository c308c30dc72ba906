"""What several tests share: a small run of the demo, made step by step in one folder."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workspace import WHOLE, Workspace, copy_project

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

from trak_steps.config import Settings, parse_settings
from trak_steps.run.identity import rows_listed
from trak_steps.run.layout import Layout, checkpoint_names, shard_names
from trak_steps.run.shards import shard_size
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.features import featurize
from trak_steps.steps.kernels import kernel
from trak_steps.steps.scores import calibrate, gather, rank, score
from trak_steps.steps.summary import provenance, summarize
from trak_steps.store.lock import one_at_a_time

pytest_plugins = ["browsing"]

SMALL = {
    "run": "small",
    "dataset": {"path": "demo", "train_size": 60, "group": "fact", "flip_labels": 0.1},
    "targets": {"validation": {"split": "validation", "size": 5}},
    "model": {"max_length": 48},
    "checkpoints": {"count": 1, "keep": [0.5, 1.0]},
    "finetune": {"epochs": 1, "batch_size": 16, "learning_rate": 5e-4},
    "features": {"dim": 16, "shard_size": 25},
    "kernel": {"ridge": 0.1},
    "scores": {"top": 3, "loss_weight_power": 0.5},
    "execution": {"memory_mb": 256},
}

Overrides = dict[str, object]


def small_settings(**sections: Overrides) -> Settings:
    """The small run's settings with some sections changed, key by key."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}  # type: ignore[dict-item]
    return parse_settings(values)


def assert_numbers(found: Any, expected: Any, tolerance: float, *, nan_ok: bool = False) -> None:
    """Numbers by names, to what the order of sums does to them."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_numbers(found[name], value, tolerance, nan_ok=nan_ok)
    else:
        assert found == pytest.approx(expected, abs=tolerance, nan_ok=nan_ok)


def attribute(layout: Layout, settings: Settings) -> None:
    """Features, kernels, scores, top and summary of a run whose checkpoints exist."""
    rows = settings.dataset.train_size
    assert rows is not None
    for checkpoint in checkpoint_names(settings.checkpoints):
        for shard in shard_names(rows, shard_size(settings.features, layout)):
            featurize.run_train(layout, settings, checkpoint, int(shard))
        for targets in settings.targets:
            featurize.run_targets(layout, settings, checkpoint, targets)
        kernel.run(layout, settings, checkpoint)
    calibrate.run(layout, settings)
    for targets in settings.targets:
        score.run(layout, settings, targets, rows_listed(settings.scores.top))
        gather.run(layout, settings, targets, rows_listed(settings.scores.top))
        rank.run(layout, settings, targets)
    summarize.run(layout, settings)
    provenance.run(layout, settings)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Settings]:
    """A whole run: two checkpoints, three shards, five targets."""
    settings = small_settings()
    layout = Layout(tmp_path_factory.mktemp("results") / "small")
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    prepare.run_targets(layout, settings, "validation")
    finetune.run(layout, settings, 0)
    attribute(layout, settings)
    return layout, settings


@pytest.fixture
def copy_run(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> Callable[[], tuple[Layout, Settings]]:
    """A copy of the small run that a test may damage."""

    def copy() -> tuple[Layout, Settings]:
        layout, settings = small_run
        shutil.copytree(layout.root, tmp_path / "copy")
        return Layout(tmp_path / "copy"), settings

    return copy


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the project whose tiny run Snakemake has made; tests put back what they change.

    It is made once, and each process that runs tests has a copy.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with one_at_a_time(shared.with_suffix(".lock"), lambda _: None):
        if not shared.exists():
            made = Workspace(tmp_path_factory.mktemp("made"))
            copy_project(made.root)
            ran = made.snakemake("--cores", "2", *WHOLE)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            made.root.rename(shared)
    space = Workspace(tmp_path_factory.mktemp("workspace") / "project")
    shutil.copytree(shared, space.root, symlinks=True)
    return space


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that hostile input would create; it is not there at the end of the test."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "what was hostile has run"
