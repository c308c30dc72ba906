"""Step ``plan-removal``: for some targets, train without the rows that scores name.

Each target is trained for without its top proponents, without as many random rows, and without as many
of its nearest rows: those of its own label whose last hidden state is most like its own. One more
training has all rows. The trainings of one repeat share a seed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.subsets import NEAREST, NOTHING, PROPONENTS, RANDOM, random_rows
from trak_steps.kernel.blocks import scores as cost_of_scores
from trak_steps.run.fit import cells_at_once
from trak_steps.run.hidden_states import HiddenStates
from trak_steps.run.identity import plan_settings, retraining_seed
from trak_steps.run.layout import Layout, final_checkpoints
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_calibration
from trak_steps.run.recipe import require_known_recipe
from trak_steps.run.scoring import Scoring
from trak_steps.scoring.scores import Scorer
from trak_steps.store.features import FeatureStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.plan import Plan, save_plan

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1

NAME = "removal"


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/removal.plan.parquet``."""
    require_known_recipe(layout, settings)
    chosen = settings.evaluation.removal
    name = next(iter(settings.targets))
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets(name))
    n, q = len(train), min(chosen.targets, len(targets))
    if q < chosen.targets or chosen.rows >= n:
        raise TrakError(
            f"evaluation.removal: wants {chosen.targets} targets of {name}, which has {len(targets)}, "
            f"and to leave out {chosen.rows} of {n} train rows; set targets or rows lower"
        )
    scoring = Scoring.open(layout, settings, train)
    calibration = open_calibration(layout, settings, scoring.kernels)
    stores = scoring.targets(layout, name, targets)
    scores = _scores(settings, scoring, stores, calibration.scale, q)
    checkpoint = final_checkpoints(settings.checkpoints)[0]
    near = _nearness(layout, settings, checkpoint, train, targets, q)
    removed: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    about: list[tuple[int, str, float]] = [(-1, NOTHING, 0.0)]
    for target in range(q):
        of_kind = {
            PROPONENTS: np.argsort(-scores[:, target], kind="stable")[: chosen.rows],
            RANDOM: random_rows(n, chosen.rows, settings.seed, target),
            NEAREST: np.argsort(-near[:, target], kind="stable")[: chosen.rows],
        }
        for kind, rows in of_kind.items():
            removed.append(rows)
            about.append((target, kind, float(scores[rows, target].sum())))
    kept = np.ones((len(removed), n), bool)
    for model, rows in enumerate(removed):
        kept[model, rows] = False
    r, models = chosen.repeats, len(removed)
    columns = {
        "target": np.tile([target for target, _, _ in about], r),
        "without": np.tile([kind for _, kind, _ in about], r),
        "predicted": np.tile([predicted for _, _, predicted in about], r),
        "repeat": np.repeat(np.arange(r), models),
    }
    seeds = np.array([retraining_seed(settings, int(repeat)) for repeat in columns["repeat"]])
    path = layout.plan(NAME)
    of_checkpoint = Manifest.load(layout.checkpoint(checkpoint))
    manifest = Manifest(
        "plan",
        made_from={
            **contents(layout, train, targets, calibration, *scoring.kernels, *stores),
            layout.name(layout.checkpoint(checkpoint)): of_checkpoint.content,
        },
        settings=plan_settings(settings, NAME),
        version=VERSION,
    )
    save_plan(path, Plan(np.tile(kept, (r, 1)), seeds, columns), manifest)
    say(f"wrote {path}: {len(seeds)} models for {q} targets of {name}")


def _scores(
    settings: Settings,
    scoring: Scoring,
    stores: Sequence[FeatureStore],
    scale: float | None,
    q: int,
) -> NDArray[np.float32]:
    """Of all train rows for the first targets, [n, q]."""
    solved = scoring.solve((torch.from_numpy(store.features(0, q)) for store in stores), scale)
    m = len(scoring.names)
    block_rows = cells_at_once(
        settings, cost_of_scores(q, scoring.dim, m), f"{q} targets of {m} checkpoints"
    )
    scorer = Scorer(solved.weights, scoring.trainings)
    found = np.empty((scoring.n, q), np.float32)
    for block in scoring.blocks(block_rows):
        found[block.start : block.stop] = scorer(block.features, block.weights).scores
    return found


def _nearness(
    layout: Layout,
    settings: Settings,
    checkpoint: str,
    train: PreparedRows,
    targets: PreparedRows,
    q: int,
) -> NDArray[np.float64]:
    """The cosine of hidden states, [n, q]; less for rows of another label, which come last."""
    states = HiddenStates(layout, settings, checkpoint, train.outputs)
    wanted = states.of(targets, q)
    near = np.concatenate([(block @ wanted.T).numpy() for _, block in states.blocks(train)])
    if not train.label_names:
        return near
    same = train.column("label")[:, None] == targets.column("label")[None, :q]
    return np.where(same, near, near - 4.0)
