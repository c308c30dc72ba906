"""What ways to score predict for subsets, against scores of single rows from what lies on disk."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_settings
from numpy.typing import NDArray
from stores import save_features
from transformers import AutoModelForSequenceClassification

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation import predictions
from trak_steps.evaluation.baselines import reference_dim
from trak_steps.evaluation.predictions import (
    Checkpoint,
    Point,
    Predicted,
    points,
    predict,
    some_at_once,
)
from trak_steps.evaluation.subsets import random_rows
from trak_steps.evaluation.sums import sum_features
from trak_steps.kernel.blocks import Cost
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.run.layout import Layout, checkpoint_names, shard_names
from trak_steps.steps.data import prepare
from trak_steps.steps.evaluation import plan_removal
from trak_steps.steps.evaluation.measure_lds import (
    open_checkpoints,
    own_point,
    predict_by_hidden_states,
)
from trak_steps.steps.features import featurize
from trak_steps.steps.kernels import kernel
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import FeatureStore
from trak_steps.store.plan import load_plan

Array = NDArray[np.float64]
CHECKPOINTS, LAST = ("0-0.5", "0"), "0"


@dataclass(frozen=True)
class Features:
    """A checkpoint's features: of train rows [n, k], of targets [t, k], and the loss weight [n]."""

    train: Array
    targets: Array
    weight: Array

    def folded(self, dim: int) -> tuple[Array, Array]:
        """With parts of ``dim`` numbers added up."""
        parts = range(0, self.train.shape[1], dim)
        train = sum(self.train[:, part : part + dim] for part in parts)
        targets = sum(self.targets[:, part : part + dim] for part in parts)
        return np.asarray(train), np.asarray(targets)


@dataclass(frozen=True)
class Run:
    """A run whose features and kernels are there."""

    layout: Layout
    settings: Settings

    @property
    def train(self) -> PreparedRows:
        return PreparedRows.load(self.layout.train)

    @property
    def targets(self) -> dict[str, PreparedRows]:
        return {name: PreparedRows.load(self.layout.targets(name)) for name in self.settings.targets}

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Subsets that nobody planned."""
        return np.random.default_rng(3).random((6, len(self.train))) < 0.5

    def checkpoints(self, of_sets: Iterable[str] = ()) -> list[Checkpoint]:
        """With all target sets, unless some are named."""
        sets = {name: self.targets[name] for name in of_sets or self.targets}
        return open_checkpoints(self.layout, self.settings, self.train, sets)[2]

    @property
    def points(self) -> list[Point]:
        return points(own_point(self.settings), self.checkpoints())

    def predict(self, chosen: Sequence[Point], of_sets: Iterable[str] = ()) -> dict[str, Predicted]:
        """And nothing is left out."""
        return predict(
            self.checkpoints(of_sets),
            self.kept,
            chosen,
            targets={name: (0, len(self.targets[name])) for name in of_sets or self.targets},
            memory=2**30,
            advance=lambda _: None,
            say=pytest.fail,
        )

    def features(self, name: str, of_set: str) -> Features:
        paths = sorted(self.layout.train_features(name).glob("*.zarr"))
        shards = [FeatureStore.open(path) for path in paths]
        targets = FeatureStore.open(self.layout.target_features(name, of_set))
        return Features(
            np.concatenate([s.features(s.start, s.stop) for s in shards]).astype(np.float64),
            targets.features(targets.start, targets.stop).astype(np.float64),
            np.concatenate([s.column("loss_weight") for s in shards]).astype(np.float64),
        )

    def every(self, of_set: str) -> list[Features]:
        return [self.features(name, of_set) for name in CHECKPOINTS]

    def weight(self, of_set: str, checkpoints: Sequence[str] = CHECKPOINTS) -> Array:
        """The train rows' mean loss weight over checkpoints, [n, 1]."""
        weights = [self.features(name, of_set).weight for name in checkpoints]
        return np.mean(weights, 0)[:, None]

    def sums(self, scores: Array) -> Array:
        """Scores of single rows [n, t] added up over each subset."""
        return np.array([sum(scores[row] for row in np.flatnonzero(rows)) for rows in self.kept])


@pytest.fixture(scope="module")
def narrow(small_run: tuple[Layout, Settings]) -> Run:
    """60 rows, 16 dimensions, and a classifier's loss weights."""
    return Run(*small_run)


@pytest.fixture(scope="module")
def wide(small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """60 rows, 128 dimensions, two target sets, and loss weights of both signs, as of a regression."""
    other = {"split": "validation", "size": 3}
    settings = small_settings(features={"dim": 128}, targets={"other": other})
    layout = Layout(tmp_path_factory.mktemp("predictions") / "wide")
    for part in ("model", "data", "checkpoints"):
        shutil.copytree(small_run[0].root / part, layout.root / part)
    prepare.run_targets(layout, settings, "other")
    for name in checkpoint_names(settings.checkpoints):
        for shard in shard_names(60, settings.features.shard_size):
            featurize.run_train(layout, settings, name, int(shard))
            _turn_every_third(layout.train_shard(name, shard))
        for of_set in settings.targets:
            featurize.run_targets(layout, settings, name, of_set)
        kernel.run(layout, settings, name)
    return Run(layout, settings)


def _turn_every_third(path: Path) -> None:
    """Give every third row's loss weight the other sign."""
    store = FeatureStore.open(path)
    columns = {name: store.column(name) for name in ("loss_weight", "margin", "prediction", "row")}
    columns["loss_weight"][::3] *= -1
    values = store.features(store.start, store.stop)
    save_features(path, values, columns, store.manifest, codec_arguments("none", 10, "float32"))


@pytest.fixture(params=["narrow", "wide"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def test_points_predict_what_their_scores_add_up_to(run: Run) -> None:
    """Each with the kernel inverted, the scores balanced and averaged as its definition says."""
    chosen = run.points
    found = run.predict(chosen)
    assert {point.curve for point in chosen} == {
        *("ridge", "effective_dof", "power", "dim", "balance", "checkpoints")
    }
    for of_set in run.targets:
        assert list(found[of_set].points) == chosen
        for point, predicted in found[of_set].points.items():
            expected = run.sums(_scores(run, of_set, point))
            np.testing.assert_allclose(predicted, expected, rtol=1e-6, atol=1e-6 * expected.std())


@pytest.mark.parametrize("run", ["narrow", "wide"], indirect=True)
@pytest.mark.parametrize("loss_weight", ["own", "mean"])
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_sets_of_checkpoints_have_their_own_loss_weights(
    run: Run, power: float, loss_weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one's own, or the mean over a set's; with power 0 nothing is summed that all do not need."""
    summed = []

    def watched(*given: Any) -> Any:
        found = sum_features(*given)
        summed.append(len(found.by_weight))
        return found

    monkeypatch.setattr(predictions, "sum_features", watched)
    own = replace(own_point(run.settings), power=power, loss_weight=loss_weight)
    chosen = [point for point in points(own, run.checkpoints()) if point.curve == "checkpoints"]
    found = run.predict(chosen)
    assert {point.checkpoints for point in chosen} == {("0",), ("0-0.5",), CHECKPOINTS}
    for of_set in run.targets:
        for point, predicted in found[of_set].points.items():
            expected = run.sums(_scores(run, of_set, point))
            np.testing.assert_allclose(predicted, expected, rtol=1e-6, atol=1e-6 * expected.std())
        if power and loss_weight == "mean":
            of_one = replace(chosen[0], checkpoints=("0",))
            others = run.sums(_scores(run, of_set, of_one, weight_of=CHECKPOINTS))
            assert np.abs(found[of_set].points[of_one] / others - 1).max() > 1e-3
    # The signs of all, those to the power, and of the last checkpoint what the reference's rule takes.
    of_sets = [3, 4] if loss_weight == "mean" else [2, 3]
    assert summed == (of_sets if power else [1, 2])


def _scores(run: Run, of_set: str, point: Point, weight_of: Sequence[str] | None = None) -> Array:
    parts = []
    for name in point.checkpoints:
        train, targets = run.features(name, of_set).folded(point.dim)
        whole = train.T @ train
        ridge = point.ridge
        if ridge is None:
            ridge = ridge_for(spectrum(torch.from_numpy(whole)), point.effective_dof)
        ridged = whole + ridge * whole.diagonal().mean() * np.eye(point.dim)
        scores = train @ np.linalg.inv(ridged) @ targets.T
        if point.balance:
            scores /= np.sqrt((scores**2).mean(0))
        of_own = point.loss_weight == "own"
        weight = run.weight(of_set, [name] if of_own else weight_of or point.checkpoints)
        parts.append(scores * np.sign(weight) * np.abs(weight) ** point.power)
    scored: Array = np.mean(parts, 0)
    return scored


def test_the_gradient_dot_product_is_that_of_single_rows(run: Run) -> None:
    found = run.predict([])
    for of_set in run.targets:
        scores = sum(of.train @ of.targets.T for of in run.every(of_set))
        expected = run.sums(scores * np.sign(run.weight(of_set)))
        np.testing.assert_allclose(found[of_set].baselines["gradient dot product"], expected, rtol=1e-9)


def test_the_gradient_cosine_has_the_sign_of_the_loss_weight(run: Run) -> None:
    """A row that is trained to lower its output speaks for lower outputs of rows like it."""
    found = run.predict([])
    assert (run.weight("validation").min() < 0) == ("other" in run.targets)
    for of_set in run.targets:
        scores = np.zeros((len(run.train), len(run.targets[of_set])))
        for of in run.every(of_set):
            for place, row in enumerate(of.train):
                lengths = np.linalg.norm(of.targets, axis=1) * np.linalg.norm(row)
                scores[place] += of.targets @ row / lengths
        expected = run.sums(scores * np.sign(run.weight(of_set)))
        np.testing.assert_allclose(found[of_set].baselines["gradient cosine"], expected, rtol=1e-9)


def test_the_reference_rule_is_that_of_single_rows(run: Run) -> None:
    """With 60 rows, 16 dimensions are left as they are and 128 folded to 16, below half of 60."""
    found = run.predict([])
    for of_set in run.targets:
        of = run.features(LAST, of_set)
        train, targets = of.folded(16)
        inverse = np.linalg.inv(train.T @ train)
        scores = train @ (inverse / np.abs(inverse).mean()) @ targets.T
        expected = run.sums(scores * of.weight[:, None])
        np.testing.assert_allclose(
            found[of_set].baselines["reference rule"], expected, rtol=1e-6, atol=1e-6 * expected.std()
        )


def test_the_references_dimensions_suit_the_rows_there_are() -> None:
    assert reference_dim(1024, 1024) == 1024
    assert reference_dim(1024, 1023) == 256
    assert reference_dim(1024, 1000) == 256
    assert reference_dim(2048, 1024) == 512
    assert reference_dim(96, 50) == 24
    # Where it cannot be halved that far.
    assert reference_dim(100, 40) == 100
    assert reference_dim(99, 98) == 99


def test_last_hidden_states_are_those_of_single_rows(narrow: Run) -> None:
    folder = narrow.layout.checkpoint(LAST)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def states(rows: PreparedRows) -> Array:
        found = []
        for tokens in rows.tokens(0, len(rows)):
            given = {name: torch.tensor([values]) for name, values in tokens.items()}
            with torch.no_grad():
                last = model(**given, output_hidden_states=True).hidden_states[-1]
            mean = last[0].numpy().astype(np.float64).mean(0)
            found.append(mean / np.linalg.norm(mean))
        return np.array(found)

    expected = narrow.sums(states(narrow.train) @ states(narrow.targets["validation"]).T)
    found = predict_by_hidden_states(
        narrow.layout, narrow.settings, narrow.train, narrow.targets, narrow.kept
    )
    np.testing.assert_allclose(found["validation"], expected, rtol=1e-4)


@pytest.mark.parametrize("at_once", [1, 4, 1000])
def test_target_sets_together_are_as_each_alone(
    wide: Run, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However many targets are solved for at once: of five and three, four end within a set."""
    chosen = wide.points
    alone: dict[str, Predicted] = {}
    for of_set in wide.targets:
        alone |= wide.predict(chosen, [of_set])
    monkeypatch.setattr(predictions, "solved_targets", lambda _: Cost(each=1, most=at_once))
    together = wide.predict(chosen)
    assert list(together) == list(alone) == ["validation", "other"]
    for of_set, found in together.items():
        for kind in ("points", "baselines"):
            got, expected = getattr(found, kind), getattr(alone[of_set], kind)
            assert list(got) == list(expected)
            for name, values in got.items():
                np.testing.assert_allclose(values, expected[name], rtol=1e-9)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 100])
def test_some_targets_at_once_are_all_in_the_end(most: int) -> None:
    groups = some_at_once({"first": 5, "second": 3}, most)
    asked = [(name, i) for group in groups for name, span in group.items() for i in range(*span)]
    assert asked == [("first", i) for i in range(5)] + [("second", i) for i in range(3)]
    sizes = [sum(last - first for first, last in group.values()) for group in groups]
    assert sizes[:-1] == [most] * (len(groups) - 1)


def test_some_targets_are_predicted_as_all_are(wide: Run) -> None:
    chosen = wide.points[:4]
    whole = wide.predict(chosen)
    spans = {"validation": (3, 5), "other": (0, 2)}
    some = predict(
        wide.checkpoints(),
        wide.kept,
        chosen,
        targets=spans,
        memory=2**30,
        advance=lambda _: None,
        say=pytest.fail,
    )
    for name, (first, last) in spans.items():
        for kind in ("points", "baselines"):
            for way, values in getattr(some[name], kind).items():
                expected = getattr(whole[name], kind)[way][:, first:last]
                np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_a_singular_point_is_left_out(wide: Run) -> None:
    """Of both target sets; the others stay."""
    chosen, said = wide.points[:3], list[str]()
    unridged = Point("ridge", CHECKPOINTS, 128, 0.0, 0.2, "mean", 0.0, balance=True)
    found = predict(
        wide.checkpoints(),
        wide.kept,
        [unridged, *chosen],
        targets={name: (0, len(rows)) for name, rows in wide.targets.items()},
        memory=2**30,
        advance=lambda _: None,
        say=said.append,
    )
    assert all(list(predicted.points) == chosen for predicted in found.values())
    (line,) = said
    assert "checkpoint 0-0.5" in line
    assert "singular" in line


def test_random_rows_are_a_targets_own() -> None:
    found = [random_rows(50, 20, seed=1, target=target) for target in range(5)]
    assert all(len(set(rows)) == 20 and 0 <= min(rows) <= max(rows) < 50 for rows in found)
    assert len({tuple(rows) for rows in found}) == 5
    np.testing.assert_array_equal(random_rows(50, 5, seed=1, target=2), found[2][:5])
    assert not np.array_equal(random_rows(50, 20, seed=2, target=0), found[0])


def test_more_targets_leave_the_first_ones_removals_as_they_are(narrow: Run, tmp_path: Path) -> None:
    shutil.copytree(narrow.layout.root, tmp_path / "run")
    layout, plans = Layout(tmp_path / "run"), []
    for count in (1, 3):
        removal = {"targets": count, "rows": 6, "repeats": 2}
        plan_removal.run(layout, small_settings(evaluation={"removal": removal}))
        plans.append(load_plan(layout.plan("removal"), len(narrow.train))[0])
    few, many = plans
    for without in ("proponents", "random", "nearest"):
        rows = [
            plan.kept[(plan.about["target"] == 0) & (plan.about["without"] == without)] for plan in plans
        ]
        assert (~rows[0]).sum(1).tolist() == [6, 6]
        np.testing.assert_array_equal(*rows)
    assert len(few) < len(many)
