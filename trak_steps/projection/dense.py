"""Dense random projections, without ever holding the p × k matrix.

The matrix is drawn in blocks of :data:`BLOCK` rows. A block is a function of the key and its number
alone, so it comes out the same on every device and whatever the memory; it is used on all rows that
the sketch holds, then dropped.
"""

from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from trak_steps.projection.base import Parameter, Projection, Sketch
from trak_steps.projection.metric import Metric, in_metric

BLOCK = 1024


class DenseProjection(Projection):
    """Entries of ±1/√k (``rademacher``) or normal with variance 1/k (``normal``).

    Either way E⟨Px, Py⟩ = ⟨x, y⟩, with a variance of about (|x|²|y|² + ⟨x, y⟩²)/k
    (Johnson & Lindenstrauss 1984; Achlioptas 2003 for signs).

    Args:
        kind: the distribution of the entries.
        size: p.
        dim: k.
        key: decides the matrix (see :func:`~trak_steps.projection.base.projection_key`).
        device: where to project.
        metric: factors of the gradients' entries; none leaves them.
    """

    def __init__(
        self,
        kind: Literal["rademacher", "normal"],
        *,
        size: int,
        dim: int,
        key: int,
        device: torch.device,
        metric: Metric | None = None,
    ) -> None:
        self.kind = kind
        self.size = size
        self.dim = dim
        self.metric = metric
        self._key = key
        self._device = device
        self._gradients = torch.empty(0, size, device=device)
        # Eight signs for each value of a byte: a third of the time of unpacking bits.
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
        self._signs = torch.from_numpy(bits).to(device, torch.float32).mul_(2.0).sub_(1.0)

    def rows_at_once(self, memory: int) -> int:
        """Rows whose whole gradients fit beside one block of the matrix."""
        left = memory - 2 * 4 * BLOCK * self.dim
        return max(1, left // (4 * self.size + 8 * self.dim))

    def sketch(self, rows: int) -> "DenseSketch":
        """An empty sketch; it holds the rows' whole gradients, where the sketch before held its own.

        Fresh memory for each would cost more than the projection: the system hands it out page by
        page.
        """
        if len(self._gradients) < rows:
            self._gradients = torch.empty(rows, self.size, device=self._device)
        return DenseSketch(self, self._gradients[:rows].zero_())

    def project(self, gradients: Tensor) -> Tensor:
        """Projections [b, k] of whole gradients [b, p]. Sums over blocks are kept in float64."""
        total = torch.zeros(len(gradients), self.dim, dtype=torch.float64, device=self._device)
        for number in range(-(-self.size // BLOCK)):
            total += gradients[:, number * BLOCK : (number + 1) * BLOCK] @ self.block(number)
        features: Tensor = total / self.dim**0.5
        return features.float()

    def block(self, number: int) -> Tensor:
        """Rows ``number · BLOCK`` on of the unscaled matrix, [≤ BLOCK, k] in float32."""
        rows = min(BLOCK, self.size - number * BLOCK)
        draw = np.random.Generator(np.random.Philox(key=self._key, counter=number << 128))
        if self.kind == "normal":
            return torch.from_numpy(draw.standard_normal((rows, self.dim), np.float32)).to(self._device)
        count = rows * self.dim
        drawn = np.frombuffer(draw.bytes(-(-count // 8)), np.uint8).astype(np.int32)
        signs = self._signs.index_select(0, torch.from_numpy(drawn).to(self._device))
        return signs.view(-1)[:count].view(rows, self.dim)


class DenseSketch(Sketch):
    """Whole gradients of some rows, [rows, p], projected at the end. One at a time."""

    def __init__(self, projection: DenseProjection, gradients: Tensor) -> None:
        self.gradients = gradients
        self._projection = projection

    def part(self, rows: slice) -> Self:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        return type(self)(self._projection, self.gradients[rows])

    def clear(self) -> None:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        self.gradients.zero_()

    def add(self, parameter: Parameter, gradient: Tensor) -> None:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        stop = parameter.start + parameter.size
        metric = self._projection.metric
        whole = in_metric(gradient, metric[parameter.name]) if metric else gradient.flatten(1)
        self.gradients[:, parameter.start : stop] += whole

    def finish(self) -> Tensor:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        return self._projection.project(self.gradients)
