"""Texts are explained as the run's own targets were scored: these, given as texts, have their lists."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import attribute, small_settings
from explained import assert_explained_as_listed, opened

from trak_steps.config import Settings
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune

TWO = {"count": 2, "keep": [0.5, 1.0]}


@pytest.fixture(scope="module")
def trained(small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run's folder with a second training, and no features."""
    root = tmp_path_factory.mktemp("explained") / "small"
    for part in ("model", "data", "checkpoints"):
        shutil.copytree(small_run[0].root / part, root / part)
    finetune.run(Layout(root), small_settings(checkpoints=TWO), 1)
    return root


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scores": {"loss_weight": "own", "loss_weight_power": 1.0, "balance": False}},
        {"scores": {"loss_weight_power": 0.0, "balance": True}},
        {"features": {"gradients": "functional", "metric": "none"}},
        {"features": {"projection": "rademacher", "dtype": "float16"}},
    ],
    ids=["default", "own weights", "balanced", "functional", "dense"],
)
def test_own_targets_have_their_own_lists(
    trained: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    root = tmp_path / "small"
    shutil.copytree(trained, root)
    settings = small_settings(checkpoints=TWO, **changes)
    attribute(Layout(root), settings)
    tolerance = 2e-3 if settings.features.dtype == "float16" else 1e-4
    assert_explained_as_listed(Layout(root), settings, tolerance)


def test_of_a_single_training_no_sign_and_no_rank_is_known(small_run: Any, tmp_path: Path) -> None:
    layout, settings = Layout(tmp_path / "small"), small_run[1]
    shutil.copytree(small_run[0].root, layout.root)
    assert_explained_as_listed(layout, settings)


def test_neither_company_nor_batches_matter(
    small_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path / "small")
    shutil.copytree(small_run[0].root, layout.root)
    run = opened(layout, small_run[1])
    texts = run.target_rows("validation").table.select(run.text_columns).to_pylist()
    together = run.explain(texts)
    monkeypatch.setattr("trak_steps.api.explain.TOGETHER", 4)  # two texts of two classes
    in_pairs = run.explain(texts)
    alone = [run.explain(text) for text in texts]
    for first, *others in zip(together, in_pairs, alone, strict=True):
        assert [of.label for of in first.classes] == sorted(
            [0, 1], key=lambda label: label != first.prediction
        )
        for other in others:
            assert other.prediction == first.prediction
            for mine, theirs in zip(first.classes, other.classes, strict=True):
                assert theirs.margins == pytest.approx(mine.margins, abs=1e-4)
                assert np.allclose(theirs.top.score, mine.top.score, rtol=1e-3, atol=1e-6)
                assert theirs.top.train_row.tolist() == mine.top.train_row.tolist()


def test_of_two_classes_each_has_the_others_lists_turned(small_run: Any, tmp_path: Path) -> None:
    """Their margins are each other's negative; so are the gradients, and the scores."""
    layout = Layout(tmp_path / "small")
    shutil.copytree(small_run[0].root, layout.root)
    found = opened(layout, small_run[1]).explain(("who?", "he did."), top=5)
    first, second = found.classes
    assert second.margin == pytest.approx(-first.margin, abs=1e-4)
    assert first.probability == pytest.approx(1 - (second.probability or 0), abs=1e-5)
    assert second.opponents.train_row.tolist() == first.proponents.train_row.tolist()
    assert np.allclose(second.opponents.score, -first.proponents.score, rtol=1e-3)
