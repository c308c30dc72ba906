"""What a job costs: seconds, memory, disk and reads, from the facts of a run and a machine's speed.

Letters as everywhere: n train rows, t targets, k dimensions, m checkpoints; p parameters, s subsets.
Multiply-adds are counted, not operations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from trak_steps.kernel.blocks import CALIBRATED, FEWEST_ROWS, predicted_targets
from trak_steps.model.schedule import training_steps
from trak_steps.planning.facts import Facts
from trak_steps.planning.machine import Machine
from trak_steps.run.fit import bytes_allowed
from trak_steps.run.identity import matrix_of, rows_are_weighted, rows_listed
from trak_steps.run.jobs import Job
from trak_steps.run.layout import Layout, checkpoint_names, planned_models, trainings
from trak_steps.run.spans import Span, kernel_spans, suspects_in_parts, weighted_spans
from trak_steps.run.tiles import Tile
from trak_steps.scoring.ranks import BINS
from trak_steps.store.features import CHUNK_BYTES
from trak_steps.store.score_parts import CHUNK_ROWS, CHUNK_TARGETS
from trak_steps.workflow.memory import OF_TEXT, WAYS, megabytes, size_of

# Of a parameter, a number in float32 and one in float64.
SINGLE, DOUBLE = 4, 8
# Of a row of features: loss weight, margin, prediction and id.
COLUMNS = 24
# Of a row that is prepared: numbers, digest; and of a token, its ids and types.
OF_ROW, OF_TOKEN = 60, 5
# Of a checkpoint, over its weights: second moments are a number for each row and column of a matrix.
MOMENTS = 1.01
# Seconds of a row that is chosen and tokenised.
TOKENISED = 1.0e-4
# Of the calibration: train rows by which it is seen what chance lists.
BY_CHANCE = 2**18
# What scoring reaches of a product's speed: it lists and counts meanwhile, and reads.
OF_PRODUCT = 0.75
# Ridges that the LDS is measured with, of a checkpoint.
RIDGES = 12
# Files of a store or folder beside the chunks of its large arrays.
FILES = {"features": 12, "kernel": 7, "score": 30, "checkpoint": 7, "data": 4, "sums": 8}
# Of a row, what measures of suspicion are made of; and classes, where sums are by class.
OF_SUSPICION, FEW_CLASSES = 48, 10
# Rules whose jobs are of some train rows each.
_OF_ROWS = ("sum_kernel", "sum_weighted", "sum_classes", "find_support", "find_opponents")


@dataclass(frozen=True)
class Cost:
    """Of a job.

    Attributes:
        seconds: from its start to its end.
        busy: of them, those in which all its threads compute.
        threads: of it.
        gpu: whether it has a GPU.
        memory: MB that it asks for.
        disk: bytes that it leaves.
        files: that it leaves.
        read: bytes that it reads of what others left.
    """

    seconds: float
    busy: float
    threads: int
    gpu: bool
    memory: int
    disk: float = 0.0
    files: float = 0.0
    read: float = 0.0

    @property
    def cpu(self) -> float:
        """Seconds of a core."""
        return self.seconds - self.busy + self.busy * self.threads


@dataclass(frozen=True)
class _Work:
    """What a job does beside starting: seconds, of them those of one thread; bytes."""

    seconds: float
    alone: float = 0.0
    disk: float = 0.0
    files: float = 0.0
    read: float = 0.0


class Costs:
    """The costs of a run's jobs.

    Args:
        facts: of the run.
        machine: that runs them.
        gpu: whether jobs of steps that use one have a GPU.
        overhead: seconds that a job costs whatever it does.
        around: MB that a job holds beside its own.
    """

    def __init__(
        self, facts: Facts, machine: Machine, *, gpu: bool, overhead: float = 0.0, around: int = 0
    ) -> None:
        settings = facts.settings
        self._facts, self._machine, self._gpu = facts, machine, gpu
        self._overhead, self._around = overhead, around
        self._settings = settings
        self._n, self._k = facts.rows, settings.features.dim
        self._t, self._sets = sum(facts.targets.values()), facts.targets
        self._m = len(checkpoint_names(settings.checkpoints))
        self._of_training = self._m / len(trainings(settings.checkpoints))
        self._scale = machine.scale(facts.parameters)
        self._row = self._k * (2 if settings.features.dtype == "float16" else SINGLE)
        self._of_features = self._row + COLUMNS
        run = Layout(Path("results") / settings.run)
        self._kernel_parts = len(kernel_spans(settings, run, self._n))
        self._weighted_in_parts = bool(weighted_spans(settings, run, self._n))

    def of(self, job: Job, step: str, *, uses_gpu: bool) -> Cost:
        """The cost of a job.

        Args:
            job: which.
            step: that its rule runs.
            uses_gpu: whether the step computes on one, where there is one.
        """
        work = _WORK[job.rule](self, job)
        start = self._machine.start(step) + self._overhead
        size = size_of(
            self._settings,
            parameters=self._facts.parameters,
            rows=self._rows(job),
            targets=self._sets.values(),
        )
        return Cost(
            seconds=start + work.seconds + work.alone,
            busy=work.seconds,
            threads=self._settings.execution.threads,
            gpu=uses_gpu and self._gpu,
            memory=megabytes(step, size) + self._around,
            disk=work.disk,
            files=work.files,
            read=work.read,
        )

    def _rows(self, job: Job) -> int:
        """Train rows that a job has to do with at once."""
        part = job.name.rpartition("/")[2]
        if job.rule in _OF_ROWS:
            return len(Span.named(part))
        if job.rule != "score":
            return self._n
        tile = Tile.named(part)
        return tile.stop - tile.start

    def model(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """Its files, copied; where a model is made, next to nothing."""
        weights = SINGLE * self._facts.parameters if self._settings.model.name_or_path != "demo" else 0
        return _Work(0, weights / self._machine.write, disk=weights + 1e5, files=FILES["data"] + 3)

    def prepare(self, job: Job) -> _Work:
        """Rows, tokenised."""
        name = job.name.rpartition("/")[2]
        rows = self._n if job.rule == "prepare" else self._sets[name]
        size = rows * (OF_ROW + (OF_TOKEN + OF_TEXT) * self._facts.tokens)
        return _Work(0, rows * TOKENISED, disk=size, files=FILES["data"])

    def finetune(self, job: Job) -> _Work:
        """Steps until the last checkpoint."""
        steps = max(self._settings.checkpoints.keep) * self._steps(1.0)
        kept = len(job.outputs)
        weights = kept * SINGLE * self._facts.parameters
        written = 2 * weights / self._machine.write + weights / self._machine.read
        seconds = self._trained(steps)
        return _Work(seconds, written, disk=MOMENTS * weights, files=kept * FILES["checkpoint"])

    def import_checkpoint(self, job: Job) -> _Work:  # noqa: ARG002 - all alike
        """Weights, copied, loaded and tried on some rows."""
        weights = SINGLE * self._facts.parameters
        seconds = 300 * self._forward(1) + 32 * 3 * self._forward(1)
        return _Work(seconds, 2 * weights / self._machine.write, MOMENTS * weights, FILES["checkpoint"])

    def featurize(self, job: Job) -> _Work:
        """Of a shard: each checkpoint of a training is loaded, checked and run."""
        shard = self._settings.features.shard_size or self._n
        start = int(job.name.rpartition("/")[2]) * shard
        return self._featurized(min(shard, self._n - start), len(job.outputs))

    def featurize_targets(self, job: Job) -> _Work:
        """Of a target set."""
        return self._featurized(self._sets[job.name.rpartition("/")[2]], len(job.outputs))

    def sum_kernel(self, job: Job) -> _Work:
        """K summed over some rows."""
        k, checkpoints, rows = self._k, len(job.outputs), self._rows(job)
        read, size = rows * self._of_features, DOUBLE * k * k
        each = rows * k * k / self._machine.double + read / self._machine.read
        return _Work(
            checkpoints * each,
            checkpoints * size / self._machine.write,
            disk=checkpoints * size,
            files=checkpoints * (FILES["kernel"] + math.ceil(k / 1024)),
            read=checkpoints * read,
        )

    def kernel(self, job: Job) -> _Work:
        """K summed, its eigenvalues, its factor."""
        k, checkpoints = self._k, len(job.outputs)
        summed = 0 if self._kernel_parts else self._n * k * k / self._machine.double
        found = self._machine.spectrum * k**3 if self._settings.kernel.ridge is None else 0
        factor = k**3 / 6 / self._machine.double
        read = self._kernel_parts * DOUBLE * k * k or self._n * self._of_features
        size = 2 * DOUBLE * k * k
        each = summed + found + factor + read / self._machine.read
        return _Work(
            checkpoints * each,
            checkpoints * size / self._machine.write,
            disk=checkpoints * size,
            files=checkpoints * (FILES["kernel"] + 2 * math.ceil(k / 1024)),
            read=checkpoints * read,
        )

    def calibrate(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """Some train rows as targets; where rows are weighted, their features are summed, too."""
        rows = min(self._n, BY_CHANCE)
        found = self._scored(rows, min(CALIBRATED, self._n), pairs=min(64, self._n), disk=1e5)
        if rows_are_weighted(self._settings) and not self._weighted_in_parts:
            return _added(found, self._passed(self._n, self._m))
        return found

    def sum_weighted(self, job: Job) -> _Work:
        """The features of some rows, weighted."""
        sums = DOUBLE * self._m * self._k
        return _added(self._passed(self._rows(job), self._m), _Work(0, disk=sums, files=FILES["sums"]))

    def score(self, job: Job) -> _Work:
        """A part: some rows for some targets."""
        _, of_set, part = job.name.split("/")
        tile = Tile.named(part)
        rows, targets = tile.stop - tile.start, tile.last - tile.first
        matrix = matrix_of(self._settings, self._n, self._sets[of_set])
        listed = min(rows, rows_listed(self._settings.scores.top))
        kept = targets * (2 * listed * 24 + 2 * BINS * 2) + rows * SINGLE
        size = kept + len(matrix) * SINGLE * rows * targets
        return self._scored(rows, targets, pairs=targets, disk=size)

    def gather(self, job: Job) -> _Work:
        """Parts put together; scores of all rows are copied."""
        t = self._sets[job.name.rpartition("/")[2]]
        matrix = len(matrix_of(self._settings, self._n, t)) * SINGLE * self._n * t
        listed = 2 * t * 32 * 40
        moved = matrix / self._machine.read + matrix / self._machine.write
        chunks = matrix / SINGLE / (CHUNK_ROWS * CHUNK_TARGETS)
        return _Work(0, moved + 1e-3 * t, matrix + listed, FILES["score"] + chunks, matrix + listed)

    def rank(self, job: Job) -> _Work:
        """The lists, with texts."""
        t = self._sets[job.name.split("/")[1].removesuffix(".top")]
        listed = 2 * t * min(self._n, self._settings.scores.top)
        return _Work(0, 2e-5 * listed, disk=150 * listed, files=1)

    def summarize(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """Figures of what is listed."""
        return _Work(0, 1e-3 * self._t, disk=3e3, files=1)

    def provenance(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """Manifests, read and put together."""
        shards = math.ceil(self._n / (self._settings.features.shard_size or self._n))
        made = self._m * (shards + 2 + len(self._sets))
        return _Work(0, 1e-3 * made, disk=1.5e3 * made, files=1)

    def report(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """Lists read and packed, and figures drawn."""
        listed = 2 * self._t * min(self._n, self._settings.scores.top)
        return _Work(0, 2.0 + 1e-4 * listed, disk=1.3e6 + 30 * listed, files=1)

    def check_recipe(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """A model on all rows for each of two seeds."""
        return _Work(2 * (self._trained(self._steps(1.0)) + self._forward(self._t)))

    def plan(self, job: Job) -> _Work:
        """Which rows each model is trained on."""
        if job.rule == "plan_subsets":
            subsets = self._settings.evaluation.lds.subsets
            return _Work(0, 1e-7 * self._n * subsets, disk=self._n * subsets / 8, files=1)
        first = next(iter(self._sets.values()))
        found = self._scored(self._n, first, pairs=first, disk=1e5)
        return _Work(found.seconds + self._forward(self._n), 0, 1e5, 1, found.read)

    def retrain(self, job: Job) -> _Work:
        """Some models of a plan."""
        chosen = self._settings.evaluation
        plan, part = job.name.split("/")[-2:]
        share = chosen.lds.share if plan == "subsets" else 1.0
        planned = planned_models(self._settings.evaluation)[plan]
        first = int(part) * chosen.models_per_job
        models = min(chosen.models_per_job, planned - first)
        each = self._trained(self._steps(share)) + self._forward(self._t) + 0.3
        # Of each model's answers a line, and a file beside the run.
        size = models * self._t * 50
        return _Work(models * each, 0, size, 1 + models * len(self._sets))

    def measure_lds(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """Sums over subsets, what each way of scoring predicts, and the bootstrap."""
        chosen, k, t = self._settings.evaluation, self._k, self._t
        s, double = chosen.lds.subsets, self._machine.double
        summed = 3 * self._m * s * self._n * k / double
        factors = RIDGES * (k**3 / 6 + t * k * k) / double + 2 * self._machine.spectrum * k**3
        drawn = WAYS * 8 * chosen.bootstrap * s * t / double
        forward = self._forward(self._n + t) * len(trainings(self._settings.checkpoints))
        of_targets = predicted_targets(WAYS, s, chosen.lds.repeats, k, self._m)
        at_once = max(FEWEST_ROWS, of_targets.at_once(bytes_allowed(self._settings) // 2))
        passes = 1 + math.ceil(t / at_once)
        read = passes * self._m * self._n * self._of_features
        summed *= passes / 2
        seconds = summed + self._m * factors + drawn + forward + read / self._machine.read
        return _Work(seconds, 0, 5e4, 2, read)

    def measure_removal(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """A bootstrap of a few numbers."""
        return _Work(0, 1.0, disk=5e4, files=2)

    def sum_classes(self, job: Job) -> _Work:
        """The features of some rows, by class."""
        sums = DOUBLE * self._m * FEW_CLASSES * self._k
        return _added(self._passed(self._rows(job), self._m), _Work(0, disk=sums, files=FILES["sums"]))

    def find_support(self, job: Job) -> _Work:
        """Some rows held against their class, by the checkpoints of a training."""
        rows, k, checkpoints = self._rows(job), self._k, self._of_training
        solved = checkpoints * rows * k**2 / 2 / self._machine.double
        left = _Work(solved, disk=OF_SUSPICION * rows, files=FILES["features"])
        return _added(self._passed(rows, checkpoints), left)

    def pick_suspects(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """What was found of all rows, and the chunks that suspects' features are in."""
        suspects = min(self._settings.evaluation.suspects, self._n)
        found = OF_SUSPICION * self._n * self._m / self._of_training
        chunks = suspects * self._m * min(CHUNK_BYTES, self._n * self._row)
        size, read = SINGLE * self._m * suspects * self._k, found + chunks
        return _Work(0, read / self._machine.read, size, FILES["sums"] + self._m, read)

    def find_opponents(self, job: Job) -> _Work:
        """What argues against suspects, of some rows."""
        suspects = min(self._settings.evaluation.suspects, self._n)
        return self._scored(self._rows(job), suspects, pairs=suspects, disk=80 * suspects)

    def find_mislabelled(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """Rows held against their class, by each checkpoint; then what argues against suspects."""
        if suspects_in_parts(self._settings, self._n):
            read = OF_SUSPICION * self._n * self._m / self._of_training
            return _Work(0, read / self._machine.read + 1e-6 * self._n, 3e5, 2, read)
        suspects = min(self._settings.evaluation.suspects, self._n)
        standing = self._m * self._n * self._k**2 / 2 / self._machine.double
        found = self._scored(self._n, suspects, pairs=suspects, disk=3e5)
        passes = _added(*2 * [self._passed(self._n, self._m)])
        return _added(found, passes, _Work(standing, files=1))

    def measure_stability(self, job: Job) -> _Work:  # noqa: ARG002 - one of a kind
        """All scores, by each training on its own."""
        found = self._scored(self._n, self._t, pairs=2 * self._t, disk=1e4)
        return _Work(found.seconds, 0, 1e4, 1, found.read)

    def _steps(self, share: float) -> int:
        """Of a training on a share of the rows."""
        chosen, rows = self._settings.finetune, round(share * self._n)
        return training_steps(rows, epochs=chosen.epochs, batch_size=chosen.batch_size)

    def _trained(self, steps: float) -> float:
        """Seconds of so many steps, in batches that are padded."""
        chosen, lengths = self._settings.finetune, np.asarray(self._facts.lengths, np.float64)
        tokens = chosen.batch_size * longest_of(lengths, chosen.batch_size // chosen.accumulation)
        return steps * (self._machine.step + tokens * self._machine.train) * self._scale

    def _forward(self, rows: float) -> float:
        return rows * self._facts.tokens * self._machine.forward * self._scale

    def _featurized(self, rows: int, checkpoints: int) -> _Work:
        machine = self._machine
        # A chunk is written whole, also where rows do not fill it.
        of_chunk = max(1, min(rows, CHUNK_BYTES // self._row))
        chunks = math.ceil(rows / of_chunk)
        size = chunks * of_chunk * self._row + rows * COLUMNS
        weights = SINGLE * self._facts.parameters
        computed = rows * self._facts.tokens * machine.feature * self._scale
        checked = machine.check * self._scale + weights / machine.read
        return _Work(
            checkpoints * (computed + checked),
            checkpoints * size / machine.write,
            disk=checkpoints * size,
            files=checkpoints * (FILES["features"] + chunks),
            read=checkpoints * weights,
        )

    def _passed(self, rows: int, checkpoints: float) -> _Work:
        """So many rows read, by checkpoints, and little done with them."""
        read = checkpoints * rows * self._of_features
        return _Work(read / self._machine.read, read=read)

    def _scored(self, rows: int, targets: int, *, pairs: int, disk: float) -> _Work:
        """So many rows scored for so many targets, by all checkpoints; pairs that are looked at."""
        k, m = self._k, self._m
        solved = m * targets * k * k / self._machine.double
        products = rows * pairs * k * m / (OF_PRODUCT * self._machine.single)
        read = m * rows * self._of_features + m * 2 * DOUBLE * k * k
        return _Work(
            solved + products + read / self._machine.read,
            disk / self._machine.write,
            disk=disk,
            files=FILES["score"],
            read=read,
        )


def _added(*works: _Work) -> _Work:
    """All of them, one after the other."""
    return _Work(*(sum(getattr(work, field.name) for work in works) for field in fields(_Work)))


def longest_of(lengths: np.ndarray, size: int) -> float:
    """How long the longest of so many rows is, on average: what a batch of them is padded to."""
    below = np.arange(len(lengths) + 1) / len(lengths)
    return float((np.sort(lengths) * np.diff(below**size)).sum())


# What each rule's jobs do.
_WORK: dict[str, Callable[[Costs, Job], _Work]] = {
    "model": Costs.model,
    "prepare": Costs.prepare,
    "prepare_targets": Costs.prepare,
    "finetune": Costs.finetune,
    "import_checkpoint": Costs.import_checkpoint,
    "featurize": Costs.featurize,
    "featurize_targets": Costs.featurize_targets,
    "sum_kernel": Costs.sum_kernel,
    "kernel": Costs.kernel,
    "sum_weighted": Costs.sum_weighted,
    "calibrate": Costs.calibrate,
    "score": Costs.score,
    "gather": Costs.gather,
    "rank": Costs.rank,
    "summarize": Costs.summarize,
    "provenance": Costs.provenance,
    "report": Costs.report,
    "check_recipe": Costs.check_recipe,
    "plan_subsets": Costs.plan,
    "plan_removal": Costs.plan,
    "retrain_subsets": Costs.retrain,
    "retrain_removal": Costs.retrain,
    "measure_lds": Costs.measure_lds,
    "measure_removal": Costs.measure_removal,
    "sum_classes": Costs.sum_classes,
    "find_support": Costs.find_support,
    "pick_suspects": Costs.pick_suspects,
    "find_opponents": Costs.find_opponents,
    "find_mislabelled": Costs.find_mislabelled,
    "measure_stability": Costs.measure_stability,
}
