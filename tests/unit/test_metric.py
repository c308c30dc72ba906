"""Adam's metric: D^(-1/2) of the second moments, in every sketch, from what a training keeps."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fold_oracle import fold_matrix, made
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trak_steps.errors import TrakError
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.moments import mean_squares
from trak_steps.gradients.rows import Row
from trak_steps.gradients.source import tables_of
from trak_steps.model.files import SECOND_MOMENTS as FILE
from trak_steps.model.moments import OPTIMIZER, load_moments, moments_of, save_moments
from trak_steps.projection import DenseProjection, FoldProjection, Parameter, Projection
from trak_steps.projection.fold import Costs
from trak_steps.projection.metric import Metric, SecondMoments, metric_of

CPU = torch.device("cpu")
# Float32 sums and Fourier transforms against float64, relative to the largest feature.
TOLERANCE = 3e-6
DIRECT = Costs(multiply=0, fold=0, transform=1, combine=1, spread=0, chunk=2**20)
FOURIER = Costs(multiply=1, fold=1, transform=0, combine=0, spread=0, chunk=2**20)
SHAPES = {"a.q.weight": (12, 30), "a.k.weight": (12, 30), "a.q.bias": (12,), "words.weight": (40, 6)}


def of_rank_one(parameters: list[Parameter]) -> dict[str, Tensor]:
    """v̂ that is of rank one, with the same columns for the matrices that share theirs."""
    draw = torch.Generator().manual_seed(0)
    columns = torch.rand(30, generator=draw, dtype=torch.float64)
    found = {}
    for parameter in parameters:
        rows = torch.rand(parameter.shape[0], generator=draw, dtype=torch.float64) * 1e-8
        own = columns if parameter.name.startswith("a.") else torch.ones(parameter.shape[-1]).double()
        found[parameter.name] = rows if len(parameter.shape) == 1 else torch.outer(rows, own)
    return found


def metric_without(parameters: list[Parameter], values: dict[str, Tensor]) -> Metric:
    moments = {name: SecondMoments.of(value) for name, value in values.items()}
    return metric_of(parameters, moments, epsilon=0.0, tables={"words.weight"}, share=0.1)


def whole(factors: tuple[Tensor, ...]) -> Tensor:
    return torch.outer(*factors).flatten() if len(factors) == 2 else factors[0]


def test_of_moments_of_rank_one_the_metric_is_adams_up_to_one_scale() -> None:
    parameters = made(SHAPES)
    values = of_rank_one(parameters)
    metric = metric_without(parameters, values)
    others = {name: value for name, value in values.items() if name != "words.weight"}
    ratios = [whole(metric[name]) * value.flatten() ** 0.25 for name, value in others.items()]
    scale = ratios[0][0]
    for ratio in ratios:
        torch.testing.assert_close(ratio, scale.expand_as(ratio), rtol=1e-9, atol=0)
    # The scale leaves the mean square as it was, and the table has its share of it, rows all alike.
    before = sum(float(value.sum()) for value in others.values())
    after = sum(
        float((value.flatten() * whole(metric[name]) ** 2).sum()) for name, value in others.items()
    )
    table = whole(metric["words.weight"])
    assert after == pytest.approx(before)
    assert float((values["words.weight"].flatten() * table**2).sum()) == pytest.approx(0.1 * before)
    assert bool((table == table[0]).all())


@pytest.mark.parametrize("unmoved", ["a.q.weight", "a.k.weight", "words.weight", "a.q.bias"])
@pytest.mark.parametrize("costs", [DIRECT, FOURIER])
def test_what_the_optimizer_never_moved_has_no_part(unmoved: str, costs: Costs) -> None:
    """And takes none from the matrix that shares its inputs."""
    parameters = made(SHAPES)
    values = of_rank_one(parameters)
    values[unmoved].zero_()
    metric = metric_without(parameters, values)
    assert all(bool(torch.isfinite(factor).all()) for of in metric.values() for factor in of)
    assert {name: bool(whole(of).any()) for name, of in metric.items()} == {
        name: name != unmoved for name in SHAPES
    }
    projection = FoldProjection(parameters, dim=101, key=3, device=CPU, metric=metric)
    projection.costs = costs
    query, key, *_ = parameters
    right, lefts = torch.randn(2, 5, 30), [torch.randn(2, 5, 12) for _ in range(2)]
    together, alone = projection.sketch(2), projection.sketch(2)
    together.add_products(right, [(query, lefts[0]), (key, lefts[1])])
    for parameter, left in zip((query, key), lefts, strict=True):
        if parameter.name != unmoved:
            alone.add_products(right, [(parameter, left)])
    assert_close(together.finish(), alone.finish().double())


@pytest.mark.parametrize("costs", [DIRECT, FOURIER])
def test_the_fold_takes_the_metric_in_each_of_its_ways(costs: Costs) -> None:
    parameters = made(SHAPES)
    metric = metric_without(parameters, of_rank_one(parameters))
    plain = FoldProjection(parameters, dim=101, key=3, device=CPU)
    factors = torch.cat([whole(metric[p.name]) for p in parameters])
    matrix = factors[:, None] * fold_matrix(plain, parameters)
    projection = FoldProjection(parameters, dim=101, key=3, device=CPU, metric=metric)
    projection.costs = costs
    query, key, bias, words = parameters
    right = torch.randn(3, 11, 30)
    lefts = [torch.randn(3, 11, 12) for _ in range(2)]
    ids, values = torch.randint(40, (3, 11)), torch.randn(3, 11, 6)
    table = torch.zeros(3, 40, 6)
    for i in range(3):
        table[i].index_add_(0, ids[i], values[i])
    gradients = [*(left.mT @ right for left in lefts), lefts[0].sum(1), table]
    expected = torch.cat([gradient.flatten(1) for gradient in gradients], 1).double() @ matrix

    sketch = projection.sketch(3)
    sketch.add_products(right, [(query, lefts[0]), (key, lefts[1])])
    sketch.add(bias, lefts[0].sum(1))
    sketch.add_rows(words, ids, values)
    assert_close(sketch.finish(), expected)
    assert_close(projected(projection, parameters, gradients), expected)


@pytest.mark.parametrize("kind", ["rademacher", "normal"])
def test_a_dense_projection_takes_the_metric(kind: str) -> None:
    parameters = made(SHAPES)
    metric = metric_without(parameters, of_rank_one(parameters))
    size = parameters[-1].start + parameters[-1].size
    plain = DenseProjection(kind, size=size, dim=16, key=1, device=CPU)  # type: ignore[arg-type]
    gradients = [torch.randn(2, *parameter.shape) for parameter in parameters]
    factors = torch.cat([whole(metric[p.name]) for p in parameters])
    flat = torch.cat([gradient.flatten(1) for gradient in gradients], 1).double() * factors
    blocks = torch.cat([plain.block(i) for i in range(-(-size // 1024))]).double()
    projection = DenseProjection(
        kind,  # type: ignore[arg-type]
        size=size,
        dim=16,
        key=1,
        device=CPU,
        metric=metric,
    )
    assert_close(projected(projection, parameters, gradients), flat @ blocks / 4)


def projected(projection: Projection, parameters: list[Parameter], gradients: list[Tensor]) -> Tensor:
    sketch = projection.sketch(len(gradients[0]))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        sketch.add(parameter, gradient)
    return sketch.finish()


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


class Small(nn.Module):
    """A table, a layer, and a parameter that nothing moves."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.words(ids)).sum()


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Small, torch.optim.AdamW, Path]:
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1e-7)
    for ids in ([0, 1], [1, 2], [1, 3]):
        optimizer.zero_grad()
        (model(torch.tensor(ids)) ** 2).backward()
        optimizer.step()
    save_moments(tmp_path, *moments_of(optimizer, model), OPTIMIZER)
    return model, optimizer, tmp_path


def parameters_of(model: nn.Module) -> list[Parameter]:
    return made({name: tuple(value.shape) for name, value in model.named_parameters()})


def test_what_is_kept_is_the_optimizers_without_the_bias_of_its_start(
    trained: tuple[Small, torch.optim.AdamW, Path],
) -> None:
    model, optimizer, folder = trained
    found, epsilon = load_moments(folder, parameters_of(model))
    assert epsilon == 1e-7
    for name, value in model.named_parameters():
        if name == "unused":
            assert not found[name].rows.any()
            continue
        whole = optimizer.state[value]["exp_avg_sq"].double() / (1 - 0.99**3)
        expected = SecondMoments.of(whole)
        torch.testing.assert_close(found[name].rows, expected.rows, rtol=1e-6, atol=0)
        if value.dim() > 1:
            torch.testing.assert_close(found[name].columns, expected.columns, rtol=1e-6, atol=0)
    assert tables_of(model) == {"words.weight"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda held: held.pop("layer.weight.rows"), "of other parameters"),
        (lambda held: held.update({"layer.bias.rows": torch.ones(5)}), r"layer\.bias .*\[5\].*\[3\]"),
        (lambda held: held["layer.weight.columns"].neg_(), r"layer\.weight .*negative"),
        (lambda held: held["layer.weight.rows"].fill_(torch.nan), r"layer\.weight .*not finite"),
        (lambda held: [value.zero_() for value in held.values()], "zero"),
    ],
)
def test_moments_that_do_not_fit_are_refused(
    trained: tuple[Small, torch.optim.AdamW, Path], damage, said: str
) -> None:  # type: ignore[no-untyped-def]
    model, _, folder = trained
    held = load_file(folder / FILE)
    damage(held)
    save_file(held, folder / FILE, metadata={"about": '{"epsilon": 1e-8}'})
    with pytest.raises(TrakError, match=rf"(?s){FILE}.*{said}.*features\.metric: none"):
        load_moments(folder, parameters_of(model))


def test_moments_that_are_missing_or_damaged_are_refused(
    trained: tuple[Small, torch.optim.AdamW, Path],
) -> None:
    model, _, folder = trained
    (folder / FILE).write_bytes(b"no tensors")
    with pytest.raises(TrakError, match=rf"{FILE}: is damaged"):
        load_moments(folder, parameters_of(model))
    (folder / FILE).unlink()
    with pytest.raises(TrakError, match=rf"{FILE}: is missing"):
        load_moments(folder, parameters_of(model))


class Two(nn.Module):
    """Two logits of some tokens, and a parameter that has no part in them."""

    device = CPU

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.layer = nn.Linear(4, 2)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layer(self.words(input_ids).tanh().mean(1)))


def test_mean_squares_are_those_of_single_rows_gradients() -> None:
    """Against the margin of two logits, differentiated by hand, in float64."""
    torch.manual_seed(0)
    model = Two().double()
    rows = [Row([1, 2, 2], 0), Row([3], 1), Row([2, 5, 8, 0], 1)]
    squares = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for row in rows:
        sign = torch.tensor([1.0, -1.0] if row.label == 0 else [-1.0, 1.0]).double()
        inner = model.words.weight[row.input_ids].tanh()
        squares["layer.weight"] += torch.outer(sign, inner.mean(0)) ** 2 / 3
        squares["layer.bias"] += sign**2 / 3
        of_words = torch.zeros(9, 4).double()
        for word, values in zip(row.input_ids, inner, strict=True):
            of_words[word] += sign @ model.layer.weight * (1 - values**2) / len(row)
        squares["words.weight"] += of_words**2 / 3
    found = mean_squares(model, TextClassification(), rows)  # type: ignore[arg-type]
    for name, value in squares.items():
        expected = SecondMoments.of(value.detach())
        torch.testing.assert_close(found[name].rows, expected.rows, rtol=1e-12, atol=0)
        if value.dim() > 1:
            torch.testing.assert_close(found[name].columns, expected.columns, rtol=1e-12, atol=0)
    assert not found["unused"].rows.any()
    assert all(value.requires_grad for value in model.parameters())


def test_the_same_moments_are_the_same_bytes(
    trained: tuple[Small, torch.optim.AdamW, Path], tmp_path: Path
) -> None:
    """A training that is done again has to end in the same checkpoint, bit for bit."""
    model, optimizer, folder = trained
    before = (folder / FILE).read_bytes()
    for _ in range(20):
        save_moments(tmp_path, *moments_of(optimizer, model), OPTIMIZER)
        assert (tmp_path / FILE).read_bytes() == before
