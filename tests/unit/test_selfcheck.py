"""The gate before features: it lets right gradients pass and names what is wrong."""

from collections.abc import Sequence

import pytest
import torch
from families import FAMILIES, classifier
from test_gradients import rows_of
from torch import Tensor

from trak_steps.errors import TrakError
from trak_steps.gradients import rules
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.rows import Row
from trak_steps.gradients.selfcheck import check_gradients
from trak_steps.gradients.source import Outputs, select_parameters
from trak_steps.projection import DenseProjection, FoldProjection, Parameter, Projection, Sketch
from trak_steps.projection.base import total_size

CPU = torch.device("cpu")


def check(
    family: str = "bert",
    projection: str = "fold",
    spoil: str = "",
    by: float = 0.01,
    precision: torch.dtype = torch.float32,
) -> None:
    model = classifier(family)
    parameters = select_parameters(model, [".*"], [])
    rows = rows_of([5, 12, 8], family)
    source = HookedGradients(
        model, TextClassification(), parameters, tokens=64, example=rows[0], precision=precision
    )
    made: Projection
    if projection == "fold":
        made = FoldProjection(parameters, dim=32, key=1, device=CPU)
    else:
        made = DenseProjection("normal", size=total_size(parameters), dim=32, key=1, device=CPU)
    checked = Spoiled(source, spoil, by) if spoil else source
    check_gradients(model, TextClassification(), checked, made, rows, precision)


class Spoiled:
    """A source that gets one parameter wrong."""

    def __init__(self, source: HookedGradients, name: str, by: float) -> None:
        self.parameters, self.tokens = source.parameters, source.tokens
        self._source, self._name, self._by = source, name, by

    def run(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        outputs = self._source.run(rows, sketch)
        for parameter in self.parameters:
            if parameter.name == self._name:
                sketch.add(parameter, torch.full((len(rows), parameter.size), self._by))
        return outputs


@pytest.mark.parametrize("family", FAMILIES)
def test_right_gradients_pass(family: str) -> None:
    check(family)
    check(family, projection="normal")


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_right_gradients_pass_in_low_precision(family: str, precision: torch.dtype) -> None:
    check(family, precision=precision)
    check(family, projection="normal", precision=precision)


def test_a_wrong_gradient_stops_in_low_precision_too() -> None:
    name = "bert.pooler.dense.weight"
    with pytest.raises(TrakError, match=f"self-check: .* {name} "):
        check(spoil=name, by=0.1, precision=torch.bfloat16)


@pytest.mark.parametrize(
    "name", ["bert.pooler.dense.weight", "bert.encoder.layer.1.attention.self.key.bias"]
)
def test_a_wrong_gradient_stops_and_is_named(name: str) -> None:
    with pytest.raises(TrakError, match=f"self-check: .* {name} "):
        check(spoil=name)


def test_a_wrong_rule_stops_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias forgotten by a rule, as one that a new kind of module would need."""
    right = rules.linear

    def forgetful(
        module: torch.nn.Module, given: Tensor, gradient: Tensor, wanted: dict[str, Parameter]
    ) -> dict[str, rules.Gradient]:
        return {n: g for n, g in right(module, given, gradient, wanted).items() if n != "bias"}

    monkeypatch.setattr(rules, "linear", forgetful)
    with pytest.raises(TrakError, match=r"self-check: .*gradient of .*bias"):
        check()


def test_a_wrong_sketch_of_factors_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    from trak_steps.projection.fold import FoldSketch

    monkeypatch.setattr(FoldSketch, "add_products", lambda *_: None)
    with pytest.raises(TrakError, match="their projection as factors differs"):
        check()


def test_a_selection_without_part_in_the_output_says_so() -> None:
    model = classifier("bert")
    model.spare = torch.nn.Linear(3, 3)
    parameters = select_parameters(model, [r"spare\..*"], [])
    rows = rows_of([5, 12])
    source = HookedGradients(model, TextClassification(), parameters, tokens=64, example=rows[0])
    projection = FoldProjection(parameters, dim=8, key=1, device=CPU)
    with pytest.raises(TrakError, match=r"none of the selected .* has a part"):
        check_gradients(model, TextClassification(), source, projection, rows)
