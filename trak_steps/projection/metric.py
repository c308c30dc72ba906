"""The metric that gradients are compared in: Adam's, in a form that factors.

Adam divides a step by D = √v̂ + ε, where v̂ is the running mean of squared gradients (Kingma & Ba 2015).
In that metric gradients are compared by gᵀ D⁻¹ g′, so features are of D^(-1/2) g.

Of a matrix, v̂ is taken to be of rank one, as Adafactor keeps it (Shazeer & Stern 2018, section 3):

    v̂(i, j) ≈ r(i) c(j) / mean,   r the means over columns, c those over rows.

Then D^(-1/2) is a factor for each row times one for each column, which a sketch of outer products takes
as it takes signs.

A table that tokens look up is another matter. Most of its rows are rarely used, so their v̂ is next to
nothing, and D^(-1/2) would make them all that counts. Its gradients stay as they are, but for one
factor, which brings them to a share of all others.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trak_steps.projection.base import Parameter, family

# The mean square of tables' gradients, of that of all others. Measured: docs/evaluation.md.
TABLES_SHARE = 0.05
# Of a matrix, a factor for each row and one for each column; of a vector, one for each entry. By name.
Metric = Mapping[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class SecondMoments:
    """v̂ of one parameter, in float64.

    Attributes:
        rows: its means over columns, [rows]; of a vector, v̂ itself.
        columns: its means over rows, [columns]; none of a vector.
    """

    rows: Tensor
    columns: Tensor | None

    @staticmethod
    def of(values: Tensor) -> "SecondMoments":
        """Of the whole v̂, [...] of the parameter's shape."""
        values = values.double()
        if values.dim() < 2:
            return SecondMoments(values.reshape(-1), None)
        matrix = values.flatten(1)
        return SecondMoments(matrix.mean(1), matrix.mean(0))

    def plus(self, other: "SecondMoments", weight: float) -> "SecondMoments":
        """With a share of another's added."""
        if self.columns is None or other.columns is None:
            return SecondMoments(self.rows + weight * other.rows, None)
        columns = self.columns + weight * other.columns
        return SecondMoments(self.rows + weight * other.rows, columns)


def metric_of(
    parameters: Sequence[Parameter],
    moments: Mapping[str, SecondMoments],
    *,
    epsilon: float,
    tables: Collection[str],
    share: float,
) -> Metric:
    """D^(-1/2) of each parameter, scaled so that the mean square of a gradient stays what v̂ says it is.

    Matrices that may share their inputs (:func:`~trak_steps.projection.base.family`) have one factor for
    their columns, as if they were one matrix: then the sketch of those inputs is computed once.

    Args:
        parameters: what the gradient is taken over.
        moments: of each of them.
        epsilon: Adam's ε.
        tables: the names of matrices whose rows tokens look up.
        share: what the tables' mean square is to be of that of all others.
    """
    columns: dict[str, list[Tensor]] = {}
    for parameter in parameters:
        if (of := moments[parameter.name].columns) is not None:
            columns.setdefault(family(parameter), []).append(of)
    found: dict[str, tuple[Tensor, ...]] = {}
    before, after, in_tables = 0.0, 0.0, 0.0
    for parameter in parameters:
        own = moments[parameter.name]
        square = float(own.rows.mean()) * parameter.size
        if parameter.name in tables:
            in_tables += square
            continue
        factors = [(own.rows.sqrt() + epsilon) ** -0.5]
        if not own.rows.any():  # the optimizer does not move it, so it has no part
            factors[0].zero_()
        left = own.rows * factors[0] ** 2
        if own.columns is not None:
            shared = torch.stack(columns[family(parameter)]).mean(0)
            relative = shared / shared.mean() if shared.any() else torch.ones_like(shared)
            # As ε for the rows: none is divided by nothing.
            factors.append((relative.sqrt() + epsilon) ** -0.5)
            left = left * float((relative * factors[1] ** 2).sum())
        found[parameter.name] = tuple(factors)
        before += square
        after += float(left.sum())
    scale = (before / after) ** 0.5 if after else 1.0
    found = {name: (factors[0] * scale, *factors[1:]) for name, factors in found.items()}
    in_table = (share * before / in_tables) ** 0.5 if in_tables and before else 1.0
    for parameter in parameters:
        if parameter.name in tables:
            moved = in_table if moments[parameter.name].rows.any() else 0.0
            rows, width = parameter.shape[0], parameter.size // parameter.shape[0]
            ones = torch.ones(rows + width, dtype=torch.float64)
            found[parameter.name] = (moved * ones[:rows], ones[rows:])
    return found


def in_metric(gradient: Tensor, factors: tuple[Tensor, ...]) -> Tensor:
    """Whole gradients of a parameter, [b, ...], each entry times its factor; [b, size]."""
    if len(factors) == 1:
        return gradient.flatten(1) * factors[0].to(gradient)
    rows, columns = (factor.to(gradient) for factor in factors)
    scaled = gradient.reshape(len(gradient), len(rows), len(columns)) * rows[:, None] * columns
    return scaled.flatten(1)
