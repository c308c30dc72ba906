"""One rule of a score's error: that of the mark on the list is that of the runs held out."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import attribute, small_settings
from explained import opened
from numpy.typing import NDArray
from typer.testing import CliRunner

from trak_steps.cli import app
from trak_steps.config import Settings
from trak_steps.console.show import LEGEND
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.stability import held, hold_out
from trak_steps.run.layout import Layout, checkpoint_names, training_of
from trak_steps.run.parts import open_kernel, open_target_features, open_train_features
from trak_steps.scoring.scores import ScoreBlock, score_block
from trak_steps.scoring.uncertainty import sign_is_stable, standard_error, students
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.evaluation import measure_stability
from trak_steps.store.document import load_document
from trak_steps.store.scores import ScoreStore
from trak_steps.store.table import load_table

Array = NDArray[np.float64]


def block_of(scores: Array) -> ScoreBlock:
    """What the store has of states' own scores, [runs, states, r, t]."""
    runs, states, _, t = scores.shape
    features = [torch.from_numpy(of) for of in scores.reshape(runs * states, -1, t)]
    names = [str(run) for run in range(runs) for _ in range(states)]
    ones = torch.ones(len(features), features[0].shape[0])
    return score_block(features, [torch.eye(t).double()] * len(features), ones, names)


def errors_from_zero(scores: Array) -> float:
    """By how many of its errors a single pair's score, from [runs, states], is off zero."""
    block = block_of(scores[:, :, None, None])
    return float(block.scores) / float(standard_error(block.std.numpy(), len(scores)).item())


def test_runs_that_agree_are_stable_however_their_states_differ() -> None:
    scores = np.array([[3.0, 1.0, 0.1]] * 3) + np.array([[0.0], [0.001], [-0.001]])
    assert errors_from_zero(scores) == pytest.approx(np.mean([3, 1, 0.1]) / (0.001 / 3**0.5))


def test_states_that_agree_make_no_run_of_their_own() -> None:
    """Counted as nine, they would be 2.16 errors from zero."""
    scores = np.repeat([[0.2], [1.0], [2.4]], 3, axis=1)
    assert errors_from_zero(scores) == pytest.approx(1.87, abs=0.005)


def test_the_mark_is_what_the_runs_held_out_are_asked_about() -> None:
    """All rows listed, so that every pair has both; among them the two above."""
    draw = np.random.default_rng(0)
    runs, states, n, t = 4, 3, 40, 3
    scores = draw.normal(size=(n, t)) + draw.normal(size=(runs, 1, n, t))
    scores = scores + draw.normal(size=(runs, states, n, t))
    scores[:, :, 0, 0] = np.array([3.0, 1.0, 0.1]) + 0.001 * draw.normal(size=(runs, 1))
    scores[:, :, 1, 0] = np.array([[0.2], [1.0], [2.4], [1.2]])
    own = scores.mean(1)
    blocks = [(at, torch.from_numpy(own[:, at:end])) for at, end in ((0, 9), (9, n))]
    found = held([hold_out(lambda: iter(blocks), runs, t, n)], runs)
    marks = []
    for run in range(runs):
        block = block_of(np.delete(scores, run, axis=0))
        error = standard_error(block.std.numpy(), runs - 1)
        marks.append(sign_is_stable(block.scores.numpy(), error, students(runs - 1)))
    assert found.pairs == 2 * runs * n * t
    assert found.stable == np.mean(marks)
    assert 0.1 < found.stable < 0.9


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Settings]:
    """Three training runs of two states each."""
    settings = small_settings(
        dataset={"train_size": 40},
        checkpoints={"count": 3},
        kernel={"ridge": 0.0},  # leaves in what runs do not agree on
        scores={"top": 40},
    )
    layout = Layout(tmp_path_factory.mktemp("stability") / "small")
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    prepare.run_targets(layout, settings, "validation")
    for run in range(3):
        finetune.run(layout, settings, run)
    attribute(layout, settings)
    return layout, settings


def own_scores(layout: Layout, settings: Settings) -> Array:
    """Each training's scores [3, n, t], from its features and kernels in float64, in their unit."""
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets("validation"))
    scores, weights = {}, []
    for name in checkpoint_names(settings.checkpoints):
        features = open_train_features(layout, settings, name, train)
        factor = open_kernel(layout, settings, name, features).cholesky
        phi = open_target_features(layout, name, "validation", targets, features)
        inverse = np.linalg.inv(factor @ factor.T)
        scores[name] = (
            features.features(0, len(train)) @ inverse @ phi.features(0, len(targets)).T.astype(float)
        )
        weights.append(features.column("loss_weight").astype(float))
    roots = {name: np.sqrt((of**2).mean(0)) for name, of in scores.items()}
    alike = np.mean(list(roots.values()), axis=0)
    if settings.scores.loss_weight == "mean":
        weights = [np.mean(weights, axis=0)] * len(weights)
    of_rows = {
        name: weight[:, None] ** settings.scores.loss_weight_power
        for name, weight in zip(scores, weights, strict=True)
    }
    parts = {name: of * alike / roots[name] * of_rows[name] for name, of in scores.items()}
    trainings = dict.fromkeys(map(training_of, parts))
    scale = ScoreStore.open(layout.scores("validation")).manifest.details["scale"]
    return np.stack(
        [np.mean([parts[m] for m in parts if training_of(m) == one], axis=0) for one in trainings]
    ) * (scale or 1.0)


def test_runs_differ_by_what_is_stored_and_listed(three_runs: tuple[Layout, Settings]) -> None:
    layout, settings = three_runs
    own, store = own_scores(layout, settings), ScoreStore.open(layout.scores("validation"))
    n, _ = store.shape
    mean, std = own.mean(0), own.std(0, ddof=1)
    tolerance = 1e-4 * np.abs(mean).max()
    np.testing.assert_allclose(store.scores(0, n), mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(store.std(0, n), std, rtol=0, atol=tolerance)
    listed = load_table(layout.top("validation"), "top")[0].to_pylist()
    assert len({row["sign_stable"] for row in listed}) == 2
    for row in listed:
        error = row["std"] / 3**0.5
        assert row["sign_stable"] == (abs(row["score"]) > store.errors * error)


@pytest.mark.parametrize("matrix", ["scores_and_std", "none"])
def test_what_a_row_influences_has_the_marks_of_the_lists(
    three_runs: tuple[Layout, Settings], tmp_path: Path, matrix: str
) -> None:
    """By all scores, and by lists alone; every row is in all lists."""
    shutil.copytree(three_runs[0].root, tmp_path / "small")
    layout, before = Layout(tmp_path / "small"), three_runs[1]
    settings = before.model_copy(update={"scores": before.scores.model_copy(update={"matrix": matrix})})
    attribute(layout, settings)
    run = opened(layout, settings)
    assert run.score_store("validation").matrix == (("scores", "std") if matrix != "none" else ())
    lists, unstable = run.top(), {}
    for row in run.train_rows.column("row"):
        found = run.influence(int(row))
        listed = lists[lists.train_row == row].drop_duplicates("target").set_index("target")
        assert set(found.target) == set(range(5))
        assert found.sign_stable.tolist() == listed.sign_stable[found.target].tolist()
        unstable[int(row)] = sorted(set(found.target[~found.sign_stable.astype(bool)]))
    assert 0 < sum(map(len, unstable.values())) < 5 * len(unstable)
    row = next(row for row, targets in unstable.items() if targets)
    shown = CliRunner().invoke(app, ["top", str(layout.root), "--row", str(row)]).output
    assert LEGEND in shown
    if matrix != "none":  # else each target is named twice, as all rows are in both its lists
        assert len(re.findall(r"^  [+-].* ± [\d.e-]+\? ", shown, re.M)) == len(unstable[row])


def test_runs_held_out_are_those_whose_mean_is_stored(
    three_runs: tuple[Layout, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, settings = three_runs
    store = ScoreStore.open(layout.scores("validation"))
    seen = []

    def watched(blocks, runs, targets, top):  # type: ignore[no-untyped-def]
        seen.extend(blocks())
        return hold_out(blocks, runs, targets, top)

    monkeypatch.setattr(measure_stability, "hold_out", watched)
    monkeypatch.setattr(measure_stability, "rows_at_once", lambda *_: 17)
    measure_stability.run(layout, settings)
    assert [start for start, _ in seen] == [0, 17, 34]
    own, expected = np.concatenate([scores for _, scores in seen], axis=1), own_scores(layout, settings)
    stored, largest = store.scores(0, store.shape[0]), np.abs(own).max()
    np.testing.assert_allclose(own, expected, rtol=0, atol=1e-4 * largest)
    np.testing.assert_allclose(own.mean(0), stored, rtol=0, atol=1e-6 * largest)
    figures, manifest = load_document(layout.stability, "stability")
    assert (figures["trainings"], figures["top"]) == (3, 10)
    assert figures["targets"]["validation"]["pairs"] == 3 * 2 * store.shape[1] * 10
    assert layout.name(layout.kernel("2-0.5")) in manifest.made_from
