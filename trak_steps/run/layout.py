"""Where everything of one run lies, and how many parts there are.

The Snakefile and the steps both ask here, so a path is written down once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trak_steps.config.checkpoints import CheckpointSettings
    from trak_steps.config.settings import EvaluationSettings

# The first train rows, whose gradients tell an imported checkpoint's second moments where no optimizer's
# are known.
MOMENT_ROWS = 32


@dataclass(frozen=True)
class Layout:
    """The paths of one run, ``results/<run>``. Arguments may be Snakemake wildcards."""

    root: Path

    def name(self, path: Path) -> str:
        """A path of the run as manifests name it: relative, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def lock(self, what: str) -> Path:
        """A lock of the run, or of a part of it."""
        return self.root / ".locks" / what

    @property
    def refused(self) -> Path:
        """What steps refused since the workflow started."""
        return self.root / ".refused"

    @property
    def asked(self) -> Path:
        """What the workflow was last asked for."""
        return self.root / ".asked.json"

    def log(self, job: str) -> Path:
        """What a job says."""
        return self.root / "logs" / f"{job}.log"

    def times(self, job: str) -> Path:
        """A job's time and memory, written when it has ended well."""
        return self.root / "benchmarks" / f"{job}.tsv"

    @property
    def submitted(self) -> Path:
        """What the jobs are called that the workflow submitted to a cluster."""
        return self.root / ".submitted"

    @property
    def model(self) -> Path:
        """The model to fine-tune: configuration, tokenizer and, unless from scratch, weights."""
        return self.root / "model"

    @property
    def train(self) -> Path:
        """The prepared train set."""
        return self.root / "data" / "train"

    def targets(self, name: str) -> Path:
        """A prepared target set."""
        return self.root / "data" / "targets" / name

    def checkpoint(self, checkpoint: str) -> Path:
        """A fine-tuned model."""
        return self.root / "checkpoints" / checkpoint

    def training(self, run: str) -> Path:
        """Where an unfinished training keeps what it resumes from."""
        return self.root / "training" / run

    def train_features(self, checkpoint: str) -> Path:
        """The folder of a checkpoint's feature shards."""
        return self.root / "features" / checkpoint / "train"

    def train_shard(self, checkpoint: str, shard: str) -> Path:
        """Features of one shard of the train set."""
        return self.train_features(checkpoint) / f"{shard}.zarr"

    def target_features(self, checkpoint: str, name: str) -> Path:
        """Features of a target set."""
        return self.root / "features" / checkpoint / "targets" / f"{name}.zarr"

    def kernel(self, checkpoint: str) -> Path:
        """A checkpoint's kernel and its Cholesky factor."""
        return self.root / "kernel" / f"{checkpoint}.zarr"

    def kernel_part(self, checkpoint: str, rows: str) -> Path:
        """A checkpoint's kernel, summed over some train rows alone."""
        return self.root / "kernel" / checkpoint / f"{rows}.zarr"

    @property
    def calibration(self) -> Path:
        """The unit of the run's scores, and how far from zero chance alone brings those listed."""
        return self.root / "scores.calibration.zarr"

    def weighted_sums(self, rows: str) -> Path:
        """Sums of the features of some train rows, weighted as their scores are."""
        return self.root / "sums" / f"{rows}.zarr"

    def score_part(self, name: str, part: str) -> Path:
        """Scores of some train rows for some targets of a set: their lists and counts."""
        return self.root / "scores" / name / f"{part}.zarr"

    def scores(self, name: str) -> Path:
        """Scores of a target set: what is known of each target, and every row's score where kept."""
        return self.root / "scores" / f"{name}.zarr"

    def top(self, name: str) -> Path:
        """The top proponents and opponents of every target of a set."""
        return self.root / "scores" / f"{name}.top.parquet"

    @property
    def evaluation(self) -> Path:
        """What was found out about the scores."""
        return self.root / "evaluation"

    def plan(self, name: str) -> Path:
        """Which models are to be retrained, on which rows, with which seeds."""
        return self.evaluation / f"{name}.plan.parquet"

    def retrained(self, plan: str, shard: str) -> Path:
        """What some models of a plan say of the targets."""
        return self.evaluation / "retrained" / plan / f"{shard}.parquet"

    @property
    def recipe(self) -> Path:
        """Whether the recipe given for imported checkpoints makes such models."""
        return self.evaluation / "recipe.json"

    @property
    def lds(self) -> Path:
        """The linear datamodeling score, its ceiling and baselines."""
        return self.evaluation / "lds.json"

    @property
    def lds_curves(self) -> Path:
        """The same by ridge, loss-weight power, k and checkpoints."""
        return self.evaluation / "lds.parquet"

    @property
    def removal(self) -> Path:
        """What leaving out targets' proponents did."""
        return self.evaluation / "removal.json"

    @property
    def removals(self) -> Path:
        """Each removal of it."""
        return self.evaluation / "removal.parquet"

    @property
    def mislabelled(self) -> Path:
        """How well rows with wrong labels are found, where they are known."""
        return self.evaluation / "mislabelled.json"

    @property
    def suspects(self) -> Path:
        """Train rows whose labels look wrong, and what argues against them."""
        return self.evaluation / "suspects.parquet"

    def class_sums(self, rows: str) -> Path:
        """Sums of the features of each class, over some train rows."""
        return self.evaluation / "classes" / f"{rows}.zarr"

    def support(self, training: str, rows: str) -> Path:
        """What some train rows are to their classes, by the checkpoints of a job."""
        return self.evaluation / "support" / training / f"{rows}.zarr"

    @property
    def picked(self) -> Path:
        """The train rows that are listed as suspects, with their features."""
        return self.evaluation / "picked.zarr"

    def opponents(self, rows: str) -> Path:
        """What argues against the suspects, of some train rows."""
        return self.evaluation / "opponents" / f"{rows}.zarr"

    @property
    def stability(self) -> Path:
        """Whether signs and ranks hold from one training to another."""
        return self.evaluation / "stability.json"

    def figures(self) -> list[Path]:
        """What the evaluation measures."""
        found = [self.recipe, self.lds, self.lds_curves, self.removal, self.removals]
        return [*found, self.mislabelled, self.suspects, self.stability]

    def retrained_parts(self, plan: str) -> list[Path]:
        """What is there of what a plan's models say."""
        return sorted(self.retrained(plan, "x").parent.glob("[0-9]*.parquet"))

    @property
    def retrained_models(self) -> Path:
        """What every model that was ever retrained says of the targets, for all runs beside this.

        No run can have this name.
        """
        return self.root.parent / "_retrained"

    @property
    def summary(self) -> Path:
        """The run's figures."""
        return self.root / "summary.json"

    @property
    def provenance(self) -> Path:
        """What every output was made from, from the scores back to the source."""
        return self.root / "provenance.json"

    @property
    def report(self) -> Path:
        """The run as a page."""
        return self.root / "report.html"

    def outputs(
        self,
        checkpoints: Iterable[str],
        shards: Sequence[str],
        targets: Mapping[str, Iterable[str]],
        kernel_parts: Sequence[str] = (),
        weighted_parts: Iterable[str] = (),
    ) -> list[Path]:
        """Every output of a run but its provenance and evaluation, in the order of the pipeline.

        Args:
            checkpoints: their names.
            shards: the names of the train set's.
            targets: of each target set, the names of the parts that it is scored in.
            kernel_parts: the names of the parts that kernels are summed in, if they are.
            weighted_parts: the same of weighted features.
        """
        found = [self.model, self.train, *map(self.targets, targets)]
        for name in checkpoints:
            found.append(self.checkpoint(name))
            found += [self.train_shard(name, shard) for shard in shards]
            found += [self.target_features(name, of) for of in targets]
            found += [self.kernel_part(name, part) for part in kernel_parts]
            found.append(self.kernel(name))
        found += [*map(self.weighted_sums, weighted_parts), self.calibration]
        for of, parts in targets.items():
            found += [self.score_part(of, part) for part in parts]
            found += [self.scores(of), self.top(of)]
        return [*found, self.summary]


def shard_names(n: int, shard_size: int) -> list[str]:
    """The shards of n train rows, in order: ``00000``, ``00001``, …"""
    return [f"{i:05d}" for i in range(-(-n // shard_size))]


def planned_models(settings: "EvaluationSettings") -> dict[str, int]:
    """How many models each plan of retraining has."""
    lds, removal = settings.lds, settings.removal
    return {
        "subsets": lds.subsets * lds.repeats,
        # Without each target's proponents, as many random rows, as many like it; and with all rows.
        "removal": (3 * removal.targets + 1) * removal.repeats,
    }


def planned_parts(settings: "EvaluationSettings") -> dict[str, list[str]]:
    """The names of the parts of each plan: of the models that a job retrains."""
    plans = planned_models(settings).items()
    return {plan: shard_names(models, settings.models_per_job) for plan, models in plans}


def checkpoint_names(settings: "CheckpointSettings") -> list[str]:
    """The names of all checkpoints: ``0`` is the end of training 0, ``0-0.5`` is half-way.

    A name says nothing of how many others there are, so another count renames none.
    """
    if settings.existing:
        return list(imported(settings))
    return [name for training in trainings(settings) for name in checkpoints_of_job(settings, training)]


def jobs_of_checkpoints(settings: "CheckpointSettings") -> list[str]:
    """The jobs that have all checkpoints between them: trainings, or imported ones' checkpoints."""
    return checkpoint_names(settings) if settings.existing else trainings(settings)


def checkpoints_of_job(settings: "CheckpointSettings", job: str) -> list[str]:
    """The checkpoints that one job has: those of a training, by its number.

    Imported trainings may each have others, so there a job has one checkpoint, by its name.
    """
    if settings.existing:
        return [job]
    return [checkpoint_name(job, fraction) for fraction in sorted(settings.keep)]


def imported(settings: "CheckpointSettings") -> dict[str, str]:
    """Of each imported checkpoint's name, the folder or hub id that it is from.

    A classifier that is imported alone is the end of a training.
    """
    found = {}
    for training, entry in enumerate(settings.existing):
        if isinstance(entry, str):
            found[str(training)] = entry
        else:
            for name, fraction in entry.fractions.items():
                found[checkpoint_name(str(training), fraction)] = _local(entry.run, name)
    return found


def _local(folder: str, name: str) -> str:
    """A folder within another, in words that no hub id is like."""
    path = Path(folder) / name
    return str(path) if path.is_absolute() or folder.startswith("~") else f"./{path}"


def trainings(settings: "CheckpointSettings") -> list[str]:
    """The numbers of the trainings."""
    return [str(i) for i in range(len(settings.existing) or settings.count)]


def final_checkpoints(settings: "CheckpointSettings") -> list[str]:
    """The names of each training's last checkpoint."""
    return list({training_of(name): name for name in checkpoint_names(settings)}.values())


def checkpoint_name(training: str, fraction: float) -> str:
    """The checkpoint made of a training at a fraction of its steps."""
    return training if fraction == 1.0 else f"{training}-{fraction:g}"


def fraction_of(checkpoint: str) -> float:
    """Where in its training a checkpoint is; the end of an imported one may be before 1."""
    _, dash, fraction = checkpoint.partition("-")
    return float(fraction) if dash else 1.0


def training_of(checkpoint: str) -> str:
    """The training that a checkpoint is of."""
    return checkpoint.partition("-")[0]
