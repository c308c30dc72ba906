"""Which train rows does a method name for a target? Those whose scores are largest, by every method."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import runs
from benchmarks.measure.nearest import nearest
from benchmarks.measure.runs import TARGETS
from benchmarks.measure.tracin import rates_before, tracin
from benchmarks.measure.ways import gradient_similarities
from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.subsets import random_rows
from trak_steps.run.layout import Layout
from trak_steps.run.parts import open_scores
from trak_steps.steps.evaluation.measure_lds import predict_by_hidden_states

Array = NDArray[np.float64]
DEFAULT = "default"


def methods(
    config: Path, plain: Path, others: Mapping[str, Path] | None = None
) -> Iterator[tuple[str, Array]]:
    """Names and scores [n, t] of every method, in the order in which they are of interest.

    Args:
        config: settings of the run that is asked.
        plain: settings of the run beside it that has plain gradients.
        others: files of [n, t] numbers, as ``numpy.save`` writes them, by the names of their methods.
    """
    layout, settings = runs.opened(config)
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets(TARGETS))
    n, t = len(train), len(targets)
    store = open_scores(layout, settings, TARGETS)
    yield DEFAULT, store.scores(0, n).astype(np.float64)
    yield "random", _random(n, t, settings.seed)
    checkpoints = runs.checkpoints(plain, n)
    of_gradients = dict(gradient_similarities(checkpoints))
    yield "gradient cosine", of_gradients["gradient cosine"].numpy()
    by_states = _hidden_states(layout, settings, train, targets)
    yield "last hidden state, same label", same_label_first(by_states, train, targets)
    of_texts = dict(nearest(layout, train, targets))
    yield "pretrained embeddings", of_texts["pretrained embeddings"]
    yield "BM25", of_texts["BM25"]
    rates = rates_before(list(checkpoints), settings.finetune, n)
    yield "TracIn", tracin(checkpoints, rates).numpy()
    yield "gradient dot product", of_gradients["gradient dot product"].numpy()
    yield "last hidden state", by_states
    for name, file in (others or {}).items():
        yield name, read_scores(file, (n, t))


def top_rows(scores: Array, count: int) -> NDArray[np.int64]:
    """The rows with the largest scores of each target, largest first, [t, count]."""
    return np.argsort(-scores, axis=0, kind="stable")[:count].T


def same_label_first(similarity: Array, train: PreparedRows, targets: PreparedRows) -> Array:
    """Similarities that order rows of the target's label before all others, [n, t]."""
    same = train.column("label")[:, None] == targets.column("label")[None]
    return np.where(same, similarity, similarity - (np.ptp(similarity) + 1))


def _random(n: int, t: int, seed: int) -> Array:
    """Scores whose first rows are those that the pipeline's own removal draws, however many."""
    scores = np.empty((n, t))
    for target in range(t):
        scores[random_rows(n, n, seed, target), target] = -np.arange(n)
    return scores


def _hidden_states(
    layout: Layout, settings: Settings, train: PreparedRows, targets: PreparedRows
) -> Array:
    """The cosine of last hidden states, summed over each training's last checkpoint, [n, t]."""
    one_row_each = np.eye(len(train), dtype=bool)
    return predict_by_hidden_states(layout, settings, train, {TARGETS: targets}, one_row_each)[TARGETS]


def read_scores(file: Path, shape: tuple[int, int]) -> Array:
    """Scores [n, t] of a method that is known by its file.

    Raises:
        TrakError: if it holds anything else.
    """
    try:
        scores = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TrakError(f"{file}: cannot be read ({error}); write it with numpy.save") from None
    if scores.shape != shape or not np.isfinite(scores).all():
        raise TrakError(
            f"{file}: has to hold finite scores of {shape[0]} train rows for {shape[1]} targets; its "
            f"shape is {scores.shape}"
        )
    found: Array = scores.astype(np.float64)
    return found
