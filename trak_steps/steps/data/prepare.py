"""Steps ``prepare`` and ``prepare-targets``: choose, label and tokenise rows, once for all jobs.

A target set has the classes of the train set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN
from trak_steps.console.progress import say
from trak_steps.data.labels import Labels, encode, in_the_order_of, labels_of, require_column
from trak_steps.data.prepared import PreparedRows, save
from trak_steps.data.select import check_texts, choose_rows, flip_labels, row_ids
from trak_steps.data.source import load_split
from trak_steps.data.tasks import text_columns
from trak_steps.errors import TrakError
from trak_steps.model.load import load_config, load_tokenizer
from trak_steps.run.identity import row_settings
from trak_steps.run.layout import Layout
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that these steps write change: see CONTRIBUTING.md.
VERSION = 1


@dataclass(frozen=True)
class _ChosenRows:
    """Rows of a source that make up a set.

    Attributes:
        rows: n rows of the source.
        ids: their ids, [n].
        numbers: their class numbers, or numbers to regress on, [n].
        flipped: which labels were replaced by a wrong one, [n].
        labels: what the numbers mean.
    """

    rows: datasets.Dataset
    ids: NDArray[np.int64]
    numbers: NDArray[Any]
    flipped: NDArray[np.bool_]
    labels: Labels


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
    chosen = _ChosenRows(rows, ids[places], numbers, flipped, labels)
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
    picked = _ChosenRows(rows, ids[places], numbers, flipped, labels)
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
    return load_split(dataset.path, dataset.name, dataset.data_files, split, settings.seed)


def _labelled(
    rows: datasets.Dataset, labels: Labels, ids: NDArray[np.int64], settings: Settings, where: str
) -> NDArray[Any]:
    """The rows' class numbers, or numbers to regress on [n], after checking texts and columns."""
    dataset = settings.dataset
    check_texts(rows, text_columns(dataset.path, dataset.name, dataset.text), ids, where)
    if dataset.group:
        require_column(rows, dataset.group, where, "dataset.group")
    return encode(list(rows[settings.dataset.label]), labels, list(ids), where)


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
    columns: dict[str, Any] = {"row": chosen.ids}
    columns |= {column: list(chosen.rows[column]) for column in texts}
    columns |= {"label": chosen.numbers, "flipped": chosen.flipped}
    if dataset.group:
        groups = chosen.rows[dataset.group]
        columns["group"] = ["" if group is None else str(group) for group in groups]
    tokenizer = load_tokenizer(
        layout.model,
        max_length=settings.model.max_length,
        trust_remote_code=settings.model.trust_remote_code,
    )
    prepared = _tokenise(datasets.Dataset.from_dict(columns), tokenizer, texts, settings)
    _require_known_tokens(prepared, layout, settings)
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
        details={"text": texts, "group": dataset.group, "flipped": int(chosen.flipped.sum())},
    )
    labels = chosen.labels
    classes = {
        "classes": list(labels.classes) if labels.classes is not None else None,
        "label_names": list(labels.names),
        "outputs": labels.outputs,
    }
    save(path, prepared.with_format("arrow")[:], manifest, classes)
    lengths = [len(tokens) for tokens in prepared["input_ids"]]
    say(f"wrote {path}: {len(prepared)} rows of {np.mean(lengths):.0f} tokens on average")


def _require_known_tokens(rows: datasets.Dataset, layout: Layout, settings: Settings) -> None:
    """A tokenizer may come from another model than the weights."""
    config = load_config(layout.model, trust_remote_code=settings.model.trust_remote_code)
    known = getattr(config, "vocab_size", None)
    largest = max((max(tokens, default=0) for tokens in rows["input_ids"]), default=0)
    if known is not None and largest >= known:
        raise TrakError(
            f"{layout.model}: its tokenizer gives the token {largest}, its model knows {known}; are "
            "they those of two models? set model.name_or_path to a whole one"
        )


def _tokenise(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    settings: Settings,
) -> datasets.Dataset:
    wanted = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]

    def tokens(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            *(batch[column] for column in texts),
            truncation=True,
            max_length=settings.model.max_length,
        )
        return {name: encoded[name] for name in wanted}

    return rows.map(tokens, batched=True, desc="tokenising")
