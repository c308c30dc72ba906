"""Per-sample gradients against one-at-a-time autograd in float64, for every model family."""

import copy
from typing import Self

import pytest
import torch
from families import FAMILIES, VOCABULARY, classifier
from torch import Tensor
from transformers import PreTrainedModel

from trak_steps.errors import TrakError
from trak_steps.gradients.functional import FunctionalGradients
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import ModelOutput, TextClassification
from trak_steps.gradients.rows import Row, batch_end
from trak_steps.gradients.source import GradientSource, Outputs, concatenate, select_parameters
from trak_steps.projection.base import Parameter, Sketch, total_size
from trak_steps.run.featurizer import naming_settings
from trak_steps.run.model_output import check_model_output, load_model_output

KINDS = ("functional", "hooks")
MIB = 2**20
# Gradients in float32 against float64, relative to the largest entry of the row's gradient.
TOLERANCE = 2e-5


class Collect(Sketch):
    """A sketch that keeps everything: the per-sample gradients themselves."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients

    def part(self, rows: slice) -> Self:
        return type(self)(self.gradients[rows])

    def clear(self) -> None:
        self.gradients.zero_()

    def finish(self) -> Tensor:
        return self.gradients

    def add(self, parameter: Parameter, gradient: Tensor) -> None:
        stop = parameter.start + parameter.size
        self.gradients[:, parameter.start : stop] += gradient.reshape(len(gradient), -1)


def rows_of(lengths: list[int], family: str = "bert") -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for i, length in enumerate(lengths):
        ids = torch.randint(5, VOCABULARY, (length,), generator=generator).tolist()
        types = [0] * (length // 2) + [1] * (length - length // 2)
        has_types = family in ("bert", "electra")
        rows.append(Row(ids, i % 3, types if has_types else None))
    return rows


def source_of(
    kind: str, model: PreTrainedModel, parameters: list[Parameter], tokens: int = 64
) -> GradientSource:
    if kind == "functional":
        source = FunctionalGradients(model, TextClassification(), parameters, 64 * MIB)
        source.tokens = tokens
        return source
    family = model.config.model_type
    return HookedGradients(
        model, TextClassification(), parameters, tokens=tokens, example=rows_of([6], family)[0]
    )


def run(kind: str, model: PreTrainedModel, rows: list[Row], tokens: int = 64) -> tuple[Tensor, Outputs]:
    """Gradients [b, p] and outputs in the rows' order, run in batches by length."""
    parameters = select_parameters(model, [".*"], [])
    source = source_of(kind, model, parameters, tokens)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    ordered = [rows[place] for place in order]
    sketch = Collect(torch.zeros(len(rows), total_size(parameters)))
    outputs, start = [], 0
    while start < len(rows):
        batch = slice(start, batch_end(ordered, start, tokens))
        outputs.append(source.run(ordered[batch], sketch.part(batch)))
        start = batch.stop
    together = concatenate(outputs)
    back = torch.tensor(order).argsort()
    return sketch.gradients[back], Outputs(
        together.margin[back], together.loss_weight[back], together.prediction[back]
    )


def slow(model: PreTrainedModel, row: Row, padding: int = 0) -> tuple[Tensor, float, float]:
    """Margin and its gradient by plain autograd, and 1 − p, in float64, written another way."""
    exact = copy.deepcopy(model).double().requires_grad_(True)
    ids = torch.tensor([[*row.input_ids, *[0] * padding]])
    mask = torch.tensor([[1] * len(row) + [0] * padding])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if row.token_type_ids is not None:
        inputs["token_type_ids"] = torch.tensor([[*row.token_type_ids, *[0] * padding]])
    p = exact(**inputs).logits.softmax(1)[0, row.label]
    margin = (p / (1 - p)).log()
    gradients = torch.autograd.grad(margin, list(exact.parameters()), allow_unused=True)
    flat = [
        torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
        for parameter, gradient in zip(exact.parameters(), gradients, strict=True)
    ]
    return torch.cat(flat), margin.item(), 1 - p.item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_margins_and_weights_are_those_of_autograd(family: str, kind: str) -> None:
    """Batched by length and, by hooks, padded; each row against itself alone and without padding.

    With the attention that the step chooses: for hooks, the model's own default.
    """
    model = classifier(family, attention=None if kind == "hooks" else "eager")
    rows = rows_of([5, 9, 9, 7, 12, 9], family)
    gradients, outputs = run(kind, model, rows)
    for i, row in enumerate(rows):
        exact, margin, weight = slow(model, row)
        scale = exact.abs().max()
        assert (gradients[i] - exact).abs().max() < TOLERANCE * scale
        assert outputs.margin[i].item() == pytest.approx(margin, abs=1e-5)
        assert outputs.loss_weight[i].item() == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_would_give_the_same(family: str, kind: str) -> None:
    """A row that runs without padding has the gradient of one that is padded and masked."""
    model = classifier(family)
    row = rows_of([8], family)[0]
    gradients, _ = run(kind, model, [row])
    padded, _, _ = slow(model, row, padding=5)
    assert (gradients[0] - padded).abs().max() < TOLERANCE * padded.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(kind: str) -> None:
    model = classifier("bert")
    rows = rows_of([7, 7, 5, 7, 11, 7, 5])
    together, _ = run(kind, model, rows)
    one_by_one, _ = run(kind, model, rows, tokens=1)
    for i, row in enumerate(rows):
        alone, _ = run(kind, model, [row])
        scale = alone.abs().max()
        assert (together[i] - alone[0]).abs().max() < 1e-6 * scale
        assert (one_by_one[i] - alone[0]).abs().max() < 1e-6 * scale


@pytest.mark.parametrize("kind", KINDS)
def test_only_selected_parameters_count(kind: str) -> None:
    model = classifier("bert")
    everything = select_parameters(model, [".*"], [])
    chosen = select_parameters(model, [r".*encoder.*", r"classifier\..*"], [r".*LayerNorm.*"])
    rows = rows_of([6, 8])
    whole, _ = run(kind, model, rows)
    sketch = Collect(torch.zeros(len(rows), total_size(chosen)))
    source_of(kind, model, chosen).run(rows, sketch)
    assert 0 < len(chosen) < len(everything)
    place = {parameter.name: parameter for parameter in everything}
    for parameter in chosen:
        same = place[parameter.name]
        part = sketch.gradients[:, parameter.start : parameter.start + parameter.size]
        expected = whole[:, same.start : same.start + same.size]
        assert torch.allclose(part, expected, atol=1e-6 * float(whole.abs().max()))


def test_a_selection_that_fails_says_so() -> None:
    wanted = r"no trainable parameter .* bert\..*features\.parameters"
    with pytest.raises(TrakError, match=wanted), naming_settings():
        select_parameters(classifier("bert"), ["nothing"], [])


def test_the_margin_is_the_log_odds_and_the_weight_heeds_the_temperature() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    p = logits.softmax(1)[torch.arange(5), labels]
    hot = (logits / 2).softmax(1)[torch.arange(5), labels]
    assert torch.allclose(TextClassification().output(logits, labels), (p / (1 - p)).log())
    assert torch.allclose(TextClassification(2.0).loss_weight(logits, labels), 1 - hot)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image_classification", "`image_classification`; use `text_classification`"),
        ("no_such_module:Task", "`no_such_module` cannot be imported"),
        ("json:Task", "`json` has no `Task`"),
        ("json:JSONDecoder", "has no method `output`"),
    ],
)
def test_an_unknown_model_output_is_named(name: str, message: str) -> None:
    with pytest.raises(TrakError, match=r"features\.model_output") as error:
        load_model_output(name, 1.0)
    assert message in str(error.value)


class _Column:
    def output(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, :1]

    def loss_weight(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 0]


class _Fails(_Column):
    def output(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise IndexError("nine")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (_Column(), r"`my:Task.output` .*\[2\], .*\[2, 1\]"),
        (_Fails(), "`my:Task.output` failed .*IndexError: nine"),
    ],
)
def test_a_model_output_of_the_wrong_shape_is_explained(made: ModelOutput, message: str) -> None:
    with pytest.raises(TrakError, match=message):
        check_model_output(made, "my:Task", 3)


def test_the_loss_weight_keeps_its_digits_where_the_model_is_sure() -> None:
    logits = torch.tensor([[20.0, 0.0]])
    exact = 1 / (1 + torch.tensor(20.0, dtype=torch.float64).exp())
    found = TextClassification().loss_weight(logits, torch.tensor([0]))
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)
