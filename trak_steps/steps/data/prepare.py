"""Steps ``prepare`` and ``prepare-targets``: choose, label and tokenise rows, once for all jobs.

A target set has the classes of the train set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN
from trak_steps.console.progress import counter, say
from trak_steps.data.labels import Labels, encode, in_the_order_of, labels_of, require_column
from trak_steps.data.prepared import BATCH, PreparedRows, save
from trak_steps.data.select import check_texts, choose_rows, flip_labels, row_ids
from trak_steps.data.source import commit_of, load_split
from trak_steps.data.tasks import text_columns
from trak_steps.errors import TrakError
from trak_steps.model.load import load_config
from trak_steps.run.identity import row_settings
from trak_steps.run.layout import Layout
from trak_steps.run.tokenise import Tokeniser
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that these steps write change: see CONTRIBUTING.md.
VERSION = 1

OF_TOKENS = {"input_ids": pa.int32(), "token_type_ids": pa.int8()}


@dataclass(frozen=True)
class _ChosenRows:
    """Rows of a source that make up a set.

    Attributes:
        rows: n rows of the source.
        ids: their ids, [n].
        numbers: their class numbers, or numbers to regress on, [n].
        flipped: which labels were replaced by a wrong one, [n].
        labels: what the numbers mean.
        commit: of the hub that they are of; none for other sources.
    """

    rows: datasets.Dataset
    ids: NDArray[np.int64]
    numbers: NDArray[Any]
    flipped: NDArray[np.bool_]
    labels: Labels
    commit: str | None


def run_train(layout: Layout, settings: Settings) -> None:
    """Write ``data/train``."""
    dataset = settings.dataset
    where = f"split `{dataset.train_split}`"
    source = _load_source(settings, dataset.train_split)
    labels = labels_of(source, dataset.label, where)
    if labels.classes is None and settings.features.model_output == BUILT_IN:
        raise TrakError(
            f"{where}: the label column `{dataset.label}` holds floats, numbers to regress on, and "
            f"features.model_output is {BUILT_IN}; if they are classes, cast the column to integers, "
            "else name your own `module:Class` in features.model_output (see docs/custom_output.md)"
        )
    model = Manifest.load(layout.model, "model")  # its files are checked where rows are written
    if model.details["classifier"]:
        if "classes" in model.details:
            theirs = dict(enumerate(model.details["classes"]))
        else:
            config = load_config(layout.model, trust_remote_code=settings.model.trust_remote_code)
            theirs = config.id2label
        order = settings.checkpoints.classes
        labels = in_the_order_of(labels, theirs, model.details["source"], order)
    ids = row_ids(source, dataset.row_id, where)
    places = choose_rows(len(source), dataset.train_size, dataset.sample, settings.seed, "train set")
    rows = source.select(places)
    numbers = _labelled(rows, labels, ids[places], settings, where)
    flipped = np.zeros(len(rows), dtype=bool)
    if dataset.flip_labels:
        if labels.classes is None:
            raise TrakError("dataset.flip_labels: regression has no labels to flip; set it to 0")
        classes = len(labels.names)
        numbers, flipped = flip_labels(numbers, places, classes, dataset.flip_labels, settings.seed)
    chosen = _ChosenRows(rows, ids[places], numbers, flipped, labels, commit_of(source))
    _write(layout, settings, layout.train, chosen)


def run_targets(layout: Layout, settings: Settings, targets: str) -> None:
    """Write ``data/targets/<set>``, with the classes of the train set."""
    train = PreparedRows.open(layout.train)
    chosen = settings.targets[targets]
    where = f"targets `{targets}`, split `{chosen.split}`"
    source = _load_source(settings, chosen.split)
    ids = row_ids(source, settings.dataset.row_id, where)
    places = choose_rows(
        len(source), chosen.size, settings.dataset.sample, settings.seed, f"targets `{targets}`"
    )
    labels = _labels_of_train(train)
    require_column(source, settings.dataset.label, where, "dataset.label")
    rows = source.select(places)
    numbers = _labelled(rows, labels, ids[places], settings, where)
    flipped = np.zeros(len(rows), dtype=bool)
    picked = _ChosenRows(rows, ids[places], numbers, flipped, labels, commit_of(source))
    _write(layout, settings, layout.targets(targets), picked, train=train)


def _labels_of_train(train: PreparedRows) -> Labels:
    classes = train.manifest.details["classes"]
    return Labels(tuple(classes) if classes is not None else None, tuple(train.label_names))


def _load_source(settings: Settings, split: str) -> datasets.Dataset:
    """All rows of a split."""
    dataset = settings.dataset
    say(f"reading {dataset.path}{'/' + dataset.name if dataset.name else ''}, split {split}")
    # What the steps derive is kept in the run's own folder, not in a cache of the library.
    datasets.disable_caching()
    return load_split(
        dataset.path,
        dataset.name,
        dataset.data_files,
        split,
        settings.seed,
        revision=dataset.revision,
    )


def _labelled(
    rows: datasets.Dataset, labels: Labels, ids: NDArray[np.int64], settings: Settings, where: str
) -> NDArray[Any]:
    """The rows' class numbers, or numbers to regress on [n], after checking texts and columns."""
    dataset = settings.dataset
    check_texts(rows, text_columns(dataset.path, dataset.name, dataset.text), ids, where)
    if dataset.group:
        require_column(rows, dataset.group, where, "dataset.group")
    # Some at a time, as Python's objects take many times as much as numbers.
    parts = [
        encode(rows[start : start + BATCH][dataset.label], labels, ids[start : start + BATCH], where)
        for start in range(0, len(rows), BATCH)
    ]
    return np.concatenate(parts)


def _write(
    layout: Layout,
    settings: Settings,
    path: Path,
    chosen: _ChosenRows,
    train: PreparedRows | None = None,
) -> None:
    """Tokenise rows and write them.

    Args:
        layout, settings: of the run.
        path: where to.
        chosen: what to write.
        train: of targets, the train set whose classes they use.
    """
    model = check_folder(layout.model, "model")
    dataset = settings.dataset
    texts = text_columns(dataset.path, dataset.name, dataset.text)
    manifest = Manifest(
        "data",
        made_from={
            layout.name(layout.model): model.content,
            **({f"{layout.name(train.path)}#classes": train.classes} if train else {}),
        },
        settings={
            "seed": settings.seed,
            "max_length": settings.model.max_length,
            "dataset": row_settings(dataset, train=train is None),
            **({"classes": settings.checkpoints.classes} if train is None else {}),
        },
        version=VERSION,
        details={
            "text": texts,
            "group": dataset.group,
            "flipped": int(chosen.flipped.sum()),
            **({"revision": chosen.commit} if chosen.commit else {}),
        },
    )
    labels = chosen.labels
    classes = {
        "classes": list(labels.classes) if labels.classes is not None else None,
        "label_names": list(labels.names),
        "outputs": labels.outputs,
    }
    lengths = _Lengths(len(chosen.rows))
    save(path, lengths.seen(_batches(layout, settings, chosen, texts)), manifest, classes)
    say(f"wrote {path}: {lengths.rows} rows of {lengths.tokens / lengths.rows:.0f} tokens on average")


class _Lengths:
    """Counts rows and tokens that go by."""

    def __init__(self, total: int) -> None:
        self.rows = self.tokens = 0
        self._total = total

    def seen(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The batches."""
        with counter(self._total, "tokenised", "row") as advance:
            for table in batches:
                yield table
                self.rows += len(table)
                self.tokens += pc.sum(pc.list_value_length(table["input_ids"])).as_py()
                advance(len(table))


def _batches(
    layout: Layout, settings: Settings, chosen: _ChosenRows, texts: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows with their tokens, some at a time."""
    tokenise = Tokeniser(
        layout.model,
        max_length=settings.model.max_length,
        trust_remote_code=settings.model.trust_remote_code,
    )
    group = settings.dataset.group
    for start in range(0, len(chosen.rows), BATCH):
        some = slice(start, start + BATCH)
        rows = chosen.rows[some]
        encoded = tokenise([rows[column] for column in texts])
        columns = {"row": pa.array(chosen.ids[some])}
        columns |= {column: pa.array(rows[column], pa.string()) for column in texts}
        columns |= {"label": pa.array(chosen.numbers[some]), "flipped": pa.array(chosen.flipped[some])}
        if group:
            named = ["" if of_row is None else str(of_row) for of_row in rows[group]]
            columns["group"] = pa.array(named, pa.string())
        for name, tokens in encoded.items():
            columns[name] = pa.array(tokens, pa.list_(OF_TOKENS[name]))
        yield pa.table(columns)
