"""Time of an example: by hooks and fold, against a training step's forward and backward pass."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from transformers import PreTrainedModel

from benchmarks.measure.models import batches, minilm, random_rows
from trak_steps.gradients.budget import CPU_TOKENS
from trak_steps.gradients.frozen import differentiating
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.moments import mean_squares
from trak_steps.gradients.rows import Row, collate
from trak_steps.gradients.selfcheck import check_gradients
from trak_steps.gradients.source import select_parameters, tables_of
from trak_steps.model.moments import EPSILON
from trak_steps.projection import FoldProjection, Parameter
from trak_steps.projection.fold import CPU as CPU_COSTS
from trak_steps.projection.fold import Costs
from trak_steps.projection.metric import TABLES_SHARE, Metric, metric_of

CPU = torch.device("cpu")
LENGTH = 128
BATCH = CPU_TOKENS // LENGTH
DIMS = (256, 1024, 4096, 16384)
LAYERS = ((384, 384), (1152, 384), (384, 1536), (1536, 384), (768, 3072))
# Prices that leave only one way.
DIRECT = Costs(multiply=0, fold=0, transform=1, combine=1, spread=0, chunk=2**20)
FOURIER = Costs(multiply=1, fold=1, transform=0, combine=0, spread=0, chunk=2**20)

Action = Callable[[], None]


def in_turn(actions: Mapping[str, Action], repeats: int) -> dict[str, float]:
    """Median seconds of each action; they take turns, so that all meet the same noise."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def plain_step(model: PreTrainedModel, rows: Sequence[Row]) -> Action:
    """Forward and backward with the gradients of all weights."""
    batch = collate(rows, CPU)
    labels = batch.pop("label")

    def step() -> None:
        model.requires_grad_(True)
        TextClassification().output(model(**batch).logits, labels).sum().backward()
        model.zero_grad(set_to_none=True)

    return step


def frozen_step(model: PreTrainedModel, rows: Sequence[Row]) -> Action:
    """Forward and backward without them."""
    batch = collate(rows, CPU)
    labels = batch.pop("label")

    def step() -> None:
        embedded = model.bert.embeddings.register_forward_hook(
            lambda _module, _given, out: out.requires_grad_(True)
        )
        with differentiating(model):
            TextClassification().output(model(**batch).logits, labels).sum().backward()
        embedded.remove()

    return step


def featurize(
    model: PreTrainedModel, rows: Sequence[Row], dim: int, metric: Metric | None = None
) -> Action:
    """Features of rows, in batches of like length."""
    parameters = select_parameters(model.requires_grad_(True), [".*"], [])
    projection = FoldProjection(parameters, dim=dim, key=1, device=CPU, metric=metric)
    source = HookedGradients(
        model, TextClassification(), parameters, tokens=CPU_TOKENS, example=rows[-1]
    )
    ordered = sorted(rows, key=len)

    def step() -> None:
        sketch = projection.sketch(len(ordered))
        for batch in batches(ordered, source.tokens):
            source.run(ordered[batch], sketch.part(batch))
        sketch.finish()

    return step


def metric_ratio(dim: int) -> float:
    """Time of features in the optimizer's metric, over that of plain gradients; rows of 128 tokens."""
    model, rows = minilm(), random_rows(BATCH, LENGTH)
    parameters = select_parameters(model.requires_grad_(True), [".*"], [])
    moments = mean_squares(model, TextClassification(), rows[:2])
    metric = metric_of(parameters, moments, epsilon=EPSILON, tables=tables_of(model), share=TABLES_SHARE)
    actions = {"plain": featurize(model, rows, dim), "metric": featurize(model, rows, dim, metric)}
    seconds = in_turn(actions, 15)
    return seconds["metric"] / seconds["plain"]


def step_ratios(qnli: Sequence[Row]) -> dict[str, float]:
    """Ratios to the plain step of rows of 128 tokens, for an example each.

    Args:
        qnli: real rows, each timed at its own length.
    """
    model, rows = minilm(), random_rows(BATCH, LENGTH)
    actions = {
        "plain": plain_step(model, rows),
        "frozen": frozen_step(model, rows),
        **{f"k{dim}": featurize(model, rows, dim) for dim in DIMS},
    }
    seconds = {name: value / BATCH for name, value in in_turn(actions, 9).items()}
    pair = {"plain": plain_step(model, rows), "qnli": featurize(model, qnli, 1024)}
    real = in_turn(pair, 3)
    plain = seconds["plain"]
    return {
        "plain_seconds_128": plain,
        "frozen_ratio_128": seconds["frozen"] / plain,
        "qnli_seconds": real["qnli"] / len(qnli),
        "qnli_tokens": sum(map(len, qnli)) / len(qnli),
        "step_ratio_qnli": real["qnli"] / len(qnli) / (real["plain"] / BATCH),
        **{f"step_ratio_k{dim}": seconds[f"k{dim}"] / plain for dim in DIMS},
    }


def self_check_seconds(model: PreTrainedModel, rows: Sequence[Row], dim: int) -> float:
    """What the gate before a store costs, once for each store."""
    parameters = select_parameters(model.requires_grad_(True), [".*"], [])
    output = TextClassification()
    projection = FoldProjection(parameters, dim=dim, key=1, device=CPU)
    source = HookedGradients(model, output, parameters, tokens=CPU_TOKENS, example=rows[-1])
    check = {"check": lambda: check_gradients(model, output, source, projection, rows)}
    return in_turn(check, 3)["check"]


def crossover() -> list[dict[str, float | str]]:
    """The two ways to sketch a linear layer, in microseconds for an example of 128 tokens."""
    found: list[dict[str, float | str]] = []
    for out, given in LAYERS:
        parameter = Parameter("layer.dense.weight", (out, given), 0)
        right, left = torch.randn(2, LENGTH, given), torch.randn(2, LENGTH, out)
        for dim in DIMS:
            actions = {}
            for name, costs in (("direct", DIRECT), ("fourier", FOURIER)):
                projection = FoldProjection([parameter], dim=dim, key=1, device=CPU)
                projection.costs = costs
                actions[name] = _sketch(projection, parameter, left, right)
            seconds = in_turn(actions, 15)
            by_product = CPU_COSTS.direct(LENGTH, out, given) <= CPU_COSTS.fourier(LENGTH, 1, dim)
            found.append(
                {
                    "out": out,
                    "in": given,
                    "k": dim,
                    **{name: value / 2 * 1e6 for name, value in seconds.items()},
                    "chosen": "product" if by_product else "Fourier",
                }
            )
    return found


def _sketch(
    projection: FoldProjection, parameter: Parameter, left: torch.Tensor, right: torch.Tensor
) -> Action:
    sketch = projection.sketch(len(left))
    return lambda: sketch.add_products(right, [(parameter, left)])
