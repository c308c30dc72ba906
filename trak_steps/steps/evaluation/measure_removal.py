"""Step ``measure-removal``: what became of targets whose proponents were left out of the training."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.calibration import calibrate
from trak_steps.evaluation.intervals import mean_interval
from trak_steps.evaluation.subsets import NEAREST, NOTHING, PROPONENTS, RANDOM
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import contents
from trak_steps.run.parts import Retrained, open_retrained
from trak_steps.store.document import save_document
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import save_table

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1

PLAN = "removal"


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/removal.json``, and each removal to ``evaluation/removal.parquet``."""
    name = next(iter(settings.targets))
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets(name))
    retrained = open_retrained(layout, settings, PLAN, train)
    removals = list(_removals(retrained, name, targets))
    chosen = settings.evaluation

    def calibration(kinds: tuple[str, ...]) -> dict[str, Any] | None:
        some = [removal for removal in removals if removal["without"] in kinds]
        found = calibrate(
            np.array([removal["lost"] for removal in some]).T,
            np.array([removal["predicted"] for removal in some]),
            np.array([removal["target"] for removal in some]),
            resamples=chosen.bootstrap,
            seed=settings.seed,
        )
        return asdict(found) if found else None

    figures: dict[str, Any] = {
        "targets": name,
        "targets_removed_for": chosen.removal.targets,
        "rows_removed": chosen.removal.rows,
        "repeats": chosen.removal.repeats,
        "without": {},
    }
    for kind in (PROPONENTS, NEAREST, RANDOM):
        some = [removal for removal in removals if removal["without"] == kind]
        lost = np.array([removal["lost"] for removal in some])
        moved = mean_interval(lost.T, resamples=chosen.bootstrap, seed=settings.seed)
        figures["without"][kind] = {
            "margin_lost": asdict(moved) if moved else None,
            "margin_predicted": float(np.mean([removal["predicted"] for removal in some])),
            "predictions_flipped": float(np.mean([removal["flipped"] for removal in some]))
            if targets.label_names
            else None,
        }
    figures["calibration"] = {
        "all": calibration((PROPONENTS, NEAREST, RANDOM)),
        PROPONENTS: calibration((PROPONENTS,)),
    }
    manifest = Manifest(
        "removal",
        made_from={
            **contents(layout, train, targets),
            **retrained.made_from,
        },
        settings={"bootstrap": chosen.bootstrap},
        version=VERSION,
    )
    save_table(layout.removals, _table(removals, targets), manifest)
    save_document(layout.removal, figures, manifest)
    say(json.dumps(figures, indent=2))
    say(f"wrote {layout.removal} and {layout.removals}")


def _removals(retrained: Retrained, name: str, rows: PreparedRows) -> Iterator[dict[str, Any]]:
    """What each removal did to its target, in every repeat."""
    about, answers = retrained.plan.about, retrained.answers[name]
    repeats = int(about["repeat"].max()) + 1

    def by_repeat(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(repeats, -1, values.shape[1])

    margins, predictions = by_repeat(answers.margin), by_repeat(answers.prediction)
    first = about["repeat"] == 0
    whole = int(np.flatnonzero(about["without"][first] == NOTHING)[0])
    labels = rows.column("label")
    for place, target in enumerate(about["target"][first]):
        if place == whole:
            continue
        before, after = margins[:, whole, target], margins[:, place, target]
        was, is_now = predictions[:, whole, target], predictions[:, place, target]
        yield {
            "target": int(target),
            "without": str(about["without"][first][place]),
            "predicted": float(about["predicted"][first][place]),
            "margin": before.astype(np.float64).tolist(),
            "lost": (before - after).astype(np.float64).tolist(),
            "flipped": float((was != is_now).mean()) if rows.label_names else None,
            "right_before": float((was == labels[target]).mean()) if rows.label_names else None,
        }


def _table(removals: list[dict[str, Any]], rows: PreparedRows) -> pa.Table:
    numbers = pa.list_(pa.float64())
    ids = rows.column("row")
    return pa.table(
        {
            "target": [removal["target"] for removal in removals],
            "target_row": [int(ids[removal["target"]]) for removal in removals],
            **{
                name: [removal[name] for removal in removals]
                for name in ("without", "predicted", "flipped", "right_before")
            },
            **{
                name: pa.array([removal[name] for removal in removals], numbers)
                for name in ("margin", "lost")
            },
        }
    )
