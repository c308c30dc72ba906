"""Step ``plan-subsets``: random subsets of the train set to train on, a few times each."""

import numpy as np

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.subsets import random_subsets
from trak_steps.run.identity import plan_settings, retraining_seed
from trak_steps.run.layout import Layout
from trak_steps.run.recipe import require_known_recipe
from trak_steps.store.manifest import Manifest
from trak_steps.store.plan import Plan, save_plan

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1

NAME = "subsets"


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/subsets.plan.parquet``: every subset once, then every one again, …"""
    require_known_recipe(layout, settings)
    train = PreparedRows.open(layout.train)
    chosen = settings.evaluation.lds
    if len(train) < 2:
        raise TrakError(f"evaluation.lds: {len(train)} train row has no subsets")
    kept = random_subsets(len(train), chosen.subsets, chosen.share, settings.seed)
    subset = np.tile(np.arange(chosen.subsets), chosen.repeats)
    repeat = np.repeat(np.arange(chosen.repeats), chosen.subsets)
    seeds = np.array([retraining_seed(settings, int(again)) for again in repeat])
    path = layout.plan(NAME)
    manifest = Manifest(
        "plan",
        made_from={layout.name(train.path): train.content},
        settings=plan_settings(settings, NAME),
        version=VERSION,
    )
    save_plan(path, Plan(kept[subset], seeds, {"subset": subset, "repeat": repeat}), manifest)
    say(f"wrote {path}: {len(seeds)} models on {kept[0].sum()} of {len(train)} rows each")
