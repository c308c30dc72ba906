"""The steps of the evaluation, on the small run."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import assert_numbers, small_settings
from scipy.stats import spearmanr

from trak_steps.audit.clean import unused_answers
from trak_steps.audit.verify import verify_run
from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.kernel.blocks import Cost
from trak_steps.run.layout import Layout, planned_models, shard_names
from trak_steps.run.parts import open_retrained
from trak_steps.steps.evaluation import (
    find_mislabelled,
    measure_lds,
    measure_removal,
    measure_stability,
    plan_removal,
    plan_subsets,
    retrain,
)
from trak_steps.store.document import load_document
from trak_steps.store.features import TrainFeatures
from trak_steps.store.kernel import KernelStore
from trak_steps.store.plan import load_plan
from trak_steps.store.retrained import load_shards
from trak_steps.store.scores import ScoreStore
from trak_steps.store.table import load_table

EVALUATION: dict[str, object] = {
    "lds": {"subsets": 8, "repeats": 2},
    "removal": {"targets": 2, "rows": 3, "repeats": 2},
    "suspects": 4,
    "bootstrap": 100,
    "models_per_job": 8,
}


@dataclass(frozen=True)
class Evaluated:
    """A run with its evaluation."""

    layout: Layout
    settings: Settings

    def retrain(self, plan: str) -> None:
        """All jobs of a plan."""
        models = planned_models(self.settings.evaluation)[plan]
        for shard in shard_names(models, self.settings.evaluation.models_per_job):
            retrain.run(self.layout, self.settings, plan, int(shard))


@pytest.fixture(scope="module")
def done(small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    settings = small_settings(evaluation=EVALUATION)
    run = Evaluated(Layout(tmp_path_factory.mktemp("evaluated") / "small"), settings)
    shutil.copytree(small_run[0].root, run.layout.root)
    plan_subsets.run(run.layout, settings)
    run.retrain("subsets")
    measure_lds.run(run.layout, settings)
    plan_removal.run(run.layout, settings)
    run.retrain("removal")
    measure_removal.run(run.layout, settings)
    find_mislabelled.run(run.layout, settings)
    measure_stability.run(run.layout, settings)
    return run


@pytest.fixture
def copy(done: Evaluated, tmp_path: Path) -> Callable[[], Evaluated]:
    def make() -> Evaluated:
        shutil.copytree(done.layout.root.parent, tmp_path / "copy")
        return Evaluated(Layout(tmp_path / "copy" / "small"), done.settings)

    return make


def _margins(run: Evaluated) -> np.ndarray:
    models = planned_models(run.settings.evaluation)["subsets"]
    paths = [run.layout.retrained("subsets", shard) for shard in shard_names(models, 8)]
    return load_shards(paths, models, "validation").margin.astype(float)


def test_the_lds_is_that_of_the_stored_scores(done: Evaluated) -> None:
    """Row by row, target by target, from what lies on disk."""
    layout = done.layout
    n = len(PreparedRows.open(layout.train))
    plan, _ = load_plan(layout.plan("subsets"), n)
    margins = _margins(done).reshape(2, 8, -1).mean(0)
    scores = ScoreStore.open(layout.scores("validation")).scores(0, n)
    expected = []
    for target in range(margins.shape[1]):
        predicted = [scores[plan.kept[subset], target].sum() for subset in range(8)]
        expected.append(spearmanr(margins[:, target], predicted).statistic)
    figures, _ = load_document(layout.lds, "lds")
    assert figures["lds"]["value"] == pytest.approx(np.mean(expected))
    assert figures["lds"]["low"] <= figures["lds"]["value"] <= figures["lds"]["high"]
    assert set(figures["baselines"]) == {
        *("random", "same label", "gradient dot product", "gradient cosine"),
        *("reference rule", "last hidden state"),
    }
    assert figures["baselines"]["same label"]["class_adjusted"]["value"] == 0.0


def test_few_targets_at_a_time_give_the_same_lds(
    done: Evaluated, copy: Callable[[], Evaluated], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = copy()
    monkeypatch.setattr(measure_lds, "predicted_targets", lambda *_: Cost(each=1, most=2))
    monkeypatch.setattr(measure_lds, "FEWEST_ROWS", 1)
    measure_lds.run(few.layout, few.settings)
    figures, expected = (load_document(of.layout.lds, "lds")[0] for of in (few, done))
    assert figures["targets"].keys() == expected["targets"].keys()
    for name, of_set in expected["targets"].items():
        assert_numbers(figures["targets"][name], of_set, 1e-9, nan_ok=True)
    rows, wanted = (load_table(of.layout.lds_curves, "lds")[0].to_pylist() for of in (few, done))
    assert len(rows) == len(wanted)
    for row, as_all in zip(rows, wanted, strict=True):
        assert_numbers(row, as_all, 1e-9, nan_ok=True)


def test_every_curve_goes_through_the_runs_own_scores(done: Evaluated) -> None:
    """The sums of features that curves come from give the LDS of the scores themselves."""
    figures, _ = load_document(done.layout.lds, "lds")
    curves = load_table(done.layout.lds_curves, "lds")[0].to_pylist()
    own = {"dim": 16, "ridge": 0.1, "power": 0.5, "balance": True, "checkpoints": ["0-0.5", "0"]}
    found = {row["curve"]: row for row in curves if all(row[key] == own[key] for key in own)}
    assert set(found) == {"ridge", "power", "dim", "balance", "checkpoints"}
    for row in found.values():
        assert row["lds"] == pytest.approx(figures["lds"]["value"], abs=1e-6)
        assert row["class_adjusted"] == pytest.approx(
            figures["class_adjusted"]["lds"]["value"], abs=1e-6
        )
    assert {len(row["checkpoints"]) for row in curves if row["curve"] == "checkpoints"} == {1, 2}
    assert len({row["effective_dof"] for row in curves if row["curve"] == "effective_dof"}) > 4


def test_nothing_is_trained_twice(
    copy: Callable[[], Evaluated], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not for the same run, nor for another with the same rows and recipe, nor for fewer repeats."""
    run = copy()
    before = _margins(run)
    shutil.rmtree(run.layout.retrained("subsets", "x").parent)
    run.retrain("subsets")
    assert "0 models trained, 8 known before" in capsys.readouterr().err
    np.testing.assert_array_equal(_margins(run), before)
    other = Evaluated(Layout(run.layout.root.with_name("other")), run.settings)
    shutil.copytree(run.layout.root, other.layout.root)
    shutil.rmtree(other.layout.evaluation)
    plan_subsets.run(other.layout, other.settings)
    other.retrain("subsets")
    assert "0 models trained, 8 known before" in capsys.readouterr().err


def test_an_interruption_loses_one_model(
    copy: Callable[[], Evaluated],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copy()
    shutil.rmtree(run.layout.retrained_models)
    shutil.rmtree(run.layout.retrained("subsets", "x").parent)
    train, trained = retrain.retrain, 0

    def killed(*arguments: object, **named: object) -> object:
        nonlocal trained
        if trained == 3:
            raise KeyboardInterrupt
        trained += 1
        return train(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(retrain, "retrain", killed)
    with pytest.raises(KeyboardInterrupt):
        retrain.run(run.layout, run.settings, "subsets", 0)
    assert not run.layout.retrained("subsets", "00000").exists()
    monkeypatch.undo()
    retrain.run(run.layout, run.settings, "subsets", 0)
    assert "5 models trained, 3 known before" in capsys.readouterr().err


def test_damaged_answers_are_trained_again(
    copy: Callable[[], Evaluated], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy()
    before = _margins(run)
    file = sorted(run.layout.retrained_models.glob("*/*.json"))[0]
    file.write_bytes(file.read_bytes().replace(b'"margin"', b'"nigram"'))
    run.retrain("subsets")
    run.retrain("removal")
    said = capsys.readouterr().err
    assert said.count("1 models trained") == 1
    assert verify_run(run.layout).problems == []
    np.testing.assert_array_equal(_margins(run), before)


def test_another_recipe_or_seed_is_another_model(
    copy: Callable[[], Evaluated], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy()
    calmer = small_settings(evaluation=EVALUATION, finetune={"learning_rate": 1e-4})
    with pytest.raises(TrakError, match=r"retrained/subsets/00000\.parquet.*learning_rate"):
        open_retrained(run.layout, calmer, "subsets", PreparedRows.load(run.layout.train))
    retrain.run(run.layout, calmer, "subsets", 0)
    assert "8 models trained, 0 known before" in capsys.readouterr().err


def test_scores_of_other_settings_are_refused(copy: Callable[[], Evaluated]) -> None:
    run = copy()
    other = small_settings(evaluation=EVALUATION, scores={"balance": False})
    for step in (measure_lds, plan_removal):
        with pytest.raises(TrakError, match="balance"):
            step.run(run.layout, other)


def test_a_removal_is_its_targets_margin_before_and_after(done: Evaluated) -> None:
    layout = done.layout
    n = len(PreparedRows.open(layout.train))
    plan, _ = load_plan(layout.plan("removal"), n)
    scores = ScoreStore.open(layout.scores("validation")).scores(0, n)
    paths = [layout.retrained("removal", shard) for shard in shard_names(len(plan), 8)]
    margins = load_shards(paths, len(plan), "validation").margin
    removals = load_table(layout.removals, "removal")[0].to_pylist()
    assert len(removals) == 6
    for removal in removals:
        target = removal["target"]
        mine = (plan.about["target"] == target) & (plan.about["without"] == removal["without"])
        whole = plan.about["without"] == "nothing"
        assert plan.kept[whole].all()
        expected = margins[whole, target] - margins[mine, target]
        np.testing.assert_allclose(removal["lost"], expected, atol=1e-6)
        gone = np.flatnonzero(~plan.kept[mine][0])
        assert len(gone) == 3
        assert removal["predicted"] == pytest.approx(scores[gone, target].sum(), abs=1e-5)
        if removal["without"] == "proponents":
            assert set(gone) == set(np.argsort(-scores[:, target])[:3])
        if removal["without"] == "nearest":
            labels = PreparedRows.load(layout.train).column("label")
            wanted = PreparedRows.load(layout.targets("validation")).column("label")[target]
            assert (labels[gone] == wanted).all()
    seeds = plan.seeds.reshape(2, -1)
    assert (seeds == seeds[:, :1]).all()
    assert seeds[0, 0] != seeds[1, 0]
    figures, _ = load_document(layout.removal, "removal")
    lost = np.mean([r["lost"] for r in removals if r["without"] == "random"])
    assert figures["without"]["random"]["margin_lost"]["value"] == pytest.approx(lost)
    assert (
        figures["calibration"]["all"]["slope"]["low"] <= figures["calibration"]["all"]["slope"]["high"]
    )


def test_suspects_come_with_what_argues_against_them(done: Evaluated) -> None:
    layout = done.layout
    train = PreparedRows.load(layout.train)
    n, products, weights, margins = len(train), [], [], []
    for name in ("0-0.5", "0"):
        features = TrainFeatures(sorted((layout.train_features(name)).glob("*.zarr")), n)
        phi, factor = (
            features.features(0, n).astype(float),
            KernelStore.open(layout.kernel(name)).cholesky,
        )
        products.append(phi @ np.linalg.inv(factor @ factor.T) @ phi.T)
        weights.append(features.column("loss_weight"))
        margins.append(features.column("margin"))
    total = np.mean(products, 0)
    table, _ = load_table(layout.suspects, "suspects")
    labels, ids = train.column("label"), train.column("row")
    support = np.empty(n)
    for i in range(n):
        others = np.flatnonzero((labels == labels[i]) & (np.arange(n) != i))
        length = np.sqrt(total[i, i] * total[np.ix_(others, others)].mean())
        support[i] = total[i, others].mean() / length
    margin = np.mean(margins, 0, dtype=float)
    trust = sum((of - of.mean()) / of.std() for of in (support, margin))
    order = np.argsort(trust)[:4]
    assert table["row"].to_pylist() == ids[order].tolist()
    np.testing.assert_allclose(table["support"].to_numpy(), support[order], rtol=1e-5)
    np.testing.assert_allclose(table["trust"].to_numpy(), trust[order], rtol=1e-4)
    # The run's own scores, were the train rows targets: balanced, and with the power of the loss weight.
    roots = [np.sqrt(np.square(of).mean(0)) for of in products]
    scaled = [of / root * np.mean(roots, 0) for of, root in zip(products, roots, strict=True)]
    scale = np.sqrt(np.mean(weights, 0, dtype=float))[:, None]
    unit = ScoreStore.open(layout.scores("validation")).manifest.details["scale"] or 1.0
    score, std = np.mean(scaled, 0) * scale * unit, np.std(scaled, 0, ddof=1) * scale * unit
    for suspect, row in zip(order, table.to_pylist(), strict=True):
        worst = np.argsort(score[:, suspect], kind="stable")[:5]
        assert row["against_row"] == ids[worst].tolist()
        np.testing.assert_allclose(row["against_score"], score[worst, suspect], rtol=1e-3)
        np.testing.assert_allclose(row["against_std"], std[worst, suspect], rtol=1e-2)
        assert row["against_sign_stable"] == [None] * 5  # of a single training it is not known
        assert row["text_question"] == train.table["question"][int(suspect)].as_py()
        assert row["against_text_sentence"] == [
            train.table["sentence"][int(place)].as_py() for place in worst
        ]
    assert table["flipped"].to_pylist() == train.column("flipped")[order].tolist()
    assert {"label_name", "predicted_name", "against_label_name"} <= set(table.column_names)
    figures, _ = load_document(layout.mislabelled, "suspects")
    assert figures["flipped"] == train.column("flipped").sum() > 0
    assert set(figures["measures"]) == {
        *("trust", "support", "mean score", "self-influence", "margin", "loss", "area under the margin"),
    }


def test_a_single_run_has_no_other_to_be_held_against(done: Evaluated) -> None:
    figures, _ = load_document(done.layout.stability, "stability")
    assert figures["trainings"] == 1
    assert figures["targets"] == {"validation": None}
    assert figures["stable_signs"] is None


def test_the_answers_that_a_run_uses_are_known(copy: Callable[[], Evaluated]) -> None:
    """And what no part of its evaluation names is listed."""
    run = copy()
    answers = run.layout.retrained_models
    assert len(list(answers.glob("*/*.json"))) > 1
    assert unused_answers(answers) == []
    shutil.copytree(next(answers.glob("*")), answers / ("0" * 32))
    assert {one.path.parent.name for one in unused_answers(answers)} == {"0" * 32}


def test_verify_looks_at_the_evaluation_too(copy: Callable[[], Evaluated]) -> None:
    run = copy()
    assert verify_run(run.layout).problems == []
    table = pq.read_table(run.layout.suspects)
    pq.write_table(table.slice(1), run.layout.suspects)
    problems = verify_run(run.layout).problems
    assert [problem.what for problem in problems] == ["altered"]
    assert "suspects.parquet: was altered" in str(problems[0])


def test_more_rows_to_leave_out_than_there_are_is_refused(copy: Callable[[], Evaluated]) -> None:
    run = copy()
    removal = {"targets": 2, "rows": 60}
    settings = small_settings(
        evaluation={**EVALUATION, "removal": removal}, dataset={"train_size": None}
    )
    with pytest.raises(TrakError, match=r"evaluation\.removal: .* 60 of 60"):
        plan_removal.run(run.layout, settings)
