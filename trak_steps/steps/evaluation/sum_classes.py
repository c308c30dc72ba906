"""Step ``sum-classes``: the features of each class summed over some train rows, by each checkpoint."""

import numpy as np
import torch

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.suspicion import class_sums
from trak_steps.kernel.blocks import standing as standing_cost
from trak_steps.run.fit import rows_at_once
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.run.parts import features_of_span, open_train_features
from trak_steps.run.spans import Span, suspect_spans
from trak_steps.run.suspects import blocks_of, class_sum_settings, labels_of
from trak_steps.store.artefact import keep
from trak_steps.store.manifest import Manifest
from trak_steps.store.suspects import save_arrays

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, rows: str) -> None:
    """Write ``evaluation/classes/<rows>.zarr``.

    Args:
        layout: of the run.
        settings: of the run.
        rows: the part's name.
    """
    train = PreparedRows.open(layout.train)
    span = Span.planned(rows, suspect_spans(settings, layout, len(train)))
    place = span.start, span.stop
    names = checkpoint_names(settings.checkpoints)
    features = [open_train_features(layout, settings, name, train, place) for name in names]
    path = layout.class_sums(rows)
    manifest = Manifest(
        "class-sums",
        made_from=features_of_span(layout, train, features),
        settings=class_sum_settings(settings),
        version=VERSION,
        details={"rows": [*place], "features": features[0].manifest.version},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    classes, dim = len(train.label_names), settings.features.dim
    sums = np.zeros((len(names), classes, dim))
    sizes = np.zeros(classes, np.int64)
    if classes:  # of labels that are numbers there is nothing to sum
        labels = labels_of(train, span)
        sizes += torch.bincount(labels, minlength=classes).numpy()
        cost = standing_cost(classes, dim)
        block = rows_at_once(settings, cost, f"the sums of {classes} classes in {dim} dimensions")
        pairs = progress(features, total=len(names), label="classes", unit="checkpoint")
        for of_train, found in zip(pairs, sums, strict=True):
            found += class_sums(blocks_of(of_train, block), labels, classes).numpy()
    arrays = {"sums": (sums, ("checkpoint", "class", "dim")), "sizes": (sizes, ("class",))}
    save_arrays(path, arrays, manifest)
    say(f"wrote {path}: {len(span)} rows of {classes} classes")
