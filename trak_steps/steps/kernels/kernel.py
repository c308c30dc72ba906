"""Step ``kernel``: one checkpoint's kernel, summed over its shards, and its Cholesky factor.

Where one job would take too long, other jobs have summed it over some rows each: ``sum-kernel``.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.config.settings import KernelSettings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.kernel.gram import SingularKernelError, ZeroKernelError, factor_kernel
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.model.device import pick_device
from trak_steps.run.identity import kernel_settings
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_kernel_parts, open_train_features
from trak_steps.run.spans import kernel_spans
from trak_steps.steps.kernels.sum_kernel import summed
from trak_steps.store.artefact import keep
from trak_steps.store.kernel import KernelPart, save_kernel
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2


def run(layout: Layout, settings: Settings, checkpoint: str) -> None:
    """Write ``kernel/<m>.zarr``."""
    train = PreparedRows.open(layout.train)
    spans = kernel_spans(settings, layout, len(train))
    parts = open_kernel_parts(layout, settings, checkpoint, train, spans)
    features = None if parts else open_train_features(layout, settings, checkpoint, train)
    path = layout.kernel(checkpoint)
    # However it was summed, it is made from the same shards.
    manifest = Manifest(
        "kernel",
        made_from=contents(layout, *features.shards) if features else _shards(parts),
        settings={**kernel_settings(settings), "checkpoint": checkpoint},
        version=VERSION,
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    device = pick_device(settings.execution.device)
    if features:
        kernel, total, n = summed(settings, features, device)
    else:
        kernel, total = _added(parts)
        kernel, n = kernel.to(device), len(train)
    factor, ridge = _factor(kernel, n, settings.kernel)
    in_parts = {"parts": len(parts)} if parts else {}
    manifest = replace(manifest, details={"rows": n, "ridge": ridge, **in_parts})
    save_kernel(path, kernel.cpu().numpy(), factor.cpu().numpy(), total.cpu().numpy(), manifest)
    say(f"wrote {path}: {n} rows, {len(kernel)} dimensions, ridge {ridge:.3g}")


def _added(parts: Sequence[KernelPart]) -> tuple[Tensor, Tensor]:
    """K without ridge, [k, k], and the sum of all features, [k]: parts added up in the rows' order."""
    kernel = torch.zeros(parts[0].dim, parts[0].dim, dtype=torch.float64)
    total = torch.zeros(parts[0].dim, dtype=torch.float64)
    for part in progress(parts, total=len(parts), label="kernel", unit="part"):
        for rows, values in part.blocks():
            kernel[rows] += torch.from_numpy(values)
        total += torch.from_numpy(part.total())
    return kernel, total


def _shards(parts: Sequence[KernelPart]) -> dict[str, str]:
    """The contents of the shards that parts are made from, by path in the run."""
    made_from = (found for part in parts for found in part.manifest.made_from.items())
    return {name: content for name, content in made_from if name.startswith("features/")}


def _factor(kernel: Tensor, n: int, chosen: KernelSettings) -> tuple[Tensor, float]:
    """The Cholesky factor of K with its ridge, [k, k], and the ridge. Errors name the setting."""
    try:
        ridge = chosen.ridge
        if ridge is None:
            ridge = ridge_for(spectrum(kernel), chosen.effective_dof)
        return factor_kernel(kernel, n, ridge), ridge
    except SingularKernelError as error:
        raise TrakError(f"{error}; set kernel.ridge higher, or features.dim lower") from None
    except ZeroKernelError as error:
        raise TrakError(f"{error}; check features.parameters") from None
