"""The small interface of projections.

A projection is a random linear map P from p numbers to k with E⟨Px, Py⟩ = ⟨x, y⟩, decided by a seed.
It is applied through a :class:`Sketch`: gradients come in parameter by parameter, features go out.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Sketch(Protocol):
    """Collects the gradients of some rows and gives their projections."""

    def add(self, start: int, places: Sequence[int], gradient: Tensor) -> None:
        """Take part of the rows' gradients.

        Args:
            start: where this part lies in the gradient's p numbers.
            places: which rows of the sketch, b of them.
            gradient: [b, size]; not kept, so it may be reused.
        """
        ...

    def finish(self) -> Tensor:
        """The projections of all rows, [rows, k] in float32. The sketch is spent."""
        ...


class Projection(Protocol):
    """A random linear map of which sketches are made."""

    dim: int

    def rows_at_once(self, memory: int) -> int:
        """How many rows a sketch can take within ``memory`` bytes; at least 1."""
        ...

    def sketch(self, rows: int) -> Sketch:
        """An empty sketch for this many rows. It may take over the memory of the one before."""
        ...


def projection_key(seed: int, checkpoint: str) -> int:
    """The 128-bit key of a checkpoint's projection: another seed or checkpoint, another matrix."""
    digest = hashlib.sha256(f"projection {seed} {checkpoint}".encode()).digest()
    return int.from_bytes(digest[:16], "little")
