"""Dense projections: unbiased, as good as theory says, and the same however they are computed."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from trak_steps.projection import DenseProjection, Parameter
from trak_steps.projection.base import projection_key
from trak_steps.projection.dense import BLOCK

CPU = torch.device("cpu")
Kind = Literal["rademacher", "normal"]
KINDS: tuple[Kind, ...] = ("rademacher", "normal")


def project(kind: Kind, x: Tensor, dim: int, key: int) -> Tensor:
    projection = DenseProjection(kind, size=x.shape[1], dim=dim, key=key, device=CPU)
    sketch = projection.sketch(len(x))
    sketch.add(Parameter("all", (x.shape[1],), 0), x)
    return sketch.finish()


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_product_with_the_drawn_matrix(kind: Kind) -> None:
    """Against the whole matrix in float64; relative to the largest feature, 1e-6 (float32 sums)."""
    x = torch.randn(7, 2 * BLOCK + 37)
    projection = DenseProjection(kind, size=x.shape[1], dim=24, key=9, device=CPU)
    matrix = torch.cat([projection.block(number) for number in range(3)]).double()
    assert matrix.shape == (x.shape[1], 24)
    expected = x.double() @ matrix / 24**0.5
    assert (project(kind, x, 24, 9) - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_kept_without_bias_and_with_the_variance_of_theory(kind: Kind) -> None:
    """Over 400 matrices: the mean within four standard errors, the variance within 25 %.

    For normal entries the variance of ⟨Px, Py⟩ is (|x|²|y|² + ⟨x, y⟩²)/k; signs have
    −2 Σ x_i² y_i² / k more, which is small for spread-out vectors.
    """
    torch.manual_seed(0)
    dim, trials = 32, 400
    x = torch.randn(1, 300)
    y = 0.5 * x + torch.randn(1, 300)
    true = float((x * y).sum())
    found = torch.tensor(
        [
            float(features[0] @ features[1])
            for features in (project(kind, torch.cat([x, y]), dim, key) for key in range(trials))
        ]
    )
    variance = float(x.square().sum() * y.square().sum() + true**2) / dim
    assert abs(found.mean() - true) < 4 * (variance / trials) ** 0.5
    assert found.var() == pytest.approx(variance, rel=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_their_order_do_not_matter(kind: Kind) -> None:
    x = torch.randn(5, BLOCK + 10)
    projection = DenseProjection(kind, size=x.shape[1], dim=16, key=1, device=CPU)
    sketch = projection.sketch(5)
    second, first = Parameter("second", (BLOCK - 690,), 700), Parameter("first", (70, 10), 0)
    for rows in (slice(3, 5), slice(0, 3)):
        sketch.part(rows).add(second, x[rows, 700:])
        sketch.part(rows).add(first, x[rows, :700].reshape(-1, 70, 10))
    assert torch.equal(sketch.finish(), project(kind, x, 16, 1))


def test_a_second_sketch_starts_empty() -> None:
    projection = DenseProjection("rademacher", size=50, dim=8, key=1, device=CPU)
    first = projection.sketch(3)
    first.add(Parameter("all", (50,), 0), torch.ones(3, 50))
    first.finish()
    assert projection.sketch(2).finish().abs().max() == 0


def test_rows_are_limited_by_memory_and_blocks_never_hold_the_matrix() -> None:
    projection = DenseProjection("rademacher", size=10**6, dim=512, key=0, device=CPU)
    assert projection.rows_at_once(0) == 1
    few, many = projection.rows_at_once(10**8), projection.rows_at_once(10**9)
    assert 1 <= few < many <= 10**9 // (4 * 10**6)
    assert projection.block(3).shape == (BLOCK, 512)


def test_signs_are_fair_and_blocks_differ() -> None:
    projection = DenseProjection("rademacher", size=4 * BLOCK, dim=64, key=3, device=CPU)
    blocks = [projection.block(number) for number in range(4)]
    assert all(set(block.unique().tolist()) == {-1.0, 1.0} for block in blocks)
    assert abs(float(torch.cat(blocks).mean())) < 4 / (4 * BLOCK * 64) ** 0.5
    assert not torch.equal(blocks[0], blocks[1])


def test_seed_and_checkpoint_decide_the_key() -> None:
    keys = {projection_key(seed, checkpoint) for seed in (0, 1) for checkpoint in ("0", "1", "0-0.5")}
    assert len(keys) == 6
    assert projection_key(0, "1") == projection_key(0, "1")


def test_a_dense_sketch_forms_what_it_gets_as_factors() -> None:
    """Products and looked-up rows, each against the same gradient given whole."""
    matrix = Parameter("matrix", (6, 4), 0)
    left, right = torch.randn(3, 5, 6), torch.randn(3, 5, 4)
    ids, values = torch.tensor([[0, 5, 0], [1, 1, 1], [2, 3, 4]]), torch.randn(3, 3, 4)
    whole = torch.einsum("bti,btj->bij", left, right)
    for i in range(3):
        for token in range(3):
            whole[i, ids[i, token]] += values[i, token]
    projection = DenseProjection("normal", size=24, dim=8, key=5, device=CPU)
    sketch = projection.sketch(3)
    sketch.add_products(right, [(matrix, left)])
    sketch.add_rows(matrix, ids, values)
    expected = project("normal", whole.flatten(1), 8, 5)
    assert torch.allclose(sketch.finish(), expected, atol=1e-5)
    sketch = projection.sketch(3)
    sketch.add(matrix, whole)
    sketch.part(slice(1, 2)).clear()
    expected[1] = 0.0
    assert torch.allclose(sketch.finish(), expected, atol=1e-5)
