"""Kernel, scores and top rows against slow computations in float64."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.config.settings import KernelSettings
from trak_steps.errors import TrakError
from trak_steps.evaluation.accuracy import accuracy
from trak_steps.evaluation.recall import group_recall
from trak_steps.kernel.gram import factor_kernel, solve_kernel, sum_kernel
from trak_steps.kernel.ridge import spectrum
from trak_steps.scoring import scores
from trak_steps.scoring.scores import (
    balance,
    balanced,
    root_mean_square,
    row_weights,
    score_block,
    signed_power,
)
from trak_steps.scoring.top import TopRows
from trak_steps.steps.kernels.kernel import _factor

CPU = torch.device("cpu")


def kernel_of(features: Tensor, shards: int = 3) -> Tensor:
    return sum_kernel(features.chunk(shards), features.shape[1], CPU)[0]


def test_the_kernel_is_the_sum_of_outer_products() -> None:
    features = torch.randn(50, 6)
    kernel, total, n = sum_kernel(features.split(17), 6, CPU)
    slow = sum((torch.outer(row, row) for row in features.double()), torch.zeros(6, 6).double())
    assert n == 50
    assert kernel.dtype == torch.float64
    assert torch.allclose(kernel, slow, rtol=1e-12)
    assert torch.allclose(total, features.double().sum(0), rtol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 0.3, 10.0])
def test_solving_is_multiplying_by_the_inverse(ridge: float) -> None:
    features, targets = torch.randn(40, 5), torch.randn(3, 5)
    kernel = kernel_of(features)
    ridged = kernel + ridge * kernel.trace() / 5 * torch.eye(5, dtype=torch.float64)
    expected = targets.double() @ torch.linalg.inv(ridged)
    solved = solve_kernel(factor_kernel(kernel, 40, ridge), targets)
    assert torch.allclose(solved, expected.float(), rtol=1e-5, atol=1e-9)


def test_the_ridge_follows_the_scale_of_the_features() -> None:
    """Features twice as large: the same scores, since K⁻¹ takes the scale away."""
    features, targets = torch.randn(30, 4), torch.randn(2, 4)
    scores = [
        solve_kernel(factor_kernel(kernel_of(c * features), 30, 0.5), c * targets) @ (c * features).T
        for c in (1.0, 2.0)
    ]
    assert torch.allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize(
    ("features", "ridge", "message", "setting"),
    [
        (torch.randn(5, 8), 0.0, "5 train rows cannot span 8 dimensions", "kernel.ridge"),
        (torch.randn(30, 2) @ torch.randn(2, 8), 0.0, "do not span 8 dimensions", "kernel.ridge"),
        (torch.zeros(30, 8), 1.0, "the kernel is zero", "features.parameters"),
        (torch.zeros(30, 8), None, "the kernel is zero", "features.parameters"),
        (torch.full((30, 8), torch.inf), 1.0, "not finite", ""),
    ],
)
def test_a_kernel_that_cannot_be_inverted_names_the_setting(
    features: Tensor, ridge: float | None, message: str, setting: str
) -> None:
    """The step does: what is wrong with the kernel is said by the mathematics, without settings."""
    kernel = kernel_of(features)
    with pytest.raises(TrakError, match=message) as error:
        spectrum(kernel) if ridge is None else factor_kernel(kernel, len(features), ridge)
    assert "kernel.ridge" not in str(error.value)
    assert "features." not in str(error.value)
    with pytest.raises(TrakError, match=message) as error:
        _factor(kernel, len(features), KernelSettings(ridge=ridge))
    assert setting in str(error.value)


@pytest.mark.parametrize("ridge", [0.1, 0.0])
def test_factoring_leaves_the_kernel_as_it_was(ridge: float) -> None:
    """The ridge is added in place; a kernel that fails is left alone too."""
    for rank in (8, 2):
        kernel = kernel_of(torch.randn(30, rank) @ torch.randn(rank, 8))
        before = kernel.clone()
        with suppress(TrakError):
            factor_kernel(kernel, 30, ridge)
        assert torch.equal(kernel, before)


def test_fewer_rows_than_dimensions_work_with_a_ridge() -> None:
    factor = factor_kernel(kernel_of(torch.randn(5, 8)), 5, 0.1)
    assert torch.isfinite(factor).all()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("checkpoints", [1, 3])
def test_scores_are_the_formula(power: float, checkpoints: int, own: bool) -> None:
    """One pair at a time in float64; scores in float64 from float32 products, relative 1e-5."""
    n, t, k = 9, 4, 6
    features = [torch.randn(n, k) for _ in range(checkpoints)]
    solved = [torch.randn(t, k) for _ in range(checkpoints)]
    weights = torch.rand(checkpoints, n)
    block = score_block(features, solved, row_weights(weights, power, own=own))
    for i in range(n):
        for z in range(t):
            of_all = float(weights[:, i].double().mean())
            single = [
                sum(float(a) * float(b) for a, b in zip(f[i], s[z], strict=True))
                * (float(w[i]) if own else of_all) ** power
                for f, s, w in zip(features, solved, weights, strict=True)
            ]
            assert float(block.scores[i, z]) == pytest.approx(np.mean(single), rel=1e-5, abs=1e-6)
            if checkpoints > 1:
                spread = np.std(single, ddof=1)
                assert float(block.std[i, z]) == pytest.approx(spread, rel=1e-4, abs=1e-6)
    assert torch.isnan(block.std).all() == (checkpoints == 1)


@pytest.mark.parametrize(
    "runs",
    ["001122", "010212", "000000", "012345", "000112"],
    ids=["in turn", "mixed", "one", "of one state", "of different numbers of states"],
)
def test_mean_and_spread_are_over_runs_or_the_states_of_one(runs: str) -> None:
    n, t, k, m = 9, 4, 6, len(runs)
    features = [torch.randn(n, k) for _ in range(m)]
    solved = [torch.randn(t, k) for _ in range(m)]
    weights = torch.rand(m, n)
    block = score_block(features, solved, row_weights(weights, 0.5, own=False), list(runs))
    own = np.stack([(f.double() @ s.double().T).numpy() for f, s in zip(features, solved, strict=True)])
    of_run = np.array(list(runs))
    means = np.stack([own[of_run == run].mean(0) for run in np.unique(of_run)])
    scale = weights.double().mean(0).sqrt().numpy()[:, None]
    spread = (means if len(means) > 1 else own).std(0, ddof=1) * scale
    np.testing.assert_allclose(block.scores, means.mean(0) * scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(block.std, spread, rtol=1e-4, atol=1e-6)


def test_balancing_many_targets_is_balancing_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some at a time, against one by one; what is given to be copied stays as it was."""
    monkeypatch.setattr(scores, "SOLVED_AT_ONCE", 3)
    features = [scale * torch.randn(30, 5) for scale in (1.0, 7.0)]
    solved = [torch.randn(8, 5) for _ in features]
    kernels = [kernel_of(of) for of in features]
    before = [weights.clone() for weights in solved]
    found = balanced(solved, kernels, 30)
    assert all(torch.equal(*pair) for pair in zip(solved, before, strict=True))
    for z in range(8):
        roots = [(of @ w[z]).square().mean().sqrt() for of, w in zip(features, solved, strict=True)]
        for weights, root, alike in zip(solved, roots, found, strict=True):
            torch.testing.assert_close(alike[z], weights[z] * sum(roots) / 2 / root)
    balance(solved, [root_mean_square(w, of, 30) for w, of in zip(solved, kernels, strict=True)])
    assert all(torch.equal(*pair) for pair in zip(solved, found, strict=True))


def test_a_weights_sign_survives_its_power() -> None:
    values = torch.tensor([-4.0, 0.0, 9.0])
    assert signed_power(values, 0.5).tolist() == [-2.0, 0.0, 3.0]
    assert signed_power(values, 0.0).tolist() == [-1.0, 1.0, 1.0]
    assert signed_power(values, 1.0).tolist() == values.tolist()


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 30), st.integers(1, 3)),
        elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]),
    ),
    st.integers(1, 40),
    st.integers(1, 7),
    st.booleans(),
)
def test_the_top_of_a_stream_is_the_top_of_the_whole(
    scores: NDArray[np.float32], top: int, block: int, largest: bool
) -> None:
    stream = TopRows(scores.shape[1], top, largest=largest)
    for start in range(0, len(scores), block):
        some = torch.from_numpy(scores[start : start + block])
        stream.add(some, start, 2 * some)
    found = stream.result()
    np.testing.assert_array_equal(found.more[0], 2 * found.score)
    for z in range(scores.shape[1]):
        order = sorted(range(len(scores)), key=lambda i: (-scores[i, z] if largest else scores[i, z], i))
        assert found.place[z].tolist() == order[:top]
        assert found.score[z].tolist() == [scores[i, z] for i in order[:top]]


def test_recall_counts_the_targets_own_group_and_knows_chance() -> None:
    train = np.array(["a"] * 2 + ["b"] * 5 + ["c"] * 3)
    top = np.array([["a", "b", "a"], ["b", "c", "c"], ["b", "b", "b"]])
    found = group_recall(top, np.array(["a", "b", "unknown"]), train)
    assert found is not None
    assert found.targets == 2
    assert found.recall == pytest.approx((2 / 2 + 1 / 3) / 2)
    assert found.chance == pytest.approx((3 * 2 / 10 / 2 + 3 * 5 / 10 / 3) / 2)
    assert group_recall(top, np.array(["x", "y", "z"]), train) is None


def test_recall_of_random_rows_is_chance() -> None:
    draw = np.random.default_rng(0)
    train = draw.integers(0, 20, 400).astype(str)
    targets = draw.integers(0, 20, 300).astype(str)
    top = train[np.stack([draw.permutation(400)[:10] for _ in targets])]
    found = group_recall(top, targets, train)
    assert found is not None
    assert found.recall == pytest.approx(found.chance, abs=0.02)


def test_accuracy_is_averaged_over_checkpoints() -> None:
    found = accuracy(np.array([[0, 1, 1, 0], [0, 0, 1, 0]]), np.array([0, 1, 1, 1]))
    assert (found.mean, found.chance) == (pytest.approx(0.625), 0.75)
    assert found.std == pytest.approx(np.std([0.75, 0.5], ddof=1))
    assert accuracy(np.array([[0]]), np.array([0])).std is None
