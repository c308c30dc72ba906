"""Scores add up to margins: the factor that makes them, and what is said of how well they do."""

import numpy as np
import pytest
import torch

from trak_steps.evaluation.explained import explained
from trak_steps.gradients.model_output import TextClassification
from trak_steps.scoring.units import scale_to_margins, sums_of_scores, unlearned_margin


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_sums_are_of_every_train_rows_score(draw: np.random.Generator) -> None:
    features = [torch.from_numpy(draw.normal(size=(20, 5))) for _ in range(3)]
    solved = [torch.from_numpy(draw.normal(size=(4, 5))) for _ in range(3)]
    expected = torch.stack([(f @ s.T).sum(0) for f, s in zip(features, solved, strict=True)])
    torch.testing.assert_close(sums_of_scores(solved, [f.sum(0) for f in features]), expected)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_model_that_knows_nothing_gives_the_unlearned_margin(classes: int) -> None:
    margin = TextClassification().output(torch.zeros(1, classes), torch.tensor([1]))
    assert float(margin) == pytest.approx(unlearned_margin(classes))
    assert unlearned_margin(1) == 0.0


def test_the_scale_is_that_of_least_squares(draw: np.random.Generator) -> None:
    sums = torch.from_numpy(draw.normal(size=50))
    margins = 3 * sums + torch.from_numpy(0.1 * draw.normal(size=50))
    scale = scale_to_margins(sums, margins)
    assert scale is not None
    best = float((scale * sums - margins).square().sum())
    for other in (0.99 * scale, 1.01 * scale):
        assert float((other * sums - margins).square().sum()) > best


def test_what_does_not_go_with_margins_has_no_scale() -> None:
    sums = torch.tensor([1.0, 2.0, 3.0])
    assert scale_to_margins(sums, -sums) is None
    assert scale_to_margins(torch.zeros(3), sums) is None
    assert scale_to_margins(sums, torch.tensor([1.0, torch.nan, 1.0])) is None


def test_margins_that_are_the_sums_are_explained(draw: np.random.Generator) -> None:
    """Of three trainings that agree but for noise; two trainings' noises are not the same."""
    sums = draw.normal(size=(3, 400))
    sums += 2 * draw.normal(size=400)
    found = explained(sums, 1.5 + 2 * sums, base=1.5)
    assert found is not None
    assert (found.correlation, found.slope) == (pytest.approx(1), pytest.approx(2))
    # 4 of 5 parts of the variance are common.
    assert found.correlation_between_trainings == pytest.approx(0.8, abs=0.05)
    alone = explained(sums[:1], 2 * sums[:1], base=0.0)
    assert alone is not None
    assert alone.correlation_between_trainings is None


def test_few_targets_or_equal_ones_say_nothing(draw: np.random.Generator) -> None:
    sums = draw.normal(size=(2, 12))
    assert explained(sums[:, :9], sums[:, :9], 0.0) is None
    assert explained(sums, np.ones((2, 12)), 0.0) is None
