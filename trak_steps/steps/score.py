"""Step ``score``: every train row's score for every target of a set, in one pass over the features."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.kernel.gram import solve_kernel
from trak_steps.layout import Layout, checkpoint_names, shard_names
from trak_steps.model.device import pick_device
from trak_steps.progress import progress, say
from trak_steps.scoring.scores import score_block
from trak_steps.store.features import FeatureStore, TrainFeatures
from trak_steps.store.kernel import KernelStore
from trak_steps.store.manifest import Manifest, agree
from trak_steps.store.scores import ScoreBlockRows, save_scores

MIB = 2**20
MAX_BLOCK = 4096


def run(layout: Layout, settings: Settings, targets: str) -> None:
    """Write ``scores/<set>.zarr``."""
    train = PreparedRows.load(layout.train)
    target_rows = PreparedRows.load(layout.targets(targets))
    shards = shard_names(len(train), settings.features.shard_size)
    names = checkpoint_names(settings.checkpoints)
    features = [
        TrainFeatures([layout.train_shard(name, shard) for shard in shards], len(train))
        for name in names
    ]
    stores = [FeatureStore.open(layout.target_features(name, targets)) for name in names]
    device = pick_device(settings.execution.device)
    block_rows = _block_rows(
        settings.execution.memory_mb * MIB, len(target_rows), features[0].dim, len(names)
    )
    say(f"scoring {len(target_rows)} targets against {len(train)} train rows, {len(names)} checkpoints")
    solved = [
        _solve(layout, name, of_train, store, target_rows, device)
        for name, of_train, store in zip(names, features, stores, strict=True)
    ]
    loss_weight = np.stack([of_train.column("loss_weight") for of_train in features])
    power = settings.scores.loss_weight_power

    def blocks() -> Iterator[ScoreBlockRows]:
        starts = range(0, len(train), block_rows)
        for start in progress(starts, total=len(starts), label="scores", unit="block"):
            stop = min(start + block_rows, len(train))
            block = score_block(
                [torch.from_numpy(f.features(start, stop)).to(device) for f in features],
                solved,
                torch.from_numpy(loss_weight[:, start:stop]).to(device),
                power,
            )
            yield ScoreBlockRows(
                start, block.scores.float().cpu().numpy(), block.std.float().cpu().numpy()
            )

    path = layout.scores(targets)
    save_scores(
        path,
        blocks(),
        coordinates={
            "train": ("train", train.column("row")),
            "target": ("target", target_rows.column("row")),
            "train_label": ("train", train.column("label")),
            "target_label": ("target", target_rows.column("label")),
            "train_loss_weight": ("train", loss_weight.mean(0)),
            "target_margin": ("target", np.mean([store.column("margin") for store in stores], 0)),
        },
        block_rows=block_rows,
        manifest=Manifest(
            "scores",
            made_from={
                "data": train.digest,
                "targets": target_rows.digest,
                **{
                    f"checkpoint {name}": of_train.manifest.made_from["checkpoint"]
                    for name, of_train in zip(names, features, strict=True)
                },
            },
            settings={**_shared_settings(features), "loss_weight_power": power},
            details={"train": len(train), "targets": len(target_rows), "block_rows": block_rows},
        ),
    )
    say(f"wrote {path}")


def _solve(
    layout: Layout,
    checkpoint: str,
    train: TrainFeatures,
    targets: FeatureStore,
    target_rows: PreparedRows,
    device: torch.device,
) -> Tensor:
    """K⁻¹ φ of the targets for one checkpoint, [t, k], after checking that the parts fit."""
    kernel = KernelStore.open(layout.kernel(checkpoint))
    agree(train.manifest, train.path, kernel.manifest, kernel.path)
    expected = Manifest(
        "features",
        made_from={**train.manifest.made_from, "data": target_rows.digest},
        settings=train.manifest.settings,
    )
    agree(expected, train.path, targets.manifest, targets.path)
    factor = torch.from_numpy(kernel.cholesky).to(device)
    features = torch.from_numpy(targets.features(0, len(target_rows))).to(device)
    return solve_kernel(factor, features)


def _shared_settings(features: list[TrainFeatures]) -> dict[str, object]:
    """What the features of all checkpoints were made with; refuses checkpoints that differ."""
    first = features[0]
    shared = {key: value for key, value in first.manifest.settings.items() if key != "checkpoint"}
    for other in features[1:]:
        data = {"data": first.manifest.made_from["data"]}
        agree(Manifest("features", data, shared), first.path, other.manifest, other.path)
    return shared


def _block_rows(memory: int, t: int, dim: int, checkpoints: int) -> int:
    """Train rows to score at once: features, and five arrays of scores in float64 or less."""
    held = 4 * t * dim * checkpoints + 8 * dim * dim
    rows = (memory - held) // (4 * dim * (checkpoints + 1) + 40 * t)
    if rows < 1:
        raise TrakError(
            f"execution.memory_mb: {memory // MIB} cannot hold {t} targets of {checkpoints} "
            f"checkpoints; set it above {2 * held // MIB}, or split the target set"
        )
    return int(min(rows, MAX_BLOCK))
