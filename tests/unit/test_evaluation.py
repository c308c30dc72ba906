"""The mathematics of the evaluation, against slow and obvious ways to compute the same."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_numbers
from numpy.typing import NDArray
from scipy.stats import spearmanr

from trak_steps.evaluation.baselines import reference
from trak_steps.evaluation.calibration import SlopeOverSubsets, calibrate
from trak_steps.evaluation.detection import detection
from trak_steps.evaluation.intervals import Interval, interval, mean_interval
from trak_steps.evaluation.lds import Lds, Truth, ceiling, class_adjusted, lds, measure, reliability
from trak_steps.evaluation.ranks import spearman
from trak_steps.evaluation.resamples import Resamples
from trak_steps.evaluation.stability import held, hold_out
from trak_steps.evaluation.subsets import random_subsets
from trak_steps.evaluation.sums import fold, fold_kernel, sum_features
from trak_steps.evaluation.suspicion import class_sums, relative_support, standing
from trak_steps.kernel.gram import factor_kernel
from trak_steps.scoring.chance import without_own
from trak_steps.scoring.ranks import BINS, bins, rank_range
from trak_steps.scoring.scores import Scorer, balanced, by_chance, score_block
from trak_steps.scoring.stream import RankCounts
from trak_steps.scoring.uncertainty import (
    sign_is_stable,
    stable_signs,
    students,
)

Array = NDArray[np.float64]


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_spearman_is_scipys_also_with_ties(draw: np.random.Generator) -> None:
    first, second = draw.integers(0, 5, (30, 7)).astype(float), draw.normal(size=(30, 7))
    expected = [spearmanr(first[:, i], second[:, i]).statistic for i in range(7)]
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-12)


def test_a_constant_prediction_orders_nothing(draw: np.random.Generator) -> None:
    margins = draw.normal(size=(20, 3))
    assert lds(margins, np.full((20, 3), 0.1)) == 0.0


def test_subsets_do_not_depend_on_how_many_there_are() -> None:
    few, many = random_subsets(50, 3, 0.4, seed=1), random_subsets(50, 9, 0.4, seed=1)
    np.testing.assert_array_equal(many[:3], few)
    assert (many.sum(1) == 20).all()
    assert len({row.tobytes() for row in many}) == 9
    assert not np.array_equal(few, random_subsets(50, 3, 0.4, seed=2))


def test_class_adjusted_takes_out_what_counts_explain(draw: np.random.Generator) -> None:
    counts = draw.integers(0, 20, (40, 3)).astype(float)
    of_counts = counts @ draw.normal(size=(3, 5))
    rest = draw.normal(size=(40, 5))
    design = np.column_stack([np.ones(40), counts])
    expected = rest - design @ np.linalg.pinv(design) @ rest
    np.testing.assert_allclose(class_adjusted(rest + of_counts, counts), expected, atol=1e-9)
    np.testing.assert_array_equal(class_adjusted(of_counts, counts), 0.0)


def test_reliability_is_that_of_the_noise_put_in(draw: np.random.Generator) -> None:
    """Signal and noise of known variance: the mean of r trainings has reliability s²/(s² + e²/r)."""
    signal = draw.normal(size=(1, 400, 60))
    margins = signal + 2.0 * draw.normal(size=(3, 400, 60))
    assert reliability(margins) == pytest.approx(1 / (1 + 4 / 3), abs=0.02)
    # What the ceiling promises is what the signal itself scores.
    assert ceiling(margins) == pytest.approx(lds(margins.mean(0), signal[0]), abs=0.03)


def test_reliability_of_pure_noise_is_about_zero(draw: np.random.Generator) -> None:
    assert reliability(draw.normal(size=(2, 100, 50))) < 0.05


def test_measure_tells_a_good_prediction_from_a_random_one(draw: np.random.Generator) -> None:
    classes = draw.integers(5, 15, (60, 2)).astype(float)
    signal = draw.normal(size=(60, 40))
    truth = Truth(signal + draw.normal(size=(2, 60, 40)), classes)
    predictions = {
        "good": signal,
        "random": draw.normal(size=(60, 40)),
        "counts": np.repeat(classes[:, :1], 40, axis=1),
    }
    for adjusted in (False, True):
        found = measure(truth, predictions, adjusted=adjusted, resamples=200, seed=0)
        good, random = found.scores["good"], found.scores["random"]
        assert good.low < good.value < good.high
        assert random.low < 0 < random.high
        assert good.low > random.high
        assert found.differences["random"].high < 0
        share = found.shares["good"]
        assert share is not None
        assert share.value == pytest.approx(1.0, abs=0.1)
    assert found.scores["counts"].value == 0.0


def test_resampled_ldss_are_those_of_ranks_within_each_resample(draw: np.random.Generator) -> None:
    """Weighing the ranks among all subsets, which is fast, against ranking every resample anew."""
    s, t, b = 30, 12, 300
    signal = draw.normal(size=(s, t))
    truth = Truth(signal + draw.normal(size=(3, s, t)), draw.integers(5, 15, (s, 2)).astype(float))
    predicted = signal + draw.normal(size=(s, t))
    found = measure(truth, {"it": predicted}, adjusted=False, resamples=b, seed=0)
    scores, tops = [], []
    for _ in range(b):
        subsets, targets = draw.integers(0, s, s), draw.integers(0, t, t)
        margins = truth.margins[:, subsets][:, :, targets]
        scores.append(lds(margins.mean(0), predicted[subsets][:, targets]))
        tops.append(ceiling(margins))
    for got, each in ((found.scores["it"], scores), (found.ceiling, tops)):
        slow = interval(got.value, np.array(each), s)
        assert got.low == pytest.approx(slow.low, abs=0.04)
        assert got.high == pytest.approx(slow.high, abs=0.04)


def test_adjusted_intervals_know_what_class_counts_took(draw: np.random.Generator) -> None:
    """Of predictions that know nothing, with many classes for the subsets there are."""
    held, samples = 0, 100
    for seed in range(samples):
        classes = draw.integers(2, 9, (24, 8)).astype(float)
        truth = Truth(draw.normal(size=(2, 24, 1)).repeat(20, 2), classes)
        predictions = {"nothing": draw.normal(size=(24, 1)).repeat(20, 1)}
        found = measure(truth, predictions, adjusted=True, resamples=200, seed=seed).scores["nothing"]
        held += found.low <= 0 <= found.high
    assert held / samples >= 0.88


@pytest.mark.parametrize(("q", "r"), [(3, 2), (6, 3), (20, 5), (40, 1)])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_intervals_cover_the_mean_they_should(
    draw: np.random.Generator, q: int, r: int, shared: float
) -> None:
    """Of 200 samples, few as they are, about 95 % of the intervals hold the true mean, or more."""
    held = 0
    for seed in range(200):
        of_training = shared * draw.normal(size=(r, 1)) * (r > 1)
        values = draw.normal(size=(1, q)) + of_training + draw.normal(size=(r, q))
        found = mean_interval(values, resamples=200, seed=seed)
        assert found is not None
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 200 <= 1.0
    if q >= 20:
        assert held < 200


def test_a_single_target_has_no_interval(draw: np.random.Generator) -> None:
    assert mean_interval(draw.normal(size=(3, 1)), resamples=100, seed=0) is None
    one = calibrate(np.ones((2, 3)), np.ones(3), np.zeros(3, int), resamples=100, seed=0)
    assert one is None


def test_calibration_finds_the_slope(draw: np.random.Generator) -> None:
    predicted, targets = draw.normal(size=40), np.repeat(np.arange(10), 4)
    found = calibrate(
        0.7 * predicted + 0.01 * draw.normal(size=(3, 40)), predicted, targets, resamples=200, seed=0
    )
    assert found is not None
    assert found.slope.value == pytest.approx(0.7, abs=0.02)
    assert found.slope.low < 0.7 < found.slope.high
    assert found.correlation == pytest.approx(1.0, abs=0.01)
    nothing = calibrate(np.ones((2, 4)), np.zeros(4), np.arange(4), resamples=100, seed=0)
    assert nothing is None


def test_the_slopes_interval_knows_that_a_target_is_held_against_the_same_models(
    draw: np.random.Generator,
) -> None:
    """Noise that a target's removals share: resampling them one by one would cover 0.8 of the time."""
    held = 0
    targets = np.repeat(np.arange(6), 3)
    for seed in range(200):
        predicted = np.tile([1.0, 0.6, 0.3], 6)
        noise = draw.normal(size=(3, 6))[:, targets] + 0.3 * draw.normal(size=(3, 18))
        found = calibrate(predicted + noise, predicted, targets, resamples=200, seed=seed)
        assert found is not None
        held += found.slope.low <= 1 <= found.slope.high
    assert held / 200 >= 0.91


def test_some_targets_at_a_time_give_the_lds_of_all(draw: np.random.Generator) -> None:
    s, t = 40, 11
    classes = draw.integers(5, 15, (s, 3)).astype(float)
    signal = draw.normal(size=(s, t))
    margins = signal + draw.normal(size=(3, s, t))
    predictions = {"good": signal, "random": draw.normal(size=(s, t))}
    for adjusted in (False, True):
        whole = measure(Truth(margins, classes), predictions, adjusted=adjusted, resamples=200, seed=5)
        parts = Lds(classes, Resamples.draw(s, t, 200, 5), adjusted=adjusted)
        for first, last in ((0, 4), (4, 5), (5, t)):
            some = {name: values[:, first:last] for name, values in predictions.items()}
            parts.add(first, margins[:, :, first:last], some)
        assert_numbers(asdict(parts.result()), asdict(whole), 1e-12)


def slope_over_subsets(margins: Array, predicted: Array, at: Sequence[int] = ()) -> Interval | None:
    """Of all targets at once, or of those before and after some places."""
    slope = SlopeOverSubsets(Resamples.draw(*margins.shape, 300, 0))
    for first, last in pairwise([0, *at, margins.shape[1]]):
        slope.add(first, margins[:, first:last], predicted[:, first:last])
    return slope.result()


def test_the_slope_over_subsets_is_that_of_differences(draw: np.random.Generator) -> None:
    """Against a regression with a level of its own for each target, by least squares."""
    predicted = draw.normal(size=(12, 5)) * np.array([0.1, 1, 1, 2, 3])
    margins = 0.7 * predicted + 100 * draw.normal(size=5) + 0.1 * draw.normal(size=(12, 5))

    def regressed(subsets: NDArray[Any], targets: NDArray[Any]) -> float:
        some, t = np.ix_(subsets, targets), len(targets)
        levels = np.tile(np.eye(t), (len(subsets), 1))
        design = np.column_stack([predicted[some].ravel(), levels])
        return float(np.linalg.lstsq(design, margins[some].ravel(), rcond=None)[0][0])

    found = slope_over_subsets(margins, predicted)
    assert found is not None
    assert found.value == pytest.approx(regressed(np.arange(12), np.arange(5)))
    each = [regressed(draw.integers(0, 12, 12), draw.integers(0, 5, 5)) for _ in range(300)]
    slow = interval(found.value, np.array(each), 12)
    assert found.high - found.low == pytest.approx(slow.high - slow.low, rel=0.25)
    assert found.low < 0.7 < found.high
    parts = slope_over_subsets(margins, predicted, [1, 2])
    assert parts is not None
    assert_numbers(asdict(parts), asdict(found), 1e-12)
    constant = predicted.copy()
    constant[:, 2] = 1.0
    assert slope_over_subsets(margins, constant) is None


def test_detection_is_the_chance_that_a_wrong_row_stands_out(draw: np.random.Generator) -> None:
    suspicion, wrong = draw.integers(0, 6, 60).astype(float), draw.random(60) < 0.3
    pairs = suspicion[wrong][:, None] - suspicion[~wrong][None, :]
    found = detection(suspicion, wrong)
    assert found is not None
    assert found.auc == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    perfect = detection(wrong.astype(float), wrong)
    assert perfect is not None
    assert (perfect.auc, perfect.precision) == (1.0, 1.0)
    even = detection(np.zeros(60), wrong)
    assert even is not None
    assert (even.auc, even.precision) == pytest.approx((0.5, even.chance))
    assert detection(suspicion, np.zeros(60, bool)) is None


def test_sums_of_features_score_as_the_scores_themselves(draw: np.random.Generator) -> None:
    """Σ over a subset of τ, row by row, against the score of the summed features."""
    n, k, t, s = 30, 8, 4, 5
    features, targets = draw.normal(size=(n, k)), draw.normal(size=(t, k))
    kept, weights = draw.random((s, n)) < 0.5, draw.random(n)
    kernel = torch.from_numpy(features.T @ features)
    blocks = [(0, features[:11]), (11, features[11:])]
    sums = sum_features(blocks, kept, {1.0: weights})
    solved = torch.cholesky_solve(torch.from_numpy(targets).T, factor_kernel(kernel, n, 0.3))
    ridged = kernel.numpy() + 0.3 * kernel.numpy().diagonal().mean() * np.eye(k)
    scores = features @ np.linalg.inv(ridged) @ targets.T * weights[:, None]
    np.testing.assert_allclose(sums.by_weight[1.0] @ solved, kept @ scores, atol=1e-10)
    units = features / np.linalg.norm(features, axis=1)[:, None]
    np.testing.assert_allclose(sums.units, kept @ units, atol=1e-12)


def test_the_references_rule_has_its_own_scale(draw: np.random.Generator) -> None:
    features = torch.from_numpy(draw.normal(size=(20, 6)))
    targets, kernel = torch.from_numpy(draw.normal(size=(3, 6))), features.T @ features
    inverse = torch.linalg.inv(kernel)
    expected = features @ (inverse / inverse.abs().mean()) @ targets.T
    torch.testing.assert_close(reference(features, kernel, targets), expected)


def test_folding_keeps_inner_products_on_average(draw: np.random.Generator) -> None:
    found = []
    for _ in range(4000):
        matrix = torch.from_numpy(draw.choice([-1.0, 1.0], (3, 16)) / 4)
        found.append((fold(matrix, 4) @ fold(matrix, 4).T).numpy())
    np.testing.assert_allclose(np.mean(found, 0), np.eye(3), atol=0.05)
    features = torch.from_numpy(draw.normal(size=(9, 16)))
    small = fold(features, 4)
    torch.testing.assert_close(fold_kernel(features.T @ features, 4), small.T @ small)


def test_standing_is_what_scores_among_train_rows_say(draw: np.random.Generator) -> None:
    n, k = 25, 6
    features = torch.from_numpy(draw.normal(size=(n, k)))
    labels = torch.tensor([0] * 14 + [1] * 10 + [2])
    factor = factor_kernel(features.T @ features, n, 0.2)
    scores = (features @ torch.cholesky_solve(features.T, factor)).numpy()
    blocks = [features[:9], features[9:]]
    found = standing(blocks, labels, class_sums(blocks, labels, 3), factor)
    np.testing.assert_allclose(found.self_influence, scores.diagonal(), atol=1e-10)
    support = relative_support(found.mean_score, found.self_influence, found.others)
    for i in range(n):
        others = [j for j in range(n) if labels[j] == labels[i] and j != i]
        expected = scores[i, others].mean() if others else 0.0
        assert found.mean_score[i].item() == pytest.approx(expected, abs=1e-10)
        mean = features[others].mean(0) if others else torch.zeros(k, dtype=torch.float64)
        square = (mean @ torch.cholesky_solve(mean[:, None], factor)).item()
        assert found.others[i].item() == pytest.approx(square, abs=1e-10)
        length = np.sqrt(scores[i, i] * square)
        assert support[i].item() == pytest.approx(expected / length if others else 0.0, abs=1e-10)
    assert support.abs().max() <= 1


def test_balanced_checkpoints_count_alike(draw: np.random.Generator) -> None:
    n, k, t = 40, 5, 3
    features = [torch.from_numpy(scale * draw.normal(size=(n, k))) for scale in (1.0, 30.0)]
    solved = [torch.from_numpy(draw.normal(size=(t, k))) for _ in features]
    kernels = [of.T @ of for of in features]
    found = balanced(solved, kernels, n)
    squares = [(of @ weights.T).square().mean(0) for of, weights in zip(features, found, strict=True)]
    torch.testing.assert_close(squares[0], squares[1])
    before = [(of @ w.T).square().mean(0).sqrt() for of, w in zip(features, solved, strict=True)]
    torch.testing.assert_close(squares[0].sqrt(), (before[0] + before[1]) / 2)
    alone = balanced(solved[:1], kernels[:1], n)
    torch.testing.assert_close(alone[0], solved[0])
    nothing = balanced([torch.zeros(t, k), torch.zeros(t, k)], kernels, n)
    assert all((weights == 0).all() for weights in nothing)
    block = score_block(features, found, torch.ones(2, n))
    assert torch.isfinite(block.scores).all()


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_ranks_range_over_what_errors_allow(
    draw: np.random.Generator, largest: bool, size: float
) -> None:
    """Against counting pair by pair: the best exact; the worst, of a list that is short, by steps."""
    scores = (size * draw.standard_t(3, size=(2000, 4))).astype(np.float32)
    errors = (size * 0.3 * draw.random((2000, 4))).astype(np.float32)
    scores[:, 3] = 0
    roots = np.sqrt((scores.astype(float) ** 2).mean(0))
    counts = RankCounts(torch.from_numpy(roots), 2.0)
    for rows in (slice(0, 300), slice(300, 2000)):
        counts.add(torch.from_numpy(scores[rows]), torch.from_numpy(errors[rows]))
    of_side = counts.result()[0 if largest else 1]
    assert (of_side.sum(1) == len(scores)).all()
    sign = 1 if largest else -1
    order = np.argsort(-sign * scores, axis=0, kind="stable")[:32].T
    top, error = (np.take_along_axis(values.T, order, 1) for values in (scores, errors))
    best, worst = rank_range(top, error, 2.0, of_side, roots, largest=largest)
    for t in range(3):
        # In float32, as they are compared.
        low, high = (sign * scores[:, t] + np.float32(2) * s * errors[:, t] for s in (-1, 1))
        for j in range(32):
            exact = (high >= low[order[t, j]]).sum()
            assert best[t, j] == 1 + (low > high[order[t, j]]).sum()
            assert exact <= worst[t, j] <= exact + max(2, 0.2 * exact)
    assert (best <= np.arange(1, 33)).all()
    assert (worst >= np.arange(1, 33)).all()
    # Of a target whose scores are all zero, any row may have any rank.
    assert (worst[3] == len(scores)).all()


def test_bins_keep_the_order_of_numbers() -> None:
    sizes = np.concatenate([[0], np.geomspace(1e-3, 1e3, 100_000)]).astype(np.float32)
    values = np.concatenate([-sizes[:0:-1], sizes[1:]])
    found = bins(values)
    assert (np.diff(found) >= 0).all()
    assert (found.min(), found.max()) == (0, BINS - 1)
    assert len(np.unique(found)) == BINS
    counts = RankCounts(torch.ones(1), 0.0)
    counts.add(torch.from_numpy(values)[:, None], torch.zeros(len(values), 1))
    wanted = [np.bincount(bins(of), minlength=BINS) for of in (values, -values)]
    np.testing.assert_array_equal(counts.result()[:, 0], wanted)


def test_a_sign_is_stable_so_many_errors_from_zero() -> None:
    score, error = np.array([0.5, -0.5, 0.1, 0.1, 0.1]), np.array([0.2, 0.2, 0.2, np.nan, 0.0])
    assert sign_is_stable(score, error, 2.0).tolist() == [True, True, False, False, True]
    assert not sign_is_stable(score[:4], error[:4], np.inf).any()


def test_few_trainings_ask_for_students_quantile() -> None:
    """As in any table of it: 95 %, two-sided."""
    assert [students(of) for of in (2, 3, 4, 31)] == pytest.approx(
        [12.706, 4.303, 3.182, 2.042], abs=1e-3
    )
    assert students(1) == np.inf


@pytest.mark.parametrize("trainings", [2, 3, 5])
def test_of_what_chance_lists_a_twentieth_is_called_stable(
    draw: np.random.Generator, trainings: int
) -> None:
    """Trainings that share nothing; by two errors, a good part of a list would be."""
    n, t = 1024, 64
    # Rows differ in size, for all trainings alike.
    sizes = np.exp(draw.normal(size=(n, 1)))
    chance = draw.standard_t(4, size=(2, trainings, n, t)) * sizes
    features = [torch.from_numpy(of) for of in chance[0]]
    ones, eye = torch.ones(trainings, n), [torch.eye(t).double()] * trainings
    found = by_chance(Scorer(eye).of_trainings(features, ones), trainings)
    signs = stable_signs(_listed(found.scores.numpy(), found.std.numpy(), trainings), trainings)
    assert signs.errors >= students(trainings)
    another = _listed(chance[1].mean(0), chance[1].std(0, ddof=1), trainings)
    assert (another > signs.errors).mean() < 0.07
    assert (another > students(trainings)).mean() == pytest.approx(signs.by_chance, abs=0.03)
    if trainings > 2:
        assert (another > 2).mean() > 0.2


def _listed(scores: Array, std: Array, trainings: int) -> Array:
    """By how many errors the twenty largest scores of each target are off zero."""
    places = np.argsort(-scores, axis=0)[:20]
    largest, spread = (np.take_along_axis(values, places, 0) for values in (scores, std))
    found: Array = largest / (spread / np.sqrt(trainings))
    return found


def test_what_chance_gives_is_each_trainings_scores_over_other_rows(draw: np.random.Generator) -> None:
    """No row with another training's of its own; whatever the blocks, and but for a few last rows."""
    trainings, n, t = 3, 130, 2
    own = draw.normal(size=(trainings, n, t))
    own[2] = own[1]
    ones, eye = torch.ones(trainings, n), [torch.eye(t).double()] * trainings

    def of_blocks(blocks: list[slice]) -> Array:
        parts = [
            by_chance(
                Scorer(eye).of_trainings([torch.from_numpy(of[rows]) for of in own], ones[:, rows]),
                trainings,
            ).scores
            for rows in blocks
        ]
        return torch.cat(parts).numpy()

    found = of_blocks([slice(0, n)])
    assert found.shape == (128, t)
    np.testing.assert_array_equal(found, of_blocks([slice(0, 64), slice(64, n)]))
    sizes = np.sqrt((own**2).mean(2, keepdims=True))
    relative = (own / sizes)[:, :128].reshape(trainings, 2, 64, t)
    expected = np.mean(
        [np.roll(of, 21 * training, axis=1).reshape(128, t) for training, of in enumerate(relative)]
        * sizes[:, :128],
        axis=0,
    )
    np.testing.assert_allclose(found, expected)


def test_a_rows_score_for_itself_is_no_matter_of_chance() -> None:
    scores = without_own(torch.ones(3, 4), 10, [9, 10, 12, 13])
    assert scores.tolist() == [[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]]


def test_held_out_runs_are_asked_about_the_others_pairs(draw: np.random.Generator) -> None:
    """Runs that agree hold every sign; runs that are unrelated hold half."""
    signal = draw.normal(size=(1, 60, 5))

    def of(noise: float) -> float:
        scores = signal * (noise < 1) + noise * draw.normal(size=(4, 60, 5))

        def blocks():  # type: ignore[no-untyped-def]
            yield 0, torch.from_numpy(scores[:, :25])
            yield 25, torch.from_numpy(scores[:, 25:])

        found = held([hold_out(blocks, 4, 5, 8)], 4)
        assert found.pairs == 4 * 2 * 5 * 8
        if noise < 1:
            assert found.stable > 0.9
            assert found.top_shared > 0.8
        return found.signs_held

    assert of(0.01) == 1.0
    assert 0.4 < of(2.0) < 0.6
