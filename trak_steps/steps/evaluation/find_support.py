"""Step ``find-support``: what some train rows are to their classes, by the checkpoints of a job."""

import numpy as np
import torch

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.suspicion import standing
from trak_steps.kernel.blocks import standing as standing_cost
from trak_steps.run.fit import rows_at_once
from trak_steps.run.layout import (
    Layout,
    checkpoint_names,
    checkpoints_of_job,
    final_checkpoints,
    training_of,
)
from trak_steps.run.lineage import contents
from trak_steps.run.parts import features_of_span, open_kernel, open_train_features
from trak_steps.run.spans import Span, support_spans
from trak_steps.run.suspects import (
    MARGINS,
    PRODUCTS,
    blocks_of,
    labels_of,
    open_class_sums,
    support_settings,
)
from trak_steps.scoring.units import shares_of_trainings
from trak_steps.store.artefact import keep
from trak_steps.store.manifest import Manifest
from trak_steps.store.suspects import save_arrays

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, job: str, rows: str) -> None:
    """Write ``evaluation/support/<training>/<rows>.zarr``.

    Args:
        layout: of the run.
        settings: of the run.
        job: the training, or of imported ones the checkpoint.
        rows: the part's name.
    """
    train = PreparedRows.open(layout.train)
    span = Span.planned(rows, support_spans(settings, layout, len(train)))
    place = span.start, span.stop
    every, names = checkpoint_names(settings.checkpoints), checkpoints_of_job(settings.checkpoints, job)
    features = [open_train_features(layout, settings, name, train, place) for name in names]
    kernels = [
        open_kernel(layout, settings, name, of_train, rows=len(train))
        for name, of_train in zip(names, features, strict=True)
    ]
    parts = open_class_sums(layout, settings, train)
    path = layout.support(job, rows)
    manifest = Manifest(
        "support",
        made_from=features_of_span(layout, train, features) | contents(layout, *kernels, *parts),
        settings=support_settings(settings, job),
        version=VERSION,
        details={"rows": [*place], "features": features[0].manifest.version},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    found = {name: np.zeros(len(span)) for name in (*PRODUCTS, *MARGINS)}
    shares = dict(zip(every, shares_of_trainings([training_of(name) for name in every]), strict=True))
    ends = final_checkpoints(settings.checkpoints)
    classes, dim = len(train.label_names), settings.features.dim
    if classes:  # no label that is a number is right or wrong
        labels = labels_of(train, span)
        cost = standing_cost(classes, dim)
        block = rows_at_once(settings, cost, f"a kernel of {dim} dimensions and its factor")
        sizes = torch.from_numpy(np.sum([part.sizes(classes) for part in parts], 0))
        pairs = zip(names, features, kernels, strict=True)
        for name, of_train, kernel in progress(
            pairs, total=len(names), label="support", unit="checkpoint"
        ):
            own = every.index(name), len(every), classes
            sums = torch.zeros(classes, dim, dtype=torch.float64)
            for part in parts:
                sums += torch.from_numpy(part.of_checkpoint(*own))
            factor = torch.from_numpy(kernel.cholesky)
            by = standing(blocks_of(of_train, block), labels, sums, factor, sizes)
            for product in PRODUCTS:
                found[product] += shares[name] * getattr(by, product).numpy()
            margin = of_train.column("margin").astype(np.float64)
            found["area"] += shares[name] * margin
            if name in ends:
                found["margin"] += margin / len(ends)
                found["loss"] += np.logaddexp(0, -margin) / len(ends)
    save_arrays(path, {name: (values, ("row",)) for name, values in found.items()}, manifest)
    say(f"wrote {path}: {len(span)} rows by {', '.join(names)}")
