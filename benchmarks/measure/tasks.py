"""The tasks on which scorings are compared: small files of rows, a small model, and a run's settings.

* ``qnli``: real QNLI, two texts, two classes; rows of at most 40 tokens, so that models can be trained
  hundreds of times on a CPU.
* ``qnli_minilm``: the same with twice the rows and all layers, which learn the task.
* ``trec``: questions by the kind of answer they ask for, one text, six classes (Li and Roth 2002).
* ``demo``, ``demo_twice``: the demo's facts, and twice as many; a model from scratch has to learn them.

Everything is made below a folder and is the same whenever it is made again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.measure.small import cut
from trak_steps.data import demo as facts
from trak_steps.errors import TrakError

MAX_TOKENS = 40
TARGETS = 100
RECIPE = {
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 3e-4,
    "warmup_ratio": 0.1,
    "dropout": 0.0,
}


@dataclass(frozen=True)
class Task:
    """Rows of one task, before any is chosen.

    Attributes:
        name: of the run.
        text: the text columns.
        train, validation: tables with the text columns and ``label``.
        rows: of the train set.
        layers: of the model.
        subsets: of the train set that models are trained on, twice each.
        trainings: whose checkpoints are scored by.
        by_ekfac: how many of them EK-FAC scores by, too.
        apart: whether removal and wrong labels are measured, too, for which more models are trained.
        pretrained: whether the model is cut from a pretrained one; else it is the demo's.
        finetune: the recipe.
    """

    name: str
    text: tuple[str, ...]
    train: pa.Table
    validation: pa.Table
    rows: int = 1000
    layers: int = 2
    subsets: int = 64
    trainings: int = 5
    by_ekfac: int = 3
    apart: bool = True
    pretrained: bool = True
    finetune: Mapping[str, float] = field(default_factory=lambda: RECIPE)


def qnli(train: Path, validation: Path) -> Task:
    """From parquet files with ``question``, ``sentence`` and ``label``."""
    columns = ["question", "sentence", "label"]
    return Task(
        "qnli",
        ("question", "sentence"),
        pq.read_table(train, columns=columns),
        pq.read_table(validation, columns=columns),
    )


def qnli_minilm(train: Path, validation: Path) -> Task:
    """From the same files."""
    return replace(
        qnli(train, validation),
        name="qnli_minilm",
        rows=2000,
        layers=6,
        subsets=40,
        trainings=3,
        by_ekfac=1,  # a checkpoint takes many minutes
        apart=False,
        finetune={**RECIPE, "epochs": 2, "learning_rate": 1e-4},
    )


def trec(train: Path, validation: Path) -> Task:
    """From text files of lines ``<class> <question>``."""

    def read(file: Path) -> pa.Table:
        lines = [line.split(" ", 1) for line in file.read_text(encoding="latin-1").splitlines() if line]
        return pa.table(
            {"text": [text for _, text in lines], "label": [int(label) for label, _ in lines]}
        )

    return Task("trec", ("text",), read(train), read(validation))


def demo(towns: int = facts.TOWNS) -> Task:
    """From no files: it brings its rows."""
    of_train, of_validation = (
        pa.Table.from_pylist(facts.rows(split, 0, towns)) for split in facts.SPLITS
    )
    return Task(
        "demo",
        ("question", "sentence"),
        of_train,
        of_validation,
        rows=len(of_train),
        subsets=40,
        trainings=3,
        by_ekfac=3,
        apart=False,
        pretrained=False,
        finetune={"epochs": 8, "batch_size": 32, "learning_rate": 5e-4},
    )


def demo_twice() -> Task:
    """The same, of twice the towns."""
    return replace(demo(towns=2 * facts.TOWNS), name="demo_twice")


OF_FILES: dict[str, Callable[[Path, Path], Task]] = {of.__name__: of for of in (qnli, qnli_minilm, trec)}
OF_NONE: dict[str, Callable[[], Task]] = {of.__name__: of for of in (demo, demo_twice)}


def named(name: str, train: Path | None, validation: Path | None) -> Task:
    """A task by its name, of files if it takes them.

    Raises:
        TrakError: if there is none of that name, or files are missing or too many.
    """
    if name in OF_NONE:
        if train is not None:
            raise TrakError(f"{name}: takes no files")
        return OF_NONE[name]()
    if name not in OF_FILES:
        raise TrakError(f"{name}: no such task; there are {', '.join([*OF_FILES, *OF_NONE])}")
    if train is None or validation is None:
        raise TrakError(f"{name}: give its files of train and validation rows")
    return OF_FILES[name](train, validation)


def prepare(task: Task, model: str, folder: Path, **sections: dict[str, Any]) -> Path:
    """Write the task's files, its model and its settings; gives the file of settings.

    Args:
        task: what to choose rows from.
        model: a hub id or folder of a BERT.
        folder: where to; left as it is where the settings are there.
        sections: settings laid over those here.
    """
    config = folder / "config.yaml"
    small = folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(model) if task.pretrained else None
    chosen = {
        split: table.take(_places(table, task.text, tokenizer, size))
        for split, table, size in (
            ("train", task.train, task.rows),
            ("validation", task.validation, TARGETS),
        )
    }
    if not config.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for split, table in chosen.items():
            pq.write_table(table, folder / f"{split}.parquet")
    if task.pretrained and not small.exists():
        cut(model, small, layers=task.layers, texts=_texts(task, chosen.values()))
    settings = {
        "run": folder.name,
        "dataset": {
            "path": "parquet",
            "data_files": {split: str(folder / f"{split}.parquet") for split in chosen},
            "text": list(task.text),
        },
        "targets": {"validation": {"split": "validation", "size": TARGETS}},
        "model": {"name_or_path": str(small) if task.pretrained else "demo", "max_length": 64},
        "finetune": dict(task.finetune),
        **sections,
    }
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return config


def _places(
    table: pa.Table, text: Iterable[str], tokenizer: PreTrainedTokenizerBase | None, size: int
) -> NDArray[np.int64]:
    """Of so many rows drawn at random, in their order; by a tokenizer, of those that are short."""
    places = np.arange(len(table))
    if tokenizer is not None:
        encoded = tokenizer(*(table[column].to_pylist() for column in text))["input_ids"]
        places = np.flatnonzero([len(ids) <= MAX_TOKENS for ids in encoded])
    return np.sort(np.random.default_rng(0).permutation(places)[:size])


def _texts(task: Task, tables: Iterable[pa.Table]) -> Iterator[str]:
    for table in tables:
        for column in task.text:
            yield from table[column].to_pylist()
