"""The small interface between per-sample gradients and random projections of them.

A projection is a random linear map P from p numbers to k with E⟨Px, Py⟩ = ⟨x, y⟩, decided by a seed.
It is applied through a :class:`Sketch`: gradients come in parameter by parameter, whole or as the
factors that they are products of, and features go out.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """A parameter that the gradient is taken over, and its place in the gradient's p numbers."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


def family(parameter: Parameter) -> str:
    """Matrices of one shape below the same module, such as an attention's query, key and value.

    They often share their inputs.
    """
    return f"{parameter.name.rsplit('.', 2)[0]} {parameter.shape}"


def total_size(parameters: Sequence[Parameter]) -> int:
    """p, the length of a per-sample gradient."""
    return parameters[-1].start + parameters[-1].size


class Sketch(ABC):
    """Collects the gradients of some rows, b of them, and gives their projections.

    A projection has to define :meth:`add`; it overrides the other two ways in where it can do better
    than form the gradient. Contributions to the same parameter add up.
    """

    @abstractmethod
    def part(self, rows: slice) -> Self:
        """A view of some of the rows: what is added to it is added here."""

    @abstractmethod
    def clear(self) -> None:
        """Forget what was added to these rows."""

    @abstractmethod
    def finish(self) -> Tensor:
        """The projections of all rows, [b, k] in float32. The sketch is spent."""

    @abstractmethod
    def add(self, parameter: Parameter, gradient: Tensor) -> None:
        """Add a parameter's gradients, [b, ...] of the parameter's size; not kept, may be reused."""

    def add_products(self, right: Tensor, lefts: Sequence[tuple[Parameter, Tensor]]) -> None:
        """Add gradients Σ_t left_t ⊗ right_t of matrices that share the right factor.

        Args:
            right: [b, tokens, columns].
            lefts: matrices [rows, columns] and their left factors [b, tokens, rows].
        """
        for parameter, left in lefts:
            self.add(parameter, left.mT @ right)

    def add_rows(self, parameter: Parameter, ids: Tensor, gradient: Tensor) -> None:
        """Add gradients to the rows of a matrix that were looked up.

        Args:
            parameter: a matrix [rows, columns].
            ids: which row each token looked up, [b, tokens].
            gradient: [b, tokens, columns].
        """
        for i in range(len(ids)):
            whole = gradient.new_zeros(1, *parameter.shape)
            whole[0].index_add_(0, ids[i], gradient[i])
            self.part(slice(i, i + 1)).add(parameter, whole)


class Projection(ABC):
    """A random linear map of which sketches are made.

    Attributes:
        dim: k.
        takes_factors: whether its sketches do without whole gradients.
    """

    dim: int
    takes_factors: ClassVar[bool] = False

    @abstractmethod
    def rows_at_once(self, memory: int) -> int:
        """How many rows a sketch can take within ``memory`` bytes; at least 1."""

    @abstractmethod
    def sketch(self, rows: int) -> Sketch:
        """An empty sketch for this many rows. It may take over the memory of the one before."""


def projection_key(seed: int, checkpoint: str) -> int:
    """The 128-bit key of a checkpoint's projection: another seed or checkpoint, another matrix."""
    return derive_key(f"projection {seed} {checkpoint}")


def derive_key(text: str) -> int:
    """A 128-bit key for a counter-based generator."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
