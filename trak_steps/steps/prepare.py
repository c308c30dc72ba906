"""Step ``prepare``: choose, label and tokenise the rows of the train set, once for all jobs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedTokenizerBase

from trak_steps.config import Settings
from trak_steps.data.labels import Labels, encode, in_the_order_of, labels_of, require_column
from trak_steps.data.prepared import PreparedRows, save
from trak_steps.data.select import check_texts, choose_rows, flip_labels, row_ids
from trak_steps.data.source import load_split
from trak_steps.data.tasks import text_columns
from trak_steps.errors import TrakError
from trak_steps.fingerprint import fingerprint
from trak_steps.layout import Layout
from trak_steps.model.load import load_tokenizer
from trak_steps.progress import say
from trak_steps.steps.identity import row_settings
from trak_steps.store.manifest import FILE, Manifest
from trak_steps.store.tree import check_tree


def run_train(layout: Layout, settings: Settings) -> None:
    """Write ``data/train``."""
    dataset = settings.dataset
    where = f"split `{dataset.train_split}`"
    source = load_source(settings, dataset.train_split)
    labels = labels_of(source, dataset.label, where)
    model = load_model_folder(layout)
    if model.details["classifier"]:
        config = AutoConfig.from_pretrained(
            layout.model, trust_remote_code=settings.model.trust_remote_code
        )
        labels = in_the_order_of(labels, config.id2label, model.details["source"])
    ids = row_ids(source, dataset.row_id, where)
    places = choose_rows(len(source), dataset.train_size, dataset.sample, settings.seed, "train set")
    rows = source.select(places)
    numbers = labelled(rows, labels, ids[places], settings, where)
    flipped = np.zeros(len(rows), dtype=bool)
    if dataset.flip_labels:
        if labels.classes is None:
            raise TrakError("dataset.flip_labels: regression has no labels to flip; set it to 0")
        classes = len(labels.names)
        numbers, flipped = flip_labels(numbers, places, classes, dataset.flip_labels, settings.seed)
    write(layout, settings, layout.train, rows, ids[places], numbers, flipped, labels, model, "prepare")


def load_model_folder(layout: Layout) -> Manifest:
    """The manifest of the model to fine-tune, after checking its files."""
    manifest = Manifest.load(layout.model, "model")
    check_tree(layout.model, manifest.files, but=(FILE,))
    return manifest


def load_source(settings: Settings, split: str) -> datasets.Dataset:
    """All rows of a split."""
    dataset = settings.dataset
    say(f"reading {dataset.path}{'/' + dataset.name if dataset.name else ''}, split {split}")
    # What the steps derive is kept in the run's own folder, not in a cache of the library.
    datasets.disable_caching()
    return load_split(dataset.path, dataset.name, dataset.data_files, split, settings.seed)


def labelled(
    rows: datasets.Dataset, labels: Labels, ids: NDArray[np.int64], settings: Settings, where: str
) -> NDArray[Any]:
    """The rows' class numbers, or numbers to regress on [n], after checking texts and columns."""
    dataset = settings.dataset
    check_texts(rows, text_columns(dataset.path, dataset.name, dataset.text), ids, where)
    if dataset.group:
        require_column(rows, dataset.group, where, "dataset.group")
    return encode(list(rows[settings.dataset.label]), labels, list(ids), where)


def write(
    layout: Layout,
    settings: Settings,
    path: Path,
    rows: datasets.Dataset,
    ids: NDArray[np.int64],
    numbers: NDArray[Any],
    flipped: NDArray[np.bool_],
    labels: Labels,
    model: Manifest,
    step: str,
    train: PreparedRows | None = None,
) -> None:
    """Tokenise rows and write them to ``path``; targets name the train set whose classes they use."""
    dataset = settings.dataset
    texts = text_columns(dataset.path, dataset.name, dataset.text)
    columns: dict[str, Any] = {"row": ids}
    columns |= {column: list(rows[column]) for column in texts}
    columns |= {"label": numbers, "flipped": flipped}
    if settings.dataset.group:
        groups = rows[settings.dataset.group]
        columns["group"] = ["" if group is None else str(group) for group in groups]
    tokenizer = load_tokenizer(
        layout.model,
        max_length=settings.model.max_length,
        trust_remote_code=settings.model.trust_remote_code,
    )
    prepared = _tokenise(datasets.Dataset.from_dict(columns), tokenizer, texts, settings)
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
        },
        code=fingerprint(f"steps.{step}"),
        details={"text": texts, "group": dataset.group, "flipped": int(flipped.sum())},
    )
    classes = {
        "classes": list(labels.classes) if labels.classes is not None else None,
        "label_names": list(labels.names),
        "outputs": labels.outputs,
    }
    save(path, prepared, manifest, classes)
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
