"""The tasks on which scorings are compared: small files of rows, a small model, and a run's settings.

* ``qnli``: real QNLI, two texts, two classes; rows of at most 40 tokens, so that models can be trained
  hundreds of times on a CPU.
* ``trec``: questions by the kind of answer they ask for, one text, six classes (Li and Roth 2002).

Everything is made below a folder and is the same whenever it is made again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from transformers import AutoTokenizer

from benchmarks.measure.small import cut

MAX_TOKENS = 40
TARGETS = 100


@dataclass(frozen=True)
class Task:
    """Rows of one task, before any is chosen.

    Attributes:
        name: of the run.
        text: the text columns.
        train, validation: tables with the text columns and ``label``.
    """

    name: str
    text: tuple[str, ...]
    train: pa.Table
    validation: pa.Table


def qnli(train: Path, validation: Path) -> Task:
    """From parquet files with ``question``, ``sentence`` and ``label``."""
    columns = ["question", "sentence", "label"]
    return Task(
        "qnli",
        ("question", "sentence"),
        pq.read_table(train, columns=columns),
        pq.read_table(validation, columns=columns),
    )


def trec(train: Path, validation: Path) -> Task:
    """From text files of lines ``<class> <question>``."""

    def read(file: Path) -> pa.Table:
        lines = [line.split(" ", 1) for line in file.read_text(encoding="latin-1").splitlines() if line]
        return pa.table(
            {"text": [text for _, text in lines], "label": [int(label) for label, _ in lines]}
        )

    return Task("trec", ("text",), read(train), read(validation))


def prepare(
    task: Task, model: str, folder: Path, *, rows: int, layers: int, **sections: dict[str, Any]
) -> Path:
    """Write the task's files, its model and its settings; gives the file of settings.

    Args:
        task: what to choose rows from.
        model: a hub id or folder of a BERT.
        folder: where to; left as it is where the settings are there.
        rows: of the train set.
        layers: of the model.
        sections: settings laid over those here.
    """
    config = folder / "config.yaml"
    small = folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    chosen = {}
    for split, table, size in (
        ("train", task.train, rows),
        ("validation", task.validation, TARGETS),
    ):
        encoded = tokenizer(*(table[column].to_pylist() for column in task.text))["input_ids"]
        short = np.flatnonzero([len(ids) <= MAX_TOKENS for ids in encoded])
        places = np.random.default_rng(0).permutation(short)[:size]
        chosen[split] = table.take(np.sort(places))
    if not small.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for split, table in chosen.items():
            pq.write_table(table, folder / f"{split}.parquet")
        cut(model, small, layers=layers, texts=_texts(task, chosen.values()))
    settings = {
        "run": folder.name,
        "dataset": {
            "path": "parquet",
            "data_files": {split: str(folder / f"{split}.parquet") for split in chosen},
            "text": list(task.text),
        },
        "targets": {"validation": {"split": "validation", "size": TARGETS}},
        "model": {"name_or_path": str(small), "max_length": 64},
        **sections,
    }
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return config


def _texts(task: Task, tables: Iterator[pa.Table]) -> Iterator[str]:
    for table in tables:
        for column in task.text:
            yield from table[column].to_pylist()
