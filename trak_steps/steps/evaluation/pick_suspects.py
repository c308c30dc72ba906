"""Step ``pick-suspects``: the train rows whose labels look most wrong, with their features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.blocks import subset_sums
from trak_steps.run.fit import rows_at_once
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_train_features
from trak_steps.run.suspects import (
    gather_rows,
    measures_of_parts,
    most_suspicious,
    open_supports,
    picked_settings,
    suspects_of,
)
from trak_steps.store.artefact import keep
from trak_steps.store.manifest import Manifest
from trak_steps.store.suspects import save_arrays

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/picked.zarr``."""
    train = PreparedRows.open(layout.train)
    names, dim = checkpoint_names(settings.checkpoints), settings.features.dim
    count = suspects_of(settings, train)
    supports = open_supports(layout, settings, train)
    features = [open_train_features(layout, settings, name, train) for name in names]
    made_from = contents(layout, *(part for of_job in supports for part in of_job))
    made_from |= contents(layout, *(shard for of_train in features for shard in of_train.shards))
    path = layout.picked
    manifest = Manifest(
        "picked",
        made_from=made_from,
        settings=picked_settings(settings, count),
        version=VERSION,
        details={"suspects": count},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    suspects = np.zeros(0, np.int64)
    if count:
        suspects = most_suspicious(measures_of_parts(settings, supports), count)
    block = rows_at_once(settings, subset_sums(dim), f"rows of {dim} dimensions")
    found = np.zeros((len(names), count, dim), np.float32)
    votes = np.zeros((len(names), count), np.int64)
    for place, of_train in enumerate(
        progress(features, total=len(names), label="suspects", unit="checkpoint")
    ):
        found[place] = gather_rows(of_train, suspects, block).numpy()
        votes[place] = of_train.column("prediction")[suspects]
    arrays: dict[str, tuple[NDArray[Any], tuple[str, ...]]] = {
        "place": (suspects, ("suspect",)),
        "features": (found, ("checkpoint", "suspect", "dim")),
        "prediction": (votes, ("checkpoint", "suspect")),
    }
    save_arrays(path, arrays, manifest)
    say(f"wrote {path}: the {count} most suspicious of {len(train)} rows")
