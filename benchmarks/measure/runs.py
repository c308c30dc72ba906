"""The runs that comparisons are made of: a task's own, and beside it others of the same trainings."""

import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.measure.tasks import Task, prepare
from benchmarks.measure.ways import Checkpoint
from trak_steps.config import Settings, load_settings
from trak_steps.run.layout import Layout, checkpoint_names

TARGETS = "validation"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DIM = 4096
# What the commands that make such a run are given.
TaskName = Annotated[str, typer.Argument(help="qnli, qnli_minilm, trec, demo or demo_twice")]
TrainFile = Annotated[Path | None, typer.Argument(help="train rows: parquet; trec: lines of text")]
ValidationFile = Annotated[Path | None, typer.Argument(help="validation rows")]
ModelName = Annotated[str, typer.Option(help="a BERT, hub id or folder")]
# The same trainings at other times, and with plain gradients.
BESIDE: dict[str, dict[str, dict[str, Any]]] = {
    "more": {"checkpoints": {"keep": [0.0635, 0.5]}},
    "plain": {"checkpoints": {"keep": [0.125, 0.25, 0.5, 1.0]}, "features": {"metric": "none"}},
}


def make(task: Task, model: str) -> Path:
    """Write a task's files and the settings of its run; gives the file of settings."""
    return prepare(
        task,
        model,
        Path("results") / "tasks" / f"scoring-{task.name}",
        checkpoints={"count": task.trainings},
        features={"dim": DIM, "shard_size": 512},
        evaluation={
            "lds": {"subsets": task.subsets, "repeats": 2},
            "removal": {"targets": 4, "repeats": 2},
        },
        execution={"memory_mb": 2048},
    )


def changed(config: Path, name: str, changes: dict[str, dict[str, Any]]) -> Path:
    """Settings of another run, which differ in some."""
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["run"] += f"-{name}"
    for section, of in changes.items():
        values[section] = {**values[section], **of}
    path = config.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def snakemake(config: Path, *targets: object, cores: int) -> None:
    """Make targets of a run."""
    command = ["snakemake", "--cores", str(cores), "--configfile", str(config), "--"]
    subprocess.run([*command, *map(str, targets)], check=True)


def opened(config: Path) -> tuple[Layout, Settings]:
    """Where a run lies, and its settings."""
    settings = load_settings(config)
    return Layout(Path("results") / settings.run), settings


def checkpoints(config: Path, n: int) -> dict[str, Checkpoint]:
    """A run's checkpoints by name, of n train rows."""
    layout, settings = opened(config)
    names = checkpoint_names(settings.checkpoints)
    return {name: Checkpoint.read(layout, name, TARGETS, n) for name in names}
