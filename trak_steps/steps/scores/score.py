"""Step ``score``: every train row's score for every target of a set, in one pass over the features."""

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import torch

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.blocks import OF_CHANCE
from trak_steps.kernel.blocks import scores as cost_of_scores
from trak_steps.model.device import pick_device
from trak_steps.run.fit import rows_at_once
from trak_steps.run.identity import score_settings
from trak_steps.run.layout import Layout, checkpoint_names, final_checkpoints, training_of
from trak_steps.run.lineage import Lineage, contents
from trak_steps.run.parts import (
    open_kernel,
    open_target_features,
    open_train_features,
    require_one_recipe,
)
from trak_steps.run.row_weights import row_weights_of
from trak_steps.run.units import base_margin, scale_of, totals_of
from trak_steps.scoring.scores import CELL, ByChance, score_block
from trak_steps.scoring.solve import solve_targets
from trak_steps.scoring.top import TopRows
from trak_steps.scoring.uncertainty import stable_signs, standard_error
from trak_steps.scoring.units import means_of_trainings, sums_of_scores
from trak_steps.store.artefact import keep
from trak_steps.store.features import TrainFeatures
from trak_steps.store.kernel import KernelStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.scores import ScoreBlockRows, save_scores

# Rows of a target's list by chance.
LISTED = 20
# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2


def run(layout: Layout, settings: Settings, targets: str) -> None:
    """Write ``scores/<set>.zarr``."""
    train = PreparedRows.load(layout.train)
    target_rows = PreparedRows.load(layout.targets(targets))
    Lineage(layout).check(target_rows.path, target_rows.manifest)
    names = checkpoint_names(settings.checkpoints)
    features = [open_train_features(layout, settings, name, train) for name in names]
    stores = [
        open_target_features(layout, name, targets, target_rows, of_train)
        for name, of_train in zip(names, features, strict=True)
    ]
    kernels = [
        open_kernel(layout, settings, name, of_train)
        for name, of_train in zip(names, features, strict=True)
    ]
    _require_one_version(features, kernels)
    require_one_recipe(layout, names, imported=bool(settings.checkpoints.existing))
    path = layout.scores(targets)
    manifest = Manifest(
        "scores",
        made_from=contents(layout, train, target_rows, *kernels, *stores),
        settings=score_settings(settings),
        version=VERSION,
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    device = pick_device(settings.execution.device)
    block_rows = rows_at_once(
        settings,
        cost_of_scores(len(target_rows), features[0].dim, len(names)),
        f"{len(target_rows)} targets of {len(names)} checkpoints",
        ", or split the target set",
    )
    block_rows -= block_rows % CELL
    say(f"scoring {len(target_rows)} targets against {len(train)} train rows, {len(names)} checkpoints")
    weights = row_weights_of(settings, features)
    totals = totals_of(features, kernels, weights, block_rows)
    scale = scale_of(settings, train.outputs, features, kernels, totals, device=device)
    of_targets = (torch.from_numpy(store.whole()) for store in stores)
    solved = solve_targets(
        kernels,
        of_targets,
        len(train),
        alike=settings.scores.balance,
        scale=scale,
        device=device,
    )
    trainings = [training_of(name) for name in names]
    of_training = means_of_trainings(sums_of_scores(solved, totals).cpu(), trainings).numpy()
    ends = final_checkpoints(settings.checkpoints)
    margins = np.stack([stores[names.index(name)].column("margin") for name in ends])

    chance = _Chance(min(OF_CHANCE, len(target_rows)))

    def blocks() -> Iterator[ScoreBlockRows]:
        starts = range(0, len(train), block_rows)
        for start in progress(starts, total=len(starts), label="scores", unit="block"):
            stop = min(start + block_rows, len(train))
            block = score_block(
                [torch.from_numpy(f.features(start, stop)).to(device) for f in features],
                solved,
                weights[:, start:stop].to(device),
                trainings,
                chance=OF_CHANCE,
            )
            if block.by_chance is not None:
                chance.add(block.by_chance, start)
            yield ScoreBlockRows(
                start, block.scores.float().cpu().numpy(), block.std.float().cpu().numpy()
            )

    details = {
        "train": len(train),
        "targets": len(target_rows),
        "block_rows": block_rows,
        "scale": scale,
        "base_margin": base_margin(settings, train.outputs),
    }
    save_scores(
        path,
        blocks(),
        coordinates={
            "train": (("train",), train.column("row")),
            "target": (("target",), target_rows.column("row")),
            "train_label": (("train",), train.column("label")),
            "target_label": (("target",), target_rows.column("label")),
            "train_loss_weight": (
                ("train",),
                np.mean([of_train.column("loss_weight") for of_train in features], 0),
            ),
            "target_margin": (("target",), margins.mean(0)),
            "target_sum": (("target",), of_training.mean(0)),
            "training_margin": (("training", "target"), margins),
            "training_sum": (("training", "target"), of_training),
        },
        block_rows=block_rows,
        manifest=replace(manifest, details=details),
        signs=lambda: chance.signs(len(set(trainings))),
        units="margin" if scale is not None else "1",
    )
    say(f"wrote {path}")


class _Chance:
    """The rows that chance alone would list for t targets, found while blocks go by."""

    def __init__(self, targets: int) -> None:
        self._sides = [TopRows(targets, LISTED, largest=largest) for largest in (True, False)]

    def add(self, block: ByChance, start: int) -> None:
        """Take a block from the place ``start`` on."""
        scores, std = (values.float().cpu().numpy() for values in (block.scores, block.std))
        for side in self._sides:
            side.add(scores, start, std)

    def signs(self, trainings: int) -> dict[str, float]:
        """When the sign of a listed score is stable; of a single training that is not known."""
        if trainings < 2:
            return {}
        tops = [side.result() for side in self._sides]
        score = np.concatenate([top.score for top in tops])
        std = np.concatenate([top.more[0] for top in tops])
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.abs(score) / standard_error(std, trainings)
        return asdict(stable_signs(off, trainings))


def _require_one_version(features: list[TrainFeatures], kernels: list[KernelStore]) -> None:
    """Refuse checkpoints whose features or kernels were made by another version than the first's."""
    for first, *others in (features, kernels):
        for other in others:
            other.manifest.require(other.path, version=first.manifest.version, by=str(first.path))
