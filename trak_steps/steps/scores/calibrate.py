"""Step ``calibrate``: the unit of a run's scores, what they add up to, and what chance would list."""

import numpy as np
import torch

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.blocks import CALIBRATED
from trak_steps.kernel.blocks import scores as cost_of_scores
from trak_steps.model.device import pick_device
from trak_steps.run.fit import cells_at_once
from trak_steps.run.identity import score_settings
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_weighted_sums
from trak_steps.run.scoring import Scoring
from trak_steps.run.spans import weighted_spans
from trak_steps.run.units import (
    base_margin,
    calibrated,
    scale_of,
    signs_by_chance,
    solve_calibrated,
    totals_of,
    weight_root,
)
from trak_steps.store.artefact import keep
from trak_steps.store.calibration import save_calibration
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings) -> None:
    """Write ``scores.calibration.zarr``."""
    train = PreparedRows.open(layout.train)
    device = pick_device(settings.execution.device)
    scoring = Scoring.open(layout, settings, train, device=device)
    path = layout.calibration
    made_from = contents(layout, *scoring.kernels)
    made_from[f"{layout.name(train.path)}#classes"] = train.classes
    spans = weighted_spans(settings, layout, len(train))
    manifest = Manifest(
        "calibration",
        made_from=made_from,
        settings=score_settings(settings),
        version=VERSION,
        details={"parts": [span.name for span in spans]} if spans else {},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    cost = cost_of_scores(min(CALIBRATED, len(train)), scoring.dim, len(scoring.names))
    block_rows = cells_at_once(settings, cost, f"the calibration of {len(scoring.names)} checkpoints")
    if spans:
        size = len(scoring.names), scoring.dim
        added = torch.zeros(size, dtype=torch.float64)
        for part in open_weighted_sums(layout, settings, train, spans):
            added += torch.from_numpy(part.totals(*size))
        totals = list(added)
    else:
        totals = totals_of(scoring, block_rows)
    places = calibrated(len(train))
    solved = solve_calibrated(scoring, places)
    scale = scale_of(settings, train.outputs, scoring, totals, solved, places)
    found = {
        "scale": scale,
        "weight_root": weight_root(scoring),
        "base_margin": base_margin(settings, train.outputs),
        "stable_signs": signs_by_chance(scoring, solved, places, block_rows),
    }
    save_calibration(path, np.stack([total.numpy() for total in totals]), found, manifest)
    say(f"wrote {path}: unit {scale if scale is None else f'{scale:.3g}'}")
