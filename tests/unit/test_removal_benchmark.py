"""Methods compared by what leaving their rows out does: the plan, figures, and answers kept."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import SMALL
from numpy.typing import NDArray

from benchmarks.measure import answers, naming
from benchmarks.measure.answers import Model
from benchmarks.measure.removals import Removal, compared, ratio
from benchmarks.measure.scoring_tables import left_out_table
from benchmarks.removal import Plan, figures, trained
from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.steps.evaluation.retrain import Retrainer
from trak_steps.store.retrained import Answers

Array = NDArray[np.float64]
N, T, SEEDS = 40, 7, (11, 12, 13)


def small_plan(targets: int = 4, shares: tuple[float, ...] = (0.05, 0.2)) -> Plan:
    """Of made-up scores, two of whose methods name the same rows."""
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(N, T))
    others = {"other": draw.normal(size=(N, T)), "doubled": 2 * scores}
    return Plan.of({naming.DEFAULT: scores, **others}, targets, SEEDS, shares)


def effects() -> Array:
    """What each row adds to each target's margin: its score of :func:`small_plan`, halved."""
    return np.random.default_rng(0).normal(size=(N, T)) / 2


def says(model: Model) -> Answers:
    """A model whose margins are sums of effects, and of what its seed alone does."""
    noise = np.random.default_rng(model.seed).normal(size=T)
    margin = model.kept(N) @ effects() + noise
    return Answers(margin.astype(np.float32), (margin > 0).astype(np.int16))


def test_a_plan_leaves_out_the_rows_with_the_largest_scores_of_each_target() -> None:
    plan = small_plan()
    named = next(each for each in plan.named if each.share == 0.2)
    for target, models in zip(plan.targets, plan.without(named), strict=True):
        by_hand = sorted(range(N), key=lambda row, of=target: -effects()[row, of])[:8]
        assert [model.seed for model in models] == list(SEEDS)
        for model in models:
            assert set(np.flatnonzero(~model.kept(N))) == set(by_hand)
    assert all(model.kept(N).all() for model in plan.whole())


def test_rows_that_two_methods_name_are_trained_without_once() -> None:
    plan = small_plan()
    # All rows; for each share and target, the default's, which the third names too, and the other's.
    assert len(plan.models()) == (1 + 2 * 4 * 2) * len(SEEDS)


def test_more_targets_and_shares_ask_for_the_same_models_and_more() -> None:
    assert set(small_plan(3, (0.05,)).models()) < set(small_plan(5).models())


def test_a_method_that_nobody_knows_is_refused() -> None:
    plan = small_plan()
    chosen = plan.chosen(["other", naming.DEFAULT], [0.2])
    assert [(each.share, each.method) for each in chosen] == [(0.2, naming.DEFAULT), (0.2, "other")]
    with pytest.raises(TrakError, match="othr"):
        plan.chosen(["other", "othr"], [])


def test_figures_are_what_the_rows_left_out_did() -> None:
    plan = small_plan()
    known = {model: says(model) for model in plan.models()}
    found = figures(plan, known, np.ones(T, int))
    before = np.array([says(model).margin[plan.targets] for model in plan.whole()])
    assert found["margin"] == pytest.approx(before.mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((before > 0).mean())
    for share, rows in (("0.05", 2), ("0.2", 8)):
        of_share = found["shares"][share]
        assert of_share["rows"] == rows
        largest = np.sort(effects()[:, plan.targets], 0)[::-1][:rows].sum(0)
        default, doubled = (of_share["methods"][name] for name in (naming.DEFAULT, "doubled"))
        assert default["margin_lost"]["value"] == pytest.approx(largest.mean(), rel=1e-4)
        assert default["margin_predicted"] == pytest.approx(2 * largest.mean())
        assert default["predictions_flipped"] == pytest.approx(
            ((before > 0) != (before - largest > 0)).mean()
        )
        assert "default_over" not in default
        assert doubled["default_over"] == pytest.approx({"value": 1, "low": 1, "high": 1})
        for slope in of_share["slope"].values():
            assert slope["slope"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5}, rel=1e-3)
    assert "5 %: doubled" in left_out_table({"made up": found})


def test_a_method_of_which_a_model_is_missing_has_no_figures() -> None:
    plan = small_plan()
    known = {model: says(model) for model in plan.models()}
    (of_other,) = [each for each in plan.named if (each.share, each.method) == (0.2, "other")]
    del known[plan.without(of_other)[-1][-1]]
    found = figures(plan, known, np.ones(T, int))
    assert set(found["shares"]["0.05"]["methods"]) == {naming.DEFAULT, "other", "doubled"}
    assert set(found["shares"]["0.2"]["methods"]) == {naming.DEFAULT, "doubled"}
    assert figures(plan, {}, np.ones(T, int))["shares"] == {}


def lost(mean: float, spread: float, q: int = 30) -> Array:
    """Losses of five trainings, [5, q]."""
    return mean + spread * np.random.default_rng(1).normal(size=(5, q))


def test_comparisons_with_the_default_are_paired() -> None:
    """Where targets differ a lot, and methods on each do not, the difference is known well."""
    of_target = np.random.default_rng(2).normal(scale=5, size=30)
    removals = {
        name: Removal(lost(mean, 0.1) + of_target, np.zeros((5, 30), bool), np.ones(30))
        for name, mean in (("default", 8.0), ("other", 6.0))
    }
    found = compared(removals, "default")["other"]
    wide, less = found["margin_lost"], found["default_less"]
    assert wide["high"] - wide["low"] > 2
    assert less["value"] == pytest.approx(2.0)
    assert less["high"] - less["low"] < 0.2


def test_a_ratio_is_that_of_means_by_the_same_resamples() -> None:
    """Against quantiles of the ratio itself, which are as good where the other lost something surely."""
    own, other = lost(6.0, 1.0), lost(3.0, 1.0)[:, ::-1]
    draw = np.random.default_rng(3)
    plain = []
    for _ in range(4000):
        some = np.ix_(draw.integers(0, 5, 5), draw.integers(0, 30, 30))
        plain.append(own[some].mean() / other[some].mean())
    found = ratio(own, other)
    assert found["value"] == pytest.approx(own.mean() / other.mean())
    low, high = np.quantile(plain, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, rel=0.03)
    assert found["high"] == pytest.approx(high, rel=0.03)


def test_a_ratio_has_no_upper_end_where_the_other_may_have_lost_nothing() -> None:
    own, other = lost(6.0, 1.0), lost(0.0, 1.0)[:, ::-1]
    found = ratio(own, other + 0.01 - other.mean())
    assert found["high"] is None
    assert found["low"] is not None
    assert found["low"] > 5
    assert ratio(own, other - other.mean() - 0.1)["value"] is None
    json.dumps(found, allow_nan=False)


def test_rows_of_the_targets_label_come_first_by_similarity() -> None:
    similarity = np.array([[0.9], [-0.5], [0.1], [0.4]])

    class Rows:
        def __init__(self, labels: list[int]) -> None:
            self._labels = np.array(labels)

        def column(self, _: str) -> NDArray[np.int64]:
            return self._labels

    ordered = naming.same_label_first(similarity, Rows([0, 1, 1, 0]), Rows([1]))  # type: ignore[arg-type]
    assert naming.top_rows(ordered, 4).tolist() == [[2, 1, 0, 3]]


@pytest.mark.parametrize("scores", [np.zeros((3, 2)), np.full((4, 2), np.nan), None])
def test_a_file_of_other_scores_is_named(scores: Array | None, tmp_path: Path) -> None:
    file = tmp_path / "theirs.npy"
    if scores is None:
        file.write_text("0 1")
    else:
        np.save(file, scores)
    with pytest.raises(TrakError, match=r"theirs\.npy"):
        naming.read_scores(file, (4, 2))


CopyRun = Callable[[], tuple[Layout, Settings]]


@pytest.fixture
def kept_answers(copy_run: CopyRun, tmp_path: Path) -> tuple[Layout, Settings, Path, list[Model]]:
    """A run of which nothing is known, and a file of what one model said."""
    layout, settings = copy_run()
    train = PreparedRows.load(layout.train)
    kept = np.arange(len(train)) % 3 > 0
    models = [Model.of(kept, 5), Model.of(~kept, 5)]
    Retrainer(layout, settings, train).answers(kept, 5)
    file = tmp_path / "kept.parquet"
    assert answers.keep(layout, settings, "validation", file, models) == 1
    return layout, settings, file, models


def known(layout: Layout, settings: Settings, models: list[Model]) -> Mapping[Model, Answers]:
    return answers.known(layout, settings, "validation", models)


def test_answers_that_are_kept_are_not_trained_for(
    kept_answers: tuple[Layout, Settings, Path, list[Model]],
) -> None:
    layout, settings, file, models = kept_answers
    before = known(layout, settings, models)
    shutil.rmtree(layout.retrained_models)
    assert known(layout, settings, models) == {}
    assert answers.put(layout, settings, "validation", file) == models[:1]
    after = known(layout, settings, models)
    assert list(after) == models[:1]
    np.testing.assert_array_equal(after[models[0]].margin, before[models[0]].margin)


@pytest.mark.parametrize("of", [b"train", b"targets", b"base", b"recipe"])
def test_answers_of_other_rows_models_or_recipes_are_not_used(
    of: bytes, kept_answers: tuple[Layout, Settings, Path, list[Model]]
) -> None:
    layout, settings, file, models = kept_answers
    shutil.rmtree(layout.retrained_models)
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, of: b"another"}), file)
    assert answers.put(layout, settings, "validation", file) == []
    assert known(layout, settings, models) == {}


def test_answers_are_not_used_if_a_model_that_is_retrained_says_something_else(
    kept_answers: tuple[Layout, Settings, Path, list[Model]],
) -> None:
    layout, settings, file, _ = kept_answers
    shutil.rmtree(layout.retrained_models)
    table = pq.read_table(file)
    turned = table["margin"].to_pylist()[0][::-1]
    pq.write_table(table.set_column(2, "margin", [[turned]]), file)
    assert answers.put(layout, settings, "validation", file) == []


def test_models_that_are_not_known_are_trained_once(
    kept_answers: tuple[Layout, Settings, Path, list[Model]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout, settings, _, models = kept_answers
    monkeypatch.chdir(tmp_path)
    layout.root.parent.joinpath("results").mkdir()
    run = layout.root.rename(tmp_path / "results" / "small")
    layout.retrained_models.rename(tmp_path / "results" / "_retrained")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(SMALL))
    here = Layout(run)
    groups = [models[:1], models, models[1:]]
    assert len(list(trained(config, (here, settings), groups, 1))) == 1
    assert list(known(here, settings, models)) == models
    assert list(trained(config, (here, settings), groups, 1)) == []
