"""What wrong labels are found by: the measures of every train row, and what argues against suspects.

One job finds both, or several find what they are made of, of some rows each: see :mod:`.spans`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN
from trak_steps.console.progress import progress
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.suspicion import relative_support, trust
from trak_steps.run.identity import feature_settings, kernel_settings, score_settings
from trak_steps.run.layout import (
    Layout,
    checkpoint_names,
    checkpoints_of_job,
    final_checkpoints,
    jobs_of_checkpoints,
)
from trak_steps.run.lineage import Lineage
from trak_steps.run.parts import open_spans
from trak_steps.run.scoring import Scoring
from trak_steps.run.spans import Span, support_spans, suspect_spans
from trak_steps.scoring.scores import Scorer
from trak_steps.scoring.top import TopRows
from trak_steps.store.features import TrainFeatures
from trak_steps.store.suspects import ClassSums, Opponents, Picked, Support

# Opponents named for each suspect.
AGAINST = 5
# Suspects whose opponents are looked for in one pass over the features.
SUSPECTS_AT_ONCE = 512
# Rows whose labels are read at once.
LABELS_AT_ONCE = 4096
# Suspects are listed by trust, where the model output says something of labels: see docs/evaluation.md.
TRUST, SUPPORT = "trust", "support"
LARGE_IS_SUSPICIOUS = ("self-influence", "loss")
# What the measures are made of: means over checkpoints, and over the ends of trainings.
PRODUCTS = ("self_influence", "mean_score", "others")
MARGINS = ("area", "margin", "loss")
Array = NDArray[np.float64]
Places = NDArray[np.int64]


def measures_of(settings: Settings, means: Mapping[str, Array]) -> dict[str, Array]:
    """What every measure says of each row, [n] each; first the one to list suspects by.

    Args:
        settings: of the run.
        means: :data:`PRODUCTS` and :data:`MARGINS` of each row, [n] each.
    """
    products = {name: torch.from_numpy(means[name]) for name in PRODUCTS}
    support = relative_support(products["mean_score"], products["self_influence"], products["others"])
    found = {
        SUPPORT: support.numpy(),
        "mean score": means["mean_score"],
        "self-influence": means["self_influence"],
        "margin": means["margin"],
    }
    # Of another model output no one here knows what it says of labels.
    if settings.features.model_output == BUILT_IN:
        found = {TRUST: trust(support, torch.from_numpy(means["area"])).numpy(), **found}
        found["loss"] = means["loss"]
    chosen = settings.checkpoints
    if len(final_checkpoints(chosen)) < len(checkpoint_names(chosen)):
        found["area under the margin"] = means["area"]
    return found


def suspicion(name: str, values: Array) -> Array:
    """The same, the larger the more suspicious."""
    return values if name in LARGE_IS_SUSPICIOUS else -values


def most_suspicious(measures: Mapping[str, Array], count: int) -> Places:
    """The places of the rows that are listed, most suspicious first."""
    best = next(iter(measures))
    return np.argsort(-suspicion(best, measures[best]), kind="stable")[:count]


def class_sum_settings(settings: Settings) -> dict[str, Any]:
    """Of the sums of the features of each class."""
    return {**feature_settings(settings), "checkpoints": checkpoint_names(settings.checkpoints)}


def support_settings(settings: Settings, job: str) -> dict[str, Any]:
    """Of what measures are made of by the checkpoints of a job."""
    return {**_by_kernels(settings), "of": checkpoints_of_job(settings.checkpoints, job)}


def picked_settings(settings: Settings, count: int) -> dict[str, Any]:
    """Of so many suspects."""
    return {**_by_kernels(settings), "suspects": count}


def opponent_settings(settings: Settings, count: int) -> dict[str, Any]:
    """Of what argues against so many suspects."""
    return {**score_settings(settings), "suspects": count}


def _by_kernels(settings: Settings) -> dict[str, Any]:
    return {**kernel_settings(settings), "checkpoints": checkpoint_names(settings.checkpoints)}


def suspects_of(settings: Settings, train: PreparedRows) -> int:
    """How many rows are listed: none where labels are numbers, and none is right or wrong."""
    return min(settings.evaluation.suspects, len(train)) if train.label_names else 0


def labels_of(train: PreparedRows, span: Span) -> Tensor:
    """The class numbers of some rows, held to their digests."""
    starts = range(span.start, span.stop, LABELS_AT_ONCE)
    tables = (train.inputs(start, min(start + LABELS_AT_ONCE, span.stop)) for start in starts)
    return torch.from_numpy(np.concatenate([table["label"].to_numpy() for table in tables]))


def blocks_of(features: TrainFeatures, at_once: int) -> Iterator[Tensor]:
    """The features of all rows that are at hand, [r, k], some at a time."""
    for start in range(features.start, features.stop, at_once):
        yield torch.from_numpy(features.features(start, min(start + at_once, features.stop)))


def open_class_sums(layout: Layout, settings: Settings, train: PreparedRows) -> list[ClassSums]:
    """The class sums of all parts of the train set.

    Raises:
        TrakError: if one is missing or was made otherwise.
    """
    spans = suspect_spans(settings, layout, len(train))
    paths = {span: layout.class_sums(span.name) for span in spans}
    return open_spans(ClassSums, layout, train, paths, class_sum_settings(settings))


def open_supports(layout: Layout, settings: Settings, train: PreparedRows) -> list[list[Support]]:
    """Of the checkpoints of each job, what the measures of all parts of the train set are made of.

    Raises:
        TrakError: as above.
    """
    spans = support_spans(settings, layout, len(train))
    found = []
    for job in jobs_of_checkpoints(settings.checkpoints):
        paths = {span: layout.support(job, span.name) for span in spans}
        found.append(open_spans(Support, layout, train, paths, support_settings(settings, job)))
    return found


def open_picked(layout: Layout, settings: Settings, count: int) -> Picked:
    """The suspects. Raises TrakError, as above."""
    picked = Picked.open(layout.picked)
    picked.manifest.require(picked.path, settings=picked_settings(settings, count))
    Lineage(layout).check(picked.path, picked.manifest)
    return picked


def open_opponents(
    layout: Layout, settings: Settings, train: PreparedRows, count: int
) -> dict[Span, Opponents]:
    """What argues against the suspects, of all parts of the train set. Raises TrakError, as above."""
    spans = suspect_spans(settings, layout, len(train))
    paths = {span: layout.opponents(span.name) for span in spans}
    found = open_spans(Opponents, layout, train, paths, opponent_settings(settings, count))
    return dict(zip(spans, found, strict=True))


def measures_of_parts(settings: Settings, supports: Sequence[Sequence[Support]]) -> dict[str, Array]:
    """As :func:`measures_of`, of what was found of parts of the train set."""
    means: dict[str, Array] = {}
    for of_job in progress(supports, total=len(supports), label="support", unit="job"):
        for name in (*PRODUCTS, *MARGINS):
            values = np.concatenate([part.column(name) for part in of_job])
            means[name] = means[name] + values if name in means else values
    return measures_of(settings, means)


def gather_rows(features: TrainFeatures, places: Places, at_once: int) -> Tensor:
    """The features of some rows, [q, k], from the blocks that hold one."""
    found = torch.empty(len(places), features.dim)
    for start in range(0, features.n, at_once):
        stop = min(start + at_once, features.n)
        here = np.flatnonzero((places >= start) & (places < stop))
        if len(here):
            block = torch.from_numpy(features.features(start, stop))
            found[here] = block[places[here] - start].float()
    return found


def strongest_against(
    scoring: Scoring, solved: list[Tensor], suspects: Places, block_rows: int
) -> TopRows:
    """The rows that argue most against suspects, by the scores that the run gives them as targets.

    Args:
        scoring: of the train rows to look among.
        solved: the suspects, solved for by each checkpoint, [q, k] each.
        suspects: their places, [q].
        block_rows: train rows at once.
    """
    scorer = Scorer(solved, scoring.trainings)
    strongest = TopRows(len(suspects), AGAINST, largest=False)
    places, none = torch.from_numpy(suspects), torch.tensor(torch.inf)
    blocks = scoring.blocks(block_rows)
    count = -(-scoring.features[0].n // block_rows)
    for block in progress(blocks, total=count, label="opponents", unit="block"):
        scored = scorer(block.features, block.weights)
        itself = torch.arange(block.start, block.stop)[:, None] == places
        against = torch.where((scored.scores < 0) & ~itself, scored.scores, none)
        strongest.add(against, block.start, scored.std)
    return strongest
