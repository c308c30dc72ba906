"""Step ``rank``: the strongest rows of each target of a set with their texts, as a parquet file."""

from typing import Any

import numpy as np
import pyarrow as pa

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.run.identity import rows_listed
from trak_steps.run.layout import Layout, checkpoint_names, training_of
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_scores
from trak_steps.run.top_rows import listed_columns, row_columns
from trak_steps.store.manifest import Manifest
from trak_steps.store.scores import LISTED, SIDES, ScoreStore
from trak_steps.store.table import save_table

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 3


def run(layout: Layout, settings: Settings, targets: str) -> None:
    """Write ``scores/<set>.top.parquet``."""
    train = PreparedRows.load(layout.train)
    target_rows = PreparedRows.load(layout.targets(targets))
    store = open_scores(layout, settings, targets)
    if len({training_of(name) for name in checkpoint_names(settings.checkpoints)}) < 2:
        say("of a single training it is not known which signs and ranks another would give")
    top = settings.scores.top
    store.manifest.require(store.path, settings={"listed": rows_listed(top)})
    table = pa.concat_tables(_table(side, top, store, train, target_rows) for side in SIDES)
    table = table.sort_by([("target", "ascending"), ("side", "descending"), ("rank", "ascending")])
    path = layout.top(targets)
    manifest = Manifest(
        "top",
        made_from=contents(layout, store)
        | {
            f"{layout.name(part.path)}#table": str(part.manifest.details["table_digest"])
            for part in (train, target_rows)
        },
        settings={"top": top},
        version=VERSION,
        details={"targets": len(target_rows), "train": len(train)},
    )
    save_table(path, table, manifest)
    say(f"wrote {path}")


def _table(
    side: str, top: int, store: ScoreStore, train: PreparedRows, targets: PreparedRows
) -> pa.Table:
    of = {name: store.listed(side, name)[:, :top] for name in LISTED}
    t, count = of["place"].shape
    target = np.repeat(np.arange(t), count)
    place = of["place"].reshape(-1)
    columns: dict[str, Any] = {
        "target": target,
        "rank": np.tile(np.arange(1, count + 1), t),
        "margin": store.column("target_margin").astype(np.float32)[target],
        "sum_of_scores": store.column("target_sum").astype(np.float32)[target],
        "side": [side] * len(place),
        **listed_columns(of, store.errors),
        **row_columns("train", train, place),
        **row_columns("target", targets, target),
    }
    columns.pop("target_flipped", None)
    return pa.table(columns)
