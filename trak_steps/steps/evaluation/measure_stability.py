"""Step ``measure-stability``: would other trainings give the same signs and ranks?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.stability import FEWEST_TRAININGS, HeldOut, hold_out
from trak_steps.kernel.blocks import scores_by_training
from trak_steps.run.fit import rows_at_once
from trak_steps.run.layout import Layout, checkpoint_names, training_of
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_kernel, open_scores, open_target_features, open_train_features
from trak_steps.run.row_weights import row_weights_of
from trak_steps.scoring.scores import score_block
from trak_steps.scoring.solve import solve_targets
from trak_steps.store.document import save_document
from trak_steps.store.features import FeatureStore, TrainFeatures
from trak_steps.store.kernel import KernelStore
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 4

# Proponents, and opponents, of each target that are looked at.
TOP = 10


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/stability.json``."""
    train = PreparedRows.load(layout.train)
    names = checkpoint_names(settings.checkpoints)
    trainings, top = len(set(map(training_of, names))), min(TOP, len(train))
    scores = {name: open_scores(layout, settings, name) for name in settings.targets}
    made_from = contents(layout, train, *scores.values())
    figures: dict[str, Any] = dict.fromkeys(settings.targets)
    if trainings < FEWEST_TRAININGS:
        say(f"{trainings} trainings are too few to hold one out; {FEWEST_TRAININGS} are needed")
    else:
        features = {name: open_train_features(layout, settings, name, train) for name in names}
        kernels = [open_kernel(layout, settings, name, features[name]) for name in names]
        made_from |= contents(layout, *kernels)
        for targets in settings.targets:
            rows = PreparedRows.load(layout.targets(targets))
            stores = [
                open_target_features(layout, name, targets, rows, features[name]) for name in names
            ]
            made_from |= contents(layout, rows, *stores)
            say(f"{targets}: the strongest pairs of {trainings} trainings, each held out in turn")
            figures[targets] = asdict(_held_out(settings, features, kernels, stores, trainings, top))
    manifest = Manifest(
        "stability", made_from=made_from, settings={"checkpoints": names}, version=VERSION
    )
    values = {
        "trainings": trainings,
        "top": top,
        "stable_signs": {name: of.stable_signs for name, of in scores.items()},
        "targets": figures,
    }
    save_document(layout.stability, values, manifest)
    say(json.dumps(values, indent=2))
    say(f"wrote {layout.stability}")


def _held_out(
    settings: Settings,
    features: Mapping[str, TrainFeatures],
    kernels: Sequence[KernelStore],
    stores: Sequence[FeatureStore],
    trainings: int,
    top: int,
) -> HeldOut:
    """What became of a target set's strongest pairs."""
    n, t = next(iter(features.values())).n, stores[0].n
    block_rows = rows_at_once(
        settings,
        scores_by_training(t, settings.features.dim, len(features), trainings),
        f"{t} targets of {len(features)} checkpoints",
        ", or split the target set",
    )
    of_targets = (torch.from_numpy(store.whole()) for store in stores)
    solved = solve_targets(kernels, of_targets, n, alike=settings.scores.balance)
    by_name = dict(zip(features, solved, strict=True))
    weights = dict(zip(features, row_weights_of(settings, list(features.values())), strict=True))
    blocks = partial(_scores_by_training, features, by_name, weights, block_rows)
    return hold_out(blocks, trainings, t, top)


def _scores_by_training(
    features: Mapping[str, TrainFeatures],
    solved: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    block_rows: int,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The place of its first row, and each training's own scores [m, r, t], of block after block."""
    n, t = next(iter(features.values())).n, len(next(iter(solved.values())))
    of_training: dict[str, list[str]] = {}
    for name in features:
        of_training.setdefault(training_of(name), []).append(name)
    for start in range(0, n, block_rows):
        stop = min(start + block_rows, n)
        scores = np.empty((len(of_training), stop - start, t))
        for place, names in enumerate(of_training.values()):
            scores[place] = score_block(
                [torch.from_numpy(features[name].features(start, stop)) for name in names],
                [solved[name] for name in names],
                torch.stack([weights[name][start:stop] for name in names]),
            ).scores
        yield start, scores
