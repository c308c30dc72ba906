"""Step ``measure-stability``: would other trainings give the same signs and ranks?"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.stability import FEWEST_TRAININGS, HeldOut, held, hold_out
from trak_steps.kernel.blocks import Cost, scores_by_training, targets_at_once
from trak_steps.run.fit import bytes_allowed, rows_at_once
from trak_steps.run.layout import Layout, checkpoint_names, training_of
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_calibration
from trak_steps.run.scoring import Scoring
from trak_steps.scoring.scores import Scorer
from trak_steps.store.document import save_document
from trak_steps.store.features import FeatureStore
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 5

# Proponents, and opponents, of each target that are looked at.
TOP = 10


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/stability.json``."""
    train = PreparedRows.load(layout.train)
    names = checkpoint_names(settings.checkpoints)
    trainings, top = len(set(map(training_of, names))), min(TOP, len(train))
    scoring = Scoring.open(layout, settings, train)
    calibration = open_calibration(layout, settings, scoring.kernels)
    made_from = contents(layout, train, calibration, *scoring.kernels)
    figures: dict[str, Any] = dict.fromkeys(settings.targets)
    if trainings < FEWEST_TRAININGS:
        say(f"{trainings} trainings are too few to hold one out; {FEWEST_TRAININGS} are needed")
    else:
        for targets in settings.targets:
            rows = PreparedRows.load(layout.targets(targets))
            stores = scoring.targets(layout, targets, rows)
            made_from |= contents(layout, rows, *stores)
            say(f"{targets}: the strongest pairs of {trainings} trainings, each held out in turn")
            figures[targets] = asdict(_held_out(settings, scoring, stores, trainings, top))
    manifest = Manifest(
        "stability", made_from=made_from, settings={"checkpoints": names}, version=VERSION
    )
    values = {
        "trainings": trainings,
        "top": top,
        "stable_signs": calibration.stable_signs,
        "targets": figures,
    }
    save_document(layout.stability, values, manifest)
    say(json.dumps(values, indent=2))
    say(f"wrote {layout.stability}")


def _held_out(
    settings: Settings,
    scoring: Scoring,
    stores: Sequence[FeatureStore],
    trainings: int,
    top: int,
) -> HeldOut:
    """What became of a target set's strongest pairs: of some targets at a time."""
    t, dim, m = stores[0].n, scoring.dim, len(scoring.names)

    def cost(some: int) -> Cost:
        return scores_by_training(some, dim, m, trainings)

    together = targets_at_once(bytes_allowed(settings), t, cost)
    block_rows = rows_at_once(settings, cost(together), f"a target of {m} checkpoints")
    found = []
    for first in range(0, t, together):
        last = min(first + together, t)
        solved = scoring.solve(torch.from_numpy(store.features(first, last)) for store in stores)
        scorer = Scorer(solved.weights, scoring.trainings)
        blocks = partial(_blocks, scoring, scorer, block_rows)
        found.append(hold_out(blocks, trainings, last - first, top))
    return held(found, trainings)


def _blocks(scoring: Scoring, scorer: Scorer, at_once: int) -> Iterator[tuple[int, Tensor]]:
    """The place of its first row, and each training's own scores [m, r, t], of block after block."""
    for block in scoring.blocks(at_once):
        own = scorer.of_trainings(block.features, block.weights)
        yield block.start, torch.stack([scores.clone() for scores in own])
