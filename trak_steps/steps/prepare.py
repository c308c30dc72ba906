"""Steps ``prepare`` and ``prepare-targets``: choose, label and tokenise rows, once for all jobs."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedTokenizerBase

from trak_steps.config import Settings
from trak_steps.data.labels import Labels, encode, labels_of, require_column
from trak_steps.data.prepared import PreparedRows, digest_rows, save
from trak_steps.data.select import check_texts, choose_rows, flip_labels, row_ids
from trak_steps.data.source import load_split
from trak_steps.data.tasks import known_text_columns
from trak_steps.errors import TrakError
from trak_steps.layout import Layout
from trak_steps.model.load import load_tokenizer
from trak_steps.progress import say
from trak_steps.store.manifest import Manifest


def run_train(layout: Layout, settings: Settings) -> None:
    """Write ``data/train``."""
    dataset = settings.dataset
    where = f"split `{dataset.train_split}`"
    source = _load(settings, dataset.train_split)
    labels = labels_of(source, dataset.label, where)
    if settings.checkpoints.existing:
        labels = _in_the_order_of(labels, layout, settings)
    ids = row_ids(source, dataset.row_id, where)
    places = choose_rows(len(source), dataset.train_size, dataset.sample, settings.seed, "train set")
    rows, numbers = _labelled(source.select(places), labels, ids[places], settings, where)
    flipped = np.zeros(len(rows), dtype=bool)
    if dataset.flip_labels:
        if labels.classes is None:
            raise TrakError("dataset.flip_labels: regression has no labels to flip; set it to 0")
        classes = len(labels.names)
        numbers, flipped = flip_labels(numbers, places, classes, dataset.flip_labels, settings.seed)
    _write(layout, settings, "train", rows, ids[places], numbers, flipped, labels)


def run_targets(layout: Layout, settings: Settings, targets: str) -> None:
    """Write ``data/targets/<set>``, with the classes of the train set."""
    train = PreparedRows.load(layout.train)
    chosen = settings.targets[targets]
    where = f"targets `{targets}`, split `{chosen.split}`"
    source = _load(settings, chosen.split)
    ids = row_ids(source, settings.dataset.row_id, where)
    places = choose_rows(
        len(source), chosen.size, settings.dataset.sample, settings.seed, f"targets `{targets}`"
    )
    labels = _labels_of_train(train)
    require_column(source, settings.dataset.label, where, "dataset.label")
    rows, numbers = _labelled(source.select(places), labels, ids[places], settings, where)
    flipped = np.zeros(len(rows), dtype=bool)
    _write(layout, settings, targets, rows, ids[places], numbers, flipped, labels, train=train)


def _load(settings: Settings, split: str) -> datasets.Dataset:
    dataset = settings.dataset
    say(f"reading {dataset.path}{'/' + dataset.name if dataset.name else ''}, split {split}")
    # What the steps derive is kept in the run's own folder, not in a cache of the library.
    datasets.disable_caching()
    return load_split(dataset.path, dataset.name, dataset.data_files, split, settings.seed)


def _text_columns(settings: Settings) -> list[str]:
    dataset = settings.dataset
    columns = dataset.text or known_text_columns(dataset.path, dataset.name)
    if not columns:
        raise TrakError(
            "dataset.text: is not set, and the text columns of this data set are not known; "
            "name one column or two"
        )
    return list(columns)


def _labelled(
    rows: datasets.Dataset, labels: Labels, ids: NDArray[np.int64], settings: Settings, where: str
) -> tuple[datasets.Dataset, NDArray[Any]]:
    check_texts(rows, _text_columns(settings), ids, where)
    if settings.dataset.group:
        require_column(rows, settings.dataset.group, where, "dataset.group")
    return rows, encode(list(rows[settings.dataset.label]), labels, list(ids), where)


def _write(
    layout: Layout,
    settings: Settings,
    name: str,
    rows: datasets.Dataset,
    ids: NDArray[np.int64],
    numbers: NDArray[Any],
    flipped: NDArray[np.bool_],
    labels: Labels,
    train: PreparedRows | None = None,
) -> None:
    texts = _text_columns(settings)
    columns: dict[str, Any] = {"row": ids}
    columns |= {column: list(rows[column]) for column in texts}
    columns |= {"label": numbers, "flipped": flipped}
    if settings.dataset.group:
        columns["group"] = [str(group) for group in rows[settings.dataset.group]]
    tokenizer = load_tokenizer(
        layout.model,
        max_length=settings.model.max_length,
        trust_remote_code=settings.model.trust_remote_code,
    )
    prepared = _tokenise(datasets.Dataset.from_dict(columns), tokenizer, texts, settings)
    manifest = Manifest(
        "data",
        made_from={
            "model": Manifest.load(layout.model, "model").content,
            **({"train set": train.digest} if train else {}),
        },
        settings={"seed": settings.seed, "max_length": settings.model.max_length},
        content=digest_rows(prepared, prepared.column_names),
        details={
            "rows": len(prepared),
            "text": texts,
            "classes": list(labels.classes) if labels.classes is not None else None,
            "label_names": list(labels.names),
            "outputs": labels.outputs,
            "group": settings.dataset.group,
            "flipped": int(flipped.sum()),
        },
    )
    path = layout.targets(name) if train else layout.train
    save(path, prepared, manifest)
    lengths = [len(tokens) for tokens in prepared["input_ids"]]
    say(f"wrote {path}: {len(prepared)} rows of {np.mean(lengths):.0f} tokens on average")


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


def _labels_of_train(train: PreparedRows) -> Labels:
    classes = train.manifest.details["classes"]
    return Labels(tuple(classes) if classes is not None else None, tuple(train.label_names))


def _in_the_order_of(labels: Labels, layout: Layout, settings: Settings) -> Labels:
    """The classes in the order of the existing checkpoints, where these know them by name."""
    config = AutoConfig.from_pretrained(layout.model, trust_remote_code=settings.model.trust_remote_code)
    order = [str(config.id2label[i]) for i in sorted(config.id2label)]
    if labels.classes is None or sorted(order) != sorted(labels.names):
        return labels
    place = {name: i for i, name in enumerate(labels.names)}
    return Labels(tuple(labels.classes[place[name]] for name in order), tuple(order))
