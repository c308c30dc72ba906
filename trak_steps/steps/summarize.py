"""Step ``summarize``: the run's figures, each with what chance would give beside it."""

import json
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.accuracy import accuracy
from trak_steps.evaluation.recall import group_recall
from trak_steps.layout import Layout, checkpoint_names
from trak_steps.progress import say
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.features import FeatureStore

RECALL_AT = 10


def run(layout: Layout, settings: Settings) -> None:
    """Write ``summary.json``: the figures of each target set, those of the first one on top."""
    train = PreparedRows.load(layout.train)
    names = checkpoint_names(settings.checkpoints)
    sets = {name: _figures(layout, name, names, train) for name in settings.targets}
    summary = {
        "run": settings.run,
        **next(iter(sets.values())),
        "train_rows": len(train),
        "flipped_labels": train.manifest.details["flipped"],
        "checkpoints": names,
        "targets": sets,
    }
    with complete_or_absent(layout.summary) as file:
        file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    say(json.dumps(next(iter(sets.values())), indent=2))
    say(f"wrote {layout.summary}")


def _figures(
    layout: Layout, targets: str, checkpoints: list[str], train: PreparedRows
) -> dict[str, Any]:
    rows = PreparedRows.load(layout.targets(targets))
    figures: dict[str, Any] = {"rows": len(rows)}
    if rows.label_names:
        predictions = [
            FeatureStore.open(layout.target_features(name, targets)).column("prediction")
            for name in checkpoints
        ]
        right = accuracy(np.stack(predictions), rows.column("label"))
        figures |= {
            "accuracy": right.mean,
            "accuracy_std": right.std,
            "accuracy_chance": right.chance,
        }
    return figures | _recall(layout, targets, rows, train)


def _recall(layout: Layout, targets: str, rows: PreparedRows, train: PreparedRows) -> dict[str, float]:
    """Recall of the target's own group among the top proponents, where groups are known."""
    if "group" not in rows.rows.column_names or "group" not in train.rows.column_names:
        return {}
    table = pq.read_table(layout.top(targets), columns=["target", "side", "rank", "train_group"])
    table = table.filter((pc.field("side") == "proponent") & (pc.field("rank") <= RECALL_AT)).sort_by(
        [("target", "ascending"), ("rank", "ascending")]
    )
    groups = table["train_group"].to_numpy().reshape(len(rows), -1)
    found = group_recall(groups, rows.column("group"), train.column("group"))
    if found is None:
        return {}
    at = groups.shape[1]
    return {f"recall_at_{at}": found.recall, f"recall_at_{at}_chance": found.chance}
