"""Step ``prepare-targets``: choose, label and tokenise a target set, with the train set's classes."""

import numpy as np

from trak_steps.config import Settings
from trak_steps.data.labels import Labels, require_column
from trak_steps.data.prepared import PreparedRows
from trak_steps.data.select import choose_rows, row_ids
from trak_steps.run.layout import Layout
from trak_steps.steps.data.rows import ChosenRows, labelled, load_source, write

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, targets: str) -> None:
    """Write ``data/targets/<set>``, with the classes of the train set."""
    train = PreparedRows.open(layout.train)
    chosen = settings.targets[targets]
    where = f"targets `{targets}`, split `{chosen.split}`"
    source = load_source(settings, chosen.split)
    ids = row_ids(source, settings.dataset.row_id, where)
    places = choose_rows(
        len(source), chosen.size, settings.dataset.sample, settings.seed, f"targets `{targets}`"
    )
    labels = _labels_of_train(train)
    require_column(source, settings.dataset.label, where, "dataset.label")
    rows = source.select(places)
    numbers = labelled(rows, labels, ids[places], settings, where)
    flipped = np.zeros(len(rows), dtype=bool)
    picked = ChosenRows(rows, ids[places], numbers, flipped, labels)
    write(layout, settings, layout.targets(targets), picked, version=VERSION, train=train)


def _labels_of_train(train: PreparedRows) -> Labels:
    classes = train.manifest.details["classes"]
    return Labels(tuple(classes) if classes is not None else None, tuple(train.label_names))
