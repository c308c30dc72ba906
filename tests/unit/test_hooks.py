"""Hooks on models that are built awkwardly: shared weights, modules called twice, raw parameters."""

import copy
import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, classifier
from test_fold import DIRECT, FOURIER
from test_gradients import Collect, rows_of, run, slow
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trak_steps.errors import TrakError
from trak_steps.gradients.autocast import autocast
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.rows import Row
from trak_steps.gradients.source import select_parameters
from trak_steps.projection import FoldProjection
from trak_steps.projection.base import total_size
from trak_steps.projection.fold import Costs
from trak_steps.steps.features.featurize import say_how_rows_are_run

WIDTH, WORDS, CLASSES = 6, 20, 3
TOLERANCE = 1e-5


class Model(nn.Module):
    """A classifier of a mean over tokens; what is in between is each test's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(pad_token_id=0)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    @property
    def device(self) -> torch.device:
        return self.words.weight.device

    def between(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.between(self.words(input_ids)) * mask[:, :, None]
        return SimpleNamespace(logits=self.classifier(hidden.sum(1) / mask.sum(1, keepdim=True)))


class Twice(Model):
    """One layer called twice, in turn with another of the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.tied = nn.Linear(WIDTH, WIDTH)
        self.tied.weight = self.layer.weight

    def between(self, hidden: Tensor) -> Tensor:
        once = torch.tanh(self.layer(hidden))
        return torch.tanh(self.layer(torch.tanh(self.tied(once)))) + self.layer(hidden)


class TiedToWords(Model):
    """An output layer that shares the embedding's weight, as language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight

    def between(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.head(hidden)) @ torch.ones(WORDS, WIDTH).cumsum(0).to(hidden)


class Others(Model):
    """Conv1D, RMSNorm, padding id, an unused module, one input given to two shapes of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=5)
        self.conv = Conv1D(8, WIDTH)
        self.wide = nn.Linear(WIDTH, 8)
        self.second = Conv1D(8, WIDTH)
        self.back = nn.Linear(8, WIDTH, bias=False)
        self.norm = nn.RMSNorm(WIDTH, eps=1e-2)
        self.unused = nn.Linear(WIDTH, WIDTH)

    def between(self, hidden: Tensor) -> Tensor:
        self.wide(hidden)
        mixed = self.conv(hidden) * torch.sigmoid(self.wide(hidden)) + self.second(hidden)
        return self.norm(self.back(mixed))


class Raw(Model):
    """A parameter of no module that has a rule, and a weight used without calling its module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.position = nn.Linear(WIDTH, WIDTH)

    def between(self, hidden: Tensor) -> Tensor:
        shared = self.position(self.scale[None, None].expand(1, 2, -1)).sum(1, keepdim=True)
        return torch.tanh(self.layer(hidden) * self.scale) @ self.layer.weight + shared


class Doubled(nn.Embedding):
    """Not what its class says: the rule for embeddings would miss the factor."""

    def forward(self, ids: Tensor) -> Tensor:
        return 2 * super().forward(ids)


class Subclassed(Model):
    def __init__(self) -> None:
        super().__init__()
        self.words = Doubled(WORDS, WIDTH)


class ChangesFirst(Model):
    """Changes in place what the first module gave it."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden.mul_(2.0).relu_()


class PlusOneRMSNorm(nn.Module):
    """Scales by 1 + weight, as Gemma's does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-2).rsqrt() * (1 + self.weight)


class OtherNorm(Model):
    def __init__(self) -> None:
        super().__init__()
        self.norm = PlusOneRMSNorm()

    def between(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)


class InPlace(Model):
    """Changes what it gave to a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def between(self, hidden: Tensor) -> Tensor:
        hidden = torch.relu(hidden)
        out = self.layer(hidden)
        with torch.no_grad():
            hidden.mul_(2)
        return out


def rows() -> list[Row]:
    return [Row([3, 5, 7], 0), Row([5, 5, 9, 1], 1), Row([2, 4, 4, 6, 8, 19], 2)]


def hooked(model: Model, include: str = ".*") -> tuple[HookedGradients, Tensor]:
    parameters = select_parameters(model, [include], [])
    source = HookedGradients(
        model,  # type: ignore[arg-type]
        TextClassification(),
        parameters,
        tokens=100,
        example=rows()[0],
    )
    sketch = Collect(torch.zeros(3, total_size(parameters)))
    source.run(rows(), sketch)
    return source, sketch.gradients


def exact(model: Model) -> Tensor:
    """Autograd in float64, a row at a time."""
    double = copy.deepcopy(model).double()
    found = []
    for row in rows():
        logits = double(torch.tensor([row.input_ids])).logits
        p = logits.softmax(1)[0, int(row.label)]
        parameters = list(double.parameters())
        gradients = torch.autograd.grad((p / (1 - p)).log(), parameters, allow_unused=True)
        pairs = zip(parameters, gradients, strict=True)
        found.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]))
    return torch.stack(found)


@pytest.mark.parametrize("kind", [Model, Twice, TiedToWords, Others, ChangesFirst, OtherNorm])
def test_every_rule_and_shared_weights_give_the_right_sum(kind: type[Model]) -> None:
    model = kind()
    source, gradients = hooked(model)
    expected = exact(model)
    assert source.one_by_one == []
    assert (gradients - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Raw, ["layer.weight", "position.bias", "position.weight", "scale"]),
        (Subclassed, ["words.weight"]),
    ],
)
def test_what_no_rule_covers_is_named_and_left_to_autograd(
    kind: type[Model], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = kind()
    source, gradients = hooked(model)
    expected = exact(model)
    assert source.one_by_one == names
    assert (gradients - expected).abs().max() < TOLERANCE * expected.abs().max()
    say_how_rows_are_run(source)
    said = capsys.readouterr().err
    assert "one by one" in said
    assert names[0] in said


def test_what_is_not_selected_needs_no_rule() -> None:
    source, gradients = hooked(Raw(), r"classifier\..*")
    assert source.one_by_one == []
    whole = exact(Raw())
    named = [name for name, _ in Raw().named_parameters()]
    sizes = [tensor.numel() for _, tensor in Raw().named_parameters()]
    start = sum(sizes[: named.index("classifier.weight")])
    stop = start + gradients.shape[1]
    assert torch.allclose(gradients.double(), whole[:, start:stop], atol=1e-6)


def test_an_input_that_is_changed_in_place_is_noticed() -> None:
    with pytest.raises(TrakError, match="Linear in place"):
        hooked(InPlace())


def test_only_trainable_parameters_are_featurized() -> None:
    """As with adapters: what was frozen when the model was loaded has no gradient here."""
    model = classifier("bert")
    for name, tensor in model.named_parameters():
        tensor.requires_grad_("attention.self.query" in name or name.startswith("classifier"))
    names = {parameter.name for parameter in select_parameters(model, [".*"], [])}
    assert names
    assert all("query" in name or "classifier" in name for name in names)
    given = rows_of([5, 9])
    gradients, _ = run("hooks", model, given)
    whole = copy.deepcopy(model).requires_grad_(True)
    place, taken = 0, []
    for name, tensor in whole.named_parameters():
        if name in names:
            taken += range(place, place + tensor.numel())
        place += tensor.numel()
    for i, row in enumerate(given):
        expected = slow(whole, row)[0][taken]
        assert (gradients[i] - expected).abs().max() < 2e-5 * expected.abs().max()
    # The model is left as it came.
    assert {n for n, tensor in model.named_parameters() if tensor.requires_grad} == names


@pytest.mark.parametrize("fails", [False, True])
def test_memory_is_let_go_after_each_pass(fails: bool) -> None:
    """No tensor of a pass survives it, nor of one that failed, without the garbage collector's help."""
    model = classifier("bert")
    parameters = select_parameters(model, [".*"], [])
    given = rows_of([5, 9])
    source = HookedGradients(model, TextClassification(), parameters, tokens=64, example=given[0])
    seen: list[weakref.ref[Tensor]] = []
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _module, _given, out: seen.append(weakref.ref(out)))

    class Fails(Collect):
        products = 0

        def add_products(self, *_: object) -> None:
            Fails.products += 1
            if Fails.products == 5:
                raise torch.OutOfMemoryError("too much")

    sketch = (Fails if fails else Collect)(torch.zeros(2, total_size(parameters)))
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError) if fails else nullcontext():
            source.run(given, sketch)
        assert len(seen) > 5
        assert all(reference() is None for reference in seen)
    finally:
        gc.enable()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("costs", [DIRECT, FOURIER])
def test_low_precision_is_near_and_adds_up_in_float32(
    precision: torch.dtype, family: str, costs: Costs
) -> None:
    """Autocast on a CPU, for float16 as a stand-in for a GPU's: the same code, other kernels.

    Within 2 % of the float32 features in the Euclidean norm; the sketch itself is float32.
    """
    _compare_with_float32(classifier(family), precision, family, costs, [])


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_low_precision_masks_what_is_padded(precision: torch.dtype) -> None:
    """DeBERTa without its relative positions, whose rows can be run together."""
    excluded = [r".*\.pos_(q_)?proj\..*", r".*rel_embeddings.*", r".*[qv]_bias", r".*in_proj\..*"]
    excluded.append(r".*encoder\.LayerNorm\..*")
    source = _compare_with_float32(classifier("deberta"), precision, "deberta", DIRECT, excluded)
    assert source.one_by_one == []


def _compare_with_float32(
    model: PreTrainedModel, precision: torch.dtype, family: str, costs: Costs, excluded: list[str]
) -> HookedGradients:
    """Hold features in a precision to those in float32; gives the source of the former."""
    parameters = select_parameters(model, [".*"], excluded)
    given = sorted(rows_of([5, 9, 12], family), key=len)
    features = {}
    for used in (torch.float32, precision):
        source = HookedGradients(
            model, TextClassification(), parameters, tokens=64, example=given[0], precision=used
        )
        projection = FoldProjection(parameters, dim=32, key=1, device=torch.device("cpu"))
        projection.costs = costs
        sketch = projection.sketch(3)
        outputs = source.run(given, sketch)
        assert outputs.margin.dtype == torch.float32
        features[used] = sketch.finish()
        assert features[used].dtype == torch.float32
    error = (features[precision] - features[torch.float32]).norm(dim=1)
    assert (error > 0).all()
    assert (error < 0.02 * features[torch.float32].norm(dim=1)).all()
    return source


def test_a_mask_fills_with_what_the_scores_can_hold() -> None:
    """The smallest float32 becomes the smallest bfloat16; what fits, and infinity, stay as they are."""
    scores, mask = torch.zeros(2, dtype=torch.bfloat16), torch.tensor([True, False])
    smallest = torch.finfo(torch.float32).min
    with pytest.raises(RuntimeError, match="overflow"):
        scores.masked_fill(mask, smallest)
    with autocast(torch.device("cpu"), torch.bfloat16):
        filled = scores.masked_fill(mask, smallest)
        assert filled.tolist() == [torch.finfo(torch.bfloat16).min, 0.0]
        assert scores.masked_fill(mask, -2.0).tolist() == [-2.0, 0.0]
        assert scores.masked_fill(mask, float("-inf")).tolist() == [float("-inf"), 0.0]
        assert scores.float().masked_fill(mask, smallest).tolist() == [smallest, 0.0]
    with autocast(torch.device("cpu"), torch.float32), pytest.raises(RuntimeError, match="overflow"):
        scores.masked_fill(mask, smallest)
