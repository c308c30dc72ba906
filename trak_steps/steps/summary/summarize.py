"""Step ``summarize``: the run's figures, each with what chance would give beside it."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.accuracy import accuracy
from trak_steps.evaluation.explained import explained
from trak_steps.evaluation.recall import group_recall
from trak_steps.run.layout import Layout, checkpoint_names, final_checkpoints
from trak_steps.run.lineage import Lineage
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.document import save_document
from trak_steps.store.features import FeatureStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.scores import ScoreStore
from trak_steps.store.table import load_table

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2

RECALL_AT = 10
# Sound scores had 0.5 to 0.7, and spoilt ones -0.1 to 0.4: docs/evaluation.md.
LOW = 0.4


def run(layout: Layout, settings: Settings) -> None:
    """Write ``summary.json``: the figures of each target set, those of the first one on top."""
    train = PreparedRows.load(layout.train)
    names = checkpoint_names(settings.checkpoints)
    # A training is as good as its end; checkpoints on the way there serve the scores.
    ends = final_checkpoints(settings.checkpoints)
    sets = {name: _figures(layout, name, ends, train) for name in settings.targets}
    summary = {
        "run": settings.run,
        **next(iter(sets.values())),
        "train_rows": len(train),
        "flipped_labels": train.manifest.details["flipped"],
        "checkpoints": names,
        "targets": sets,
    }
    manifest = Manifest(
        "summary",
        made_from=_made_from(layout, settings, train, names),
        version=VERSION,
    )
    save_document(layout.summary, summary, manifest)
    say(json.dumps(next(iter(sets.values())), indent=2))
    say(f"wrote {layout.summary}")


def _made_from(
    layout: Layout, settings: Settings, train: PreparedRows, checkpoints: list[str]
) -> dict[str, str]:
    """The contents of all that the figures come from, after checking that they fit together."""
    lineage = Lineage(layout)
    found = {f"{layout.name(train.path)}#table": str(train.manifest.details["table_digest"])}
    for targets in settings.targets:
        paths = [layout.target_features(name, targets) for name in checkpoints]
        for path in (layout.scores(targets), layout.top(targets), *paths):
            manifest = artefact_manifest(path)
            lineage.check(path, manifest)
            if manifest.kind == "scores":
                manifest.require(path, settings={"checkpoints": checkpoints})
            found[layout.name(path)] = manifest.content
        name = f"{layout.name(layout.targets(targets))}#table"
        found[name] = lineage.content(name) or ""
    return found


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
    figures |= _recall(layout, targets, rows, train)
    return figures | {"margin_explained": _explained(layout, len(checkpoints), targets)}


def _explained(layout: Layout, trainings: int, targets: str) -> dict[str, float | None] | None:
    """How well scores add up to margins; says so if they hardly do."""
    store = ScoreStore.open(layout.scores(targets))
    sums, margins = (
        store.of_trainings(f"training_{name}", trainings).astype(np.float64)
        for name in ("sum", "margin")
    )
    found = explained(sums, margins, float(store.manifest.details["base_margin"]))
    if found is None:
        return None
    among = found.correlation_between_trainings
    correlation, of_what = found.correlation, "the margins"
    if among is not None:
        correlation, of_what = among, "the margins that another training gives"
    if correlation < LOW:
        say(
            f"warning: {targets}: sums of scores hardly go with {of_what} "
            f"(correlation {correlation:.2f}): do not trust them "
            "before `snakemake evaluation` has measured them; often models have learnt little, "
            "features.dim is small, or features.parameters leaves out much"
        )
    return asdict(found)


def _recall(layout: Layout, targets: str, rows: PreparedRows, train: PreparedRows) -> dict[str, float]:
    """Recall of the target's own group among the top proponents, where groups are known."""
    if "group" not in rows.table.column_names or "group" not in train.table.column_names:
        return {}
    table, _ = load_table(layout.top(targets), "top")
    wanted = (pc.field("side") == "proponent") & (pc.field("rank") <= RECALL_AT)
    table = table.filter(wanted).sort_by([("target", "ascending"), ("rank", "ascending")])
    groups = table["train_group"].to_numpy().reshape(len(rows), -1)
    found = group_recall(groups, rows.column("group"), train.column("group"))
    if found is None:
        return {}
    at = groups.shape[1]
    return {f"recall_at_{at}": found.recall, f"recall_at_{at}_chance": found.chance}
