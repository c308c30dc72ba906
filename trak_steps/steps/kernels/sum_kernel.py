"""Step ``sum-kernel``: a checkpoint's kernel, summed over some train rows; ``kernel`` adds these up."""

import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.blocks import kernel as kernel_cost
from trak_steps.kernel.gram import sum_kernel
from trak_steps.model.device import pick_device
from trak_steps.run.fit import rows_at_once
from trak_steps.run.identity import feature_settings
from trak_steps.run.layout import Layout
from trak_steps.run.parts import features_of_span, open_train_features
from trak_steps.run.spans import Span, kernel_spans
from trak_steps.store.artefact import keep
from trak_steps.store.features import TrainFeatures
from trak_steps.store.kernel import save_kernel_part
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, checkpoint: str, rows: str) -> None:
    """Write ``kernel/<m>/<rows>.zarr``.

    Args:
        layout: of the run.
        settings: of the run.
        checkpoint: its name.
        rows: the part's name.
    """
    train = PreparedRows.open(layout.train)
    span = Span.planned(rows, kernel_spans(settings, layout, len(train)))
    features = open_train_features(layout, settings, checkpoint, train, (span.start, span.stop))
    path = layout.kernel_part(checkpoint, rows)
    manifest = Manifest(
        "kernel-part",
        made_from=features_of_span(layout, train, [features]),
        settings={**feature_settings(settings), "checkpoint": checkpoint},
        version=VERSION,
        details={"rows": [span.start, span.stop], "features": features.manifest.version},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    kernel, total, n = summed(settings, features, pick_device(settings.execution.device))
    save_kernel_part(path, kernel.cpu().numpy(), total.cpu().numpy(), manifest)
    say(f"wrote {path}: {n} rows, {features.dim} dimensions")


def summed(
    settings: Settings, features: TrainFeatures, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """K without ridge, [k, k], the sum of the features, [k], and how many rows these are of."""
    block = rows_at_once(settings, kernel_cost(features.dim), f"a kernel of {features.dim} dimensions")
    starts = range(features.start, features.stop, block)
    blocks = (
        torch.from_numpy(features.features(start, min(start + block, features.stop)))
        for start in progress(starts, total=len(starts), label="kernel", unit="block")
    )
    return sum_kernel(blocks, features.dim, device)
