"""The fold: a count sketch of gradients that are sums of outer products, without forming them.

Each entry of a parameter has a sign and one of k buckets; a feature is the signed sum of its bucket.
That keeps inner products without bias, like a dense random matrix (Charikar et al. 2002).

For a matrix the sign is a product s₀(i) s₁(j), and the bucket is that of the entries numbered row by
row (or column by column) from a random offset, modulo k:

    bucket(i, j) = offset + i · step₀ + j · step₁  mod k

where the longer axis has step 1 and the other a stride just above the longer one's length, coprime
with k (see :func:`choose_stride`). Then the buckets are evenly filled, two entries of the same row or
column meet only k apart, and entries that meet are not each other's neighbours.

Because both factor, the sketch of Σ_t g_t ⊗ a_t can be had in two ways, equal but for rounding:

* directly: sign g and a, multiply, add up every k-th entry;
* as the circular convolution of a sketch of g_t and a sketch of a_t (Pham & Pagh 2013), summed over
  t in the frequency domain: its cost does not depend on the matrix's size.

:class:`Costs` says which is cheaper.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, log2
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.projection.base import Parameter, Projection, Sketch, derive_key, family
from trak_steps.projection.metric import Metric

# More slices than this cost more than one indexed copy.
MOST_RUNS = 8
# How many strides are compared: every unit more is a column of padding in each product.
STRIDES = 17
# Bytes for a sketch's buckets on a CPU and on a GPU. There is nothing to gain from more than a batch.
FEW, MANY = 2**22, 2**28


@dataclass(frozen=True)
class Costs:
    """What the two ways cost, relative to each other.

    In nanoseconds; the CPU's are of one core with AVX-512 (``benchmarks/features.py`` prints the
    crossover). GPUs have far more arithmetic for each byte, so there the product counts for less.

    Attributes:
        multiply: of one multiplication in a matrix product.
        fold: of one entry of a formed product.
        transform: of one number and each halving in a Fourier transform.
        combine: of one number multiplied in the frequency domain.
        spread: of one bucket that a matrix's values are put into.
        chunk: bytes worked on at once, to stay in the cache.
    """

    multiply: float
    fold: float
    transform: float
    combine: float
    spread: float
    chunk: int

    def direct(self, tokens: int, left: int, right: int) -> float:
        """Of one row's product of ``tokens`` factors of these lengths."""
        return left * right * (tokens * self.multiply + self.fold)

    def fourier(self, tokens: int, lefts: int, dim: int) -> float:
        """Of one row's convolution, with the sketches of ``lefts`` matrices added beforehand."""
        each = dim * (2 * log2(dim + 1) * self.transform + self.combine)
        return tokens * (each + self.spread * dim * lefts)


CPU = Costs(multiply=0.0122, fold=0.1, transform=0.075, combine=0.8, spread=0.05, chunk=2**20)
# From data sheets, never measured: half the matrix throughput in bfloat16, the memory's bandwidth.
GPU = Costs(multiply=5e-6, fold=0.003, transform=0.0003, combine=0.006, spread=0.003, chunk=2**28)


@dataclass(frozen=True)
class MatrixCode:
    """Signs and buckets of a matrix's entries.

    Attributes:
        signs: of rows and of columns, ±1 in float32, times the metric's factors.
        steps: how far apart the buckets of neighbouring rows and columns are.
        offset: the bucket of the first entry.
        columns: the same for matrices whose columns have the same signs and step.
    """

    signs: tuple[Tensor, Tensor]
    steps: tuple[int, int]
    offset: int
    columns: str

    def scaled(self, rows: Tensor, columns: Tensor) -> "MatrixCode":
        """With factors for rows and columns."""
        return replace(self, signs=(self.signs[0] * rows, self.signs[1] * columns))

    @property
    def strided(self) -> int:
        """The axis, 0 or 1, whose entries lie more than one bucket apart."""
        return 0 if self.steps[1] == 1 else 1


@dataclass(frozen=True)
class VectorCode:
    """A sign for each entry, times the metric's factor; the first one's bucket, the others follow."""

    signs: Tensor
    offset: int

    def scaled(self, entries: Tensor) -> "VectorCode":
        """With a factor for each entry."""
        return replace(self, signs=self.signs * entries)


class FoldProjection(Projection):
    """The fold of all parameters into the same k buckets.

    Matrices of one shape below the same module, such as an attention's query, key and value, get the
    same signs for their columns, and each begins where the rows of the one before end: they often share
    their inputs, whose sketch is then computed once.

    Args:
        parameters: what the gradient is taken over.
        dim: k.
        key: decides signs and offsets (see :func:`~trak_steps.projection.base.projection_key`).
            They are drawn on the CPU, so every device gets the same.
        device: where to project.
        metric: factors of the gradients' entries, which go into the signs; none leaves them.
    """

    takes_factors = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        dim: int,
        key: int,
        device: torch.device,
        metric: Metric | None = None,
    ) -> None:
        self.dim = dim
        self.device = device
        self.costs = CPU if device.type == "cpu" else GPU
        self._key = key
        self._placements: dict[tuple[tuple[int, int, int], ...], _Placement] = {}
        self._shifts: dict[int, Tensor] = {}
        self.codes: dict[str, MatrixCode | VectorCode] = {}
        siblings: dict[str, int] = {}
        for parameter in parameters:
            if len(parameter.shape) < 2:
                signs = self._signs(parameter.name, parameter.size)
                code: VectorCode | MatrixCode = VectorCode(signs, self._offset(parameter.name))
            else:
                name = family(parameter)
                code = self._matrix(parameter, name, siblings.get(name, 0))
                siblings[name] = siblings.get(name, 0) + 1
            if metric:
                code = code.scaled(
                    *(factor.to(device, torch.float32) for factor in metric[parameter.name])
                )
            self.codes[parameter.name] = code

    def rows_at_once(self, memory: int) -> int:
        """Rows whose buckets, in time and frequency, fit: no more than batches need."""
        most = FEW if self.device.type == "cpu" else MANY
        each = 12 * self.dim + 64
        return max(1, min(memory // each, max(most // each, 64)))

    def sketch(self, rows: int) -> "FoldSketch":
        """See :class:`~trak_steps.projection.base.Projection`."""
        buckets = torch.zeros(rows, self.dim, device=self.device)
        spectrum = torch.zeros(rows, self.dim // 2 + 1, dtype=torch.complex64, device=self.device)
        return FoldSketch(self, buckets, spectrum)

    def placement(self, segments: Sequence[tuple[int, int, int]]) -> "_Placement":
        """The placement of these segments, made once."""
        key = tuple(segments)
        if key not in self._placements:
            self._placements[key] = _Placement(segments, self.dim, self.device)
        return self._placements[key]

    def shift(self, buckets: int) -> Tensor:
        """What moves a spectrum [k // 2 + 1] on by some buckets."""
        if buckets not in self._shifts:
            turns = torch.arange(self.dim // 2 + 1, dtype=torch.float64) * buckets % self.dim / self.dim
            turn = torch.polar(torch.ones_like(turns), -2 * torch.pi * turns)
            self._shifts[buckets] = turn.to(self.device, torch.complex64)
        return self._shifts[buckets]

    def _matrix(self, parameter: Parameter, family: str, sibling: int) -> MatrixCode:
        rows, columns = parameter.shape[0], parameter.size // parameter.shape[0]
        stride = choose_stride(max(rows, columns), self.dim)
        steps = (stride, 1) if columns > rows else (1, stride)
        first = self._offset(family)
        return MatrixCode(
            (self._signs(parameter.name, rows), self._signs(f"columns of {family}", columns)),
            steps,
            (first + sibling * rows * steps[0]) % self.dim,
            family,
        )

    def _draw(self, what: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=derive_key(f"{self._key} {what}")))

    def _signs(self, what: str, count: int) -> Tensor:
        bits = np.frombuffer(self._draw(f"signs {what}").bytes(-(-count // 8)), np.uint8)
        signs = 2.0 * np.unpackbits(bits)[:count].astype(np.float32) - 1.0
        return torch.from_numpy(signs).to(self.device)

    def _offset(self, what: str) -> int:
        return int(self._draw(f"offset {what}").integers(self.dim))


def choose_stride(length: int, dim: int) -> int:
    """A stride from ``length`` up that keeps entries which share a bucket far apart in the matrix.

    Entries (i, j) and (i + a, j + b) share a bucket where a · stride + b is a multiple of k: a lattice,
    as of a linear congruential generator, judged as those are by its shortest vector (the spectral
    test: Coveyou & MacPherson 1967; Knuth, volume 2, 3.3.4). Strides that are small modulo k have a
    short one, and then large neighbouring features fall on top of each other: with k = 256 and a
    stride of 385 the kernel's error was three times as large as with 391.
    """
    coprime = [s for s in range(length, length + STRIDES) if gcd(s, dim) == 1]
    if not coprime:
        return next(s for s in range(length, length + dim) if gcd(s, dim) == 1)
    return max(coprime, key=lambda stride: (_shortest(stride, dim), -stride))


def _shortest(stride: int, dim: int) -> int:
    """The largest coordinate of the lattice's shortest vector, at most about √k."""
    shortest = dim
    for a in range(1, dim):
        if a >= shortest:
            break
        b = a * stride % dim
        shortest = min(shortest, max(a, min(b, dim - b)))
    return shortest


class FoldSketch(Sketch):
    """Buckets of some rows, [b, k], and what is still in the frequency domain, [b, k // 2 + 1]."""

    def __init__(self, projection: FoldProjection, buckets: Tensor, spectrum: Tensor) -> None:
        self._projection = projection
        self._buckets = buckets
        self._spectrum = spectrum

    def part(self, rows: slice) -> Self:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        return type(self)(self._projection, self._buckets[rows], self._spectrum[rows])

    def clear(self) -> None:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        self._buckets.zero_()
        self._spectrum.zero_()

    def finish(self) -> Tensor:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        late: Tensor = torch.fft.irfft(self._spectrum, n=self._projection.dim)
        return self._buckets + late

    def add(self, parameter: Parameter, gradient: Tensor) -> None:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        code = self._projection.codes[parameter.name]
        if isinstance(code, VectorCode):
            self._fold(gradient.reshape(len(gradient), -1) * code.signs, code.offset)
            return
        rows, columns = (len(signs) for signs in code.signs)
        signed = gradient.reshape(-1, rows, columns) * code.signs[0][:, None] * code.signs[1]
        if code.strided == 1:
            signed = signed.mT
        room = max(code.steps) - signed.shape[2]
        self._fold(torch.nn.functional.pad(signed, (0, room)).flatten(1), code.offset)

    def add_products(self, right: Tensor, lefts: Sequence[tuple[Parameter, Tensor]]) -> None:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        tokens, columns = right.shape[1:]
        costs, dim = self._projection.costs, self._projection.dim
        together: dict[str, list[tuple[MatrixCode, Tensor]]] = {}
        for parameter, left in lefts:
            code = self._projection.codes[parameter.name]
            assert isinstance(code, MatrixCode)
            together.setdefault(code.columns, []).append((code, left))
        for members in together.values():
            direct = sum(costs.direct(tokens, left.shape[2], columns) for _, left in members)
            if direct <= costs.fourier(tokens, len(members), dim):
                for code, left in members:
                    self._add_direct(code, left, right)
            else:
                self._add_fourier(members, right)

    def add_rows(self, parameter: Parameter, ids: Tensor, gradient: Tensor) -> None:
        """See :class:`~trak_steps.projection.base.Sketch`."""
        code = self._projection.codes[parameter.name]
        assert isinstance(code, MatrixCode)
        dim, columns = self._projection.dim, gradient.shape[2]
        row_buckets = (ids * code.steps[0] + code.offset) % dim
        column_buckets = torch.arange(columns, device=ids.device) * code.steps[1] % dim
        room = gradient.new_zeros(len(ids), 2 * dim, dtype=torch.float32)
        for rows in self._chunks(len(ids), 12 * gradient[0].numel()):
            signed = gradient[rows] * code.signs[0][ids[rows]][:, :, None] * code.signs[1]
            buckets = row_buckets[rows][:, :, None] + column_buckets
            room[rows].scatter_add_(1, buckets.flatten(1), signed.float().flatten(1))
        self._buckets += room[:, :dim]
        self._buckets += room[:, dim:]

    def _add_direct(self, code: MatrixCode, left: Tensor, right: Tensor) -> None:
        """Form the signed products, side by side along the strided axis, and fold them.

        They are multiplied in the precision of the pass, and added up in float32.
        """
        factors = (left, right)
        signs = [sign.to(left.dtype) for sign in code.signs]
        strided, side = code.strided, 1 - code.strided
        b, tokens, length = factors[strided].shape
        stride = max(code.steps)
        for rows in self._chunks(b, 4 * (length * stride + tokens * stride)):
            ours = factors[strided][rows] * signs[strided]
            other = ours.new_zeros(len(ours), tokens, stride)
            width = factors[side].shape[2]
            torch.mul(factors[side][rows], signs[side], out=other[:, :, :width])
            product = torch.bmm(ours.mT, other)
            self.part(rows)._fold(product.flatten(1), code.offset)

    def _add_fourier(self, members: Sequence[tuple[MatrixCode, Tensor]], right: Tensor) -> None:
        """Sketch both factors of each token, and multiply in the frequency domain."""
        projection, dim = self._projection, self._projection.dim
        b, tokens, columns = right.shape
        code = members[0][0]
        first = code.offset
        rights = projection.placement([(0, code.steps[1], columns)])
        lefts = projection.placement(
            [((code.offset - first) % dim, code.steps[0], left.shape[2]) for code, left in members]
        )
        left_signs = [code.signs[0] for code, _ in members]
        for rows in self._chunks(b, 4 * tokens * dim):
            spread = rights.apply([right[rows].flatten(0, 1)], [code.signs[1]])
            product = torch.fft.rfft(spread)
            spread = lefts.apply([left[rows].flatten(0, 1) for _, left in members], left_signs)
            product *= torch.fft.rfft(spread)
            summed = product.view(-1, tokens, dim // 2 + 1).sum(1)
            self._spectrum[rows] += summed.mul_(projection.shift(first))

    def _fold(self, entries: Tensor, offset: int) -> None:
        """Add numbered entries [b, n] to the buckets from ``offset`` on."""
        dim = self._projection.dim
        whole = entries.shape[1] // dim * dim
        rest = entries.shape[1] - whole
        folded = entries[:, :whole].view(len(entries), -1, dim).sum(1, dtype=torch.float32)
        folded[:, :rest] += entries[:, whole:]
        self._buckets[:, offset:] += folded[:, : dim - offset]
        self._buckets[:, :offset] += folded[:, dim - offset :]

    def _chunks(self, rows: int, bytes_each: int) -> list[slice]:
        """Slices of rows that are worked on at once."""
        size = max(1, self._projection.costs.chunk // max(1, bytes_each))
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


class _Placement:
    """Where signed values go in a buffer of k buckets, planned once and applied to many tokens.

    Args:
        segments: first bucket, step and length of each run of values.
        dim: k.
        device: of the buffer.
    """

    def __init__(self, segments: Sequence[tuple[int, int, int]], dim: int, device: torch.device) -> None:
        self._buffer = torch.empty(0, dim, device=device)
        # Which segment, which of its values, where to, and whether they are the first there.
        self._moves: list[tuple[int, slice | Tensor, slice | Tensor, bool]] = []
        filled = np.zeros(dim, bool)
        for number, (first, step, length) in enumerate(segments):
            for start in range(0, length, dim):
                taken = np.arange(start, min(length, start + dim))
                buckets = (first + taken * step) % dim
                for fresh in (True, False):
                    chosen = filled[buckets] != fresh
                    self._move(number, taken[chosen], buckets[chosen], fresh, device)
                filled[buckets] = True

    def _move(
        self,
        number: int,
        taken: NDArray[np.int64],
        buckets: NDArray[np.int64],
        fresh: bool,
        device: torch.device,
    ) -> None:
        """Plan one move; runs of neighbours that stay neighbours become slices."""
        breaks = np.flatnonzero((np.diff(taken) != 1) | (np.diff(buckets) != 1)) + 1
        if len(breaks) > MOST_RUNS:
            to = torch.from_numpy(buckets).to(device)
            whole = len(taken) == taken[-1] + 1 - taken[0]
            source = slice(taken[0], taken[-1] + 1) if whole else torch.from_numpy(taken).to(device)
            self._moves.append((number, source, to, fresh))
            return
        for values, places in zip(np.split(taken, breaks), np.split(buckets, breaks), strict=True):
            if len(values):
                run = slice(int(places[0]), int(places[-1]) + 1)
                self._moves.append((number, slice(int(values[0]), int(values[-1]) + 1), run, fresh))

    def apply(self, values: Sequence[Tensor], signs: Sequence[Tensor]) -> Tensor:
        """The values [n, length] of each segment, signed and placed: [n, k], until the next call.

        What no segment reaches stays zero from call to call, and is never written again.
        """
        n = len(values[0])
        if len(self._buffer) < n:
            self._buffer = self._buffer.new_zeros(n, self._buffer.shape[1])
        buffer = self._buffer[:n]
        for number, taken, to, fresh in self._moves:
            given, sign = values[number][:, taken], signs[number][taken]
            if isinstance(to, slice):
                if fresh:
                    torch.mul(given, sign, out=buffer[:, to])
                else:
                    buffer[:, to].addcmul_(given, sign)
            elif fresh:
                buffer.index_copy_(1, to, given * sign)
            else:
                buffer.index_add_(1, to, given * sign)
        return buffer
