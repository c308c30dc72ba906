"""The fold's whole matrix, entry by entry from its definition; and parameters to fold."""

import torch
from torch import Tensor

from trak_steps.projection import FoldProjection
from trak_steps.projection.base import Parameter
from trak_steps.projection.fold import MatrixCode


def made(shapes: dict[str, tuple[int, ...]]) -> list[Parameter]:
    """Parameters of these shapes, numbered through."""
    parameters: list[Parameter] = []
    start = 0
    for name, shape in shapes.items():
        parameters.append(Parameter(name, shape, start))
        start += parameters[-1].size
    return parameters


def fold_matrix(projection: FoldProjection, parameters: list[Parameter]) -> Tensor:
    """P in float64, [p, k]: one sign in each row, in the column of its bucket."""
    blocks = []
    for parameter in parameters:
        code = projection.codes[parameter.name]
        block = torch.zeros(parameter.size, projection.dim, dtype=torch.float64)
        if isinstance(code, MatrixCode):
            rows, columns = (len(signs) for signs in code.signs)
            for i in range(rows):
                for j in range(columns):
                    bucket = (code.offset + i * code.steps[0] + j * code.steps[1]) % projection.dim
                    block[i * columns + j, bucket] = code.signs[0][i] * code.signs[1][j]
        else:
            for i in range(parameter.size):
                block[i, (code.offset + i) % projection.dim] = code.signs[i]
        blocks.append(block)
    return torch.cat(blocks)
