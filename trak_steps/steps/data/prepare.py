"""Step ``prepare``: choose, label and tokenise the rows of the train set, once for all jobs."""

import numpy as np

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN
from trak_steps.data.labels import in_the_order_of, labels_of
from trak_steps.data.select import choose_rows, flip_labels, row_ids
from trak_steps.errors import TrakError
from trak_steps.model.load import load_config
from trak_steps.run.layout import Layout
from trak_steps.steps.data.rows import ChosenRows, labelled, load_source, write
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run_train(layout: Layout, settings: Settings) -> None:
    """Write ``data/train``."""
    dataset = settings.dataset
    where = f"split `{dataset.train_split}`"
    source = load_source(settings, dataset.train_split)
    labels = labels_of(source, dataset.label, where)
    if labels.classes is None and settings.features.model_output == BUILT_IN:
        raise TrakError(
            f"{where}: the label column `{dataset.label}` holds floats, numbers to regress on, and "
            f"features.model_output is {BUILT_IN}; if they are classes, cast the column to integers, "
            "else name your own `module:Class` in features.model_output (see docs/own_task.md)"
        )
    model = Manifest.load(layout.model, "model")  # its files are checked where rows are written
    if model.details["classifier"]:
        config = load_config(layout.model, trust_remote_code=settings.model.trust_remote_code)
        order = settings.checkpoints.classes
        labels = in_the_order_of(labels, config.id2label, model.details["source"], order)
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
    chosen = ChosenRows(rows, ids[places], numbers, flipped, labels)
    write(layout, settings, layout.train, chosen, version=VERSION)
