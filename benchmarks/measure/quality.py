"""How well the fold keeps inner products and scores, against dense random signs of equal k."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.measure.models import batches
from trak_steps.gradients.budget import CPU_TOKENS
from trak_steps.gradients.featurize import compute_features
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.rows import Row
from trak_steps.gradients.source import select_parameters
from trak_steps.projection import DenseProjection, FoldProjection, Parameter, Projection
from trak_steps.projection.base import projection_key, total_size
from trak_steps.projection.dense import DenseSketch

CPU = torch.device("cpu")
# Rows whose whole gradients are held at once.
TOGETHER = 64
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Projected:
    """Features of the same rows by seed, [n, k], and the exact kernel of the first of them."""

    fold: list[Array]
    dense: list[Array]
    dense_of_first: list[Array]
    exact_of_first: Array


def project_all(
    model: PreTrainedModel, rows: Sequence[Row], dim: int, seeds: int, dense_seeds: int
) -> Projected:
    """Fold features of all rows with many seeds, dense ones with two, or on the first rows with more.

    Args:
        model: fine-tuned.
        rows: n, of which the first :data:`TOGETHER` have their exact inner products taken.
        dim: k.
        seeds: of the fold.
        dense_seeds: of the dense projection, on the first rows.
    """
    rows = [
        row
        for start in range(0, len(rows), TOGETHER)
        for row in sorted(rows[start : start + TOGETHER], key=len)
    ]
    parameters = select_parameters(model, [".*"], [])
    source = HookedGradients(model, TextClassification(), parameters, tokens=CPU_TOKENS, example=rows[0])
    fold = [
        _run(source, FoldProjection(parameters, dim=dim, key=_key(seed), device=CPU), rows)
        for seed in range(seeds)
    ]
    size = total_size(parameters)
    holder = DenseProjection("rademacher", size=size, dim=dim, key=0, device=CPU)
    dense: list[list[Array]] = [[] for _ in range(dense_seeds)]
    exact = np.empty(0)
    for start in range(0, len(rows), TOGETHER):
        some = rows[start : start + TOGETHER]
        gradients = _whole(source, holder.sketch(len(some)), some)
        first = start == 0
        if first:
            exact = _gram(gradients)
        for seed in range(dense_seeds if first else 2):
            dense[seed].append(_dense(gradients, dim, _key(seed)))
    return Projected(
        fold,
        [np.concatenate(parts) for parts in dense[:2]],
        [parts[0] for parts in dense],
        exact,
    )


def kernel_errors(projected: Projected) -> dict[str, list[float]]:
    """Root-mean-square errors of the normalised kernel of the first rows, by seed."""
    n = len(projected.exact_of_first)
    return {
        "fold": [error(features[:n], projected.exact_of_first) for features in projected.fold],
        "dense": [error(part, projected.exact_of_first) for part in projected.dense_of_first],
    }


def score_correlations(projected: Projected, targets: int, ridge: float) -> dict[str, list[float]]:
    """Correlation of scores over all pairs: dense with dense of another seed, fold with dense.

    The last ``targets`` rows are the targets of the others.
    """
    dense = [_scores(features, targets, ridge) for features in projected.dense]
    fold = [_scores(features, targets, ridge) for features in projected.fold]
    return {
        "dense_dense": [_correlation(dense[0], dense[1])],
        "fold_dense": [_correlation(ours, theirs) for ours in fold for theirs in dense],
    }


def error(features: Array, exact: Array) -> float:
    """Root-mean-square error of the normalised inner products of different rows."""
    upper = np.triu_indices(len(exact), 1)
    off = _normalised(features @ features.T) - _normalised(exact)
    return float(np.sqrt(np.mean(off[upper] ** 2)))


def hard_layers(dim: int, seeds: int) -> dict[str, float]:
    """Worst error of the fold on layers that are hard for it, over the mean one of a dense matrix."""
    found = {}
    for name, gradients in _hard_layers():
        shape = tuple(gradients.shape[1:])
        parameter = Parameter("layer.dense.weight", shape, 0)
        flat = gradients.flatten(1)
        exact = (flat.double() @ flat.double().T).numpy()
        size = parameter.size
        worst, dense = 0.0, []
        for seed in range(seeds):
            fold = FoldProjection([parameter], dim=dim, key=_key(seed), device=CPU)
            worst = max(worst, error(_project(fold, parameter, gradients), exact))
            matrix = DenseProjection("rademacher", size=size, dim=dim, key=_key(seed), device=CPU)
            dense.append(error(_project(matrix, parameter, gradients), exact))
        found[name] = worst / float(np.mean(dense))
    return found


def _hard_layers() -> Iterator[tuple[str, Tensor]]:
    """Per-sample gradients [rows, out, in] with a common part, as fine-tuned models have."""
    torch.manual_seed(0)
    rows, tokens = 48, 48

    def factors(width: int, outliers: int = 0, count: int = tokens) -> Tensor:
        common = torch.randn(1, 1, width)
        values = torch.randn(rows, count, width) + common
        values[:, :, :outliers] *= 30.0
        return values

    def product(out: int, given: int, outliers: int = 0, count: int = tokens) -> Tensor:
        return factors(out, outliers, count).mT @ factors(given, outliers, count)

    yield "384 × 384, many tokens", product(384, 384)
    yield "three features 30 times larger", product(384, 384, outliers=3)
    yield "rank one, as the pooler's", product(384, 384, count=1)
    yield "rank one with large features", product(384, 384, outliers=3, count=1)
    yield "2 × 384, as the classifier's", product(2, 384, count=1)
    yield "384 × 1 bias", product(384, 1)
    yield "512 × 1024, widths that divide k", product(512, 1024)
    yield "768 × 256, common factors with k", product(768, 256)


def _run(source: HookedGradients, projection: Projection, rows: Sequence[Row]) -> Array:
    (found,) = compute_features(
        source,
        projection,
        [(rows, np.arange(len(rows)))],
        memory=2**30,
        dtype="float32",
        advance=lambda _: None,
        say=print,
    )
    return found.features.astype(np.float64)


def _whole(source: HookedGradients, sketch: DenseSketch, rows: Sequence[Row]) -> Tensor:
    """Whole gradients of rows, shortest first."""
    for batch in batches(rows, source.tokens):
        source.run(rows[batch], sketch.part(batch))
    return sketch.gradients


def _dense(gradients: Tensor, dim: int, key: int) -> Array:
    """Whole gradients projected by the dense matrix of a key."""
    size = gradients.shape[1]
    projection = DenseProjection("rademacher", size=size, dim=dim, key=key, device=CPU)
    return projection.project(gradients).double().numpy()


def _gram(gradients: Tensor) -> Array:
    """Exact inner products, in float64."""
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for start in range(0, gradients.shape[1], 2**20):
        part = gradients[:, start : start + 2**20].double()
        total += part @ part.T
    return total.numpy()


def _project(projection: Projection, parameter: Parameter, gradients: Tensor) -> Array:
    sketch = projection.sketch(len(gradients))
    sketch.add(parameter, gradients)
    return sketch.finish().double().numpy()


def _scores(features: Array, targets: int, ridge: float) -> Array:
    """φ(z)ᵀ (K + ridge)⁻¹ φ(x), the ridge in units of the mean diagonal entry."""
    train, wanted = features[:-targets], features[-targets:]
    kernel = train.T @ train
    kernel[np.diag_indices_from(kernel)] += ridge * np.trace(kernel) / len(kernel)
    scores: Array = train @ np.linalg.solve(kernel, wanted.T)
    return scores


def _normalised(kernel: Array) -> Array:
    length = np.sqrt(np.diag(kernel))
    normalised: Array = kernel / np.outer(length, length)
    return normalised


def _correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _key(seed: int) -> int:
    return projection_key(seed, "0")
