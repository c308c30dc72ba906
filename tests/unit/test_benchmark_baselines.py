"""The benchmarks' baselines, as far as they are made here."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import get_linear_schedule_with_warmup

from benchmarks.measure.tracin import learning_rate, rates_before, tracin
from benchmarks.measure.ways import Checkpoint
from trak_steps.config.settings import FinetuneSettings
from trak_steps.gradients.model_output import TextClassification

N, T, WIDTH, CLASSES = 7, 3, 5, 4
OUTPUT = TextClassification()
Rows = tuple[Tensor, Tensor]


def _rows(count: int, seed: int) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, WIDTH, generator=draw, dtype=torch.double)
    return inputs, torch.randint(CLASSES, (count,), generator=draw)


TRAIN, TARGETS = _rows(N, 1), _rows(T, 2)


def _model(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, CLASSES).double()


def _gradients(model: nn.Linear, values: Tensor) -> Tensor:
    """Of each value by all parameters, by autograd."""
    return torch.stack(
        [
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(value, [*model.parameters()], retain_graph=True)
                ]
            )
            for value in values
        ]
    )


def _loss_gradients(model: nn.Linear, rows: Rows) -> Tensor:
    return _gradients(model, cross_entropy(model(rows[0]), rows[1], reduction="none"))


def _checkpoint(model: nn.Linear) -> Checkpoint:
    """As a run has it, but for a projection: the margins' gradients and the loss weights."""
    features = [_gradients(model, OUTPUT.output(model(of[0]), of[1])) for of in (TRAIN, TARGETS)]
    with torch.no_grad():
        weights = [OUTPUT.loss_weight(model(of[0]), of[1]) for of in (TRAIN, TARGETS)]
        margin = OUTPUT.output(model(TRAIN[0]), TRAIN[1])
    return Checkpoint(*features, *weights, margin)


def test_tracin_is_the_inner_product_of_the_losses_gradients() -> None:
    models = {name: _model(i) for i, name in enumerate(("0-0.5", "0", "1-0.5", "1"))}
    rates = {"0.5": 2.0, "1": 0.5}
    scores = tracin({name: _checkpoint(model) for name, model in models.items()}, rates)
    wanted = torch.zeros(N, T, dtype=torch.double)
    for name, model in models.items():
        products = _loss_gradients(model, TRAIN) @ _loss_gradients(model, TARGETS).T
        wanted += rates[name.partition("-")[2] or "1"] * products / 2
    torch.testing.assert_close(scores, wanted)


def test_a_step_on_what_tracin_calls_a_proponent_raises_the_margin() -> None:
    model = _model(0)
    scores = tracin({"0": _checkpoint(model)}, {"1": 1.0})
    with torch.no_grad():
        before = OUTPUT.output(model(TARGETS[0]), TARGETS[1])
    for row in range(N):
        stepped = _model(0)
        cross_entropy(stepped(TRAIN[0][[row]]), TRAIN[1][[row]]).backward()
        torch.optim.SGD(stepped.parameters(), lr=1e-5).step()
        with torch.no_grad():
            after = OUTPUT.output(stepped(TARGETS[0]), TARGETS[1])
        assert torch.equal((after - before).sign(), scores[row].sign())


@pytest.mark.parametrize(("steps", "warmup"), [(20, 4), (20, 0), (5, 5)])
def test_learning_rates_are_the_trainers(steps: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(1, steps + 1):
        assert learning_rate(step, steps=steps, warmup=warmup) == pytest.approx(
            schedule.get_last_lr()[0]
        )
        optimizer.step()
        schedule.step()


def test_a_checkpoint_counts_by_the_mean_rate_of_the_steps_that_led_to_it() -> None:
    # Ten steps, of which two rise: 0, 1/2, then 8/8 down to 1/8.
    recipe = FinetuneSettings(epochs=1, batch_size=1, learning_rate=8.0, warmup_ratio=0.2)
    rates = rates_before(["0-0.2", "0-0.4", "0", "1-0.2", "1-0.4", "1"], recipe, n=10)
    assert rates == pytest.approx({"0.2": 2.0, "0.4": 7.5, "1": 3.5})
