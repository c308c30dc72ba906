"""Step ``kernel``: one checkpoint's kernel, summed over its shards, and its Cholesky factor."""

from dataclasses import replace

import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.config.settings import KernelSettings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.kernel.blocks import kernel as kernel_cost
from trak_steps.kernel.gram import SingularKernelError, ZeroKernelError, factor_kernel, sum_kernel
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.model.device import pick_device
from trak_steps.run.fit import rows_at_once
from trak_steps.run.identity import kernel_settings
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_train_features
from trak_steps.store.artefact import keep
from trak_steps.store.kernel import save_kernel
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2


def run(layout: Layout, settings: Settings, checkpoint: str) -> None:
    """Write ``kernel/<m>.zarr``."""
    train = PreparedRows.open(layout.train)
    features = open_train_features(layout, settings, checkpoint, train)
    path = layout.kernel(checkpoint)
    manifest = Manifest(
        "kernel",
        made_from=contents(layout, *features.shards),
        settings={**kernel_settings(settings), "checkpoint": checkpoint},
        version=VERSION,
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    block = rows_at_once(settings, kernel_cost(features.dim), f"a kernel of {features.dim} dimensions")
    starts = range(0, len(train), block)
    blocks = (
        torch.from_numpy(features.features(start, min(start + block, len(train))))
        for start in progress(starts, total=len(starts), label="kernel", unit="block")
    )
    kernel, total, n = sum_kernel(blocks, features.dim, pick_device(settings.execution.device))
    factor, ridge = _factor(kernel, n, settings.kernel)
    manifest = replace(manifest, details={"rows": n, "ridge": ridge})
    save_kernel(path, kernel.cpu().numpy(), factor.cpu().numpy(), total.cpu().numpy(), manifest)
    say(f"wrote {path}: {n} rows, {features.dim} dimensions, ridge {ridge:.3g}")


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
