"""A gate before features: are a source's gradients those of autograd, and the sketch theirs?

A few rows are run as they will be, alone and padded in a batch, and compared with plain autograd, one
row at a time, parameter by parameter. What a hook cannot see, or a model's code does that no rule
expects, shows here rather than in the scores.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trak_steps.errors import TrakError
from trak_steps.gradients.frozen import differentiating
from trak_steps.gradients.model_output import ModelOutput
from trak_steps.gradients.rows import Row, collate
from trak_steps.gradients.source import GradientSource
from trak_steps.projection.base import Parameter, Projection, Sketch

# How far a parameter's gradient may be off, in the Euclidean norm: relative to itself, and relative
# to the whole gradient, since some are zero but for rounding (an attention's key bias).
TOLERANCES = {
    torch.float32: (1e-3, 1e-5),
    torch.float16: (5e-2, 1e-2),
    torch.bfloat16: (2e-1, 5e-2),
}


def check_gradients(
    model: PreTrainedModel,
    output: ModelOutput,
    source: GradientSource,
    projection: Projection,
    rows: Sequence[Row],
    precision: torch.dtype = torch.float32,
) -> None:
    """Compare a source with autograd on the shortest and the longest row.

    Args:
        model: in evaluation mode.
        output: the function of the logits to differentiate.
        source: what is checked.
        projection: checked as well, if it takes gradients as factors.
        rows: any number of them; two are taken.
        precision: of the source; autograd runs in float32.

    Raises:
        TrakError: naming the parameter that differs most, and how it was run.
    """
    shortest, longest = min(rows, key=len), max(rows, key=len)
    for batch, how in (([longest], "alone"), ([shortest, longest], "padded, in a batch")):
        exact = [_autograd(model, output, source.parameters, row) for row in batch]
        if not all(torch.isfinite(value).all() for row in exact for value in row.values()):
            return  # not the source's fault, and the features' own check names the row
        difference = _Difference(exact)
        source.run(batch, difference)
        difference.require_small(source.parameters, TOLERANCES[precision], how)
        if type(projection).takes_factors and how != "alone":
            _check_sketch(source, projection, exact, batch, TOLERANCES[precision])


def _check_sketch(
    source: GradientSource,
    projection: Projection,
    exact: Sequence[Mapping[str, Tensor]],
    batch: Sequence[Row],
    tolerances: tuple[float, float],
) -> None:
    """Features of a batch against the same projection of whole gradients."""
    sketch = projection.sketch(len(batch))
    source.run(batch, sketch)
    features = sketch.finish()
    expected = torch.cat([_project(projection, source.parameters, row) for row in exact])
    for row, (found, wanted) in enumerate(zip(features, expected, strict=True)):
        error = float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))
        if not error < tolerances[0]:
            raise TrakError(
                f"self-check: the projection of gradients taken as factors differs by {error:.1e} from "
                f"that of whole gradients, in row {row + 1} of {len(batch)}; set features.projection: "
                "rademacher, and please report it"
            )


def _project(
    projection: Projection, parameters: Sequence[Parameter], gradients: Mapping[str, Tensor]
) -> Tensor:
    sketch = projection.sketch(1)
    for parameter in parameters:
        if parameter.name in gradients:
            sketch.add(parameter, gradients[parameter.name][None])
    return sketch.finish()


def _autograd(
    model: PreTrainedModel, output: ModelOutput, parameters: Sequence[Parameter], row: Row
) -> dict[str, Tensor]:
    """The gradient of one row by plain autograd, without padding; unused parameters are left out."""
    named = dict(model.named_parameters())
    tensors = [named[parameter.name] for parameter in parameters]
    batch = collate([row], model.device)
    labels = batch.pop("label")
    with differentiating(model, tensors), torch.enable_grad():
        margin = output.output(model(**batch).logits, labels).sum()
        gradients = torch.autograd.grad(margin, tensors, allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return {parameter.name: found for parameter, found in pairs if found is not None}


class _Difference(Sketch):
    """Adds up a source's gradients less those expected, whole."""

    def __init__(
        self, expected: Sequence[Mapping[str, Tensor]], rows: Sequence[dict[str, Tensor]] | None = None
    ) -> None:
        self._expected = expected
        self._rows: Sequence[dict[str, Tensor]] = [{} for _ in expected] if rows is None else rows

    def part(self, rows: slice) -> Self:
        return type(self)(self._expected[rows], self._rows[rows])

    def clear(self) -> None:
        for row in self._rows:
            row.clear()

    def finish(self) -> Tensor:
        raise NotImplementedError

    def add(self, parameter: Parameter, gradient: Tensor) -> None:
        for sums, expected, given in zip(self._rows, self._expected, gradient, strict=True):
            given = given.reshape(parameter.shape).float()
            if parameter.name in sums:
                sums[parameter.name] += given
            elif parameter.name in expected:
                sums[parameter.name] = given - expected[parameter.name]
            else:
                sums[parameter.name] = given.clone()

    def require_small(
        self, parameters: Sequence[Parameter], tolerances: tuple[float, float], how: str
    ) -> None:
        """Raise TrakError for the parameter that is furthest beyond the tolerance, if any is."""
        worst, name, size = 1.0, "", 0.0
        for sums, expected in zip(self._rows, self._expected, strict=True):
            whole = float(torch.stack([value.norm() for value in expected.values()]).norm())
            for parameter in parameters:
                wanted = expected.get(parameter.name)
                length = 0.0 if wanted is None else float(wanted.norm())
                found = sums.get(parameter.name)
                error = length if found is None else float(found.norm())
                beyond = error / (tolerances[0] * length + tolerances[1] * whole + 1e-30)
                if not beyond <= worst:
                    worst, name, size = beyond, parameter.name, error / max(whole, 1e-30)
        if name:
            raise TrakError(
                f"self-check: the gradient of {name} is not autograd's; run {how}, it is off by "
                f"{size:.1e} of the whole gradient's norm. Set features.gradients: functional, or drop "
                "the parameter by features.parameters.exclude"
            )
