"""Where everything of one run lies, and how many parts there are.

The Snakefile and the steps both ask here, so a path is written down once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trak_steps.config.settings import CheckpointSettings


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
        """Where an unfinished training run keeps the states it resumes from."""
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

    def scores(self, name: str) -> Path:
        """Scores of every train row for every target of a set."""
        return self.root / "scores" / f"{name}.zarr"

    def top(self, name: str) -> Path:
        """The top proponents and opponents of every target of a set."""
        return self.root / "scores" / f"{name}.top.parquet"

    @property
    def summary(self) -> Path:
        """The run's figures."""
        return self.root / "summary.json"

    @property
    def provenance(self) -> Path:
        """What every output was made from, from the scores back to the source."""
        return self.root / "provenance.json"

    def outputs(
        self, checkpoints: Iterable[str], shards: Sequence[str], targets: Sequence[str]
    ) -> list[Path]:
        """Every output of a run but its provenance, in the order of the pipeline."""
        found = [self.model, self.train, *map(self.targets, targets)]
        for name in checkpoints:
            found.append(self.checkpoint(name))
            found += [self.train_shard(name, shard) for shard in shards]
            found += [self.target_features(name, of) for of in targets]
            found.append(self.kernel(name))
        for of in targets:
            found += [self.scores(of), self.top(of)]
        return [*found, self.summary]


def shard_names(n: int, shard_size: int) -> list[str]:
    """The shards of n train rows, in order: ``00000``, ``00001``, …"""
    return [f"{i:05d}" for i in range(-(-n // shard_size))]


def checkpoint_names(settings: CheckpointSettings) -> list[str]:
    """The names of all checkpoints: ``0`` is the end of run 0, ``0-0.5`` its state half-way.

    A name says nothing of how many others there are, so another count renames none.
    """
    if settings.existing:
        return [str(i) for i in range(len(settings.existing))]
    return [
        state_name(str(run), fraction)
        for run in range(settings.count)
        for fraction in sorted(settings.keep)
    ]


def state_name(run: str, fraction: float) -> str:
    """The checkpoint made of a run's state at a fraction of its training."""
    return run if fraction == 1.0 else f"{run}-{fraction:g}"
