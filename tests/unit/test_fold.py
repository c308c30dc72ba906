"""The fold: its matrix, however it is computed; unbiased, and as good as a dense one."""

import pytest
import torch
from fold_oracle import fold_matrix, made
from torch import Tensor

from trak_steps.projection import FoldProjection, Parameter
from trak_steps.projection.fold import FEW, Costs, MatrixCode

CPU = torch.device("cpu")
# Float32 sums and Fourier transforms against float64, relative to the largest feature.
TOLERANCE = 3e-6
# Prices that leave only one way to compute products, all rows at once or few.
DIRECT = Costs(multiply=0, fold=0, transform=1, combine=1, spread=0, chunk=2**20)
DIRECT_FEW = Costs(multiply=0, fold=0, transform=1, combine=1, spread=0, chunk=1)
FOURIER = Costs(multiply=1, fold=1, transform=0, combine=0, spread=0, chunk=2**20)
FOURIER_FEW = Costs(multiply=1, fold=1, transform=0, combine=0, spread=0, chunk=1)

SHAPES = [(24, 24), (12, 30), (300, 30), (30, 300), (1, 5), (2, 7), (64, 64)]


def fold(parameters: list[Parameter], dim: int, key: int = 3) -> FoldProjection:
    return FoldProjection(parameters, dim=dim, key=key, device=CPU)


def project(projection: FoldProjection, parameters: list[Parameter], gradients: Tensor) -> Tensor:
    sketch = projection.sketch(len(gradients))
    for parameter in parameters:
        sketch.add(parameter, gradients[:, parameter.start : parameter.start + parameter.size])
    return sketch.finish()


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max().clamp_min(1e-6)


@pytest.mark.parametrize("dim", [1, 7, 64, 100, 101])
def test_features_are_the_product_with_the_matrix(dim: int) -> None:
    parameters = made({"a.b.weight": (12, 30), "a.c.weight": (12, 30), "d": (50,), "e": (3, 4, 5)})
    projection = fold(parameters, dim)
    gradients = torch.randn(4, parameters[-1].start + parameters[-1].size)
    expected = gradients.double() @ fold_matrix(projection, parameters)
    assert_close(project(projection, parameters, gradients), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dim", [7, 64, 100, 101])
@pytest.mark.parametrize("costs", [DIRECT, DIRECT_FEW, FOURIER, FOURIER_FEW])
def test_products_are_the_same_directly_and_by_fourier_transform(
    shape: tuple[int, int], dim: int, costs: Costs
) -> None:
    """An attention's three matrices: together, two of them, one alone; whatever the chunks."""
    parameters = made({f"layer.{name}.weight": shape for name in ("query", "key", "value")})
    projection = fold(parameters, dim)
    projection.costs = costs
    matrix = fold_matrix(projection, parameters)
    right = torch.randn(3, 11, shape[1])
    lefts = [torch.randn(3, 11, shape[0]) for _ in parameters]
    for chosen in ((0, 1, 2), (0, 2), (1,)):
        whole = torch.cat([lefts[i].mT @ right for i in chosen], 1).flatten(1).double()
        taken = torch.cat(
            [matrix[parameters[i].start : parameters[i].start + parameters[i].size] for i in chosen]
        )
        sketch = projection.sketch(3)
        sketch.add_products(right, [(parameters[i], lefts[i]) for i in chosen])
        assert_close(sketch.finish(), whole @ taken)


def test_prices_decide_and_the_crossover_lies_between_small_and_large() -> None:
    costs = Costs(multiply=0.01, fold=0.1, transform=0.075, combine=0.8, spread=0.05, chunk=1)
    assert costs.direct(128, 64, 64) < costs.fourier(128, 1, 1024)
    assert costs.direct(128, 1536, 384) > costs.fourier(128, 1, 1024)
    assert costs.direct(128, 1536, 384) < costs.fourier(128, 1, 16384)


@pytest.mark.parametrize("shape", [(40, 6), (3, 20)])
def test_looked_up_rows_add_up(shape: tuple[int, int]) -> None:
    (parameter,) = made({"embeddings.weight": shape})
    projection = fold([parameter], 16)
    ids = torch.tensor([[2, 1, 2, 0], [0, 0, 0, 1]])
    values = torch.randn(2, 4, shape[1])
    whole = torch.zeros(2, *shape)
    for i in range(2):
        for token in range(4):
            whole[i, ids[i, token]] += values[i, token]
    sketch = projection.sketch(2)
    sketch.add_rows(parameter, ids, values)
    assert_close(sketch.finish(), whole.flatten(1).double() @ fold_matrix(projection, [parameter]))


@pytest.mark.parametrize("costs", [DIRECT, FOURIER])
def test_parts_are_views_and_clear_forgets(costs: Costs) -> None:
    matrix, vector = parameters = made({"a.b.weight": (6, 8), "bias": (5,)})
    projection = fold(parameters, 16)
    projection.costs = costs
    left, right, bias = torch.randn(5, 3, 6), torch.randn(5, 3, 8), torch.randn(5, 5)
    sketch = projection.sketch(5)
    for rows in (slice(3, 5), slice(0, 3)):
        sketch.part(rows).add_products(right[rows], [(matrix, left[rows])])
        sketch.part(rows).add(vector, bias[rows])
    sketch.part(slice(1, 2)).clear()
    features = sketch.finish()
    whole = torch.cat([(left.mT @ right).flatten(1), bias], 1)
    expected = project(projection, parameters, whole)
    expected[1] = 0.0
    assert_close(features, expected)


@pytest.mark.parametrize("dim", [256, 1024, 1000])
@pytest.mark.parametrize("shape", [(384, 384), (384, 1536), (1536, 384), (512, 256), (2, 384)])
def test_buckets_are_evenly_filled_and_neighbours_do_not_meet(shape: tuple[int, int], dim: int) -> None:
    """The essential condition: the stride is coprime with k, so rows do not fall on top of each other.

    A bucket holds its share of the entries, within the padding; two entries of a row or of a column
    share a bucket only if they are k apart.
    """
    (parameter,) = made({"a.b.weight": shape})
    code = fold([parameter], dim).codes[parameter.name]
    assert isinstance(code, MatrixCode)
    i, j = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    buckets = (code.offset + i * code.steps[0] + j * code.steps[1]) % dim
    filled = buckets.flatten().bincount(minlength=dim)
    share = parameter.size / dim
    assert filled.max() <= 1.15 * share + 2
    for line in (*buckets[: dim + 1], *buckets.T[: dim + 1]):
        near = line[:dim]
        assert near.unique().numel() == near.numel()
    if min(shape) > 8:
        # Within any patch of 8 × 8 no two entries meet: large neighbouring features are kept apart.
        patches = buckets.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 64)
        assert all(patch.unique().numel() == 64 for patch in patches[:200])


def test_inner_products_are_kept_without_bias() -> None:
    """Over 400 keys: the mean within four standard errors, the variance at most 1.5 times dense.

    Among them a matrix of rank one, where the factored signs are least random.
    """
    torch.manual_seed(0)
    dim, trials = 32, 400
    parameters = made({"a.b.weight": (20, 12), "c.d.weight": (9, 9), "bias": (30,)})
    a, g = torch.randn(2, 20), torch.randn(2, 12)
    rank_one = (a[:, :, None] * g[:, None, :]).flatten(1)
    rank_one[1] += 0.7 * rank_one[0]
    gradients = torch.cat([rank_one, torch.randn(2, 81), torch.randn(2, 30)], 1)
    x, y = gradients
    true = float(x @ y)
    found = torch.tensor(
        [
            float(features[0] @ features[1])
            for features in (
                project(fold(parameters, dim, key), parameters, gradients) for key in range(trials)
            )
        ]
    )
    dense = float(x.square().sum() * y.square().sum() + true**2) / dim
    assert abs(found.mean() - true) < 4 * float(found.std()) / trials**0.5
    assert float(found.var()) < 1.5 * dense


def test_the_key_decides_and_names_do() -> None:
    parameters = made({"a.b.weight": (6, 8), "c": (5,)})
    gradients = torch.randn(2, 53)
    one, same, other = (project(fold(parameters, 16, key), parameters, gradients) for key in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # A vector's code does not depend on the other parameters that are selected.
    alone = fold(made({"c": (5,)}), 16, 1).codes["c"]
    assert torch.equal(alone.signs, fold(parameters, 16, 1).codes["c"].signs)  # type: ignore[arg-type]


def test_rows_are_limited_by_memory() -> None:
    projection = fold(made({"c": (5,)}), 1024)
    assert projection.rows_at_once(0) == 1
    assert projection.rows_at_once(2**20) == 2**20 // (12 * 1024 + 64)
    # More memory makes batches no larger, only many rows of buckets that wait.
    assert projection.rows_at_once(2**40) == FEW // (12 * 1024 + 64)
    assert fold(made({"c": (5,)}), 2**20).rows_at_once(2**40) == 64
