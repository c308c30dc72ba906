"""A gate before features: are a source's gradients those of autograd, and the sketch theirs?

Two rows are run as they will be, alone and padded in a batch, and compared with plain autograd, one row
at a time: their features, and where these differ, or there is nothing cheap to compare, parameter by
parameter. What a hook cannot see, or a model's code does that no rule expects, shows here rather than in
the scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trak_steps.gradients.errors import GradientError, Remedy
from trak_steps.gradients.frozen import differentiating
from trak_steps.gradients.model_output import ModelOutput
from trak_steps.gradients.rows import Row, collate
from trak_steps.gradients.source import GradientSource
from trak_steps.projection.base import Parameter, Projection, Sketch


@dataclass(frozen=True)
class Tolerances:
    """How far gradients may be off, in the Euclidean norm.

    A parameter's is judged relative to itself and to the whole gradient, since some are zero but for
    rounding (an attention's key bias).

    Attributes:
        features: of a row's features, relative to them.
        parameter: of a parameter's gradient, relative to it.
        whole: of a parameter's gradient, relative to the whole.
    """

    features: float
    parameter: float
    whole: float


TOLERANCES = {
    torch.float32: Tolerances(2e-5, 1e-3, 1e-5),
    torch.float16: Tolerances(5e-2, 5e-2, 1e-2),
    torch.bfloat16: Tolerances(1e-1, 2e-1, 5e-2),
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
        GradientError: naming the parameter that differs most, and how it was run.
    """
    batch = [min(rows, key=len), max(rows, key=len)]
    exact = [autograd_of(model, output, source.parameters, row) for row in batch]
    if not all(torch.isfinite(value).all() for row in exact for value in row.values()):
        return  # not the source's fault, and the features' own check names the row
    tolerances = TOLERANCES[precision]
    if projection.takes_factors:
        expected = torch.cat([_project(projection, source.parameters, row) for row in exact])
        found = [_features(source, projection, batch), _features(source, projection, batch[1:])]
        errors = [_distance(found[0], expected), _distance(found[1], expected[1:])]
        if all(error < tolerances.features for error in errors):
            return
    # Slower, and parameter by parameter.
    for some, how in ((slice(0, 2), "padded, in a batch"), (slice(1, 2), "alone")):
        difference = _Difference(exact[some])
        source.run(batch[some], difference)
        difference.require_small(source.parameters, tolerances, how)
    if projection.takes_factors and not all(e < tolerances.parameter for e in errors):
        raise GradientError(
            f"self-check: gradients are autograd's, but their projection as factors differs by "
            f"{max(errors):.1e} from that of whole ones",
            Remedy.DENSE_PROJECTION,
        )


def _features(source: GradientSource, projection: Projection, batch: Sequence[Row]) -> Tensor:
    sketch = projection.sketch(len(batch))
    source.run(batch, sketch)
    return sketch.finish()


def _distance(found: Tensor, expected: Tensor) -> float:
    """The largest distance of a row from what it should be, relative to that, NaN if one is."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)).max())


def _project(
    projection: Projection, parameters: Sequence[Parameter], gradients: Mapping[str, Tensor]
) -> Tensor:
    sketch = projection.sketch(1)
    for parameter in parameters:
        if parameter.name in gradients:
            sketch.add(parameter, gradients[parameter.name][None])
    return sketch.finish()


def autograd_of(
    model: PreTrainedModel, output: ModelOutput, parameters: Sequence[Parameter], row: Row
) -> dict[str, Tensor]:
    """The gradient of one row by plain autograd, without padding; unused parameters are left out.

    Raises:
        GradientError: if none has a part in the model output.
    """
    named = dict(model.named_parameters())
    tensors = [named[parameter.name] for parameter in parameters]
    batch = collate([row], model.device)
    labels = batch.pop("label")
    with differentiating(model, tensors), torch.enable_grad():
        margin = output.output(model(**batch).logits, labels).sum()
        if not margin.requires_grad:
            raise GradientError(
                "none of the selected parameters has a part in the model output",
                Remedy.OTHER_PARAMETERS,
            )
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

    def require_small(self, parameters: Sequence[Parameter], tolerances: Tolerances, how: str) -> None:
        """Raise GradientError for the parameter that is furthest beyond the tolerance, if any is."""
        worst, name, size = 1.0, "", 0.0
        for sums, expected in zip(self._rows, self._expected, strict=True):
            whole = float(torch.stack([value.norm() for value in expected.values()]).norm())
            for parameter in parameters:
                wanted = expected.get(parameter.name)
                length = 0.0 if wanted is None else float(wanted.norm())
                found = sums.get(parameter.name)
                error = length if found is None else float(found.norm())
                beyond = error / (tolerances.parameter * length + tolerances.whole * whole + 1e-30)
                if math.isnan(beyond):
                    beyond = math.inf
                if beyond > worst:
                    worst, name, size = beyond, parameter.name, error / max(whole, 1e-30)
        if name:
            raise GradientError(
                f"self-check: the gradient of {name} is not autograd's; run {how}, it is off by "
                f"{size:.1e} of the whole gradient's norm",
                Remedy.WHOLE_GRADIENTS,
            )
