"""Step ``sum-weighted``: the features of some train rows, weighted as their scores are, added up.

``calibrate`` adds up what is found of all rows.
"""

import numpy as np

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.blocks import subset_sums
from trak_steps.run.fit import rows_at_once
from trak_steps.run.identity import weighted_settings
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.run.parts import features_of_span, open_train_features
from trak_steps.run.row_weights import row_weights_of
from trak_steps.run.spans import Span, weighted_spans
from trak_steps.run.units import weighted_totals
from trak_steps.store.artefact import keep
from trak_steps.store.calibration import save_weighted_sums
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, rows: str) -> None:
    """Write ``sums/<rows>.zarr``.

    Args:
        layout: of the run.
        settings: of the run.
        rows: the part's name.
    """
    train = PreparedRows.open(layout.train)
    span = Span.planned(rows, weighted_spans(settings, layout, len(train)))
    names = checkpoint_names(settings.checkpoints)
    place = span.start, span.stop
    features = [open_train_features(layout, settings, name, train, place) for name in names]
    path = layout.weighted_sums(rows)
    manifest = Manifest(
        "weighted-sums",
        made_from=features_of_span(layout, train, features),
        settings=weighted_settings(settings),
        version=VERSION,
        details={"rows": [*place], "features": features[0].manifest.version},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    weights = row_weights_of(settings, features)
    assert weights is not None  # or there would be no parts
    dim = settings.features.dim
    block = rows_at_once(settings, subset_sums(dim), f"rows of {dim} dimensions")
    totals = weighted_totals(features, weights, block)
    save_weighted_sums(path, np.stack([total.numpy() for total in totals]), manifest)
    say(f"wrote {path}: {len(span)} rows by {len(names)} checkpoints")
