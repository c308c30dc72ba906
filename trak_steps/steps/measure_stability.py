"""Step ``measure-stability``: would other training runs give the same signs and ranks?"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.stability import FEWEST_RUNS, hold_out
from trak_steps.fingerprint import fingerprint
from trak_steps.kernel.gram import solve_kernel
from trak_steps.layout import Layout, checkpoint_names, run_of
from trak_steps.progress import say
from trak_steps.scoring.scores import balanced, signed_power
from trak_steps.steps.parts import open_kernel, open_target_features, open_train_features
from trak_steps.store.document import save_document
from trak_steps.store.features import TrainFeatures
from trak_steps.store.manifest import Manifest

ROWS_AT_ONCE = 1024
# Proponents, and opponents, of each target that are looked at.
TOP = 10


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/stability.json``."""
    code = fingerprint("steps.measure_stability")
    train = PreparedRows.load(layout.train)
    names = checkpoint_names(settings.checkpoints)
    runs = list(dict.fromkeys(map(run_of, names)))
    features = {name: open_train_features(layout, settings, name, train) for name in names}
    kernels = {name: open_kernel(layout, settings, name, features[name]) for name in names}
    made_from = {layout.name(train.path): train.content}
    figures: dict[str, Any] = {}
    for targets in settings.targets:
        rows = PreparedRows.load(layout.targets(targets))
        made_from[layout.name(rows.path)] = rows.content
        solved = {}
        for name in names:
            store = open_target_features(layout, name, targets, rows, features[name])
            made_from[layout.name(store.path)] = store.manifest.content
            made_from[layout.name(kernels[name].path)] = kernels[name].manifest.content
            wanted = torch.from_numpy(store.features(0, len(rows)))
            solved[name] = solve_kernel(torch.from_numpy(kernels[name].cholesky), wanted)
        if settings.scores.balance:
            matrices = (torch.from_numpy(kernels[name].kernel()) for name in names)
            solved = dict(zip(names, balanced(list(solved.values()), matrices, len(train)), strict=True))
        if len(runs) < FEWEST_RUNS:
            figures[targets] = None
            continue

        say(f"{targets}: the strongest pairs of {len(runs)} runs, each held out in turn")
        blocks = partial(_scores_by_run, features, solved, settings.scores.loss_weight_power)
        found = hold_out(blocks, len(runs), len(rows), min(TOP, len(train)))
        figures[targets] = asdict(found)
    manifest = Manifest("stability", made_from=made_from, settings={"checkpoints": names}, code=code)
    values = {"runs": len(runs), "top": min(TOP, len(train)), "targets": figures}
    save_document(layout.stability, values, manifest)
    say(json.dumps(values, indent=2))
    if len(runs) < FEWEST_RUNS:
        say(f"{len(runs)} runs are too few to hold one out; set checkpoints.count to {FEWEST_RUNS}")
    say(f"wrote {layout.stability}")


def _scores_by_run(
    features: dict[str, TrainFeatures], solved: dict[str, torch.Tensor], power: float
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The place of its first row, and each run's own scores [m, r, t], of block after block."""
    n = next(iter(features.values())).n
    weights = [of_train.column("loss_weight") for of_train in features.values()]
    scale = signed_power(torch.from_numpy(np.mean(weights, 0, dtype=np.float64)), power)
    for start in range(0, n, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, n)
        by_run: dict[str, list[torch.Tensor]] = {}
        for name, of_train in features.items():
            block = torch.from_numpy(of_train.features(start, stop)).float()
            by_run.setdefault(run_of(name), []).append(block @ solved[name].T)
        means = [torch.stack(states).mean(0) for states in by_run.values()]
        yield start, (torch.stack(means).double() * scale[start:stop, None]).numpy()
