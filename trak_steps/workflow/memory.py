"""The memory that each job asks for, in MB: from the model's size, the numbers of rows, and k.

A job holds its libraries, a model, and arrays. Of libraries and models this says what was measured, on
Linux, of a BERT of 0.5 million parameters and a MiniLM of 23; of arrays what :mod:`~.kernel.blocks`
counts. A quarter more is asked for, since a job that is too large is killed, and then twice as much.
"""

import errno
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from trak_steps.config import Settings
from trak_steps.kernel import blocks
from trak_steps.model.size import stored_parameters
from trak_steps.run.fit import bytes_allowed
from trak_steps.run.identity import rows_are_weighted
from trak_steps.run.layout import Layout, checkpoint_names, imported, trainings
from trak_steps.run.spans import Span, suspects_in_parts
from trak_steps.run.tiles import Tile
from trak_steps.workflow.inputs import known_count, local_model

MB = 10**6
MARGIN = 1.25

# MB of what is around a job that another machine runs, which counts as the job's: under Slurm, one
# Snakemake that starts another with `srun`. Measured: 2 x 170, and shells.
SUBMITTED = 450
# Peaks of jobs that hold next to nothing but the libraries which they import, in MB.
PLAIN, TABLES, TORCH, TOKENIZER, MODEL = 110, 160, 340, 390, 540
LIBRARIES = {
    "model": TOKENIZER,
    "prepare": TOKENIZER,
    "prepare-targets": TOKENIZER,
    "finetune": MODEL,
    "import-checkpoint": MODEL,
    "featurize": MODEL,
    "sum-kernel": TORCH,
    "kernel": TORCH,
    "sum-weighted": TORCH,
    "calibrate": TORCH,
    "score": TORCH,
    "gather": TABLES,
    "rank": TABLES,
    "summarize": TABLES,
    "provenance": PLAIN,
    "report": TABLES,
    "check-recipe": MODEL,
    "plan-subsets": TABLES,
    "plan-removal": MODEL,
    "retrain-subsets": MODEL,
    "retrain-removal": MODEL,
    "measure-lds": MODEL,
    "measure-removal": MODEL,
    "sum-classes": TORCH,
    "find-support": TORCH,
    "pick-suspects": TORCH,
    "find-opponents": TORCH,
    "find-mislabelled": TORCH,
    "measure-stability": TORCH,
}

# Bytes of a parameter: in float32; while weights are read from a file that is mapped; and while it is
# trained, with its gradient and Adam's two moments.
WEIGHT, READ, TRAINED = 4, 8, 16
# Bytes of a token in a pass, for each number that it has in all layers: kept for the backward pass, and
# where only the layers' ends are.
KEPT, PASSED = 80, 12
# Tokens that `model/forward.py` runs together.
FORWARD = 4096
# Of a backward pass with sketches, and its tokens together (`gradients/budget.py`).
SKETCHED, TOKENS = 60, 1024
# Rows that `gradients/featurize.py` holds: their features, and their tokens as Python's numbers.
WINDOW = 1024
# Bytes of a token as a number of Python's, in a list.
AS_OBJECT = 36
# Bytes of a token's text.
OF_TEXT = 5
# Of a row that is prepared: ids, places, labels, its digest. Measured: 475 with QNLI's texts.
OF_ROW = 220
# Of a target while its lists are put together and ranks are found by counts (`scoring/ranks.py`).
COUNTED = 4 * 8 * 1408
# What draws figures.
FIGURES = 80 * MB
# Of a listed row: two texts that were cut, and numbers.
LISTED = 2000
# Of a row whose numbers alone are read: id, label, group, loss weight, digest.
OF_NUMBERS = 100
# Bytes around a text that the kernel brings into memory with it. Measured, of texts of 5 kB: 2,000 of
# 40,000 took 200 MB, and none of them 10 MB.
AROUND = 2**16
# Rows that argue against a suspect (`run/suspects.py`).
AGAINST = 5
# Numbers of a row that measures of suspicion are made of, that they are, and in between.
MEASURED = 20
# Rows whose labels are read at once (`run/suspects.py`).
LABELS_AT_ONCE = 4096
# Ways of scoring that are held against each other, and numbers that a bootstrap works on together
# (`evaluation/predictions.py`, `evaluation/resamples.py`).
WAYS, TOGETHER = 50, 2**20
# What is taken where nothing is known: a BERT-base, and a data set of the usual kind.
PARAMETERS, ROWS, CLASSES = 110_000_000, 100_000, 100


@dataclass(frozen=True)
class Size:
    """What the memory of a job depends on.

    Attributes:
        parameters: of the model.
        rows: n, train rows.
        targets: t of each target set at hand.
        dim: k.
        checkpoints: m.
        trainings: that they are of.
        memory: bytes for arrays, as set.
        max_length: tokens of a row.
        batch_size: rows of a training step.
        accumulation: parts that they are run in.
        recompute: whether what a backward pass needs is computed twice.
        subsets: that models are retrained on.
        repeats: trainings on each.
        resamples: of the bootstrap.
        top: rows listed for a target.
        suspects: rows listed as mislabelled.
        weighted: whether scores are multiplied by loss weights.
        whole_gradients: whether rows' gradients are formed, and not sketched from their factors.
        in_parts: whether wrong labels are looked for in parts of the train set.
    """

    parameters: int
    rows: int
    targets: tuple[int, ...]
    dim: int
    checkpoints: int
    trainings: int
    memory: int
    max_length: int
    batch_size: int
    accumulation: int
    recompute: bool
    subsets: int
    repeats: int
    resamples: int
    top: int
    suspects: int
    weighted: bool
    whole_gradients: bool
    in_parts: bool = False


def megabytes(step: str, size: Size, attempt: int = 1) -> int:
    """The MB that a job of a step asks for; each further attempt asks for as much again.

    Args:
        step: a key of :data:`LIBRARIES`.
        size: of the run.
        attempt: from 1 on.
    """
    arrays = _ARRAYS[step](size) if step in _ARRAYS else 0
    return math.ceil(MARGIN * attempt * (LIBRARIES[step] + arrays / MB))


def _width(size: Size) -> float:
    """The numbers that a token has in all layers, hidden size times layers.

    A layer has twelve times the square of its width in parameters, and most models about twelve layers,
    so the product is the root of the parameters: within a factor of two for the usual encoders.
    """
    return math.sqrt(size.parameters)


def _training(size: Size) -> float:
    tokens = size.batch_size // size.accumulation * size.max_length
    kept = PASSED if size.recompute else KEPT
    return TRAINED * size.parameters + kept * _width(size) * tokens + _tokens(size, 1)


def _forward(size: Size) -> float:
    """A model that answers rows, all layers' hidden states included."""
    return READ * size.parameters + PASSED * _width(size) * max(FORWARD, size.max_length)


def _imported(size: Size) -> float:
    """A model that answers rows, or one with the gradient of a row and its squares in float64."""
    row = 4 * WEIGHT * size.parameters + KEPT * _width(size) * size.max_length
    return max(_forward(size), row)


def _tokens(size: Size, bytes_of_one: int) -> int:
    """Of all train rows. Most are shorter than the longest may be; half of it is much."""
    return size.rows * size.max_length // 2 * bytes_of_one


def _prepared(size: Size) -> float:
    """Numbers of each row, and the texts that are read, in the memory of the files that they are in."""
    rows = max(size.rows, *size.targets)
    return rows * OF_ROW + _tokens(replace(size, rows=rows), OF_TEXT)


def _features(size: Size) -> float:
    tokens = max(TOKENS, size.max_length)
    a_token = SKETCHED * _width(size)
    batch = max(min(size.memory / 4, a_token * tokens), a_token * size.max_length)
    # The check before the first batch holds the gradients of two rows.
    check = 2 * WEIGHT * size.parameters
    whole = max(size.memory / 2, 3 * WEIGHT * size.parameters) if size.whole_gradients else 0
    rows = WINDOW * (2 * blocks.SINGLE * size.dim + AS_OBJECT * size.max_length)
    return READ * size.parameters + max(batch, check) + whole + rows


def _kernel(size: Size) -> float:
    return blocks.kernel(size.dim).within(size.memory, size.rows)


def _weighted(size: Size) -> float:
    sums = blocks.DOUBLE * size.checkpoints * size.dim
    return blocks.subset_sums(size.dim).within(size.memory, size.rows) + sums + _row_weights(size)


def _calibration(size: Size) -> float:
    cost = blocks.scores(min(blocks.CALIBRATED, size.rows), size.dim, size.checkpoints)
    return cost.within(size.memory, size.rows) + _row_weights(size)


def _row_weights(size: Size) -> float:
    """Loss weights of all rows by all checkpoints, where scores are multiplied by them."""
    return 16 * size.rows * size.checkpoints if size.weighted else 0


def _scores(size: Size) -> float:
    k, m = size.dim, size.checkpoints
    t = blocks.targets_at_once(size.memory, max(size.targets), lambda t: blocks.scores(t, k, m))
    return blocks.scores(t, k, m).within(size.memory, size.rows) + 16 * size.rows * m


def _gathered(size: Size) -> float:
    t = sum(size.targets)
    # Where every score is kept, a block of them and of their spread, read and written.
    block = 4 * blocks.SINGLE * t * min(blocks.FEW_ROWS, size.rows)
    return max(COUNTED * t, block) + OF_NUMBERS * size.rows


def _ranks(size: Size) -> float:
    listed = 2 * sum(size.targets) * min(size.top, size.rows)
    return listed * LISTED + OF_NUMBERS * size.rows + _texts(size, listed)


def _texts(size: Size, listed: int) -> float:
    """Of some rows, in the memory of the file that they are in: read with what is around them."""
    return min(_tokens(size, OF_TEXT), listed * AROUND)


def _summary(size: Size) -> float:
    listed = 2 * sum(size.targets) * min(size.top, size.rows)
    return listed * LISTED + OF_NUMBERS * size.rows


def _report(size: Size) -> float:
    return FIGURES + 2 * _summary(size)


def _plan(size: Size) -> float:
    return 2 * size.rows * size.subsets


def _removal_plan(size: Size) -> float:
    return _forward(size) + size.rows * (8 + OF_TEXT) + _scores(size)


def _lds(size: Size) -> float:
    s, r, k, t = size.subsets, size.repeats, size.dim, sum(size.targets)
    half = size.memory // 2
    of_targets = blocks.predicted_targets(WAYS, s, r, k, size.checkpoints)
    # Sums by six weights and a block's share of them; six kernels of a checkpoint, of which one is
    # inverted for the reference's rule.
    sums = 2 * 6 * 8 * s * k + 6 * 8 * k * k
    quarter = half // 2
    block = blocks.subset_sums(k).within(quarter, size.rows) + blocks.solved_targets(k).within(
        quarter, t
    )
    # What trainings say, baselines, and how often resamples have each target.
    of_all = (4 * s * r + 2 * 8 * s + 2 * size.resamples) * t
    # Of a bootstrap: numbers by target and resample.
    drawn = 10 * 8 * TOGETHER
    group = of_targets.within(half, t) + max(sums + block, drawn)
    return max(group, _forward(size)) + of_all + 2 * size.rows * s


def _class_sums(size: Size) -> float:
    block = blocks.standing(CLASSES, size.dim).within(size.memory, size.rows)
    sums = blocks.DOUBLE * size.checkpoints * CLASSES * size.dim
    return block + 2 * sums + _labels(size)


def _labels(size: Size) -> float:
    """Of a part's rows, and the tokens that they are held to their digests with."""
    at_once = min(size.rows, LABELS_AT_ONCE)
    return 8 * size.rows + 2 * AS_OBJECT * at_once * size.max_length


def _support(size: Size) -> float:
    return blocks.standing(CLASSES, size.dim).within(size.memory, size.rows) + (
        8 * size.rows * MEASURED + _labels(size)
    )


def _picked(size: Size) -> float:
    of_suspects = blocks.SINGLE * size.suspects * size.dim * (size.checkpoints + 1)
    block = blocks.subset_sums(size.dim).within(size.memory, size.rows)
    return 8 * size.rows * MEASURED + 2 * of_suspects + block


def _opponents(size: Size) -> float:
    k, m = size.dim, size.checkpoints
    q = blocks.targets_at_once(size.memory, min(512, size.suspects), lambda q: blocks.scores(q, k, m))
    return blocks.scores(q, k, m).within(size.memory, size.rows) + _row_weights(size)


def _mislabelled(size: Size) -> float:
    listed = size.suspects * (1 + AGAINST)
    known = 8 * size.rows * MEASURED + listed * LISTED + _texts(size, listed)
    if size.in_parts:
        return known
    passes = blocks.standing(CLASSES, size.dim).within(size.memory, size.rows), _opponents(size)
    return max(passes) + known + 8 * size.rows * 2 * size.checkpoints


def _stability(size: Size) -> float:
    def cost(t: int) -> blocks.Cost:
        return blocks.scores_by_training(t, size.dim, size.checkpoints, size.trainings)

    t = blocks.targets_at_once(size.memory, max(size.targets), cost)
    return cost(t).within(size.memory, size.rows) + _row_weights(size)


_ARRAYS: dict[str, Callable[[Size], float]] = {
    "prepare": _prepared,
    "prepare-targets": _prepared,
    "finetune": _training,
    "import-checkpoint": _imported,
    "featurize": _features,
    "sum-kernel": _kernel,
    "kernel": _kernel,
    "sum-weighted": _weighted,
    "calibrate": _calibration,
    "score": _scores,
    "gather": _gathered,
    "rank": _ranks,
    "summarize": _summary,
    "report": _report,
    "check-recipe": lambda size: _training(size) + _forward(size),
    "plan-subsets": _plan,
    "plan-removal": _removal_plan,
    "retrain-subsets": lambda size: _training(size) + _forward(size),
    "retrain-removal": lambda size: _training(size) + _forward(size),
    "measure-lds": _lds,
    "sum-classes": _class_sums,
    "find-support": _support,
    "pick-suspects": _picked,
    "find-opponents": _opponents,
    "find-mislabelled": _mislabelled,
    "measure-stability": _stability,
}


def size_of(settings: Settings, *, parameters: int, rows: int, targets: Iterable[int]) -> Size:
    """What the memory of a run's jobs depends on.

    Args:
        settings: of the run.
        parameters: of the model.
        rows: n.
        targets: t of each target set at hand.
    """
    features = settings.features
    return Size(
        parameters=parameters,
        rows=rows,
        targets=tuple(targets),
        dim=features.dim,
        checkpoints=len(checkpoint_names(settings.checkpoints)),
        trainings=len(trainings(settings.checkpoints)),
        memory=bytes_allowed(settings),
        max_length=settings.model.max_length,
        batch_size=settings.finetune.batch_size,
        accumulation=settings.finetune.accumulation,
        recompute=settings.finetune.recompute,
        subsets=settings.evaluation.lds.subsets,
        repeats=settings.evaluation.lds.repeats,
        resamples=settings.evaluation.bootstrap,
        top=settings.scores.top,
        suspects=settings.evaluation.suspects,
        weighted=rows_are_weighted(settings),
        whole_gradients=features.projection != "fold" or features.gradients != "hooks",
        in_parts=suspects_in_parts(settings, rows),
    )


def memory_of(step: str, settings: Settings, layout: Layout) -> Callable[[Any, Sequence[str], int], int]:
    """What Snakemake asks for the ``mem_mb`` of a rule's jobs.

    Before a model or rows are there, their size is not known; a job waits for them, and the function is
    called again when it can begin. Until then it raises FileNotFoundError for an input that is missing,
    which Snakemake shows as ``<TBD>``.
    """

    def asked(wildcards: Any, input: Sequence[str], attempt: int) -> int:
        def known(found: int | None, otherwise: int) -> int:
            if found is not None:
                return found
            for file in input:
                if not Path(file).exists():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
            return otherwise

        given = dict(wildcards.items())
        of_sets = [given["targets"]] if "targets" in given else list(settings.targets)
        of_model = LIBRARIES[step] == MODEL
        size = size_of(
            settings,
            parameters=known(_parameters(settings, layout, given), PARAMETERS) if of_model else 0,
            rows=_rows_of_part(given) or known(_rows(settings, layout, step), ROWS),
            targets=[known(_targets(settings, layout, name), ROWS) for name in of_sets],
        )
        return megabytes(step, size, attempt)

    return asked


def _parameters(settings: Settings, layout: Layout, wildcards: Mapping[str, str]) -> int | None:
    """Of the run's model, or of an imported checkpoint that is larger."""
    of = imported(settings.checkpoints)
    places = [(layout.model, next(iter(of.values()), settings.model.name_or_path))]
    if of and "training" in wildcards:
        checkpoint = wildcards["training"]
        places.append((layout.checkpoint(checkpoint), of[checkpoint]))
    counts = [known_count(layout, folder, "parameters") or _stored(named) for folder, named in places]
    return max((count for count in counts if count), default=None)


@cache
def _stored(named: str) -> int | None:
    """Of a local folder's weights; none if it has none, or is a hub id."""
    files = [Path(file) for file in local_model(named) if file.endswith(".safetensors")]
    return stored_parameters(files) if files else None


def _rows(settings: Settings, layout: Layout, step: str) -> int | None:
    if step in ("model", "prepare"):  # its inputs may all be there
        return settings.dataset.train_size or ROWS
    return settings.dataset.train_size or known_count(layout, layout.train, "rows")


def _rows_of_part(wildcards: Mapping[str, str]) -> int:
    """Of a part of scores, or of the train set; 0 for other jobs."""
    if "rows" in wildcards:
        return len(Span.named(wildcards["rows"]))
    tile = Tile.named(wildcards["part"]) if "part" in wildcards else None
    return tile.stop - tile.start if tile else 0


def _targets(settings: Settings, layout: Layout, name: str) -> int | None:
    return settings.targets[name].size or known_count(layout, layout.targets(name), "rows")
